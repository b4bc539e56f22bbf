"""A gateway that a provisioning service sends to its hub: by key, by certificate, by an issued one; away and moved."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from support.edge_world import World, edgetrust, wait_until, write_holder
from support.est_server import Served, TestEst
from support.pki import Holder
from support.provisioned import NAME, ask, by_key, enroll, gateway, serves
from support.tpm import Tpm

LONG = TestEst(life=timedelta(hours=1), begin=timedelta(seconds=-60))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path, LONG)
    yield made
    made.stop()


def by_files(folder: Path, holder: Holder, name: str | None = NAME) -> str:
    certificate, key = write_holder(folder, "identity", holder)
    named = "" if name is None else f'registration_id = "{name}"\n'
    return (
        f'[provisioning.attestation]\nmethod = "x509"\n{named}'
        f'identity_cert = "file://{certificate}"\nidentity_pk = "file://{key}"'
    )


def test_by_key_then_without_the_service_then_moved(world: World, tmp_path: Path) -> None:
    payload = tmp_path / "payload.json"
    payload.write_text('{"model": "dtmi:contoso:gateway;1"}')
    key = enroll(world, "enrollment", "create", NAME)["attestation"]["symmetricKey"]["primaryKey"]
    made = gateway(world, by_key(key, payload=payload))
    made.start()
    assert made.state()["identity"]["device"] == NAME
    serves(world, made)
    status, told = ask(made, "GET", "/identities/provisioning")
    assert (status, told["source"], told["auth"], told["registration_id"]) == (200, "dps", "symmetric_key", NAME)
    assert ask(made, "POST", "/identities/device/reprovision", {"type": "aziot"}) == (204, None)
    made.stop()

    edgetrust("enrollment", "disable", NAME, "--dir", str(world.hub_folder))  # a restart does not ask
    made.start()
    status, refused = ask(made, "POST", "/identities/device/reprovision", {"type": "aziot"})
    assert status == 404
    assert "refused" in refused["message"]
    made.stop()

    config = made.root.parent / "config.toml"
    always = 'auto_reprovisioning_mode = "AlwaysOnStartup"\n[provisioning]'
    config.write_text(config.read_text().replace("[provisioning]", always))
    made.start()  # now it asks, is refused, and goes on
    assert "going on with what was assigned" in made.text()
    assert made.state()["identity"]["device"] == NAME
    made.stop()

    edgetrust("enrollment", "enable", NAME, "--dir", str(world.hub_folder))
    edgetrust("enrollment", "update", NAME, "--device-id", "Another", "--dir", str(world.hub_folder))
    made.start()
    assert made.state()["identity"]["device"] == "Another"


def test_a_derived_key_of_a_group_and_a_wrong_one(world: World) -> None:
    enroll(world, "group", "create", "fleet")
    derived = edgetrust("group", "key", "fleet", NAME, "--dir", str(world.hub_folder)).stdout.strip()
    made = gateway(world, by_key(derived))
    made.start()
    serves(world, made)
    wrong = gateway(world, by_key("d3Jvbmcga2V5IHdyb25nIGtleSB3cm9uZyBrZXkgISE=", "Other"), name="wrong")
    with pytest.raises(AssertionError, match="the provisioning service refused: 401000"):
        wrong.start()
    assert wrong.stop() != 0


def test_by_certificate_replaced_while_it_runs(world: World, tmp_path: Path) -> None:
    """A certificate of a group's CA, without a registration id: the common name is it. The next one heals itself."""
    (tmp_path / "ca.pem").write_text(world.pki.root.chain.pem())
    dps = ["--dir", str(world.hub_folder)]
    edgetrust("dps", "ca", "add", "contoso", str(tmp_path / "ca.pem"), "--verified", *dps)
    enroll(world, "group", "create", "fleet", "--ca-name", "contoso")
    made = gateway(world, by_files(tmp_path, world.pki.device(NAME), name=None))
    made.start()
    serves(world, made)
    made.stop()
    write_holder(tmp_path, "identity", world.pki.device(NAME))
    made.start()  # the hub knows the thumbprint of the old one; the provisioning service tells it the new one
    wait_until(lambda: made.state()["upstream"]["degraded"] == "")
    assert ask(made, "POST", "/identities/modules", {"type": "aziot", "moduleId": "m"})[0] == 200


def test_an_identity_by_est(world: World, served: Served, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(served.est.pki.root.chain.pem())
    dps = ["--dir", str(world.hub_folder)]
    edgetrust("dps", "ca", "add", "est", str(tmp_path / "ca.pem"), "--verified", *dps)
    enroll(world, "group", "create", "fleet", "--ca-name", "est")
    attestation = (
        f'[provisioning.attestation]\nmethod = "x509"\nregistration_id = "{NAME}"\n'
        '[provisioning.attestation.identity_cert]\nmethod = "est"\n'
        f'common_name = "{NAME}"\n'
        'auto_renew = { rotate_key = true, threshold = "80%", retry = "4%" }'
    )
    made = gateway(world, attestation, extra=served.issuance())
    made.start()
    serves(world, made)
    assert [one.client for one in served.est.asked] == ["CN=bootstrap", f"CN={NAME}"]


def test_by_tpm(world: World, tmp_path: Path) -> None:
    """The TPM proves itself, and signs for the hub with a key that it alone has; a restart needs no service."""
    with Tpm(tmp_path / "tpm") as chip:
        endorsement, _ = chip.keys()
        (tmp_path / "ek.pub").write_bytes(endorsement)
        enroll(world, "enrollment", "create", NAME, "--endorsement-key", str(tmp_path / "ek.pub"))
        attestation = (
            f'[provisioning.attestation]\nmethod = "tpm"\nregistration_id = "{NAME}"\n'
            f'[tpm]\ntcti = "swtpm:path={tmp_path}/tpm/tpm.sock"'
        )
        made = gateway(world, attestation)
        made.start()
        serves(world, made)
        assert ask(made, "GET", "/identities/provisioning")[1]["auth"] == "tpm"
        assert ask(made, "POST", "/identities/device", {"type": "aziot"})[1]["spec"]["auth"] == {"type": "tpm"}
        made.stop()
        edgetrust("enrollment", "disable", NAME, "--dir", str(world.hub_folder))
        made.start()
        assert ask(made, "POST", "/identities/modules", {"type": "aziot", "moduleId": "m"})[0] == 200
        made.stop()
    with Tpm(tmp_path / "other"):
        config = made.root.parent / "config.toml"
        config.write_text(config.read_text().replace("/tpm/tpm.sock", "/other/tpm.sock"))
        edgetrust("enrollment", "enable", NAME, "--dir", str(world.hub_folder))
        stranger = made.root.parent / "stranger"
        made.arguments[made.arguments.index("--root") + 1] = str(stranger)
        with pytest.raises(AssertionError, match="401000"):
            made.start()
