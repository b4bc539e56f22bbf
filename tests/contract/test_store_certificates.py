"""Registered CA certificates and their proof of possession, on every engine."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from edgetrust.clock import ManualClock
from edgetrust.pki.chain import Thumbprint
from edgetrust.store.certificates import CaCertificates
from edgetrust.store.engine import Database
from edgetrust.store.identities import Identities
from edgetrust.store.records import ChangeKind, RegistryError
from support.pki import EXPIRED, NOT_YET_VALID, NOW, WITHOUT_EXTENSIONS, Pki, root, self_signed

PKI = Pki(NOW, 0)
CA = PKI.root.certificate
OTHER = root("Other Root").certificate


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def registry(database: Database, clock: ManualClock) -> Identities:
    return Identities(database, clock, "hub.example")


@pytest.fixture
async def certificates(database: Database, clock: ManualClock, registry: Identities) -> CaCertificates:
    return await CaCertificates.open(database, clock, registry)


async def refused(call: Any) -> RegistryError:
    with pytest.raises(RegistryError) as caught:
        await call
    return caught.value


async def test_an_upload_counts_for_nothing_yet(certificates: CaCertificates, clock: ManualClock) -> None:
    record = await certificates.put("root", CA)
    assert (record.certificate, record.subject, record.verified) == (CA, "CN=Test Root", False)
    assert record.thumbprint == Thumbprint.of(CA, "sha1")
    assert record.expires_at == CA.not_valid_after_utc
    assert (record.created_at, record.updated_at, record.verification_code) == (clock.now(), clock.now(), None)
    assert len(base64.b64decode(record.etag)) == 8
    assert certificates.bundle().anchors == ()
    assert await certificates.certificate("root") == record
    assert await certificates.certificates() == (record,)


async def test_proof_of_possession(certificates: CaCertificates) -> None:
    uploaded = await certificates.put("root", CA)
    coded = await certificates.generate_code("root", uploaded.etag)
    assert coded.verification_code is not None
    assert len(coded.verification_code) == 48
    assert coded.etag != uploaded.etag
    proof = PKI.device(coded.verification_code).certificate
    verified = await certificates.verify("root", proof, f'"{coded.etag}"')
    assert (verified.verified, verified.verification_code) == (True, None)
    assert certificates.bundle().anchors == (CA,)
    assert (await refused(certificates.verify("root", proof, "*"))).reason == "verification-code-missing"


async def test_a_new_code_makes_the_last_one_worthless(certificates: CaCertificates) -> None:
    await certificates.put("root", CA)
    first = await certificates.generate_code("root", "*")
    await certificates.generate_code("root", first.etag)
    proof = PKI.device(first.verification_code or "").certificate
    assert (await refused(certificates.verify("root", proof, "*"))).reason == "proof-of-possession-other-code"


@pytest.mark.parametrize(
    ("proof", "reason"),
    [
        (lambda code: PKI.device(f"{code}0"), "proof-of-possession-other-code"),
        (lambda code: PKI.device(""), "proof-of-possession-other-code"),
        (lambda code: PKI.device(code, **EXPIRED), "proof-of-possession-dates"),
        (lambda code: PKI.device(code, **NOT_YET_VALID), "proof-of-possession-dates"),
        (self_signed, "proof-of-possession-signature"),
        (lambda code: PKI.impostor().device(code), "proof-of-possession-signature"),
    ],
)
async def test_what_proves_nothing(certificates: CaCertificates, proof: Any, reason: str) -> None:
    await certificates.put("root", CA)
    coded = await certificates.generate_code("root", "*")
    error = await refused(certificates.verify("root", proof(coded.verification_code).certificate, "*"))
    assert (error.status, error.reason) == (400, reason)
    assert await certificates.certificate("root") == coded
    assert certificates.bundle().anchors == ()


async def test_verified_on_upload(certificates: CaCertificates) -> None:
    await certificates.put("root", CA, verified=True)
    assert certificates.bundle().anchors == (CA,)
    replaced = await certificates.put("root", OTHER, if_match="*")
    assert not replaced.verified
    assert certificates.bundle().anchors == ()


async def test_every_mutation_needs_the_newest_etag(certificates: CaCertificates) -> None:
    record = await certificates.put("root", CA)
    newer = await certificates.put("root", CA, if_match=record.etag)
    for if_match in (None, record.etag):
        for call in (
            certificates.put("root", CA, if_match=if_match),
            certificates.delete("root", if_match),
            certificates.generate_code("root", if_match),
            certificates.verify("root", CA, if_match),
        ):
            assert (await refused(call)).status == 412
    await certificates.delete("root", newer.etag)
    for call in (
        certificates.certificate("root"),
        certificates.delete("root", "*"),
        certificates.generate_code("root", "*"),
        certificates.put("root", CA, if_match="*"),
    ):
        error = await refused(call)
        assert (error.status, error.reason) == (404, "certificate-not-found")


@pytest.mark.parametrize(
    ("name", "certificate", "reason"),
    [
        ("", CA, "certificate-name-malformed"),
        ("a/b", CA, "certificate-name-malformed"),
        ("x" * 65, CA, "certificate-name-malformed"),
        ("device", PKI.device().certificate, "certificate-not-a-ca"),
        ("bare", PKI.device(**WITHOUT_EXTENSIONS).certificate, "certificate-not-a-ca"),
        ("old", root("Old", **EXPIRED).certificate, "certificate-expired"),
    ],
)
async def test_what_is_no_ca_certificate(
    certificates: CaCertificates, name: str, certificate: x509.Certificate, reason: str
) -> None:
    error = await refused(certificates.put(name, certificate))
    assert (error.status, error.reason) == (400, reason)


async def test_there_is_an_end_of_certificates(certificates: CaCertificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetrust.store.certificates.CA_CERTIFICATES", 2)
    await certificates.put("a", CA)
    await certificates.put("b", CA)
    assert (await refused(certificates.put("c", CA))).reason == "too-many-certificates"


async def test_listeners_hear_when_the_bundle_is_new(certificates: CaCertificates, registry: Identities) -> None:
    heard: list[tuple[ChangeKind, int]] = []
    registry.listen(lambda change: heard.append((change.kind, len(certificates.bundle().anchors))))
    await certificates.put("root", CA, verified=True)
    await certificates.delete("root", "*")
    assert heard == [(ChangeKind.AUTHORITIES, 1), (ChangeKind.AUTHORITIES, 0)]


async def test_other_processes_hear_of_it_too(durable_url: str, clock: ManualClock) -> None:
    databases = [Database(durable_url), Database(durable_url)]
    await databases[0].migrate()
    here, there = (Identities(database, clock, "hub.example") for database in databases)
    await there.start_hearing()
    writing = await CaCertificates.open(databases[0], clock, here)
    reading = await CaCertificates.open(databases[1], clock, there)
    anchors: list[int] = []
    there.listen(lambda _change: anchors.append(len(reading.bundle().anchors)))
    await writing.put("root", CA, verified=True)
    clock.advance(timedelta(hours=1).total_seconds())
    assert await there.catch_up() == 1
    assert anchors == [1]
    again = await CaCertificates.open(databases[1], clock, there)
    assert again.bundle().anchors == (CA,)
    for database in databases:
        await database.close()
