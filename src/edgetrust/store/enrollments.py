"""The enrollments of a provisioning service: individual ones and groups, and which certificates are theirs.

Rules (hub specification 15): creating what exists is 409, changing what is missing 404, and a stale etag 412. A key
that is not said is generated, or kept where one is stored, and so is a certificate that is only described. No two
enrollments have one certificate. Deleting an enrollment deletes the registrations that it decided, but no device of any
hub. Every change has a number, in the order of commits, which is the revision of what it wrote.

All groups are at hand (`groups`), read again when this or, at `catch_up`, another process changed something. It must
not know who may write, nor hubs.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
from cryptography import x509
from sqlalchemy import Connection, delete, func, insert, select, update

from edgetrust.clock import Clock
from edgetrust.limits import ENROLLMENT_GROUPS, PAGE_ITEMS
from edgetrust.pki.chain import Thumbprint
from edgetrust.protocol.dps.enrollments import (
    Attestation,
    Certificate,
    Certificates,
    Enrollment,
    Keys,
    Kind,
    bad,
    stored_enrollment,
)
from edgetrust.protocol.dps.errors import CONFLICT, ENROLLMENT_NOT_FOUND, PRECONDITION, DpsError
from edgetrust.protocol.dps.names import registration_key
from edgetrust.store.dps_schema import (
    dps_ca_certificates,
    dps_certificates,
    dps_changes,
    dps_enrollments,
    dps_registrations,
)
from edgetrust.store.engine import Database
from edgetrust.store.records import at_moment, milliseconds
from edgetrust.trust.enrollment import (
    CaEntry,
    CaNames,
    ClientCertificates,
    Enrolled,
    Groups,
    SigningCertificates,
    SymmetricKeys,
    TpmPublic,
)

T = TypeVar("T")
_KEY_BYTES = 64  # as long as those the cloud service makes
_REBUILD = timedelta(minutes=1)  # a group's CA may expire without any change


@dataclass(frozen=True, slots=True)
class EnrollmentRecord:
    """An enrollment as stored."""

    body: Enrollment
    etag: str
    created_at: datetime
    updated_at: datetime


class Enrollments:
    """Make it with `await Enrollments.open(...)`. Methods raise the store's errors, and DpsError as they say."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._groups = Groups((), (), clock.now())
        self._seen = 0
        self._refreshers: list[Callable[[], Awaitable[None]]] = []

    @classmethod
    async def open(cls, database: Database, clock: Clock) -> Enrollments:
        """Those in a migrated database."""
        made = cls(database, clock)
        await made.refresh()
        return made

    # What decisions need --------------------------------------------------------------------------------------------

    def groups(self) -> Groups:
        """All groups, as they are known now."""
        return self._groups

    async def individual(self, registration_id: str) -> Enrolled | None:
        """The individual enrollment of an identifier."""
        key = registration_key(registration_id)
        record = await self._database.read(lambda connection: _find(connection, "individual", key))
        return None if record is None else Enrolled.of(record.body)

    async def refresh(self) -> None:
        """Read all groups and CA certificates again."""
        now = self._clock.now()
        seen, groups, authorities = await self._database.read(_everything)
        if seen >= self._seen:  # a read that began earlier may end later, and knows less
            self._seen, self._groups = seen, Groups(groups, authorities, now)

    async def catch_up(self) -> None:
        """Take what other processes changed, and the passing of time."""
        newest = await self._database.read(_newest)
        if newest != self._seen:
            for refresh in self._refreshers:
                await refresh()
        if newest != self._seen or self._clock.now() > self._groups.as_of + _REBUILD:
            await self.refresh()

    # What operators do ----------------------------------------------------------------------------------------------

    async def get(self, kind: Kind, name: str) -> EnrollmentRecord:
        """DpsError 404."""
        return await self._database.read(lambda connection: _existing(connection, kind, name))

    async def page(self, kind: Kind, after: str, limit: int) -> tuple[EnrollmentRecord, ...]:
        """Those with keys behind `after`, in byte order of their keys."""
        table = dps_enrollments
        query = select(table).where(table.c.kind == kind, table.c.key > after).order_by(table.c.key)
        query = query.limit(max(1, min(limit, PAGE_ITEMS)))
        return await self._database.read(lambda connection: tuple(map(_record, connection.execute(query))))

    async def put(self, body: Enrollment, if_match: str | None) -> EnrollmentRecord:
        """Create without If-Match, update with it. DpsError 400, 404, 409, 412."""
        return await self._change(lambda connection, sequence: self._put(connection, sequence, body, if_match))

    async def delete(self, kind: Kind, name: str, if_match: str | None) -> None:
        """With its registrations. If-Match may be left out. DpsError 404, 412."""
        await self._change(lambda connection, _sequence: _delete(connection, kind, name, if_match))

    async def _change(self, work: Callable[[Connection, int], T]) -> T:
        now = milliseconds(self._clock.now())

        def write(connection: Connection) -> T:
            sequence = connection.execute(insert(dps_changes).returning(dps_changes.c.seq), {"at_ms": now})
            return work(connection, sequence.scalar_one())

        result = await self._database.write(write)
        await self.refresh()
        return result

    def _put(self, connection: Connection, sequence: int, body: Enrollment, if_match: str | None) -> EnrollmentRecord:
        kind, key = body.kind, registration_key(body.name)
        stored = _find(connection, kind, key)
        if stored is None and if_match is not None:
            raise _not_found(kind, body.name)
        if stored is not None:
            if if_match is None:
                raise DpsError(CONFLICT, f"{_named(kind, body.name)} exists", reason="enrollment-exists")
            _check_match(stored, if_match)
        elif kind == "group":
            _check_room(connection)
        whole = completed(body, None if stored is None else stored.body)
        enrolled = Enrolled.of(whole)
        _check_references(connection, enrolled)
        _own_certificates(connection, enrolled, key)
        now = milliseconds(self._clock.now())
        row = {"revision": sequence, "updated_ms": now, "document": msgspec.json.encode(whole).decode()}
        table = dps_enrollments
        if stored is None:
            connection.execute(insert(table), {"kind": kind, "key": key, "created_ms": now, **row})
        else:
            connection.execute(update(table).where(table.c.kind == kind, table.c.key == key).values(**row))
        return _existing(connection, kind, body.name)

    # CA certificates ------------------------------------------------------------------------------------------------

    def before_hearing(self, refresh: Callable[[], Awaitable[None]]) -> None:
        """Await `refresh` when another process changed something."""
        self._refreshers.append(refresh)

    async def change_authorities(self, write: Callable[[Connection, int], T], apply: Callable[[T], None]) -> T:
        """Run `write` in the transaction of a numbered change of the CA certificates."""
        result = await self._change(write)
        apply(result)
        return result


