"""The registered CA certificates and their proof of possession.

Rules (hub specification 11): what is uploaded must be a CA certificate that has not expired; it counts for nothing
until it is verified, by a certificate that it signed over a code of ours, or because whoever uploads it says so; every
mutation needs the newest etag, and changes it; a new code makes the last one worthless. Removing or replacing one is
announced like every change of the registry, and `bundle` is already the new one when listeners hear of it.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Protocol, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from sqlalchemy import Connection, Row, Table, delete, func, insert, select, update

from edgetrust.clock import Clock
from edgetrust.limits import CA_CERTIFICATES
from edgetrust.pki.chain import Thumbprint, TrustBundle
from edgetrust.store.engine import Database
from edgetrust.store.records import RegistryError, at_moment, milliseconds
from edgetrust.store.schema import ca_certificates

T = TypeVar("T")
InUse = Callable[[Connection, str], str | None]
_NAME = re.compile(r"[A-Za-z0-9\-._]{1,64}")
_CODE_BYTES = 24  # 48 hexadecimal digits, as long as the cloud's


@dataclass(frozen=True, slots=True)
class CaRecord:
    """A registered CA certificate. `verification_code` is None unless one was asked for and not yet used."""

    name: str
    etag: str
    certificate: x509.Certificate
    subject: str
    thumbprint: Thumbprint
    expires_at: datetime
    created_at: datetime
    updated_at: datetime
    verified: bool
    verification_code: str | None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a write answers, and the verified certificates after it."""

    record: CaRecord | None
    verified: tuple[x509.Certificate, ...]


class Changes(Protocol):
    """Where a change of the CA certificates is numbered and announced."""

    def before_hearing(self, refresh: Callable[[], Awaitable[None]]) -> None: ...

    async def change_authorities(self, write: Callable[[Connection, int], T], apply: Callable[[T], None]) -> T: ...


def _free(_connection: Connection, _name: str) -> str | None:
    return None


class CaCertificates:
    """Make it with `await CaCertificates.open(...)`. Methods raise the store's errors."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        changes: Changes,
        bundle: TrustBundle,
        table: Table = ca_certificates,
        in_use: InUse = _free,
    ) -> None:
        self._database = database
        self._clock = clock
        self._changes = changes
        self._bundle = bundle
        self._table = table
        self._in_use = in_use
        changes.before_hearing(self.refresh)

    @classmethod
    async def open(
        cls,
        database: Database,
        clock: Clock,
        changes: Changes,
        table: Table = ca_certificates,
        in_use: InUse = _free,
    ) -> CaCertificates:
        """The CA certificates in a migrated database: a hub's, or those in another `table` of the same columns. What
        `in_use` names an owner of cannot be deleted.
        """
        bundle = TrustBundle(await database.read(partial(_verified, table)), as_of=clock.now())
        return cls(database, clock, changes, bundle, table, in_use)

    def bundle(self) -> TrustBundle:
        """The verified ones, as trust anchors for X.509 CA authentication."""
        return self._bundle

    async def refresh(self) -> None:
        """Read the verified ones again: another process changed them."""
        self._use(await self._database.read(partial(_verified, self._table)))

    async def certificates(self) -> tuple[CaRecord, ...]:
        """All, in byte order of their names."""
        query = select(self._table).order_by(self._table.c.name)
        return await self._database.read(lambda connection: tuple(_record(row) for row in connection.execute(query)))

    async def certificate(self, name: str) -> CaRecord:
        """RegistryError 404."""
        return await self._database.read(lambda connection: _existing(self._table, connection, name))

    async def put(
        self, name: str, certificate: x509.Certificate, *, verified: bool = False, if_match: str | None = None
    ) -> CaRecord:
        """Register or replace; replacing needs If-Match. RegistryError 400, 412."""
        now = self._clock.now()
        _check_upload(name, certificate, now)
        row = {
            "der": certificate.public_bytes(Encoding.DER),
            "subject": certificate.subject.rfc4514_string(),
            "thumbprint_sha1": Thumbprint.of(certificate, "sha1").hex(),
            "thumbprint_sha256": Thumbprint.of(certificate).hex(),
            "expires_ms": milliseconds(certificate.not_valid_after_utc),
            "updated_ms": milliseconds(now),
            "verified": verified,
            "verification_code": None,
        }

        def work(connection: Connection, sequence: int) -> None:
            if _find(self._table, connection, name) is not None:
                _check_match(_existing(self._table, connection, name), if_match)
                _update(self._table, connection, name, revision=sequence, **row)
                return
            if if_match is not None:
                raise _not_found(name)
            _check_room(self._table, connection)
            values = {"name": name, "revision": sequence, "created_ms": milliseconds(now), **row}
            connection.execute(insert(self._table), values)

        return await self._change(name, work)

    async def delete(self, name: str, if_match: str | None) -> None:
        """RegistryError 404, 409, 412; an If-Match is required."""

        def work(connection: Connection, _sequence: int) -> None:
            _check_match(_existing(self._table, connection, name), if_match)
            owner = self._in_use(connection, name)
            if owner is not None:
                raise RegistryError(
                    f"CA certificate {name} is in use by {owner}",
                    code="InvalidOperation",
                    status=409,
                    reason="certificate-in-use",
                    fix="give it another CA certificate, or delete it, first",
                )
            connection.execute(delete(self._table).where(self._table.c.name == name))

        await self._transact(name, work)

    async def generate_code(self, name: str, if_match: str | None) -> CaRecord:
        """A new verification code: 48 hexadecimal digits. RegistryError 404, 412."""

        def work(connection: Connection, sequence: int) -> None:
            _check_match(_existing(self._table, connection, name), if_match)
            code = secrets.token_hex(_CODE_BYTES).upper()
            _update(self._table, connection, name, revision=sequence, verification_code=code)

        return await self._change(name, work)

    async def verify(self, name: str, proof: x509.Certificate, if_match: str | None) -> CaRecord:
        """Accept a certificate for our code, signed with the CA's key. RegistryError 400, 404, 412."""
        now = self._clock.now()

        def work(connection: Connection, sequence: int) -> None:
            record = _existing(self._table, connection, name)
            _check_match(record, if_match)
            _check_proof(record, proof, now)
            values = {"verified": True, "verification_code": None, "updated_ms": milliseconds(now)}
            _update(self._table, connection, name, revision=sequence, **values)

        return await self._change(name, work)

    async def _change(self, name: str, work: Callable[[Connection, int], None]) -> CaRecord:
        record = (await self._transact(name, work)).record
        assert record is not None
        return record

    async def _transact(self, name: str, work: Callable[[Connection, int], None]) -> _Outcome:
        def write(connection: Connection, sequence: int) -> _Outcome:
            work(connection, sequence)
            row = _find(self._table, connection, name)
            return _Outcome(None if row is None else _record(row), _verified(self._table, connection))

        return await self._changes.change_authorities(write, lambda outcome: self._use(outcome.verified))

    def _use(self, verified: tuple[x509.Certificate, ...]) -> None:
        self._bundle = TrustBundle(verified, as_of=self._clock.now())


