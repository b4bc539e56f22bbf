"""What a certificate authority remembers: authorities, every certificate they issued, claims, requests that wait.

Rules. All functions run inside a transaction of `Database`; whoever calls them decides and records in the same one, so
that an enrolment happens whole or not at all. A serial number belongs to one certificate of one authority for ever: a
second insert of the same is refused by the primary key. Rows of certificates are never deleted; revoking marks them.

It must not know who may have what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from edgetrust.errors import UsageError
from edgetrust.store.ca_tables import (
    authorities,
    authority_profiles,
    ca_bundle_fetches,
    est_claims,
    est_requests,
    issued_certificates,
    issued_names,
)
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
_CLAIM = PointQuery(select(est_claims).where(est_claims.c.name == bindparam("name")))
_ADD, _ADD_NAME, _ADD_CLAIM = PointWrite(issued_certificates), PointWrite(issued_names), PointWrite(est_claims)

PENDING, APPROVED, DENIED = "pending", "approved", "denied"


@dataclass(frozen=True, slots=True)
class AuthorityRow:
    """One CA. `parent` None: self-signed, or its issuer is unknown here. `key_reference` None: its key is elsewhere."""

    name: str
    kind: str
    parent: str | None
    state: str
    default: bool
    key_reference: str | None
    certificate: x509.Certificate
    created_at: datetime
    crl_number: int
    profiles: frozenset[str]


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


@dataclass(frozen=True, slots=True)
class Claim:
    """A name that a bootstrap credential has taken, with the key it was taken for."""

    name: str
    credential: str
    public_key: str
    claimed_at: datetime


@dataclass(frozen=True, slots=True)
class RequestRow:
    """A request that waits for a person, or was decided by one."""

    id: str
    authority: str
    profile: str
    identity: str
    subject: str
    public_key: str
    csr: bytes
    credential: str
    peer: str
    state: str
    asked_at: datetime
    decided_at: datetime | None
    note: str


def serial_text(serial: int) -> str:
    """A serial number as it is stored: 40 hexadecimal digits."""
    return f"{serial:040x}"


def key_digest(key: Any) -> str:
    """What stands for a public key in rows: SHA-256 of its SubjectPublicKeyInfo, hexadecimal."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def thumbprint_of(certificate: x509.Certificate) -> str:
    """What stands for a certificate in rows: SHA-256 of its DER, hexadecimal, lower case."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


# Authorities ----------------------------------------------------------------------------------------------------------


def add_authority(connection: Connection, row: AuthorityRow) -> None:
    """UsageError (`authority-exists`) if there is one of that name."""
    if connection.execute(select(authorities.c.name).where(authorities.c.name == row.name)).first() is not None:
        raise UsageError(f"there is a CA {row.name!r} already", reason="authority-exists")
    certificate = row.certificate
    values = {
        "name": row.name,
        "kind": row.kind,
        "parent": row.parent,
        "state": row.state,
        "default": row.default,
        "key_reference": row.key_reference,
        "der": certificate.public_bytes(Encoding.DER),
        "subject": certificate.subject.rfc4514_string(),
        "public_key": key_digest(certificate.public_key()),
        "not_after_ms": milliseconds(certificate.not_valid_after_utc),
        "created_ms": milliseconds(row.created_at),
        "crl_number": row.crl_number,
    }
    connection.execute(insert(authorities), values)
    serve_profiles(connection, row.name, row.profiles)


def serve_profiles(connection: Connection, name: str, profiles: Iterable[str]) -> None:
    """Which kinds of certificate an authority issues from now on."""
    connection.execute(delete(authority_profiles).where(authority_profiles.c.authority == name))
    served = [{"authority": name, "profile": profile} for profile in sorted(profiles)]
    if served:
        connection.execute(insert(authority_profiles), served)


def read_authorities(connection: Connection) -> tuple[AuthorityRow, ...]:
    """All, the oldest first."""
    served: dict[str, set[str]] = {}
    for authority, profile in connection.execute(select(authority_profiles)):
        served.setdefault(authority, set()).add(profile)
    rows = connection.execute(select(authorities).order_by(authorities.c.created_ms, authorities.c.name))
    return tuple(
        AuthorityRow(
            row.name,
            row.kind,
            row.parent,
            row.state,
            row.default,
            row.key_reference,
            x509.load_der_x509_certificate(bytes(row.der)),
            at_moment(row.created_ms),
            row.crl_number,
            frozenset(served.get(row.name, ())),
        )
        for row in rows
    )


def change_authority(connection: Connection, name: str, **values: object) -> None:
    """Set columns of one authority: `state`, `default`, `key_reference`, `crl_number`."""
    connection.execute(update(authorities).where(authorities.c.name == name).values(**values))


def replace_certificate(connection: Connection, name: str, old: x509.Certificate, new: x509.Certificate) -> bool:
    """Give an authority its next certificate, if it still has the `old` one."""
    table = authorities
    one = (table.c.name == name) & (table.c.der == old.public_bytes(Encoding.DER))
    values = {
        "der": new.public_bytes(Encoding.DER),
        "subject": new.subject.rfc4514_string(),
        "public_key": key_digest(new.public_key()),
        "not_after_ms": milliseconds(new.not_valid_after_utc),
    }
    return connection.execute(update(table).where(one).values(**values)).rowcount == 1


def next_crl_number(connection: Connection, name: str) -> int:
    """Count up, and the number to put into the next CRL."""
    one = authorities.c.name == name
    connection.execute(update(authorities).where(one).values(crl_number=authorities.c.crl_number + 1))
    number: int = connection.execute(select(authorities.c.crl_number).where(one)).scalar_one()
    return number


# Certificates ---------------------------------------------------------------------------------------------------------


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


# Claims, requests and evidence ----------------------------------------------------------------------------------------


def find_claim(connection: Connection, name: str) -> Claim | None:
    """Who has taken a name."""
    rows = _CLAIM.rows(connection, {"name": name})
    if not rows:
        return None
    row = rows[0]
    return Claim(row["name"], row["credential"], row["public_key"], at_moment(row["claimed_ms"]))


def add_claim(connection: Connection, claim: Claim) -> None:
    """Take a name."""
    values = {
        "name": claim.name,
        "credential": claim.credential,
        "public_key": claim.public_key,
        "claimed_ms": milliseconds(claim.claimed_at),
    }
    _ADD_CLAIM.add(connection, values)


def release_claim(connection: Connection, name: str) -> bool:
    """Let a name be taken again; whether it was taken."""
    return connection.execute(delete(est_claims).where(est_claims.c.name == name)).rowcount > 0


def find_request(connection: Connection, request_id: str) -> RequestRow | None:
    """A request by its identifier."""
    row = connection.execute(select(est_requests).where(est_requests.c.id == request_id)).first()
    return None if row is None else _request(row)


def read_requests(connection: Connection, state: str = PENDING) -> tuple[RequestRow, ...]:
    """Requests in a state, the oldest first."""
    query = select(est_requests).where(est_requests.c.state == state).order_by(est_requests.c.asked_ms)
    return tuple(_request(row) for row in connection.execute(query))


def add_request(connection: Connection, row: RequestRow) -> None:
    """Let a request wait."""
    values = {name: getattr(row, name) for name in _REQUEST}
    connection.execute(insert(est_requests), {**values, "asked_ms": milliseconds(row.asked_at), "decided_ms": 0})


def decide_request(connection: Connection, request_id: str, state: str, at: datetime, note: str) -> None:
    """What a person said about it."""
    one = est_requests.c.id == request_id
    connection.execute(update(est_requests).where(one).values(state=state, decided_ms=milliseconds(at), note=note))


def forget_request(connection: Connection, request_id: str) -> None:
    """It has been answered for good."""
    connection.execute(delete(est_requests).where(est_requests.c.id == request_id))


_REQUEST = (
    "id",
    "authority",
    "profile",
    "identity",
    "subject",
    "public_key",
    "csr",
    "credential",
    "peer",
    "state",
    "note",
)


def _request(row: Row[tuple[object, ...]]) -> RequestRow:
    values = {name: getattr(row, name) for name in _REQUEST}
    decided = at_moment(row.decided_ms) if row.decided_ms else None
    return RequestRow(**{**values, "csr": bytes(row.csr)}, asked_at=at_moment(row.asked_ms), decided_at=decided)


def note_fetch(connection: Connection, who: str, bundle: str, at: datetime) -> None:
    """`who` has fetched the root of this thumbprint."""
    table = ca_bundle_fetches
    one = (table.c.who == who) & (table.c.bundle == bundle)
    changed = connection.execute(update(table).where(one).values(fetched_ms=milliseconds(at))).rowcount
    if not changed:
        connection.execute(insert(table), {"who": who, "bundle": bundle, "fetched_ms": milliseconds(at)})


def fetchers(connection: Connection, bundle: str) -> dict[str, datetime]:
    """Who has fetched the root of this thumbprint, and when."""
    table = ca_bundle_fetches
    rows = connection.execute(select(table.c.who, table.c.fetched_ms).where(table.c.bundle == bundle))
    return {row.who: at_moment(row.fetched_ms) for row in rows}
