"""Rows 82 to 87: the root that a device was given, and what lies on the gateway's disk.

The real product keeps its certificates for its own user `aziotcs`. Here one process does all the work, so everything
belongs to the user who runs the gateway; names and modes are the product's.
"""

from __future__ import annotations

import getpass
import re
from pathlib import Path

import pytest

from support.pki import root
from support.story import EDGE_CA, GATEWAY, INTERMEDIATE_CA, ROOT_CA, Story, fingerprint, look, pem, tool, x509


def test_row_082_the_root_passed_directly(story: Story, tmp_path: Path) -> None:
    """A client without a trust store is given the root as a file, and needs no more."""
    nothing = {"SSL_CERT_FILE": "/dev/null", "SSL_CERT_DIR": str(tmp_path)}
    ours = story.send("TempSensor", story.sensor, at=story.gateway, trust=story.trust, env=nothing)
    assert ours.code == 0, ours.text
    without = story.send("TempSensor", story.sensor, at=story.gateway, env=nothing)
    assert without.code == 1
    assert look(story.gateway.port, "-CAfile", story.trust, "-verify_hostname", GATEWAY, env=nothing).verified


def test_row_083_name_and_root_are_both_needed(story: Story, tmp_path: Path) -> None:
    """The sensor accepts the gateway for the right name under the right root; one of them alone is not enough."""
    unrelated = tmp_path / "unrelated.pem"
    unrelated.write_text(pem(root("Unrelated Root", now=story.now)))
    codes = {
        (name == GATEWAY, trust == story.trust): story.publish(
            "TempSensor", story.sensor, at=story.gateway, name=name, trust=trust
        ).code
        for name in (GATEWAY, "othergateway.local")
        for trust in (story.trust, unrelated)
    }
    assert {both: code == 0 for both, code in codes.items()} == {
        (True, True): True,
        (True, False): False,
        (False, True): False,
        (False, False): False,
    }


@pytest.mark.parametrize("whole", [True, False])
def test_row_084_what_openssl_shows(story: Story, whole: bool) -> None:
    """`openssl s_client` verifies depth 3 to 0 and lists three certificates; a root in the Edge CA file is not sent."""
    site = story.gateway
    if not whole:
        site = story.site("WithoutRootInFile", whole=False)
        site.start()
    try:
        assert site.edge_ca.read_text().count("BEGIN CERTIFICATE") == (3 if whole else 2)
        text = site.look().text
    finally:
        if not whole:
            site.stop()
    shown = re.findall(r"^depth=(\d) (.*)\nverify return:(\d)$", text, re.MULTILINE)
    assert shown == [
        ("3", f"CN = {ROOT_CA}", "1"),
        ("2", f"CN = {INTERMEDIATE_CA}", "1"),
        ("1", f"CN = {EDGE_CA}", "1"),
        ("0", f"CN = {GATEWAY}", "1"),
    ]
    listing = re.findall(r"^ (\d) s:(.*)\n   i:(.*)$", text, re.MULTILINE)
    assert listing == [
        ("0", f"CN = {GATEWAY}", f"CN = {EDGE_CA}"),
        ("1", f"CN = {EDGE_CA}", f"CN = {INTERMEDIATE_CA}"),
        ("2", f"CN = {INTERMEDIATE_CA}", f"CN = {ROOT_CA}"),
    ]


def test_row_085_where_certificates_lie(story: Story) -> None:
    """Below the root of the gateway, /var/lib/aziot/certd/certs holds Edge CA, device identity and edgeHub's."""
    done = tool("ls", story.gateway.root / "var/lib/aziot/certd/certs")
    names = [name.partition("-")[0] for name in done.out.split()]
    generation = story.gateway.state()["identity"]["generation"]
    assert {"aziotedgedca", "deviceid", f"aziotedgedmoduleedgeHub{generation}server"} <= set(names)
    assert x509(story.gateway.server, "-subject") == f"subject=CN = {GATEWAY}"
    on_the_wire = story.gateway.look("-showcerts").certificates[0]
    assert fingerprint(story.gateway.server) == fingerprint(on_the_wire)


def test_row_086_names_and_modes(story: Story) -> None:
    """A file is called by the letters and digits of its identifier and the SHA-256 of all of it; readable by all,
    writable by its owner. The owner is the user of the gateway, since there is no `aziotcs` here.
    """
    generation = story.gateway.state()["identity"]["generation"]
    identifiers = ("aziot-edged-ca", "device-id", f"aziot-edged/module/$edgeHub:{generation}:server")
    for identifier in identifiers:
        digest = tool("bash", "-c", f"printf %s '{identifier}' | sha256sum").out.split()[0]
        prefix = re.sub(r"[^A-Za-z0-9]", "", identifier)
        file = story.gateway.certificates / f"{prefix}-{digest}.cer"
        assert tool("stat", "-c", "%a %U", file).out.split() == ["644", getpass.getuser()]
    assert all(file.suffix == ".cer" for file in story.gateway.certificates.iterdir())
    seed = "aziotedgedca-86f154be7ff14480027f0d00c59c223db6d9e4ab0b559fc523cca36a7c973d6d.cer"
    assert (story.gateway.certificates / seed).exists()
    identity = "deviceid-bd732105ef89cf8edd2606a5309c8a26b7b5599a4e124a0fe6199b6b2f60e655.cer"
    assert (story.gateway.certificates / identity).exists()


def test_row_087_why_the_sensor_trusts_the_gateway(story: Story, tmp_path: Path) -> None:
    """A valid certificate for the name, issued by the Edge CA, below the root the sensor has; and proof of the key."""
    certificate, key = story.files(story.sensor)
    seen = look(
        *(story.gateway.port, "-CAfile", story.trust, "-verify_hostname", GATEWAY, "-verify_return_error"),
        *("-showcerts", "-tls1_2", "-msg", "-cert", certificate, "-key", key),
    )
    assert seen.verified
    assert seen.listing[0] == (f"CN = {GATEWAY}", f"CN = {EDGE_CA}")
    assert "ServerKeyExchange" in seen.text  # signed by the gateway's key: the handshake ended, so it was right
    assert story.publish("TempSensor", story.sensor, at=story.gateway).code == 0
    assert tool("openssl", "x509", "-in", story.gateway.server, "-noout", "-checkend", "0").code == 0
