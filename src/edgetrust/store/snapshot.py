"""The gateway's copy of its device scope, so that it can decide without its hub, also after a restart.

Rules (edge specification 6.5): every entry is sealed with AES-256-GCM under a key that the caller keeps elsewhere; the
identity's name is bound to it, so that entries cannot be exchanged. An entry is a registration, or the knowledge that
the identity is not below this gateway; each carries the time at which it was true at the source. A full copy replaces
everything and then knows when it was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import assert_never

import msgspec
from sqlalchemy import ColumnElement, Connection, bindparam, delete, insert, select

from edgetrust.pki.chain import Thumbprint
from edgetrust.pki.keys import SecretBytes
from edgetrust.store.engine import Database
from edgetrust.store.records import at_moment, milliseconds
from edgetrust.store.schema import scope_snapshot, scope_state
from edgetrust.store.sealing import Sealer, unreadable
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import (
    Authentication,
    CertificateAuthority,
    Missing,
    MissingWhy,
    NoAuthentication,
    Registration,
    SasKeys,
    Thumbprints,
)

_FIND = select(scope_snapshot).where(
    scope_snapshot.c.device == bindparam("of_device"), scope_snapshot.c.module == bindparam("of_module")
)


class _Keys(msgspec.Struct, tag="sas", omit_defaults=True):
    primary: bytes
    secondary: bytes


class _Thumbprints(msgspec.Struct, tag="thumbprints", omit_defaults=True):
    primary: str | None = None
    secondary: str | None = None


class _Authority(msgspec.Struct, tag="authority"):
    pass


class _None(msgspec.Struct, tag="none"):
    pass


class _Entry(msgspec.Struct, omit_defaults=True):
    """A registration as it is sealed; the identity stands in the row and in what is authenticated with it."""

    authentication: _Keys | _Thumbprints | _Authority | _None
    enabled: bool
    edge: bool
    generation: str
    etag: str
    as_of: datetime
    scope: str | None = None
    parents: tuple[str, ...] = ()
    device_keys: _Keys | None = None
    device_enabled: bool = True
    policy_keys: tuple[tuple[str, _Keys], ...] = ()
    revoked: tuple[str, ...] = ()
    trusted_until: datetime | None = None


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Entry | None)


class ScopeSnapshot:
    """The copy of one gateway: `actor` is its device, `key` 32 bytes. Methods raise the store's errors.

    IntegrityError `snapshot-unreadable` if an entry was sealed with another key, or changed by somebody else.
    """

    def __init__(self, database: Database, key: SecretBytes, hub: str, actor: str) -> None:
        self._database = database
        self._sealer = Sealer(key)
        self._hub = hub
        self._actor = actor

    async def as_of(self) -> datetime | None:
        """When the last full copy was made, None before the first."""
        query = select(scope_state.c.as_of_ms).where(scope_state.c.actor == self._actor)
        ms = await self._database.read(lambda connection: connection.execute(query).scalar())
        return None if ms is None else at_moment(ms)

    async def replace(self, registrations: Sequence[Registration], as_of: datetime) -> tuple[Identity, ...]:
        """A full copy: keep exactly these. Returns the identities that are not below the gateway any more."""
        entries = [self._row(registration.identity, registration) for registration in registrations]
        kept = {registration.identity for registration in registrations}

        def work(connection: Connection) -> tuple[Identity, ...]:
            names = select(scope_snapshot.c.device, scope_snapshot.c.module, scope_snapshot.c.member)
            before = {self._identity(row.device, row.module) for row in connection.execute(names) if row.member}
            connection.execute(delete(scope_snapshot))
            if entries:
                connection.execute(insert(scope_snapshot), entries)
            connection.execute(delete(scope_state).where(scope_state.c.actor == self._actor))
            connection.execute(insert(scope_state), {"actor": self._actor, "as_of_ms": milliseconds(as_of)})
            return tuple(sorted(before - kept, key=str))

        return await self._database.write(work)

    async def put(self, entries: Iterable[Registration | tuple[Identity, datetime]]) -> None:
        """Keep these registrations, or that these identities were not below the gateway at a time."""
        rows = [
            self._row(entry.identity, entry) if isinstance(entry, Registration) else self._row(entry[0], None, entry[1])
            for entry in entries
        ]

        def work(connection: Connection) -> None:
            for row in rows:
                connection.execute(delete(scope_snapshot).where(_of(row["device"], row["module"])))
                connection.execute(insert(scope_snapshot), row)

        await self._database.write(work)

    async def remove(self, identity: Identity) -> None:
        """Know nothing of this identity any more; of a device's modules neither."""
        table = scope_snapshot
        gone = (
            delete(table).where(table.c.device == identity.device)
            if identity.module is None
            else delete(table).where(_of(identity.device, identity.module))
        )
        await self._database.write(lambda connection: connection.execute(gone).close())

    async def find(self, identity: Identity) -> Registration | Missing:
        """What was known of the identity; Missing `unknown-identity` without a time if nothing was."""
        keys = {"of_device": identity.device, "of_module": identity.module or ""}
        row = await self._database.read(lambda connection: connection.execute(_FIND, keys).first())
        if row is None:
            return Missing(MissingWhy.UNKNOWN)
        return self._open(identity, row.as_of_ms, row.sealed)

    async def load(self) -> tuple[Registration, ...]:
        """Every registration, devices before their modules."""
        query = select(scope_snapshot).where(scope_snapshot.c.member)
        query = query.order_by(scope_snapshot.c.device, scope_snapshot.c.module)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        opened = (self._open(self._identity(row.device, row.module), row.as_of_ms, row.sealed) for row in rows)
        return tuple(entry for entry in opened if isinstance(entry, Registration))

    async def clear(self) -> None:
        """Forget everything: the key is lost, or the gateway belongs to another hub now."""

        def work(connection: Connection) -> None:
            connection.execute(delete(scope_snapshot))
            connection.execute(delete(scope_state))

        await self._database.write(work)

    # -- sealing ------------------------------------------------------------------------------------------------------

    def _row(self, identity: Identity, entry: Registration | None, as_of: datetime | None = None) -> dict[str, object]:
        at = entry.as_of if entry is not None else as_of
        assert at is not None
        as_of_ms = milliseconds(at)
        plain = _ENCODER.encode(None if entry is None else _wire(entry))
        return {
            "device": identity.device,
            "module": identity.module or "",
            "as_of_ms": as_of_ms,
            "member": entry is not None,
            "sealed": self._sealer.seal(plain, *self._about(identity, as_of_ms)),
        }

    def _open(self, identity: Identity, as_of_ms: int, sealed: bytes) -> Registration | Missing:
        plain = self._sealer.open(sealed, *self._about(identity, as_of_ms))
        try:
            entry = _DECODER.decode(plain)
        except msgspec.DecodeError as problem:  # of another version of this software
            raise unreadable(str(identity)) from problem
        if entry is None:
            return Missing(MissingWhy.NOT_A_CHILD, at_moment(as_of_ms))
        return _registration(identity, entry)

    def _about(self, identity: Identity, as_of_ms: int) -> tuple[str, ...]:
        return self._hub, self._actor, str(as_of_ms), str(identity)

    def _identity(self, device: str, module: str) -> Identity:
        return Identity(self._hub, device, module or None)


