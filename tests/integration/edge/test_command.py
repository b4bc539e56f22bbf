"""`edgetrust edge`: what it prints, and how it ends when something is wrong."""

from __future__ import annotations

import json
import re
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edgetrust.clock import SystemClock
from support.edge_world import Story, World, edgetrust, wait_until, write_holder
from support.pki import self_signed


def test_the_ready_object(shared: Story) -> None:
    ready = shared.gateway.ready
    assert ready["gateway"]["hostname"] == "localhost"
    assert ready["gateway"]["https_port"] > 0
    assert Path(ready["workload_socket"]).is_socket()
    assert ready["certs_dir"] == str(shared.gateway.certificates)
    assert isinstance(ready["pid"], int)


def test_status_in_words_and_as_json(shared: Story) -> None:
    root = str(shared.gateway.root)
    words = edgetrust("edge", "status", "--root", root).stdout
    assert "EdgeGateway at localhost" in words
    assert "CN=iotedged workload ca edgegateway until" in words
    state = json.loads(edgetrust("edge", "status", "--root", root, "--json").stdout)
    assert state["running"]
    assert state["identity"]["device"] == "EdgeGateway"


def test_status_shows_services_and_what_is_left_of_each_certificate(shared: Story) -> None:
    words = edgetrust("edge", "status", "--root", str(shared.gateway.root)).stdout
    assert "keyd answers, certd answers, identityd answers" in words
    assert re.search(r"\[#+\.*\] [0-9]+% left, ", words)


def test_status_shows_the_routes_in_force_and_what_of_the_deployment_is_not(shared: Story) -> None:
    root, hub = str(shared.gateway.root), ["--dir", str(shared.world.hub_folder)]
    assert "everything goes to the hub" in edgetrust("edge", "status", "--root", root).stdout
    routes = {
        "rest": "FROM /messages/* INTO $upstream",
        "urgent": {"route": 'FROM /* WHERE level = "high" INTO $upstream', "priority": 0, "timeToLiveSecs": 60},
        "wrong": "FROM /messages/* INTO upstream",
    }
    edgetrust("module", "twin", "EdgeGateway", "$edgeHub", "--desired", json.dumps({"routes": routes}), *hub)

    def routing() -> Any:
        return json.loads(edgetrust("edge", "status", "--root", root, "--json").stdout)["routing"]

    wait_until(lambda: routing()["routes"] is not None)
    shown = routing()
    assert shown["routes"] == {"rest": {"route": routes["rest"]}, "urgent": routes["urgent"]}
    assert (shown["status"]["code"], shown["problems"][0]["place"]) == (400, "routes.wrong")
    words = edgetrust("edge", "status", "--root", root).stdout
    assert "of the deployment, not all of it in force" in words
    assert 'urgent: FROM /* WHERE level = "high" INTO $upstream, priority 0, kept 60 s' in words
    assert re.search(r"error +routes.wrong: there is no sink 'upstream' \(did you mean", words)
    edgetrust("module", "twin", "EdgeGateway", "$edgeHub", "--desired", '{"routes": null}', *hub)
    wait_until(lambda: routing()["routes"] is None and not routing()["problems"])


def test_a_gateway_seen_from_outside(shared: Story) -> None:
    address, root = f"localhost:{shared.gateway.port}", str(shared.gateway.root)
    seen = edgetrust("edge", "check", "--as-device", address, "--root", root).stdout
    assert "ok       device-trusts-gateway" in seen
    assert "fix: copy " in seen
    as_known = edgetrust("edge", "check", "--as-device", address, "--trust", str(shared.gateway.trust), "--json")
    assert {one["outcome"] for one in json.loads(as_known.stdout)["checks"].values()} == {"ok"}


