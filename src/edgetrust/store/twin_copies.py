"""What a gateway remembers of the twins of those it serves, so that they can work with them while the hub is away.

Rules (edge specification 6.7): the copy is what the hub said last, with what was reported since; reports that the hub
has not taken yet wait in order, stacked where that changes nothing. Both are sealed, and one row each.

It must not know when the hub is asked or told.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, insert, select, true

from edgetrust.limits import TWIN_REPORTS_KEPT
from edgetrust.pki.keys import SecretBytes
from edgetrust.protocol.twin import Json, Section, Twin, TwinError, reported, stacked
from edgetrust.store.engine import Database
from edgetrust.store.records import at_moment
from edgetrust.store.schema import twin_copies
from edgetrust.store.sealing import Sealer, unreadable
from edgetrust.trust.identity import Identity


class _Sealed(msgspec.Struct):
    desired: dict[str, Any]
    desired_version: int
    reported: dict[str, Any]
    reported_version: int
    waiting: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class TwinCopy:
    """`waiting`: merge patches of the reported properties that the hub does not have yet, oldest first."""

    desired: Json = field(default_factory=dict)
    desired_version: int = 0  # 0: the hub has never told
    reported: Json = field(default_factory=dict)
    reported_version: int = 0
    waiting: tuple[Json, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether the hub has ever told this twin."""
        return self.desired_version > 0

    def twin(self) -> Twin:
        """The twin as its device sees it: what waits counts already."""
        nothing: Json = {}
        version = self.reported_version + len(self.waiting)
        return Twin(
            nothing,
            Section(self.desired, nothing, self.desired_version),
            Section(self.reported, nothing, version),
        )

    def told(self, desired: Json, desired_version: int, reported_now: Json, reported_version: int) -> TwinCopy:
        """The copy after the hub has told the twin; what waits is applied to it again."""
        copy = TwinCopy(desired, desired_version, reported_now, reported_version)
        for patch in self.waiting:
            with suppress(TwinError):  # too large by now: the hub would not take it either
                copy = copy.with_report(patch)
        return copy

    def with_report(self, patch: Json) -> TwinCopy:
        """The copy with one more report that waits. Raises TwinError, as the hub would."""
        after = reported(self.twin(), patch, at_moment(0))
        if after.reported.version == self.twin().reported.version:
            return self
        clean = {name: value for name, value in patch.items() if not name.startswith("$")}
        one = stacked(self.waiting[-1], clean) if self.waiting else None
        waiting = (*self.waiting, clean) if one is None else (*self.waiting[:-1], one)
        if len(waiting) > TWIN_REPORTS_KEPT:
            detail = f"{TWIN_REPORTS_KEPT} reports wait for the hub"
            raise TwinError(detail, reason="twin-reports-wait", code="ThrottlingException", status=429)
        return replace(self, reported=after.reported.values, waiting=waiting)

    def taken(self, version: int) -> TwinCopy:
        """The copy after the hub has taken the oldest report that waits."""
        return replace(self, waiting=self.waiting[1:], reported_version=version)


class TwinCopies:
    """The copies of one gateway; `key` has 32 bytes. Methods raise the store's errors."""

    def __init__(self, database: Database, key: SecretBytes) -> None:
        self._database = database
        self._sealer = Sealer(key)

    async def find(self, identity: Identity) -> TwinCopy:
        """What is remembered; an empty copy if nothing is. IntegrityError for one that cannot be read."""
        query = select(twin_copies.c.sealed).where(_of(identity))
        sealed = await self._database.read(lambda connection: connection.execute(query).scalar())
        return TwinCopy() if sealed is None else self._open(identity, sealed)

    async def keep(self, identity: Identity, copy: TwinCopy) -> None:
        """Remember this."""
        row = {
            "device": identity.device,
            "module": identity.module or "",
            "waiting": bool(copy.waiting),
            "sealed": self._sealer.seal(msgspec.msgpack.encode(_wire(copy)), identity.hub, str(identity)),
        }

        def work(connection: Connection) -> None:
            connection.execute(delete(twin_copies).where(_of(identity)))
            connection.execute(insert(twin_copies), row)

        await self._database.write(work)

    async def forget(self, identity: Identity) -> None:
        """Remember nothing of this identity; of a device's modules neither."""
        gone = twin_copies.c.device == identity.device if identity.module is None else _of(identity)
        await self._database.write(lambda connection: connection.execute(delete(twin_copies).where(gone)).close())

    async def waiting(self, hub: str) -> tuple[Identity, ...]:
        """Whose reports wait for the hub."""
        return await self._identities(hub, twin_copies.c.waiting)

    async def everybody(self, hub: str) -> tuple[Identity, ...]:
        """Of whom anything is remembered."""
        return await self._identities(hub, true())

    async def _identities(self, hub: str, which: ColumnElement[bool]) -> tuple[Identity, ...]:
        query = select(twin_copies.c.device, twin_copies.c.module).where(which)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return tuple(Identity(hub, row.device, row.module or None) for row in rows)

    def _open(self, identity: Identity, sealed: bytes) -> TwinCopy:
        plain = self._sealer.open(sealed, identity.hub, str(identity))
        try:
            wire = msgspec.msgpack.decode(plain, type=_Sealed)
        except msgspec.DecodeError as problem:  # of another version of this software
            raise unreadable(str(identity)) from problem
        return TwinCopy(wire.desired, wire.desired_version, wire.reported, wire.reported_version, tuple(wire.waiting))


def _of(identity: Identity) -> ColumnElement[bool]:
    return (twin_copies.c.device == identity.device) & (twin_copies.c.module == (identity.module or ""))


def _wire(copy: TwinCopy) -> _Sealed:
    waiting = [_plain(patch) for patch in copy.waiting]
    return _Sealed(_plain(copy.desired), copy.desired_version, _plain(copy.reported), copy.reported_version, waiting)


def _plain(value: Json) -> dict[str, Any]:
    return {name: _plain(member) if isinstance(member, Mapping) else member for name, member in value.items()}
