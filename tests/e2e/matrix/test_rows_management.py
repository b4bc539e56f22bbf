"""Rows 104 to 109 and 111: certificates made, replaced and kept apart."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgetrust.errors import Error
from edgetrust.pki.chain import Chain
from edgetrust.pki.csr import build_csr, parse_csr
from edgetrust.pki.issue import Issuer
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import DOWNSTREAM
from edgetrust.pki.softkeys import SoftKey
from support.story import (
    EDGE_CA,
    GATEWAY,
    HUB,
    Story,
    edgetrust,
    eventually,
    fingerprint,
    pem,
    public_key,
    tool,
    verify,
    x509,
)


def test_row_104_files_are_replaced_by_hand(story: Story) -> None:
    """Without EST the operator replaces files and registers the new thumbprint; the gateway takes them up by itself.

    The Edge CA lives for minutes here, so that its files are looked at every few seconds.
    """
    now = datetime.now(UTC).replace(microsecond=0)  # the story may have begun long ago
    minutes = {"begin": timedelta(seconds=-10), "end": timedelta(minutes=4), "path_length": 0}
    first = story.intermediate.authority(EDGE_CA, key_label="first", now=now, **minutes)
    site = story.site("ByHand", edge_ca=first)
    site.start()
    try:
        site.wait_for_hub()
        identity = story.device_holder("ByHand", label="second")
        certificate, key = story.files(identity)
        _replace(site.folder, "identity", certificate, key)
        story.change("ByHand", authentication=_thumbprints(fingerprint(certificate)))
        edge_ca = story.intermediate.authority(EDGE_CA, key_label="second", now=story.now, path_length=0)
        _replace(site.folder, "edge-ca", *story.files(edge_ca))
        eventually(lambda: fingerprint(site.file("deviceid-")) == fingerprint(certificate))
        eventually(lambda: site.look("-showcerts").certificates[1] == pem(edge_ca))
        assert site.look("-verify_hostname", GATEWAY).verified
        assert public_key(site.file("deviceid-")) == public_key(certificate)
        site.stop()  # and as `apply` does: a restart, with nothing but the new files
        site.start()
        site.wait_for_hub()
        eventually(lambda: site.state()["upstream"]["degraded"] == "")
        assert story.status_for("ByHand", identity) == 200
    finally:
        site.stop()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """What `edgetrust cert demo --bad` makes."""
    folder = tmp_path_factory.mktemp("demo") / "set"
    done = edgetrust("cert", "demo", folder, "--bad", "--hub", HUB, "--json")
    assert done.code == 0, done.text
    return folder, json.loads(done.out)


@pytest.mark.parametrize(
    ("name", "purpose", "usages", "basic"),
    [
        ("my_optional_intermediate_CA", "any", "Certificate Sign", "CA:TRUE"),
        ("iotedged_workload_ca_edgegateway", "any", "Certificate Sign", "CA:TRUE, pathlen:0"),
        ("hub-server", "sslserver", "TLS Web Server Authentication", "CA:FALSE"),
        ("EdgeGateway-primary", "sslclient", "TLS Web Client Authentication", "CA:FALSE"),
        ("EdgeGateway-secondary", "sslclient", "TLS Web Client Authentication", "CA:FALSE"),
        ("TempSensor-primary", "sslclient", "TLS Web Client Authentication", "CA:FALSE"),
        ("TempSensor-secondary", "sslclient", "TLS Web Client Authentication", "CA:FALSE"),
        ("HumiditySensor", "sslclient", "TLS Web Client Authentication", "CA:FALSE"),
    ],
)
def test_row_105_demonstration_certificates(
    demo: tuple[Path, Any], name: str, purpose: str, usages: str, basic: str
) -> None:
    """Certificates for a proof of concept are made by one command; openssl verifies each, for its purpose."""
    folder, _ = demo
    file, root = folder / "certs" / f"{name}.pem", folder / "certs" / "my_private_root_CA.pem"
    done = verify(file, "-x509_strict", "-purpose", purpose, "-CAfile", root, "-untrusted", file)
    assert done.code == 0, done.text
    assert usages in x509(file, "-ext", "keyUsage,extendedKeyUsage")
    assert basic in x509(file, "-ext", "basicConstraints")
    key = folder / "private" / f"{name}.key.pem"
    assert tool("openssl", "pkey", "-in", key, "-pubout").out.strip() == x509(file, "-pubkey")
    assert tool("stat", "-c", "%a", key).out.strip() == "600"


def test_row_106_a_ca_checks_that_the_key_is_there(tmp_path: Path) -> None:
    """Who asks for a certificate proves possession of the key; a request that was changed is not answered."""
    now_key = SoftKey.generate("requester")
    request = tmp_path / "request.pem"
    request.write_bytes(build_csr(now_key, Names("TempSensor")))
    done = tool("openssl", "req", "-in", request, "-noout", "-verify", "-subject")
    assert "verify OK" in done.text, done.text
    assert "CN = TempSensor" in done.text
    der = tmp_path / "request.der"
    assert tool("openssl", "req", "-in", request, "-outform", "DER", "-out", der).code == 0
    content = der.read_bytes()
    tampered = content.replace(b"TempSensor", b"TempSensoR")
    assert tampered != content
    der.write_bytes(tampered)
    refused = tool("openssl", "req", "-in", der, "-inform", "DER", "-noout", "-verify")
    assert "verify failure" in refused.text.lower()
    with pytest.raises(Error, match="signature"):
        parse_csr(tampered)


def test_row_106_roots_issue_intermediates_and_those_leaves(story: Story, tmp_path: Path) -> None:
    """A request made by openssl is answered by our CA, and the chain holds for openssl up to the root."""
    request, key = tmp_path / "request.pem", tmp_path / "key.pem"
    made = tool(
        *("openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=FromOpenssl"),
        *("-keyout", key, "-out", request),
    )
    assert made.code == 0, made.err
    issuer = Issuer(story.intermediate.key, Chain((story.intermediate.certificate, story.root.certificate)))
    issued = issuer.issue(parse_csr(request.read_bytes()), DOWNSTREAM, Names("FromOpenssl"), story.now)
    leaf, chain = tmp_path / "leaf.pem", tmp_path / "chain.pem"
    leaf.write_text(Chain(issued.certificates[:1]).pem())
    chain.write_text(pem(story.intermediate))
    done = verify(leaf, "-x509_strict", "-purpose", "sslclient", "-CAfile", story.trust, "-untrusted", chain)
    assert done.code == 0, done.text
    assert x509(leaf, "-pubkey") == tool("openssl", "pkey", "-in", key, "-pubout").out.strip()


def test_row_107_both_places_for_a_root(story: Story, tmp_path: Path) -> None:
    """A root is trusted from the operating system's store or from the application's own settings: by devices that
    dial the hub or a gateway, and by a gateway that dials its hub.
    """
    store, own = {"SSL_CERT_FILE": str(story.os_store)}, {"SSL_CERT_FILE": "/dev/null", "SSL_CERT_DIR": str(tmp_path)}
    private = {"SSL_CERT_FILE": str(story.trust)}
    for done in (
        story.send("TempSensor", story.sensor, env=store),
        story.send("TempSensor", story.sensor, trust=story.os_store, env=own),
        story.send("TempSensor", story.sensor, at=story.gateway, env=private),
        story.send("TempSensor", story.sensor, at=story.gateway, trust=story.trust, env=own),
    ):
        assert done.code == 0, done.text
    eventually(lambda: story.gateway.state()["upstream"]["connected"])  # by the store
    site = story.site("OwnBundle", store=Path("/dev/null"), extra=f'ca = "file://{story.os_store}"')
    site.start()
    try:
        site.wait_for_hub()
    finally:
        site.stop()


@pytest.mark.parametrize("intermediates", [1, 2, 3, 4, 5])
def test_row_108_chains_of_any_depth(tmp_path: Path, intermediates: int) -> None:
    """Departments, several companies, a customer's root above a manufacturer: chains of one to five intermediates."""
    done = edgetrust("cert", "demo", tmp_path, "--intermediates", str(intermediates), "--hub", HUB)
    assert done.code == 0, done.text
    root = tmp_path / "certs" / "my_private_root_CA.pem"
    for name in ("TempSensor-primary", "iotedged_workload_ca_edgegateway"):
        file = tmp_path / "certs" / f"{name}.pem"
        assert file.read_text().count("BEGIN CERTIFICATE") == 1 + intermediates
        shown = verify(file, "-x509_strict", "-show_chain", "-CAfile", root, "-untrusted", file)
        assert shown.code == 0, shown.text
        assert shown.out.count("depth=") == 2 + intermediates
    assert edgetrust("cert", "verify", tmp_path / "certs" / "TempSensor-primary.pem", "--ca", root).code == 0


