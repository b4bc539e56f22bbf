"""Revoking certificates, and saying so: CRLs (RFC 5280, 5) and OCSP answers (RFC 6960, 5019).

Rules. What depends on a certificate is listed before it is revoked. Revoking a CA's certificate retires the CA. A
revocation is a mark in the row and a record of the audit log, and is never taken back. From that moment EST refuses the
certificate, and a new CRL names it. A CRL is signed by the CA whose certificates it is about; it carries an
IssuingDistributionPoint exactly if the certificates carry the same place, since verifiers compare the two. OCSP answers
are signed by that CA too; an issuer that is not ours is answered `unauthorized`, unsigned.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from sqlalchemy import Connection

from edgetrust import limits
from edgetrust.ca.authority import RETIRED, Authority, CertificateAuthority
from edgetrust.errors import PeerError, UnavailableError, UsageError
from edgetrust.pki.issue import Issuer
from edgetrust.pki.keys import signing_key
from edgetrust.pki.profiles import EDGE_CA
from edgetrust.store import chained
from edgetrust.store.authorities import change_authority, next_crl_number
from edgetrust.store.issuance import IssuedRow, find_issued, issued_by_serial, mark_revoked

REASONS: Final = tuple(
    flag.value
    for flag in x509.ReasonFlags
    if flag not in (x509.ReasonFlags.remove_from_crl, x509.ReasonFlags.certificate_hold)
)
_BACKDATE: Final = timedelta(minutes=5)  # a verifier whose clock is a little behind accepts a new list


@dataclass(frozen=True, slots=True)
class Dependent:
    """What rests on a certificate that is about to be revoked: one sentence, and how many."""

    what: str
    count: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The certificates that would be revoked, and what depends on them."""

    rows: tuple[IssuedRow, ...]
    dependents: tuple[Dependent, ...]
    authorities: tuple[str, ...]


async def plan(authority: CertificateAuthority, *, serial: str | None = None, identity: str | None = None) -> Plan:
    """What revoking a serial number, or everything of an identity, would do. UsageError if there is nothing."""
    now = authority.clock.now()
    wanted = None if serial is None else serial.lower().replace(":", "").zfill(40)

    def work(connection: Connection) -> Plan:
        rows = find_issued(connection, serial=wanted, identity=identity, revoked=False, alive_at=now)
        if not rows:
            raise UsageError(
                "there is no certificate of that name or number that is valid and not revoked",
                reason="certificate-unknown",
                fix="edgetrust ca list",
            )
        retired = tuple(_authority_of(row) for row in rows if _authority_of(row) in authority.authorities)
        return Plan(rows, tuple(_dependents(connection, rows, retired, now)), retired)

    return await authority.database.read(work)


def _authority_of(row: IssuedRow) -> str:
    return row.identity[1:-1] if row.identity.startswith("<") else ""


def _dependents(
    connection: Connection, rows: Sequence[IssuedRow], retired: Sequence[str], now: datetime
) -> list[Dependent]:
    found = []
    for name in retired:
        below = find_issued(connection, authority=name, revoked=False, alive_at=now)
        found.append(Dependent(f"certificates issued by the CA {name}: none of them verifies any more", len(below)))
    going = {(row.authority, row.serial) for row in rows}
    for identity in dict.fromkeys(row.identity for row in rows if not _authority_of(row)):
        alive = find_issued(connection, identity=identity, revoked=False, alive_at=now)
        left = sum((row.authority, row.serial) not in going for row in alive)
        text = f"{identity} keeps other certificates" if left else f"{identity} has none left and must enrol anew"
        found.append(Dependent(text, left))
    gateways = dict.fromkeys(row.identity for row in rows if row.profile == EDGE_CA.name)
    text = "what the gateway {} issued with its Edge CA is not recorded here, and falls with it"
    return [*found, *(Dependent(text.format(gateway), 1) for gateway in gateways)]


async def revoke(authority: CertificateAuthority, wanted: Plan, reason: str) -> None:
    """Do it. UsageError (`revocation-reason`) for a reason that RFC 5280 does not have."""
    if reason not in REASONS:
        raise UsageError(
            f"there is no reason {reason!r}", reason="revocation-reason", fix=f"use one of {', '.join(REASONS)}"
        )
    now = authority.clock.now()

    def work(connection: Connection) -> None:
        mark_revoked(connection, wanted.rows, now, reason)
        for name in wanted.authorities:
            change_authority(connection, name, state=RETIRED, default=False)
        for row in wanted.rows:
            detail = json.dumps({"authority": row.authority, "serial": row.serial, "profile": row.profile})
            chained.append(connection, chained.Entry(now, "revoked", "operator", "", row.identity, reason, detail))

    await authority.database.write(work)
    await authority.refresh()


# CRL ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Kept:
    crl: bytes
    revoked: int
    until: datetime


class RevocationLists:
    """The CRL of each authority, made anew when something was revoked or half of its time is over."""

    def __init__(self, authority: CertificateAuthority) -> None:
        self._authority = authority
        self._kept: dict[str, _Kept] = {}

    async def crl(self, name: str) -> bytes:
        """DER. UsageError (`authority-unknown`), UnavailableError (`no-issuer`) when its key is not here."""
        one = self._authority.named(name)
        now = self._authority.clock.now()
        rows = await self._authority.database.read(
            lambda connection: find_issued(connection, authority=name, revoked=True, alive_at=now)
        )
        kept = self._kept.get(name)
        if kept is not None and kept.revoked == len(rows) and now < kept.until:
            return kept.crl
        issuer = _issuer(one)
        number = await self._authority.database.write(lambda connection: next_crl_number(connection, name))
        crl = build_crl(issuer, rows, number, now, _place(self._authority, name))
        made = crl.public_bytes(Encoding.DER)
        self._kept[name] = _Kept(made, len(rows), now + timedelta(seconds=limits.CRL_SECONDS / 2))
        return made


