"""The independent check: each rule finds what it is for, and nothing else."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from edgetrust.pki import profiles
from edgetrust.pki.chain import Chain
from edgetrust.pki.csr import build_csr
from edgetrust.pki.lint import lint
from edgetrust.pki.names import Names
from support.pki import (
    CLIENT,
    DAY,
    NOW,
    SERVER,
    UNKNOWN_CRITICAL,
    Encoding,
    Holder,
    certificate,
    ed25519_key,
    key,
    key_usage,
    openssl,
    resigned,
    root,
)

CA = root("CA")
LIFE = {"begin": timedelta(0), "end": 30 * DAY}


def rules(holder: Holder, profile: profiles.Profile = profiles.DEVICE) -> set[str]:
    issuer = None if holder.issuer is None else holder.issuer.certificate
    findings = lint(holder.certificate, profile, issuer, NOW)
    assert all(finding.detail for finding in findings)
    return {finding.rule for finding in findings}


def device(**fields: Any) -> Holder:
    return CA.issue("d", **{**LIFE, **fields})


def uri(text: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(text)])


def test_clean() -> None:
    assert rules(device()) == set()
    assert rules(device(hosts=("d.example",))) == set()
    assert rules(CA, profiles.ROOT.with_validity(4000 * DAY)) == set()
    assert rules(device(eku=(SERVER,), hosts=("gw", "192.0.2.1")), profiles.GATEWAY_SERVER) == set()
    assert rules(device(eku=(SERVER,), hosts=("gw",), key_kind="rsa-2048"), profiles.GATEWAY_SERVER) == set()
    enciphers = ("digital_signature", "key_encipherment")
    rsa = device(eku=(SERVER,), hosts=("gw",), key_kind="rsa-2048", usage=enciphers)
    assert rules(rsa, profiles.GATEWAY_SERVER) == set()
    assert rules(device(extra=((uri(profiles.BOOTSTRAP_URI), False),)), profiles.BOOTSTRAP) == set()


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"serial": 5}, "serial"),
    ({"key_kind": "rsa-1024"}, "key"),
    ({"hash_algorithm": hashes.SHA224()}, "signature"),
    ({"key_ids": False}, "subject-key-id"),
    ({"key_ids": False}, "authority-key-id"),
    ({"issuer_serial": True}, "authority-key-id"),
    ({"ca": None}, "basic-constraints"),
    ({"ca": True}, "basic-constraints"),
    ({"ca": True, "path_length": 0}, "basic-constraints"),
    ({"ca_critical": False}, "basic-constraints"),
    ({"usage": None}, "key-usage"),
    ({"usage": None, "extra": ((key_usage(["digital_signature"]), False),)}, "key-usage"),
    ({"usage": ("digital_signature", "key_cert_sign")}, "key-usage"),
    ({"usage": ("digital_signature", "key_encipherment")}, "key-usage"),
    ({"usage": ("key_agreement",)}, "key-usage"),
    ({"eku": None}, "extended-key-usage"),
    ({"eku": (SERVER,)}, "extended-key-usage"),
    ({"eku": (CLIENT, SERVER)}, "extended-key-usage"),
    ({"eku_critical": True}, "extension"),
    ({"extra": ((x509.SubjectAlternativeName([x509.DNSName("192.0.2.1")]), False),)}, "san"),
    ({"extra": ((x509.SubjectAlternativeName([x509.DNSName("URI: azureiot://x")]), False),)}, "san"),
    ({"extra": ((x509.SubjectAlternativeName([x509.DNSName("d")]), True),)}, "san"),
    ({"extra": ((x509.SubjectAlternativeName([]), False),)}, "san"),
    (UNKNOWN_CRITICAL, "extension"),
    ({"extra": ((x509.OCSPNoCheck(), False),)}, "extension"),
    ({"extra": ((x509.NameConstraints([x509.DNSName("x")], None), True),)}, "extension"),
    ({"begin": timedelta(0), "end": 400 * DAY}, "validity"),
    ({"begin": -20 * DAY, "end": -DAY}, "validity"),
]


@pytest.mark.parametrize(("fields", "rule"), BROKEN)
def test_broken(fields: dict[str, Any], rule: str) -> None:
    assert rule in rules(device(**fields))


def test_dates_the_wrong_way_round() -> None:
    der = device(begin=timedelta(0), end=DAY).certificate.public_bytes(Encoding.DER)
    begin, end = (f"{moment:%y%m%d%H%M%S}Z".encode() for moment in (NOW, NOW + DAY))
    swapped = der.replace(begin + b"\x17\x0d" + end, end + b"\x17\x0d" + begin)
    assert swapped != der
    odd = x509.load_der_x509_certificate(resigned(swapped, CA))
    assert {finding.rule for finding in lint(odd, profiles.DEVICE, CA.certificate, NOW)} == {"validity"}


def test_version_1(tmp_path: Path) -> None:
    """openssl makes one where no extensions are asked for."""
    csr, ca, ca_key, out = (str(tmp_path / name) for name in ("d.csr", "ca.pem", "ca.key", "d.pem"))
    Path(csr).write_bytes(build_csr(device().key, Names("d")))
    Path(ca).write_text(CA.full_chain.pem())
    Path(ca_key).write_bytes(CA.key_pem())
    made = openssl(
        "x509", "-req", "-in", csr, "-CA", ca, "-CAkey", ca_key, "-set_serial", "1", "-days", "1", "-out", out
    )
    assert made.returncode == 0, made.stderr
    odd = Chain.from_pem(Path(out).read_bytes()).end_entity
    assert "version" in {finding.rule for finding in lint(odd, profiles.DEVICE, CA.certificate, NOW)}


def test_serial_number_0() -> None:
    der = device(serial=1).certificate.public_bytes(Encoding.DER)
    zero = resigned(der.replace(b"\x02\x01\x01\x30", b"\x02\x01\x00\x30", 1), CA)
    odd = Chain.from_der([zero]).end_entity
    assert [finding.rule for finding in lint(odd, profiles.DEVICE, CA.certificate, NOW)] == ["serial"]


def test_another_kind_of_key() -> None:
    made = certificate("d", ed25519_key(), CA.certificate, CA.private_key, **LIFE)
    assert "key" in {finding.rule for finding in lint(made, profiles.DEVICE, CA.certificate, NOW)}


def test_extensions_that_cannot_be_read() -> None:
    junk = x509.UnrecognizedExtension(ObjectIdentifier("2.5.29.17"), b"\xff")
    assert rules(device(extra=((junk, False),))) == {"unreadable"}


def test_key_identifiers_of_another_key() -> None:
    other = x509.SubjectKeyIdentifier.from_public_key(key("other").public_key())
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key("other").public_key())
    made = device(key_ids=False, extra=((other, False), (authority, False)))
    assert rules(made) == {"subject-key-id", "authority-key-id"}
    assert rules(device(key_ids=False, extra=((other, True), (authority, True)))) >= {"extension"}


def test_an_issuer_without_key_identifier_counts_by_its_key() -> None:
    bare = root("Bare", key_ids=False, key_kind="rsa-2048")
    assert rules(bare.issue("d", **LIFE)) == set()


@pytest.mark.filterwarnings("ignore:Attribute's length")
def test_subjects() -> None:
    def named(*names: str) -> set[str]:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False) for name in names])
        public = key("d").public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(CA.certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW)
            .not_valid_after(NOW + DAY)
        )
        for extension in device().certificate.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        made = builder.sign(CA.private_key, hashes.SHA256())
        return {finding.rule for finding in lint(made, profiles.DEVICE, CA.certificate, NOW)}

    assert named("d") == set()
    assert named("d", "e") == {"subject"}
    assert named("CA") == {"subject"}
    assert named("x" * 65) == {"subject"}
    assert rules(CA.issue("", hosts=("d",), **LIFE)) == set()
    assert rules(CA.authority("", begin=timedelta(0), end=90 * DAY), profiles.EDGE_CA) >= {"subject"}


def test_the_wrong_issuer() -> None:
    stranger = root("CA", key_label="stranger")
    assert lint(device().certificate, profiles.DEVICE, stranger.certificate, NOW)[0].rule == "signature"


def test_what_the_issuer_allows() -> None:
    def below(**fields: Any) -> set[str]:
        return rules(CA.authority("Sub", **fields).issue("d", **LIFE))

    assert below() == set()
    assert below(ca=False) == {"issuer"}
    assert below(ca=None) == {"issuer"}
    assert below(usage=("crl_sign",)) == {"issuer"}
    assert below(usage=None) == set()
    assert below(end=DAY) == {"issuer"}
    assert below(eku=(SERVER,)) == {"issuer"}
    assert below(eku=(CLIENT,)) == set()
    assert rules(root("alone", **LIFE, ca=False, usage=("digital_signature",), eku=(CLIENT,))) == {"issuer"}


@pytest.mark.parametrize(
    ("room", "own", "clean"),
    [(None, None, True), (None, 3, True), (0, 0, False), (1, 0, True), (1, 1, False), (1, None, False), (3, 2, True)],
)
def test_path_length(room: int | None, own: int | None, clean: bool) -> None:
    holder = CA.authority("Upper", path_length=room).authority("Lower", path_length=own, **LIFE)
    profile = dataclasses.replace(profiles.INTERMEDIATE, path_length=own)
    assert rules(holder, profile) == (set() if clean else {"path-length"})


def test_profile_extras() -> None:
    ocsp = {"eku": (ExtendedKeyUsageOID.OCSP_SIGNING,), "end": 7 * DAY, "begin": timedelta(0)}
    assert rules(CA.issue("o", **ocsp, extra=((x509.OCSPNoCheck(), False),)), profiles.OCSP) == set()
    assert rules(CA.issue("o", **ocsp, extra=((x509.OCSPNoCheck(), True),)), profiles.OCSP) == {"extension"}
    assert rules(CA.issue("o", **ocsp), profiles.OCSP) == {"extension"}
    assert rules(device(), profiles.BOOTSTRAP) == {"san"}
    assert rules(device(extra=((uri("https://other.example/"), False),)), profiles.BOOTSTRAP) == {"san"}


def test_extensions_of_cas() -> None:
    constraints = x509.NameConstraints([x509.DNSName("site.example")], None)
    point = x509.DistributionPoint([x509.UniformResourceIdentifier("http://ca.example/crl")], None, None, None)
    crl = x509.CRLDistributionPoints([point])

    def made(*extra: tuple[x509.ExtensionType, bool]) -> set[str]:
        return rules(CA.authority("Edge", path_length=0, **LIFE, extra=extra), profiles.ISSUING)

    assert made((constraints, True), (crl, False)) == set()
    assert made((constraints, False)) == {"extension"}
    assert made((crl, True)) == {"extension"}
    assert made((x509.SubjectAlternativeName([x509.DNSName("x")]), False)) == {"san"}
