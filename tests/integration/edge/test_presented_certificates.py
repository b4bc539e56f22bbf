"""The gateway's certificates, as openssl sees them on the wire and on disk."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.edge_world import Story, World, begin_story, wait_until
from support.pki import openssl

SUBJECTS = re.compile(r"^ \d s:(.*)$\n^   i:(.*)$", re.MULTILINE)


def x509(file: Path, *options: str) -> str:
    done = openssl("x509", "-in", str(file), "-noout", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def presented(text: str) -> list[tuple[str, str]]:
    return [(subject.strip(), issuer.strip()) for subject, issuer in SUBJECTS.findall(text)]


def test_the_chain_goes_from_the_hostname_to_the_root(shared: Story) -> None:
    listing = presented(shared.gateway.s_client("-showcerts"))
    assert listing == [
        ("CN = localhost", "CN = iotedged workload ca edgegateway"),
        ("CN = iotedged workload ca edgegateway", "CN = Test Intermediate 1"),
        ("CN = Test Intermediate 1", "CN = my private root"),
    ]


def test_the_configured_name_is_accepted_and_another_is_not(shared: Story) -> None:
    right = shared.gateway.s_client("-verify_hostname", "localhost", "-verify_return_error")
    assert "Verify return code: 0 (ok)" in right
    module = shared.gateway.s_client("-verify_hostname", "edgeHub", "-verify_return_error")
    assert "Verify return code: 0 (ok)" in module
    wrong = shared.gateway.s_client("-verify_hostname", "edgegateway", "-verify_return_error")
    assert "hostname mismatch" in wrong.lower()
    address = shared.gateway.s_client("-verify_ip", "127.0.0.1", "-verify_return_error")
    assert "IP address mismatch" in address


def test_every_name_asked_for_gets_the_same_certificate(shared: Story) -> None:
    def thumbprint(name: str) -> str:
        text = shared.gateway.s_client("-servername", name)
        pem = text[text.index("-----BEGIN") : text.index("-----END CERTIFICATE-----") + 25]
        command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256"]
        return subprocess.run(command, input=pem, capture_output=True, text=True, check=True).stdout

    assert thumbprint("x.example") == thumbprint("localhost")


def test_a_client_certificate_is_requested_and_any_is_taken(shared: Story, tmp_path: Path) -> None:
    assert "No client certificate CA names sent" in shared.gateway.s_client("-tls1_2")
    (tmp_path / "c.pem").write_text(shared.sensor.chain.pem())
    (tmp_path / "k.pem").write_bytes(shared.sensor.key_pem())
    text = shared.gateway.s_client("-cert", str(tmp_path / "c.pem"), "-key", str(tmp_path / "k.pem"), "-tls1_2")
    assert "Verify return code: 0 (ok)" in text


def test_the_server_certificate_on_disk(shared: Story, tmp_path: Path) -> None:
    generation = shared.gateway.state()["identity"]["generation"]
    file = shared.gateway.file(f"aziotedgedmoduleedgeHub{generation}server")
    assert x509(file, "-subject").strip() == "subject=CN = localhost"
    assert "DNS:localhost, DNS:edgeHub" in x509(file, "-ext", "subjectAltName")
    assert "CA:FALSE" in x509(file, "-ext", "basicConstraints")
    ca = shared.gateway.file("aziotedgedca")
    assert "CA:TRUE, pathlen:0" in x509(ca, "-ext", "basicConstraints")
    assert x509(ca, "-subject").strip() == "subject=CN = iotedged workload ca edgegateway"
    assert file.read_text().count("BEGIN CERTIFICATE") == 4
    (tmp_path / "chain.pem").write_text(file.read_text())
    done = openssl(
        "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "localhost",
        "-CAfile", str(shared.gateway.trust), "-untrusted", str(ca), str(file),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_files_names_and_modes(shared: Story) -> None:
    gateway = shared.gateway
    for identifier, prefix in (("aziot-edged-ca", "aziotedgedca"), ("device-id", "deviceid")):
        digest = subprocess.run(["sha256sum"], input=identifier, capture_output=True, text=True, check=True).stdout
        assert gateway.file(prefix).name == f"{prefix}-{digest.split()[0]}.cer"
    generation = gateway.state()["identity"]["generation"]
    identifier = f"aziot-edged/module/$edgeHub:{generation}:server"
    digest = subprocess.run(["sha256sum"], input=identifier, capture_output=True, text=True, check=True).stdout
    assert gateway.file("aziotedgedmodule").name.endswith(f"-{digest.split()[0]}.cer")
    for file in gateway.certificates.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
    for file in gateway.keys.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(gateway.certificates.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(gateway.keys.parent.stat().st_mode) == 0o700


def test_the_device_identity_is_what_the_registry_knows(shared: Story) -> None:
    printed = x509(shared.gateway.file("deviceid"), "-fingerprint", "-sha256")
    assert printed.strip().split("=")[1] == shared.identity.chain.thumbprint().openssl()


def test_the_state_file_says_what_runs(shared: Story) -> None:
    wait_until(lambda: shared.gateway.state()["upstream"]["connected"])
    state = shared.gateway.state()
    assert state["identity"]["device"] == "EdgeGateway"
    assert {one["id"] for one in state["certificates"]} >= {"device-id", "aziot-edged-ca"}


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    made = begin_story(tmp_path_factory.mktemp("quickstart"), quickstart=True, hostname="127.0.0.1")
    yield made
    made.world.close()


def test_without_an_edge_ca_one_is_made_and_an_address_is_a_name(quickstart: Story) -> None:
    gateway = quickstart.gateway
    ca = gateway.file("aziotedgedca")
    assert x509(ca, "-subject").split("=", 1)[1] == x509(ca, "-issuer").split("=", 1)[1]
    assert "aziot-edge CA EdgeGateway" in x509(ca, "-subject")
    listing = presented(gateway.s_client("-showcerts"))
    assert [subject for subject, _ in listing] == ["CN = 127.0.0.1", "CN = aziot-edge CA EdgeGateway"]
    text = gateway.s_client("-CAfile", str(ca), "-verify_ip", "127.0.0.1", "-verify_return_error")
    assert "Verify return code: 0 (ok)" in text
    assert "quickstart" in gateway.text()


def test_a_quickstart_edge_ca_is_used_again_and_its_missing_key_stops_everything(quickstart: Story) -> None:
    gateway = quickstart.gateway
    before = x509(gateway.file("aziotedgedca"), "-fingerprint", "-sha256", "-dates")
    gateway.stop()
    gateway.start()
    assert x509(gateway.file("aziotedgedca"), "-fingerprint", "-sha256", "-dates") == before
    gateway.stop()
    key = next(gateway.keys.glob("aziotedgedca*.key"))
    kept = key.read_bytes()
    key.unlink()
    command = [sys.executable, "-m", "edgetrust.cli", *gateway.arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot be used" in done.stderr
    key.write_bytes(kept)
    key.chmod(0o600)
    gateway.start()


def test_without_network_a_restart_issues_a_server_certificate(world: World) -> None:
    gateway = world.gateway(world.edge_device(), quickstart=True)
    gateway.start()
    gateway.stop()
    before = gateway.file("aziotedgedmodule").read_text()
    world.hub.stop()
    gateway.start()
    assert gateway.file("aziotedgedmodule").read_text() != before


def test_identity_and_edge_ca_do_not_touch_each_other(world: World) -> None:
    identity = world.edge_device()
    gateway = world.gateway(identity)
    gateway.start()
    gateway.stop()
    ca, device = gateway.file("aziotedgedca").read_bytes(), gateway.file("deviceid").read_bytes()
    folder = gateway.root.parent
    other_ca = world.edge_ca("another edge ca")
    (folder / "edge-ca.cert.pem").write_text(other_ca.full_chain.pem())
    (folder / "edge-ca.key.pem").write_bytes(other_ca.key_pem())
    gateway.start()
    assert gateway.file("aziotedgedca").read_bytes() != ca
    assert gateway.file("deviceid").read_bytes() == device
