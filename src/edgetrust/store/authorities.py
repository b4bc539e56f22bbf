"""The certificate authorities of one place: their certificates, what each issues, and who has fetched which root.

Rules. All functions run inside a transaction of `Database`; whoever calls them decides and records in the same one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection, delete, insert, select, update

from edgetrust.errors import UsageError
from edgetrust.store.ca_tables import authorities, authority_profiles, ca_bundle_fetches
from edgetrust.store.issuance import key_digest
from edgetrust.store.records import at_moment, milliseconds


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
