"""Certificates are shown as openssl shows them, verified as hub and gateway verify them, and refused with a reason."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from edgetrust.cli.certificates import describe
from edgetrust.cli.chain_fixes import fix_for
from edgetrust.cli.demo_pki import DemoOptions, DemoPki, make_demo_pki
from edgetrust.pki.chain import Chain
from edgetrust.pki.verify import ChainReason
from support.pki import certificate, ed25519_key, key, root, self_signed

Call = Callable[..., Any]


def openssl(*arguments: str | Path) -> str:
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, text=True).stdout


# show ---------------------------------------------------------------------------------------------------------------


def test_show_says_what_openssl_says(edgetrust: Call, demo: DemoPki) -> None:
    file = demo.sensor[0].certificate_file
    shown = edgetrust("cert", "show", file)
    assert shown.code == 0
    for algorithm in ("sha1", "sha256"):
        printed = openssl("x509", "-in", file, "-noout", "-fingerprint", f"-{algorithm}").strip().partition("=")[2]
        assert printed in shown.out
    assert openssl("x509", "-in", file, "-noout", "-serial").strip().removeprefix("serial=") in shown.out.replace(
        "serial     ",
        "serial     0" if "serial=0" in openssl("x509", "-in", file, "-noout", "-serial") else "serial     ",
    )
    assert "CN=TempSensor" in shown.out
    assert "valid for 29 days 23 h" in shown.out
    assert "EC P-256" in shown.out


def test_show_has_the_whole_chain(edgetrust: Call, demo: DemoPki) -> None:
    known = edgetrust("cert", "show", demo.edge_ca.certificate_file, "--json").json()
    subjects = [entry["subject"] for entry in known["certificates"]]
    assert subjects == ["CN=iotedged workload ca edgegateway", "CN=my_optional_intermediate_CA"]
    first = known["certificates"][0]
    assert (first["ca"], first["pathLength"]) == (True, 0)
    assert "keyCertSign" in first["keyUsage"]


def test_show_lists_names_and_usages(edgetrust: Call, demo: DemoPki) -> None:
    known = edgetrust("cert", "show", demo.hub.certificate_file, "--json").json()["certificates"][0]
    assert set(known["subjectAlternativeName"]) == {
        "DNS:contosoiothub.local",
        "DNS:localhost",
        "IP:127.0.0.1",
        "IP:::1",
    }
    assert known["extendedKeyUsage"] == ["serverAuth"]


def test_show_reads_der(edgetrust: Call, demo: DemoPki, tmp_path: Path) -> None:
    file = tmp_path / "c.der"
    file.write_bytes(demo.root.chain.end_entity.public_bytes(Encoding.DER))
    known = edgetrust("cert", "show", file, "--json").json()["certificates"][0]
    assert known["selfIssued"] is True


def test_show_says_whether_a_key_fits(edgetrust: Call, demo: DemoPki) -> None:
    sensor, other = demo.sensor
    fits = edgetrust("cert", "show", sensor.certificate_file, "--key", sensor.key_file)
    assert fits.code == 0
    assert "fits" in fits.out
    does_not = edgetrust("cert", "show", sensor.certificate_file, "--key", other.key_file)
    assert does_not.code == 4
    assert "does not belong to the certificate" in does_not.err
    assert (
        edgetrust("cert", "show", sensor.certificate_file, "--key", other.key_file, "--json").json()["keyFits"] is False
    )


def test_show_words_for_dates(edgetrust: Call, demo: DemoPki) -> None:
    bad = {entry.name: entry.material.certificate_file for entry in demo.bad}
    assert "EXPIRED 1 day" in edgetrust("cert", "show", bad["expired"]).out
    assert "NOT YET VALID, begins in 29 days" in edgetrust("cert", "show", bad["not-yet-valid"]).out


@pytest.mark.parametrize("kind", ["rsa-2048", "rsa-3072"])
def test_show_other_keys(edgetrust: Call, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "c.pem"
    made = self_signed("Odd", key_kind=kind)
    file.write_bytes(made.certificate.public_bytes(Encoding.PEM))
    known = edgetrust("cert", "show", file, "--json").json()["certificates"][0]
    assert known["key"] == kind.upper().replace("-", " ")


def test_show_describes_what_no_verifier_would_take() -> None:
    broken = x509.UnrecognizedExtension(x509.KeyUsage.oid, b"\x02\x01\x01")  # an INTEGER is no key usage
    odd = certificate(
        *("Odd", ed25519_key(), None, key("Odd issuer")),
        usage=None,
        hosts=["odd.example"],
        extra=[(broken, True)],
    )
    known = describe(odd, datetime.now(UTC))
    assert known["key"] == "Ed25519"
    assert known["keyUsage"] == ["unreadable"]
    assert known["subjectAlternativeName"] == ["unreadable"]  # one broken extension hides them all


def test_show_knows_every_kind_of_name() -> None:
    names = [x509.RFC822Name("a@b.c"), x509.UniformResourceIdentifier("urn:x"), x509.RegisteredID(NameOID.COMMON_NAME)]
    odd = certificate(
        *("Odd", key("Odd"), None, key("Odd")),
        eku=[ObjectIdentifier("1.2.3")],
        extra=[(x509.SubjectAlternativeName(names), False)],
    )
    known = describe(odd, datetime.now(UTC))
    assert known["subjectAlternativeName"] == ["email:a@b.c", "URI:urn:x", "RegisteredID"]
    assert known["extendedKeyUsage"] == ["1.2.3"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"", "holds no certificate"),
        (b"no certificate", "holds no certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds no certificate"),
        (b"-----BEGIN CERTIFICATE-----\n" + b"A" * 300_000, "more than"),
    ],
)
def test_a_file_without_certificate_is_a_users_error(
    edgetrust: Call, tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "c.pem"
    if content is not None:
        file.write_bytes(content)
    shown = edgetrust("cert", "show", file)
    assert shown.code == 2
    assert words in shown.err


# verify -------------------------------------------------------------------------------------------------------------


def test_verify_accepts_and_shows_the_path(edgetrust: Call, demo: DemoPki) -> None:
    shown = edgetrust("cert", "verify", demo.sensor[0].certificate_file, "--ca", demo.root.certificate_file)
    assert shown.code == 0
    assert shown.out.startswith("accepted as the certificate of a device\n")
    assert "CN=my_private_root_CA" in shown.out


def test_verify_takes_its_purpose_from_the_certificate(edgetrust: Call, demo: DemoPki) -> None:
    def purpose(material: Path) -> str:
        return str(
            edgetrust("cert", "verify", material, "--ca", demo.root.certificate_file, "--json").json()["purpose"]
        )

    assert purpose(demo.hub.certificate_file) == "server"
    assert purpose(demo.edge_ca.certificate_file) == "ca"
    assert purpose(demo.sensor[0].certificate_file) == "device"


def test_verify_looks_at_the_name(edgetrust: Call, demo: DemoPki) -> None:
    verify = ("cert", "verify", demo.hub.certificate_file, "--ca", demo.root.certificate_file, "--name")
    assert edgetrust(*verify, "127.0.0.1").code == 0
    assert edgetrust(*verify, "LOCALHOST").code == 0
    refused = edgetrust(*verify, "other.example")
    assert refused.code == 1
    assert "name-mismatch" in refused.err
    assert "contosoiothub.local" in refused.err
    assert "fix: dial a name that it holds" in refused.err


def test_verify_names_every_fault_of_the_bad_set(edgetrust: Call, demo: DemoPki) -> None:
    for bad in demo.bad:
        shown = edgetrust(
            *("cert", "verify", bad.material.certificate_file, "--ca", demo.root.certificate_file),
            *("--purpose", "device", "--json"),
        )
        answer = shown.json()
        assert (shown.code, answer.get("reason")) == (0 if bad.verify is None else 1, bad.verify), bad.name
        if bad.verify is not None:
            assert answer["fix"]


def test_verify_at_another_time(edgetrust: Call, demo: DemoPki) -> None:
    later = (datetime.now(UTC) + timedelta(days=365)).strftime("%Y-%m-%d")
    verify = ("cert", "verify", demo.sensor[0].certificate_file, "--ca", demo.root.certificate_file, "--at")
    refused = edgetrust(*verify, later)
    assert refused.code == 1
    assert "chain-expired" in refused.err
    assert edgetrust(*verify, "next week").code == 2


def test_verify_with_the_systems_store(edgetrust: Call, demo: DemoPki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(demo.root.certificate_file))
    assert edgetrust("cert", "verify", demo.hub.certificate_file).code == 0
    other = root("Another Root")
    file = demo.directory / "another.pem"
    file.write_bytes(other.certificate.public_bytes(Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    refused = edgetrust("cert", "verify", demo.hub.certificate_file)
    assert "chain-intermediate-missing" in refused.err
    assert "if it is the root, trust it with --ca" in refused.err


def test_verify_without_the_intermediate(edgetrust: Call, demo: DemoPki, tmp_path: Path) -> None:
    file = tmp_path / "leaf.pem"
    file.write_text(Chain(demo.sensor[0].chain.certificates[:1]).pem())
    refused = edgetrust("cert", "verify", file, "--ca", demo.root.certificate_file)
    assert "chain-intermediate-missing" in refused.err
    assert "put that issuer behind" in refused.err


def test_an_unknown_purpose_is_usage(edgetrust: Call, demo: DemoPki) -> None:
    assert edgetrust("cert", "verify", demo.hub.certificate_file, "--purpose", "toaster").code == 2


def test_every_reason_has_a_fix() -> None:
    assert all(fix_for(reason) for reason in ChainReason)


# thumbprint ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_thumbprint_is_openssls(edgetrust: Call, demo: DemoPki, algorithm: str) -> None:
    file = demo.gateway[0].certificate_file
    expected = openssl("x509", "-in", file, "-noout", "-fingerprint", f"-{algorithm}")
    assert edgetrust("cert", "thumbprint", file, f"--{algorithm}").out == expected
    plain = expected.partition("=")[2].replace(":", "")
    assert edgetrust("cert", "thumbprint", file, f"--{algorithm}", "--plain").out == plain
    assert edgetrust("cert", "thumbprint", file, f"--{algorithm}", "--json").json()["thumbprint"] == plain.strip()


def test_thumbprint_is_sha256_by_default(edgetrust: Call, demo: DemoPki) -> None:
    assert edgetrust("cert", "thumbprint", demo.root.certificate_file).out.startswith("sha256 Fingerprint=")


def test_two_algorithms_are_usage(edgetrust: Call, demo: DemoPki) -> None:
    assert edgetrust("cert", "thumbprint", demo.root.certificate_file, "--sha1", "--sha256").code == 2


# demo ---------------------------------------------------------------------------------------------------------------


def test_demo_prints_the_lines_that_use_it(edgetrust: Call, tmp_path: Path) -> None:
    shown = edgetrust("cert", "demo", tmp_path / "set", "--bad")
    assert shown.code == 0
    for words in (
        'hostname = "edgegateway.local"',
        "[edge_ca]",
        "edgetrust device create EdgeGateway --edge",
        "expired.pem",
    ):
        assert words in shown.out


def test_demo_does_not_overwrite(edgetrust: Call, tmp_path: Path) -> None:
    edgetrust("cert", "demo", tmp_path)
    again = edgetrust("cert", "demo", tmp_path)
    assert again.code == 2
    assert "--force" in again.err
    assert edgetrust("cert", "demo", tmp_path, "--force").code == 0


def test_demo_json_names_files_that_exist(edgetrust: Call, tmp_path: Path) -> None:
    known = edgetrust("cert", "demo", tmp_path, "--json", "--intermediates", "2", "--bad").json()
    assert len(known["intermediates"]) == 2
    for entry in (
        known["root"],
        known["hub"],
        known["edgeCa"],
        *known["bad"],
        *known["devices"]["TempSensor"].values(),
    ):
        assert Path(entry["certificate"]).exists()
        assert Path(entry["key"]).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("option", "value"), [("--intermediates", "6"), ("--days", "0"), ("--algorithm", "rot13")])
def test_demo_refuses_nonsense(edgetrust: Call, tmp_path: Path, option: str, value: str) -> None:
    assert edgetrust("cert", "demo", tmp_path, option, value).code == 2


@pytest.mark.parametrize("intermediates", range(6))
def test_openssl_verifies_every_length(tmp_path: Path, intermediates: int) -> None:
    made = make_demo_pki(tmp_path, datetime.now(UTC), DemoOptions(intermediates=intermediates))
    untrusted = tmp_path / "untrusted.pem"
    for purpose, material in (
        ("sslserver", made.hub),
        ("sslclient", made.sensor[0]),
        ("sslclient", made.sensor[1]),
        ("sslclient", made.gateway[0]),
        ("any", made.edge_ca),
    ):
        untrusted.write_text("".join(Chain((c,)).pem() for c in material.chain.intermediates) or made.root.chain.pem())
        openssl(
            *("verify", "-x509_strict", "-purpose", purpose, "-CAfile", made.root.certificate_file),
            *("-untrusted", untrusted, material.certificate_file),
        )


def test_the_set_is_the_articles(demo: DemoPki) -> None:
    def subject(certificate: x509.Certificate) -> str:
        return certificate.subject.rfc4514_string()

    assert subject(demo.root.chain.end_entity) == "CN=my_private_root_CA"
    assert [subject(certificate) for certificate in demo.edge_ca.chain.certificates] == [
        "CN=iotedged workload ca edgegateway",
        "CN=my_optional_intermediate_CA",
    ]
    ends = [material.chain.end_entity.not_valid_after_utc for material in demo.sensor]
    assert ends[0] < ends[1]


def test_rsa_sets(tmp_path: Path) -> None:
    from edgetrust.pki.keys import KeyAlgorithm

    made = make_demo_pki(tmp_path, datetime.now(UTC), DemoOptions(intermediates=0, algorithm=KeyAlgorithm.RSA2048))
    assert "RSA Public-Key: (2048 bit)" in openssl("x509", "-in", made.hub.certificate_file, "-noout", "-text").replace(
        "Public-Key: (2048", "RSA Public-Key: (2048"
    )