def group_of_ca(connection: Connection, name: str) -> str | None:
    """A group that names this CA certificate."""
    for group in _group_bodies(connection):
        held = group.attestation.x509
        names = None if held is None else held.ca_references
        if names is not None and name in (names.primary, names.secondary):
            return f"group {group.name}"
    return None


def completed(body: Enrollment, stored: Enrollment | None) -> Enrollment:
    """`body` with what it only mentions: keys and certificates kept from `stored`, or keys made."""
    kept = stored.attestation if stored is not None and stored.attestation.type == body.attestation.type else None
    wished = body.attestation
    match wished.type:
        case "symmetricKey":
            old = (kept.symmetric_key if kept is not None else None) or Keys()
            said = wished.symmetric_key or Keys()
            keys = Keys(
                said.primary_key or old.primary_key or _new_key(), said.secondary_key or old.secondary_key or _new_key()
            )
            attestation = Attestation("symmetricKey", symmetric_key=keys)
        case "x509":
            attestation = _with_certificates(wished, kept)
        case _:
            attestation = msgspec.structs.replace(wished, symmetric_key=None, x509=None)
    return msgspec.structs.replace(body, attestation=attestation, etag=None)


def _with_certificates(wished: Attestation, kept: Attestation | None) -> Attestation:
    held = wished.x509
    old = None if kept is None else kept.x509
    if held is None:
        return wished
    whole = msgspec.structs.replace(
        held,
        client_certificates=_pair(held.client_certificates, None if old is None else old.client_certificates),
        signing_certificates=_pair(held.signing_certificates, None if old is None else old.signing_certificates),
    )
    return Attestation("x509", x509=whole)


def _pair(wished: Certificates | None, kept: Certificates | None) -> Certificates | None:
    if wished is None:
        return None
    old = kept or Certificates()
    return Certificates(_slot(wished.primary, old.primary), _slot(wished.secondary, old.secondary))


def _slot(wished: Certificate | None, kept: Certificate | None) -> Certificate | None:
    if wished is None:
        return None
    if wished.certificate is not None:
        return Certificate(wished.certificate)
    return kept


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def _own_certificates(connection: Connection, enrolled: Enrolled, key: str) -> None:
    """Note whose the certificates are. DpsError 409 when one is another's."""
    table = dps_certificates
    own = (table.c.kind == enrolled.kind) & (table.c.key == key)
    connection.execute(delete(table).where(own))
    for certificate in _certificates(enrolled):
        thumbprint = Thumbprint.of(certificate).hex()
        owner = connection.execute(select(table).where(table.c.thumbprint == thumbprint)).first()
        if owner is not None:
            raise DpsError(
                CONFLICT,
                f"the certificate {certificate.subject.rfc4514_string()!r} belongs to {_named(owner.kind, owner.key)}",
                reason="certificate-enrolled-twice",
                fix="one certificate decides for one enrollment: take it out of the other, or use the other",
            )
        connection.execute(insert(table), {"thumbprint": thumbprint, "kind": enrolled.kind, "key": key})