def test_row_108_a_path_that_is_too_long(demo: tuple[Path, Any]) -> None:
    """A CA below one whose path length is used up is refused, by openssl and by us, for that reason."""
    folder, _ = demo
    file, root = folder / "certs/bad/path-length.pem", folder / "certs/my_private_root_CA.pem"
    done = verify(file, "-CAfile", root, "-untrusted", file)
    assert done.code != 0
    assert "path length constraint exceeded" in done.text
    ours = edgetrust("cert", "verify", file, "--ca", root, "--purpose", "device")
    assert ours.code == 1
    assert "chain-path-length" in ours.err


def test_row_109_the_edge_ca_makes_no_further_ca(story: Story, demo: tuple[Path, Any]) -> None:
    """The last intermediate signs the Edge CA, whose path length of 0 forbids a CA below it: error 25. On the device
    lies the Edge CA's key only, not those above.
    """
    folder, _ = demo
    sub_ca, root = folder / "certs/bad/sub-ca.pem", folder / "certs/my_private_root_CA.pem"
    leaf = folder / "certs/bad/path-length.pem"
    assert x509(sub_ca, "-issuer").partition("=")[2] == f"CN = {EDGE_CA}"
    done = verify(leaf, "-CAfile", root, "-untrusted", leaf)
    assert "error 25 at" in done.text
    above = {public_key(pem(holder)) for holder in (story.intermediate, story.root)}
    found = set()
    for file in story.gateway.keys.iterdir():
        shown = tool("openssl", "pkey", "-in", file, "-pubout")
        if shown.code == 0:
            found.add(tool("sha256sum", say=shown.out.strip()).out.split()[0])
    assert public_key(story.gateway.edge_ca) in found
    assert not found & above