def _verified(table: Table, connection: Connection) -> tuple[x509.Certificate, ...]:
    query = select(table.c.der).where(table.c.verified).order_by(table.c.name)
    return tuple(x509.load_der_x509_certificate(bytes(der)) for der in connection.execute(query).scalars())


def _find(table: Table, connection: Connection, name: str) -> Row[tuple[object, ...]] | None:
    return connection.execute(select(table).where(table.c.name == name)).first()


def _existing(table: Table, connection: Connection, name: str) -> CaRecord:
    row = _find(table, connection, name)
    if row is None:
        raise _not_found(name)
    return _record(row)


def _update(table: Table, connection: Connection, name: str, **values: object) -> None:
    connection.execute(update(table).where(table.c.name == name).values(**values))


def _not_found(name: str) -> RegistryError:
    return RegistryError(f"no CA certificate is named {name[:70]!r}", code="CertificateNotFound", status=404)


def _etag(revision: int) -> str:
    return base64.b64encode(revision.to_bytes(8, "big")).decode()


def _check_match(record: CaRecord, if_match: str | None) -> None:
    if (if_match or "").strip().strip('"') not in ("*", record.etag):
        raise RegistryError(
            f"CA certificate {record.name} has changed, or no etag was given", code="PreconditionFailed", status=412
        )


def _check_room(table: Table, connection: Connection) -> None:
    if connection.execute(select(func.count()).select_from(table)).scalar_one() >= CA_CERTIFICATES:
        raise RegistryError(
            f"there are {CA_CERTIFICATES} CA certificates, and there can be no more",
            code="InvalidOperation",
            status=400,
            reason="too-many-certificates",
        )


def _bad(message: str, reason: str) -> RegistryError:
    return RegistryError(message, code="ArgumentInvalid", status=400, reason=reason)


def _check_upload(name: str, certificate: x509.Certificate, now: datetime) -> None:
    if not _NAME.fullmatch(name):
        raise _bad("a CA certificate's name has 1 to 64 letters, digits and - . _", "certificate-name-malformed")
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        basic = None
    if basic is None or not basic.ca:
        raise _bad(f"{certificate.subject.rfc4514_string()!r} is no CA certificate", "certificate-not-a-ca")
    if certificate.not_valid_after_utc <= now:
        raise _bad(f"the certificate expired at {certificate.not_valid_after_utc}", "certificate-expired")


def _check_proof(record: CaRecord, proof: x509.Certificate, now: datetime) -> None:
    if record.verification_code is None:
        raise _bad(f"no verification code was asked for {record.name}", "verification-code-missing")
    names = [str(name.value) for name in proof.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(names) != 1 or not secrets.compare_digest(names[0].encode(), record.verification_code.encode()):
        raise _bad("the certificate's common name is not the verification code", "proof-of-possession-other-code")
    if not proof.not_valid_before_utc <= now <= proof.not_valid_after_utc:
        raise _bad("the certificate is not valid now", "proof-of-possession-dates")
    try:
        proof.verify_directly_issued_by(record.certificate)
    except (ValueError, TypeError, InvalidSignature) as problem:
        raise _bad(
            f"the certificate was not signed with the key of {record.name}", "proof-of-possession-signature"
        ) from problem


def _record(row: Row[tuple[object, ...]]) -> CaRecord:
    return CaRecord(
        name=row.name,
        etag=_etag(row.revision),
        certificate=x509.load_der_x509_certificate(bytes(row.der)),
        subject=row.subject,
        thumbprint=Thumbprint.parse(row.thumbprint_sha1),
        expires_at=at_moment(row.expires_ms),
        created_at=at_moment(row.created_ms),
        updated_at=at_moment(row.updated_ms),
        verified=row.verified,
        verification_code=row.verification_code,
    )