def _of(device: object, module: object) -> ColumnElement[bool]:
    return (scope_snapshot.c.device == device) & (scope_snapshot.c.module == (module or ""))


def _wire_keys(keys: SasKeys) -> _Keys:
    return _Keys(keys.primary.reveal(), keys.secondary.reveal())


def _keys(wire: _Keys) -> SasKeys:
    return SasKeys(SecretBytes(wire.primary), SecretBytes(wire.secondary))


def _wire_authentication(authentication: Authentication) -> _Keys | _Thumbprints | _Authority | _None:
    match authentication:
        case SasKeys():
            return _wire_keys(authentication)
        case Thumbprints(primary=primary, secondary=secondary):
            return _Thumbprints(primary.hex() if primary else None, secondary.hex() if secondary else None)
        case CertificateAuthority():
            return _Authority()
        case NoAuthentication():
            return _None()
        case _:
            assert_never(authentication)


def _authentication(wire: _Keys | _Thumbprints | _Authority | _None) -> Authentication:
    match wire:
        case _Keys():
            return _keys(wire)
        case _Thumbprints():
            return Thumbprints(*(Thumbprint.parse(text) if text else None for text in (wire.primary, wire.secondary)))
        case _Authority():
            return CertificateAuthority()
        case _None():
            return NoAuthentication()
        case _:
            assert_never(wire)


def _wire(entry: Registration) -> _Entry:
    return _Entry(
        authentication=_wire_authentication(entry.authentication),
        enabled=entry.enabled,
        edge=entry.edge,
        generation=entry.generation,
        etag=entry.etag,
        as_of=entry.as_of,
        scope=entry.scope,
        parents=entry.parents,
        device_keys=_wire_keys(entry.device_keys) if entry.device_keys else None,
        device_enabled=entry.device_enabled,
        policy_keys=tuple((name, _wire_keys(keys)) for name, keys in entry.policy_keys),
        revoked=tuple(thumbprint.hex() for thumbprint in entry.revoked),
        trusted_until=entry.trusted_until,
    )


def _registration(identity: Identity, wire: _Entry) -> Registration:
    return Registration(
        identity=identity,
        authentication=_authentication(wire.authentication),
        enabled=wire.enabled,
        edge=wire.edge,
        generation=wire.generation,
        etag=wire.etag,
        scope=wire.scope,
        parents=wire.parents,
        as_of=wire.as_of,
        device_keys=_keys(wire.device_keys) if wire.device_keys else None,
        device_enabled=wire.device_enabled,
        policy_keys=tuple((name, _keys(keys)) for name, keys in wire.policy_keys),
        revoked=tuple(Thumbprint.parse(text) for text in wire.revoked),
        trusted_until=wire.trusted_until,
    )
