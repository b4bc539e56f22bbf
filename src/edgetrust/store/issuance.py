"""Every certificate that the authorities of this place have issued.

Rules. All functions run inside a transaction of `Database`; whoever calls them decides and records in the same one, so
that an enrolment happens whole or not at all. A serial number belongs to one certificate of one authority for ever: a
second insert of the same is refused by the primary key. Rows of certificates are never deleted; revoking marks them.

It must not know who may have what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Connection, Row, bindparam, func, select, update

from edgetrust.store.ca_tables import issued_certificates, issued_names
from edgetrust.store.pointquery import PointQuery, PointWrite
from edgetrust.store.records import at_moment, milliseconds

CROSS = "cross"  # the profile of a root's certificate by another root
# On the path of every enrolment: compiled once.
_STANDING = PointQuery(
    select(issued_certificates.c.profile, issued_certificates.c.revoked_ms, issued_certificates.c.revocation).where(
        issued_certificates.c.thumbprint == bindparam("thumbprint")
    )
)
_HOLDINGS = PointQuery(
    select(issued_certificates.c.identity, issued_certificates.c.credential)
    .where(issued_certificates.c.public_key == bindparam("key"))
    .distinct()
)
_ADD, _ADD_NAME = PointWrite(issued_certificates), PointWrite(issued_names)


@dataclass(frozen=True)
class IssuedRow:
    """One certificate. `revoked_at` None: it is not. `credential` is what convinced us, `operation` what was asked."""

    authority: str
    serial: str
    profile: str
    identity: str
    certificate: x509.Certificate
    issued_at: datetime
    operation: str
    credential: str
    revoked_at: datetime | None = None
    revocation: str = ""

    @property
    def not_after(self) -> datetime:
        return self.certificate.not_valid_after_utc

    @cached_property
    def subject(self) -> str:
        """The subject in words (RFC 4514)."""
        return self.certificate.subject.rfc4514_string()


@dataclass(frozen=True, slots=True)
class Standing:
    """What decides about a certificate of ours that somebody shows: its kind, and whether it was revoked, and why."""

    profile: str
    revoked_at: datetime | None
    revocation: str


def serial_text(serial: int) -> str:
    """A serial number as it is stored: 40 hexadecimal digits."""
    return f"{serial:040x}"


def key_digest(key: Any) -> str:
    """What stands for a public key in rows: SHA-256 of its SubjectPublicKeyInfo, hexadecimal."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def thumbprint_of(certificate: x509.Certificate) -> str:
    """What stands for a certificate in rows: SHA-256 of its DER, hexadecimal, lower case."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def add_issued(connection: Connection, row: IssuedRow) -> None:
    """Store a certificate with its names. The primary key refuses a serial number that was used before."""
    certificate = row.certificate
    der = certificate.public_bytes(Encoding.DER)
    values = {
        "authority": row.authority,
        "serial": row.serial,
        "profile": row.profile,
        "identity": row.identity,
        "subject": row.subject,
        "public_key": key_digest(certificate.public_key()),
        "thumbprint": hashlib.sha256(der).hexdigest(),
        "der": der,
        "not_before_ms": milliseconds(certificate.not_valid_before_utc),
        "not_after_ms": milliseconds(certificate.not_valid_after_utc),
        "issued_ms": milliseconds(row.issued_at),
        "operation": row.operation,
        "credential": row.credential,
        "revoked_ms": 0,
        "revocation": "",
    }
    _ADD.add(connection, values)
    names = [{"authority": row.authority, "serial": row.serial, "kind": k, "value": v} for k, v in _names(certificate)]
    _ADD_NAME.add(connection, *names)


def _names(certificate: x509.Certificate) -> list[tuple[str, str]]:
    values = (extension.value for extension in certificate.extensions)
    names = next((value for value in values if type(value) is x509.SubjectAlternativeName), None)
    if names is None:
        return []
    found = [("dns", name) for name in names.get_values_for_type(x509.DNSName)]
    found += [("ip", str(ip)) for ip in names.get_values_for_type(x509.IPAddress)]
    found += [("uri", uri) for uri in names.get_values_for_type(x509.UniformResourceIdentifier)]
    return list(dict.fromkeys(found))


def standing_of(connection: Connection, thumbprint: str) -> Standing | None:
    """How one certificate of ours stands, by the SHA-256 of its DER, hexadecimal, lower case; None: it is not ours."""
    rows = _STANDING.values(connection, {"thumbprint": thumbprint})
    if not rows:
        return None
    profile, revoked_ms, revocation = rows[0]
    return Standing(profile, at_moment(revoked_ms) if revoked_ms else None, revocation)


def issued_by_serial(connection: Connection, authority: str, serial: int) -> IssuedRow | None:
    """A certificate by its authority and serial number."""
    table = issued_certificates
    query = select(table).where(table.c.authority == authority, table.c.serial == serial_text(serial))
    row = connection.execute(query).first()
    return None if row is None else _issued(row)


def find_issued(
    connection: Connection,
    *,
    serial: str | None = None,
    identity: str | None = None,
    profile: str | None = None,
    authority: str | None = None,
    revoked: bool | None = None,
    alive_at: datetime | None = None,
    ends_before: datetime | None = None,
    limit: int | None = None,
) -> tuple[IssuedRow, ...]:
    """Certificates that meet every condition, the newest first; `alive_at` leaves out what has expired then."""
    table = issued_certificates
    query = select(table).order_by(table.c.issued_ms.desc(), table.c.serial)
    if serial is not None:
        query = query.where(table.c.serial == serial)
    if identity is not None:
        query = query.where(table.c.identity == identity)
    if profile is not None:
        query = query.where(table.c.profile == profile)
    if authority is not None:
        query = query.where(table.c.authority == authority)
    if revoked is not None:
        query = query.where((table.c.revoked_ms > 0) if revoked else (table.c.revoked_ms == 0))
    if alive_at is not None:
        query = query.where(table.c.not_after_ms > milliseconds(alive_at))
    if ends_before is not None:
        query = query.where(table.c.not_after_ms <= milliseconds(ends_before))
    return tuple(_issued(row) for row in connection.execute(query if limit is None else query.limit(limit)))


def last_ends(connection: Connection) -> list[tuple[str, str, str, str, datetime]]:
    """Of each identity and kind the certificate that ends last and is not revoked: identity, profile, authority, serial
    number, end. SQL groups them, since a fleet's history is long.
    """
    table = issued_certificates
    alive = table.c.revoked_ms == 0
    end = func.max(table.c.not_after_ms).label("end_ms")
    last = select(table.c.identity, table.c.profile, end).where(alive).group_by(table.c.identity, table.c.profile)
    last_of = last.subquery()
    same = (table.c.identity == last_of.c.identity) & (table.c.profile == last_of.c.profile)
    query = (
        select(table.c.identity, table.c.profile, table.c.authority, table.c.serial, table.c.not_after_ms)
        .join(last_of, same & (table.c.not_after_ms == last_of.c.end_ms))
        .where(alive)
        .order_by(table.c.issued_ms)
    )
    found = {(row.identity, row.profile): row for row in connection.execute(query)}
    return [(*key, row.authority, row.serial, at_moment(row.not_after_ms)) for key, row in found.items()]


def holdings_of_key(connection: Connection, public_key: str) -> frozenset[tuple[str, str]]:
    """Whose certificates hold this key, and the credential that each was obtained with."""
    return frozenset((who, how) for who, how in _HOLDINGS.values(connection, {"key": public_key}))


def mark_revoked(connection: Connection, rows: Sequence[IssuedRow], at: datetime, reason: str) -> None:
    """Mark certificates as revoked; `reason` is RFC 5280's word for it."""
    table = issued_certificates
    for row in rows:
        one = (table.c.authority == row.authority) & (table.c.serial == row.serial)
        connection.execute(update(table).where(one).values(revoked_ms=milliseconds(at), revocation=reason))


def _issued(row: Row[tuple[object, ...]]) -> IssuedRow:
    return IssuedRow(
        row.authority,
        row.serial,
        row.profile,
        row.identity,
        x509.load_der_x509_certificate(bytes(row.der)),
        at_moment(row.issued_ms),
        row.operation,
        row.credential,
        at_moment(row.revoked_ms) if row.revoked_ms else None,
        row.revocation,
    )
