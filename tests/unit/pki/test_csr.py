"""CSRs: ours satisfy openssl, and a peer's are read into checked values or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from edgetrust import limits
from edgetrust.pki.csr import CsrError, build_csr, parse_csr
from edgetrust.pki.keys import public_der
from edgetrust.pki.names import Names
from edgetrust.pki.softkeys import SoftKey
from support.pki import ed25519_key, key, name, openssl

KEY = SoftKey("k", key("csr"))


def test_what_we_build_openssl_verifies(tmp_path: Path) -> None:
    pem = build_csr(
        KEY,
        Names("d", dns=("d.example",), ips=("192.0.2.1",), uris=("https://d.example/",), organization="O"),
        ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), True),),
        challenge_password="tls-unique",
    )
    (tmp_path / "r.csr").write_bytes(pem)
    shown = openssl("req", "-in", str(tmp_path / "r.csr"), "-verify", "-noout", "-text")
    assert "verify OK" in shown.stdout + shown.stderr
    assert "IP Address:192.0.2.1, DNS:d.example, URI:https://d.example/" in shown.stdout
    csr = parse_csr(pem)
    assert csr.common_name == "d"
    assert (csr.dns, csr.ips, csr.uris) == (("d.example",), ("192.0.2.1",), ("https://d.example/",))
    assert csr.challenge_password == b"tls-unique"
    assert public_der(csr.public_key) == public_der(KEY.public_key())
    assert {extension.oid.dotted_string for extension in csr.extensions} == {"2.5.29.17", "2.5.29.37"}
    assert csr.pem().encode() == pem
    assert parse_csr(csr.der) == csr


def test_the_least_csr() -> None:
    csr = parse_csr(build_csr(KEY, Names("")))
    assert (csr.common_name, csr.dns, csr.extensions, csr.challenge_password) == (None, (), (), None)


def test_openssl_csrs_are_read(tmp_path: Path) -> None:
    file = tmp_path / "r.csr"
    made = openssl(
        "req",
        "-new",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=d/O=Ä",
        "-keyout",
        "/dev/null",
        "-utf8",
        "-out",
        str(file),
    )
    assert made.returncode == 0
    assert parse_csr(b"\n" + file.read_bytes()).common_name == "d"


def test_two_common_names_are_none() -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text) for text in "ab"])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key("csr"), hashes.SHA256())
    assert parse_csr(request.public_bytes(Encoding.DER)).common_name is None


def test_attributes_that_cannot_be_decoded() -> None:
    """libest marks what it cannot fill in; everything else still holds."""
    junk = x509.UnrecognizedExtension(ObjectIdentifier("2.5.29.17"), b"\xff")
    builder = x509.CertificateSigningRequestBuilder().subject_name(name("d")).add_extension(junk, False)
    csr = parse_csr(builder.sign(key("csr"), hashes.SHA256()).public_bytes(Encoding.DER))
    assert (csr.common_name, csr.extensions, csr.dns) == ("d", (), ())


def reason(data: bytes) -> str:
    with pytest.raises(CsrError) as caught:
        parse_csr(data)
    return caught.value.reason


def test_refusals() -> None:
    der = parse_csr(build_csr(KEY, Names("d"))).der
    assert reason(b"") == "not-a-csr"
    assert reason(b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----") == "not-a-csr"
    assert reason(der[:-1]) == "not-a-csr"
    assert reason(b"\x30" * (limits.PEM_BYTES + 1)) == "too-large"
    assert reason(der[:-1] + bytes((der[-1] ^ 1,))) == "bad-signature"
    for odd in (key("csr", "rsa-1024"), ed25519_key()):
        algorithm = None if not hasattr(odd, "key_size") else hashes.SHA256()
        request = x509.CertificateSigningRequestBuilder().subject_name(name("d")).sign(odd, algorithm)  # type: ignore[arg-type]
        assert reason(request.public_bytes(Encoding.DER)) == "weak-key"
    unknown_curve = der.replace(bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030f7f"))
    assert reason(unknown_curve) == "weak-key"
    unknown_signature = der.replace(bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a8648ce3d04037f"))
    assert reason(unknown_signature) == "bad-signature"
    bad_name = der.replace(b"\x0c\x01d", b"\x0c\x01\xff")
    assert reason(bad_name) == "not-a-csr"