def test_a_support_archive_of_a_running_gateway(shared: Story, tmp_path: Path) -> None:
    archive = tmp_path / "support.zip"
    root, config = str(shared.gateway.root), shared.gateway.arguments[3]
    told = edgetrust("edge", "bundle", str(archive), "--root", root, "-c", config, "--log", str(shared.gateway.log),
                     "--json")  # fmt: skip
    members = json.loads(told.stdout)["members"]
    assert {"checks.json", "config.json", "keys.json", "status.json", "services.json"} <= set(members)
    with zipfile.ZipFile(archive) as opened:
        everything = b"".join(opened.read(name) for name in opened.namelist())
    for path in shared.gateway.keys.glob("*.key"):
        body = path.read_bytes()
        assert (body.splitlines()[1] if body.startswith(b"-----") else body) not in everything
    assert b"EdgeGateway" in everything


def test_status_where_no_gateway_runs(tmp_path: Path) -> None:
    done = edgetrust("edge", "status", "--root", str(tmp_path), ok=False)
    assert done.returncode == 3
    assert "no gateway runs here" in done.stderr


def serve(config: Path, folder: Path) -> tuple[int, str]:
    done = edgetrust("edge", "serve", "-c", str(config), "--root", str(folder / "root"), "--json", ok=False)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.returncode, done.stderr


def write_config(folder: Path, text: str = "", *, expired: bool = False) -> Path:
    now = SystemClock().now()
    identity, key = write_holder(folder, "id", self_signed("Edge", now=now))
    ends = {"begin": -timedelta(days=9), "end": -timedelta(days=1)} if expired else {}
    ca = self_signed("ca", now=now, ca=True, usage=("key_cert_sign", "digital_signature"), eku=None, **ends)
    ca_file, ca_key = write_holder(folder, "ca", ca)
    config = folder / "config.toml"
    config.write_text(
        f"""
{text}
[provisioning]
source = "manual"
iothub_hostname = "localhost"
device_id = "Edge"
[provisioning.authentication]
method = "x509"
identity_cert = "file://{identity}"
identity_pk = "file://{key}"
[edge_ca]
cert = "file://{ca_file}"
pk = "file://{ca_key}"
"""
    )
    return config


@pytest.mark.parametrize("spoil", ["unknown key", "missing file", "wrong key", "expired edge ca", "no file at all"])
def test_bad_input_ends_with_a_clear_error(tmp_path: Path, spoil: str) -> None:
    config = write_config(
        tmp_path, 'hostnam = "x"' if spoil == "unknown key" else "", expired=spoil == "expired edge ca"
    )
    match spoil:
        case "missing file":
            (tmp_path / "id.cert.pem").unlink()
        case "wrong key":
            (tmp_path / "id.key.pem").write_bytes((tmp_path / "ca.key.pem").read_bytes())
        case "no file at all":
            config.unlink()
    code, said = serve(config, tmp_path)
    words, expected = {
        "unknown key": ("did you mean 'hostname'?", 2),
        "missing file": (f"{tmp_path}/id.cert.pem does not exist", 2),
        "wrong key": ("does not belong to the certificate", 2),
        "expired edge ca": ("the Edge CA expired at", 1),
        "no file at all": (f"{config} does not exist", 2),
    }[spoil]
    assert words in said
    assert code == expected


def test_a_device_that_the_hub_does_not_accept(world: World) -> None:
    registered = world.edge_device()
    assert registered
    stranger = self_signed("EdgeGateway", key_kind="rsa-2048", now=world.pki.now)
    gateway = world.gateway(stranger)
    code, said = serve(Path(gateway.arguments[3]), gateway.root.parent)
    assert code == 1
    assert "the hub localhost refuses device 'EdgeGateway'" in said
    assert "fix: compare the credential" in said


def test_a_hub_that_is_not_trusted(world: World) -> None:
    gateway = world.gateway(world.edge_device())
    config = Path(gateway.arguments[3])
    config.write_text(config.read_text().replace(world.hub.ready["trust_bundle"], str(gateway.trust)))
    code, said = serve(config, gateway.root.parent)
    assert code == 1
    assert "the hub localhost is not trusted" in said