def test_row_111_identity_and_edge_ca_are_kept_apart(story: Story) -> None:
    """Another identity certificate does not touch the Edge CA, and another Edge CA does not touch the identity."""
    site = story.site("Apart")
    site.start()
    try:
        identity, edge_ca = fingerprint(site.file("deviceid-")), fingerprint(site.edge_ca)
        site.stop()
        second = story.device_holder("Apart", label="second")
        certificate, key = story.files(second)
        story.change("Apart", authentication=_thumbprints(fingerprint(certificate)))
        _replace(site.folder, "identity", certificate, key)
        site.start()
        site.wait_for_hub()
        assert fingerprint(site.edge_ca) == edge_ca
        assert fingerprint(site.file("deviceid-")) == fingerprint(certificate) != identity
        site.stop()
        other = story.intermediate.authority("another edge ca", path_length=0, now=story.now)
        _replace(site.folder, "edge-ca", *story.files(other))
        site.start()
        site.wait_for_hub()
        assert fingerprint(site.edge_ca) == fingerprint(pem(other))
        assert fingerprint(site.file("deviceid-")) == fingerprint(certificate)
    finally:
        site.stop()


def _thumbprints(value: str) -> dict[str, Any]:
    return {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": value, "secondaryThumbprint": value}}


def _replace(folder: Path, name: str, certificate: Path, key: Path) -> None:
    """Put other files in the place of those that config.toml names; the key first, as careful people do."""
    (folder / f"{name}.key.pem").write_bytes(key.read_bytes())
    (folder / f"{name}.cert.pem").write_bytes(certificate.read_bytes())
