"""A gateway that a provisioning service sends to its hub: by key, by certificate, by an issued one; away and moved."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from support.edge_world import Gateway, World, edgetrust, wait_until, write_holder
from support.est_server import Served, TestEst
from support.pki import Holder, self_signed
from support.provisioned import NAME, ask, by_key, enroll, gateway, group_of, hub_knows, serves
from support.tpm import Tpm

CONNECTED = {"connected": True, "connected_at": "", "problem": "", "degraded": ""}
# Due half a minute before its end, six seconds after it was issued.
RENEW = '{ rotate_key = true, threshold = "70%", retry = "1%" }'
SHORT = TestEst(life=timedelta(seconds=95), begin=timedelta(seconds=-60))
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


def test_by_certificate_replaced_while_it_runs_and_while_it_does_not(world: World, tmp_path: Path) -> None:
    """A certificate of a group's CA, without a registration id: the common name is it. The hub knows one thumbprint,
    that of the last registration: the provisioning service tells it the new one.
    """
    group_of(world, tmp_path, world.pki.root.chain, "contoso")
    made = gateway(world, by_files(tmp_path, world.pki.device(NAME), name=None))
    made.start()
    serves(world, made)
    device = world.pki.device(NAME)
    write_holder(tmp_path, "identity", device)
    assert made.running is not None
    made.running.send_signal(signal.SIGHUP)  # a minute later it would see it by itself
    wait_until(lambda: hub_knows(world) == device.chain.thumbprint().hex().upper())
    assert ask(made, "POST", "/identities/modules", {"type": "aziot", "moduleId": "m"})[0] == 200
    wait_until(lambda: made.state()["upstream"] | {"connected_at": ""} == CONNECTED)

    made.stop()
    write_holder(tmp_path, "identity", world.pki.device(NAME))
    made.start()
    wait_until(lambda: made.state()["upstream"]["degraded"] == "")
    assert ask(made, "POST", "/identities/modules", {"type": "aziot", "moduleId": "n"})[0] == 200


@pytest.fixture
def unattended(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path, SHORT)
    yield made
    made.stop()


def test_nobody_handles_a_certificate(world: World, unattended: Served, tmp_path: Path) -> None:
    """Row 99: given a root and a bootstrap certificate, identity and Edge CA are obtained and renewed, while a sensor
    sends; the hub is told of each identity, and modules can still be made.
    """
    est = unattended.est
    group_of(world, tmp_path, est.pki.root.chain, "est")
    issued = f'method = "est"\nauto_renew = {RENEW}\n'
    attestation = (
        f'[provisioning.attestation]\nmethod = "x509"\nregistration_id = "{NAME}"\n'
        f'[provisioning.attestation.identity_cert]\ncommon_name = "{NAME}"\n{issued}'
    )
    policy = f"[cert_issuance.est]\nidentity_auto_renew = {RENEW}"
    issuance = unattended.issuance().replace("[cert_issuance.est]", policy)
    made = gateway(world, attestation, extra=issuance, edge_ca=f"[edge_ca]\n{issued}")
    made.trust.write_text(est.pki.bundle.pem())
    made.start()
    serves(world, made)
    sensor = self_signed("Second", now=world.pki.now)
    world.thumbprint_device("Second", sensor, "--parent", NAME)
    sent, first = [], (hub_knows(world), shown(made, "aziot-edged-ca"))

    def renewed() -> bool:
        sent.append(f"m{len(sent)}")
        done = made.publish("Second", sent[-1], holder=sensor)
        assert done.returncode == 0, done.stdout + done.stderr
        return hub_knows(world) != first[0] and shown(made, "aziot-edged-ca") != first[1]

    wait_until(renewed, 60)
    world.wait_for_events(sent, "Second")
    wait_until(lambda: hub_knows(world) == shown(made, "device-id"))
    assert ask(made, "POST", "/identities/modules", {"type": "aziot", "moduleId": "late"})[0] == 200
    assert [one.client for one in est.asked].count("CN=bootstrap") == 1
    assert not [line for line in made.text().splitlines() if "not_renewed" in line]


def shown(made: Gateway, certificate: str) -> str:
    """The thumbprint of a certificate that a gateway has in use."""
    return next(str(one["thumbprint"]).upper() for one in made.state()["certificates"] if one["id"] == certificate)


def test_an_identity_by_est(world: World, served: Served, tmp_path: Path) -> None:
    group_of(world, tmp_path, served.est.pki.root.chain, "est")
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


def checked(made: Gateway, *names: str) -> set[str]:
    """What `edge check` says of a gateway that runs."""
    config = str(made.root.parent / "config.toml")
    done = edgetrust("edge", "check", "-c", config, "--root", str(made.root), "--json", ok=False)
    return {json.loads(done.stdout)["checks"][name]["outcome"] for name in names}


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
        assert checked(made, "tpmd-running", "connect-management-uri", "aziot-edge-version") == {"ok"}
        assert ask(made, "POST", "/identities/device", {"type": "aziot"})[1]["spec"]["auth"] == {"type": "tpm"}
        made.stop()
        edgetrust("enrollment", "disable", NAME, "--dir", str(world.hub_folder))
        made.start()
        assert ask(made, "POST", "/identities/modules", {"type": "aziot", "moduleId": "m"})[0] == 200
        made.stop()
    assert checked(made, "tpmd-running") == {"error"}
    with Tpm(tmp_path / "other"):
        config = made.root.parent / "config.toml"
        config.write_text(config.read_text().replace("/tpm/tpm.sock", "/other/tpm.sock"))
        edgetrust("enrollment", "enable", NAME, "--dir", str(world.hub_folder))
        stranger = made.root.parent / "stranger"
        made.arguments[made.arguments.index("--root") + 1] = str(stranger)
        with pytest.raises(AssertionError, match="401000"):
            made.start()