def _place(authority: CertificateAuthority, name: str) -> str | None:
    url = authority.settings.crl_url
    return None if url is None else url.replace("{ca}", name)


def _issuer(one: Authority) -> Issuer:
    if one.issuer is None:
        raise UnavailableError(
            f"the key of {one.name} is not here", reason="no-issuer", retry_after=float(limits.CRL_SECONDS)
        )
    return one.issuer


def build_crl(
    issuer: Issuer, rows: Sequence[IssuedRow], number: int, now: datetime, url: str | None = None
) -> x509.CertificateRevocationList:
    """A complete CRL of one authority."""
    certificate = issuer.certificate
    subject_key = x509.SubjectKeyIdentifier.from_public_key(issuer.key.public_key())
    builder = (
        x509.CertificateRevocationListBuilder(revoked_certificates=[_entry(row) for row in rows])
        .issuer_name(certificate.subject)
        .last_update((now - _BACKDATE).replace(microsecond=0))
        .next_update((now + timedelta(seconds=limits.CRL_SECONDS)).replace(microsecond=0))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key), critical=False)
    )
    if url is not None:
        place = [x509.UniformResourceIdentifier(url)]
        builder = builder.add_extension(
            x509.IssuingDistributionPoint(place, None, False, False, None, False, False), critical=True
        )
    return builder.sign(signing_key(issuer.key), hashes.SHA256())


def _entry(row: IssuedRow) -> x509.RevokedCertificate:
    assert row.revoked_at is not None
    builder = (
        x509.RevokedCertificateBuilder()
        .serial_number(int(row.serial, 16))
        .revocation_date(row.revoked_at.replace(microsecond=0))
    )
    if row.revocation != x509.ReasonFlags.unspecified.value:  # RFC 5280, 5.3.1: leave it out instead
        builder = builder.add_extension(x509.CRLReason(x509.ReasonFlags(row.revocation)), critical=False)
    return builder.build()


# OCSP -----------------------------------------------------------------------------------------------------------------


async def answer(authority: CertificateAuthority, request: bytes) -> bytes:
    """The answer to one OCSP request, DER; requests that cannot be answered get an unsigned one that says so."""
    try:
        asked = ocsp.load_der_ocsp_request(request)
        hash_algorithm = asked.hash_algorithm
        nonce = next((e.value for e in asked.extensions if isinstance(e.value, x509.OCSPNonce)), None)
        serial, key_hash, name_hash = asked.serial_number, asked.issuer_key_hash, asked.issuer_name_hash
    except (ValueError, NotImplementedError, x509.DuplicateExtension):
        return _unsigned(ocsp.OCSPResponseStatus.MALFORMED_REQUEST)
    signer = next(
        (one for one in authority.authorities.values() if _hashes(one, hash_algorithm) == (name_hash, key_hash)), None
    )
    if signer is None or signer.issuer is None:
        return _unsigned(ocsp.OCSPResponseStatus.UNAUTHORIZED)
    row = await authority.database.read(lambda connection: issued_by_serial(connection, signer.name, serial))
    now = authority.clock.now().replace(microsecond=0)
    builder = ocsp.OCSPResponseBuilder().add_response_by_hash(
        name_hash,
        key_hash,
        serial,
        hash_algorithm,
        _status(row),
        now,
        now + timedelta(seconds=limits.OCSP_SECONDS),
        None if row is None or row.revoked_at is None else row.revoked_at.replace(microsecond=0),
        None if row is None or row.revoked_at is None else x509.ReasonFlags(row.revocation),
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, signer.issuer.certificate)
    if nonce is not None:
        builder = builder.add_extension(nonce, critical=False)
    return builder.sign(signing_key(signer.issuer.key), hashes.SHA256()).public_bytes(Encoding.DER)


def _status(row: IssuedRow | None) -> ocsp.OCSPCertStatus:
    if row is None:
        return ocsp.OCSPCertStatus.UNKNOWN
    return ocsp.OCSPCertStatus.GOOD if row.revoked_at is None else ocsp.OCSPCertStatus.REVOKED


def _unsigned(status: ocsp.OCSPResponseStatus) -> bytes:
    return ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)


def _hashes(one: Authority, algorithm: hashes.HashAlgorithm) -> tuple[bytes, bytes]:
    """The two hashes by which a request names an issuer (RFC 6960, 4.1.1)."""
    certificate = one.row.certificate
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return (
        hashlib.new(algorithm.name, certificate.subject.public_bytes(), usedforsecurity=False).digest(),
        hashlib.new(algorithm.name, _bit_string(key), usedforsecurity=False).digest(),
    )


def _bit_string(info: bytes) -> bytes:
    """The contents of subjectPublicKey, without the count of unused bits."""
    _, outer = _element(info)
    algorithm, _ = _element(outer)
    _, bits = _element(outer[algorithm:])
    return bits[1:]


def _element(data: bytes) -> tuple[int, bytes]:
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    return start + length, data[start : start + length]


def request_in_path(text: str) -> bytes:
    """The request of a GET (RFC 6960, A.1): base64 in the path, URL-decoded before. Raises PeerError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PeerError("the path holds no OCSP request", reason="ocsp-request-malformed") from error