def _certificates(enrolled: Enrolled) -> list[x509.Certificate]:
    match enrolled.attestation:
        case ClientCertificates(primary, secondary) | SigningCertificates(primary, secondary):
            return list(dict.fromkeys(one for one in (primary, secondary) if one is not None))
        case CaNames() | SymmetricKeys() | TpmPublic():
            return []


def _check_references(connection: Connection, enrolled: Enrolled) -> None:
    if not isinstance(enrolled.attestation, CaNames):
        return
    table = dps_ca_certificates
    for name in (enrolled.attestation.primary, enrolled.attestation.secondary):
        if name is not None and connection.execute(select(table.c.name).where(table.c.name == name)).first() is None:
            raise bad(
                f"no CA certificate is named {name[:70]!r}",
                "ca-certificate-unknown",
                f"add it first: edgetrust dps ca add {name[:70]} FILE",
            )


def _check_room(connection: Connection) -> None:
    count = select(func.count()).select_from(dps_enrollments).where(dps_enrollments.c.kind == "group")
    if connection.execute(count).scalar_one() >= ENROLLMENT_GROUPS:
        raise bad(f"there are {ENROLLMENT_GROUPS} groups, and there can be no more", "too-many-groups")


def _delete(connection: Connection, kind: Kind, name: str, if_match: str | None) -> None:
    stored = _existing(connection, kind, name)
    if if_match is not None:
        _check_match(stored, if_match)
    key = registration_key(name)
    for table in (dps_certificates, dps_enrollments):
        connection.execute(delete(table).where(table.c.kind == kind, table.c.key == key))
    table = dps_registrations
    connection.execute(delete(table).where(table.c.kind == kind, table.c.enrollment == key))


def _newest(connection: Connection) -> int:
    return connection.execute(select(func.max(dps_changes.c.seq))).scalar() or 0


def _everything(connection: Connection) -> tuple[int, list[Enrolled], list[CaEntry]]:
    rows = connection.execute(select(dps_ca_certificates).order_by(dps_ca_certificates.c.name))
    authorities = [CaEntry(row.name, x509.load_der_x509_certificate(bytes(row.der)), row.verified) for row in rows]
    return _newest(connection), [Enrolled.of(body) for body in _group_bodies(connection)], authorities


def _group_bodies(connection: Connection) -> Sequence[Enrollment]:
    table = dps_enrollments
    query = select(table.c.document).where(table.c.kind == "group").order_by(table.c.key)
    return [stored_enrollment(text) for text in connection.execute(query).scalars()]


def _find(connection: Connection, kind: Kind, key: str) -> EnrollmentRecord | None:
    table = dps_enrollments
    row = connection.execute(select(table).where(table.c.kind == kind, table.c.key == key)).first()
    return None if row is None else _record(row)


def _existing(connection: Connection, kind: Kind, name: str) -> EnrollmentRecord:
    found = _find(connection, kind, registration_key(name))
    if found is None:
        raise _not_found(kind, name)
    return found


def _record(row: object) -> EnrollmentRecord:
    revision: int = row.revision  # type: ignore[attr-defined]  # a row of dps_enrollments
    body = stored_enrollment(row.document)  # type: ignore[attr-defined]
    created, updated = at_moment(row.created_ms), at_moment(row.updated_ms)  # type: ignore[attr-defined]
    return EnrollmentRecord(body, _etag(revision), created, updated)


def _etag(revision: int) -> str:
    return base64.b64encode(revision.to_bytes(8, "big")).decode()


def _check_match(stored: EnrollmentRecord, if_match: str) -> None:
    if if_match.strip().removeprefix("W/").strip('"') not in ("*", stored.etag):
        raise DpsError(
            PRECONDITION,
            f"{_named(stored.body.kind, stored.body.name)} has changed: its etag is another",
            reason="precondition-failed",
        )


def _not_found(kind: Kind, name: str) -> DpsError:
    return DpsError(ENROLLMENT_NOT_FOUND, f"there is no {_named(kind, name[:140])}", reason="enrollment-not-found")


def _named(kind: str, name: str) -> str:
    return f"{'enrollment' if kind == 'individual' else 'group'} {name}"
