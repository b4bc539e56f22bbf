"""The identity registry: devices and modules, their credentials, who is below whom, and what changed.

Rules: every write is one transaction (`registrar`) and appends its changes in it. Once it is committed, and before the
caller goes on, listeners in this process hear of each change, so that open connections are decided again at once; what
other processes changed is heard by `catch_up`. `version` grows with every change heard.

It must not know who may write, nor what is said to a peer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection, bindparam, delete, func, select, update

from edgetrust.clock import Clock
from edgetrust.limits import CHANGES_KEPT, PAGE_ITEMS, SCOPE_PAGE, TRIM_STEP_ROWS
from edgetrust.pki.chain import Thumbprint
from edgetrust.store import hierarchy, rows
from edgetrust.store.bulk import BulkItem, BulkOutcome, DesiredNews, Household, Refusal, write_each
from edgetrust.store.engine import Database
from edgetrust.store.records import (
    Change,
    ChangeKind,
    DeviceDraft,
    DeviceRecord,
    ModuleDraft,
    ModuleRecord,
    RegistryError,
    ScopeEntry,
    ScopePage,
    Statistics,
    milliseconds,
)
from edgetrust.store.registrar import Registrar, note
from edgetrust.store.schema import changes, devices, modules
from edgetrust.store.twins import twins_between
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Missing, MissingWhy, Registration

T = TypeVar("T")

Listener = Callable[[Change], None]


def _nobody(_news: DesiredNews) -> None:
    """Nobody is connected who would be told."""


class Identities:
    """The registry of the hub named `hub`. All methods may raise UnavailableError and IntegrityError of the store.

    `allow_edge_ca`: whether an edge device may authenticate straight to the hub by X.509 CA (hub specification 4.9).
    """

    def __init__(self, database: Database, clock: Clock, hub: str, *, allow_edge_ca: bool = False) -> None:
        self._database = database
        self._clock = clock
        self._hub = hub
        self._allow_edge_ca = allow_edge_ca
        self._listeners: list[Listener] = []
        self._refreshers: list[Callable[[], Awaitable[None]]] = []
        self._caught_up: int | None = None  # how far `catch_up` has read, None before `start_hearing`
        self._heard: set[int] = set()  # announced here, beyond what `catch_up` has read
        self._version = 0

    # -- devices ------------------------------------------------------------------------------------------------------

    async def create_device(self, draft: DeviceDraft) -> DeviceRecord:
        """RegistryError 400, 409."""
        return await self._write(lambda registrar: registrar.create_device(draft))

    async def update_device(self, draft: DeviceDraft, if_match: str | None) -> DeviceRecord:
        """Fields that the draft leaves None stay. RegistryError 400, 404, 412."""
        return await self._write(lambda registrar: registrar.update_device(draft, if_match))

    async def put_device(self, draft: DeviceDraft, if_match: str | None) -> DeviceRecord:
        """Create without If-Match, update with it (hub specification 5.4)."""
        if if_match is None:
            return await self.create_device(draft)
        return await self.update_device(draft, if_match)

    async def set_enabled(self, device: str, enabled: bool, reason: str | None = None) -> DeviceRecord:
        """Enable or disable a device whatever its etag. RegistryError 404."""
        return await self._write(lambda registrar: registrar.set_enabled(device, enabled, reason))

    async def delete_device(self, device: str, if_match: str | None = None) -> None:
        """Delete a device with its modules, sessions and waiting messages. RegistryError 404, 412."""
        await self._write(lambda registrar: registrar.delete_device(device, if_match))

    async def device(self, device: str) -> DeviceRecord:
        """RegistryError 404."""
        return await self._read(lambda registrar: registrar.device(device))

    async def devices(self, after: str = "", limit: int = PAGE_ITEMS) -> tuple[DeviceRecord, ...]:
        """In byte order of their names, those behind `after`, at most `limit` and PAGE_ITEMS."""
        query = rows.devices_by_name(after).limit(max(0, min(limit, PAGE_ITEMS)))
        return await self._database.read(lambda connection: rows.device_rows(connection, query))

    # -- modules ------------------------------------------------------------------------------------------------------

    async def create_module(self, draft: ModuleDraft) -> ModuleRecord:
        """RegistryError 400, 404, 409, 413."""
        return await self._write(lambda registrar: registrar.create_module(draft))

    async def update_module(self, draft: ModuleDraft, if_match: str | None) -> ModuleRecord:
        """Fields that the draft leaves None stay. RegistryError 400, 404, 412."""
        return await self._write(lambda registrar: registrar.update_module(draft, if_match))

    async def put_module(self, draft: ModuleDraft, if_match: str | None) -> ModuleRecord:
        """Create without If-Match, update with it (hub specification 5.4)."""
        if if_match is None:
            return await self.create_module(draft)
        return await self.update_module(draft, if_match)

    async def delete_module(self, device: str, module: str, if_match: str | None = None) -> None:
        """RegistryError 401 for a system module, 404, 412."""
        await self._write(lambda registrar: registrar.delete_module(device, module, if_match))

    async def module(self, device: str, module: str) -> ModuleRecord:
        """RegistryError 404."""
        return await self._read(lambda registrar: registrar.module(device, module))

    async def modules(self, device: str) -> tuple[ModuleRecord, ...]:
        """All modules of a device, in byte order of their names. RegistryError 404."""

        def work(registrar: Registrar) -> tuple[ModuleRecord, ...]:
            registrar.device(device)
            return rows.module_rows(registrar.connection, device)

        return await self._read(work)

    # -- many at once -------------------------------------------------------------------------------------------------

    async def write_each(
        self, items: Sequence[BulkItem], tell: Callable[[DesiredNews], None] = _nobody
    ) -> tuple[Refusal | None, ...]:
        """Do what each item asks for, together and yet each by itself; the refusal, or None, of each in their order.

        `tell` is called after the commit for everybody whose desired properties changed.
        """

        def apply(outcome: BulkOutcome) -> None:
            for news in outcome.news:
                tell(news)

        return (await self._write(lambda registrar: write_each(registrar, items), apply)).refusals

    async def deploy(
        self, work: Callable[[Registrar], Sequence[DesiredNews]], tell: Callable[[DesiredNews], None]
    ) -> None:
        """Several writes that happen whole or not at all; `tell` as for `write_each`."""

        def apply(news: Sequence[DesiredNews]) -> None:
            for one in news:
                tell(one)

        await self._write(work, apply)

    async def with_modules(self, after: str = "", limit: int = PAGE_ITEMS) -> tuple[Household, ...]:
        """As `devices`, each with its modules and all their twins."""
        query = rows.devices_by_name(after).limit(max(0, min(limit, PAGE_ITEMS)))

        def work(connection: Connection) -> tuple[Household, ...]:
            found = rows.device_rows(connection, query)
            if not found:
                return ()
            first, last = found[0].device, found[-1].device
            modules_of: dict[str, list[ModuleRecord]] = {}
            for module in rows.modules_between(connection, first, last):
                modules_of.setdefault(module.device, []).append(module)
            twins = twins_between(connection, first, last)
            return tuple(
                Household(
                    device,
                    twins[device.device, ""],
                    tuple((one, twins[one.device, one.module]) for one in modules_of.get(device.device, ())),
                )
                for device in found
            )

        return await self._database.read(work)

    # -- decisions ----------------------------------------------------------------------------------------------------

    async def find(self, identity: Identity) -> Registration | Missing:
        """What decisions need of an identity."""
        now = self._clock.now()
        if identity.hub != self._hub:
            return Missing(MissingWhy.UNKNOWN, now)
        found = await self._database.read(lambda connection: rows.registration(connection, identity, now))
        return Missing(MissingWhy.UNKNOWN, now) if found is None else found

    async def holders(self, thumbprint: Thumbprint) -> tuple[Identity, ...]:
        """Who has registered this thumbprint: to tell an operator that a certificate belongs to another device."""
        found = await self._database.read(lambda connection: rows.holders(connection, thumbprint.hex()))
        return tuple(Identity(self._hub, device, module) for device, module in found)

    async def revoke(self, identity: Identity, thumbprint: Thumbprint) -> None:
        """Never again accept this certificate for this identity. RegistryError 404."""
        await self._write(lambda registrar: registrar.revoke(identity.device, identity.module, thumbprint.hex()))

    # -- scope --------------------------------------------------------------------------------------------------------

    async def scope(self, target: str, limit: int = SCOPE_PAGE, continuation: str | None = None) -> ScopePage:
        """A page of the scope of an edge device: itself and its modules first, then its direct children.

        RegistryError 404 if the target is not registered, 400 if it is no edge device or the continuation is unknown.
        """

        def work(registrar: Registrar) -> ScopePage:
            page = hierarchy.scope_page(registrar.connection, target, min(limit, PAGE_ITEMS), continuation)
            if page is None:
                registrar.device(target)
                raise RegistryError(f"device {target} is no edge device", code="InvalidDeviceScope", status=400)
            return page

        return await self._read(work)

    async def below(self, gateway: str, device: str, module: str | None = None) -> ScopeEntry | Missing:
        """The identity, if it is the gateway itself, below it at any depth, or a module of one of these."""

        def work(connection: Connection) -> ScopeEntry | MissingWhy:
            entry = hierarchy.scope_entry(connection, gateway, device, module)
            if entry is not None:
                return entry
            known = rows.device_row(connection, device) is not None
            inside = gateway in hierarchy.ancestors(connection, device)
            return MissingWhy.NOT_A_CHILD if known and not inside else MissingWhy.UNKNOWN

        found = await self._database.read(work)
        return Missing(found, self._clock.now()) if isinstance(found, MissingWhy) else found

    async def is_below(self, device: str, gateway: Identity) -> bool:
        """Whether the device is below the edge device `gateway` at any depth, with enabled gateways between."""
        return await self._database.read(lambda connection: hierarchy.is_below(connection, device, gateway.device))

    async def ancestors(self, device: str) -> tuple[str, ...]:
        """The device, its parent and so on to the top; empty if it is not registered."""
        return await self._database.read(lambda connection: hierarchy.ancestors(connection, device))

    # -- presence -----------------------------------------------------------------------------------------------------

    async def record_presence(self, states: Mapping[Identity, bool], at: datetime) -> None:
        """Who connected (True) or went away (False), many at once. No change of the registry: etags stay."""
        ms = milliseconds(at)

        def work(connection: Connection) -> None:
            for table, names in ((devices, ("device",)), (modules, ("device", "module"))):
                batch = [
                    {"of_device": identity.device, "of_module": identity.module, "now_connected": state}
                    for identity, state in states.items()
                    if (identity.module is not None) == ("module" in names)
                ]
                if batch:
                    where = [table.c[name] == bindparam(f"of_{name}") for name in names]
                    values = {
                        "connected": bindparam("now_connected"),
                        "connection_changed_ms": ms,
                        "last_activity_ms": ms,
                    }
                    connection.execute(update(table).where(*where).values(values), batch)

        await self._database.write(work)

    async def forget_presence(self) -> None:
        """Nobody is connected: for a start after an end that could not tell."""

        def work(connection: Connection) -> None:
            for table in (devices, modules):
                connection.execute(update(table).where(table.c.connected).values(connected=False))

        await self._database.write(work)

    async def statistics(self) -> Statistics:
        """Numbers of devices."""

        def work(connection: Connection) -> Statistics:
            count = select(func.count()).select_from(devices)
            conditions = (None, devices.c.enabled, devices.c.connected)
            return Statistics(
                *(connection.execute(count if c is None else count.where(c)).scalar_one() for c in conditions)
            )

        return await self._database.read(work)

    # -- changes ------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The newest change heard of; a decision made at a lower version may be overtaken."""
        return self._version

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` on the loop for every change heard. Returns the function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def changes_after(self, sequence: int, limit: int = PAGE_ITEMS) -> tuple[Change, ...]:
        """The next changes in order. Fewer than `limit` means that is all."""
        query = select(changes).where(changes.c.seq > sequence).order_by(changes.c.seq).limit(limit)

        def work(connection: Connection) -> tuple[Change, ...]:
            found = connection.execute(query)
            return tuple(Change(row.seq, ChangeKind(row.kind), row.device, row.module) for row in found)

        return await self._database.read(work)

    async def last_change(self) -> int:
        """The sequence of the newest change, 0 if there never was one."""
        newest = await self._database.read(
            lambda connection: connection.execute(select(func.max(changes.c.seq))).scalar()
        )
        return newest or 0

    async def start_hearing(self) -> None:
        """Take what is registered now as known: `catch_up` announces what comes after."""
        self._caught_up = await self.last_change()
        self._version = max(self._version, self._caught_up)

    async def catch_up(self) -> int:
        """Announce what other processes changed since the last call; returns how many changes those were."""
        if self._caught_up is None:
            await self.start_hearing()
        announced = 0
        while found := await self.changes_after(self._caught_up or 0):
            news = [change for change in found if change.sequence not in self._heard]
            self._heard.difference_update(change.sequence for change in found)
            self._caught_up = found[-1].sequence
            if any(change.kind is ChangeKind.AUTHORITIES for change in news):
                for refresh in self._refreshers:
                    await refresh()
            self._announce(news)
            announced += len(news)
        return announced

    def before_hearing(self, refresh: Callable[[], Awaitable[None]]) -> None:
        """Await `refresh` before listeners hear that another process changed the verified CA certificates."""
        self._refreshers.append(refresh)

    async def change_authorities(self, write: Callable[[Connection, int], T], apply: Callable[[T], None]) -> T:
        """Run `write` in the transaction of a change of the CA certificates; it is given the change's sequence.

        `apply` is called with its result after the commit, before listeners hear of the change.
        """

        def work(registrar: Registrar) -> T:
            change = note(registrar.connection, ChangeKind.AUTHORITIES, None)
            registrar.changes.append(change)
            return write(registrar.connection, change.sequence)

        return await self._write(work, apply)

    async def trim_changes(self, kept: int = CHANGES_KEPT) -> int:
        """Forget the oldest changes, so many of them in one call, but none of the newest; returns how many."""
        newest = await self.last_change()

        def work(connection: Connection) -> int:
            oldest = connection.execute(select(func.min(changes.c.seq))).scalar() or 0
            end = min(newest - kept, oldest + TRIM_STEP_ROWS)
            return connection.execute(delete(changes).where(changes.c.seq <= end)).rowcount

        return await self._database.write(work)

    # -- transactions -------------------------------------------------------------------------------------------------

    async def _read(self, work: Callable[[Registrar], T]) -> T:
        now = self._clock.now()
        return await self._database.read(lambda connection: work(Registrar(connection, now)))

    async def _write(self, work: Callable[[Registrar], T], apply: Callable[[T], None] | None = None) -> T:
        now = self._clock.now()

        def transaction(connection: Connection) -> tuple[T, Sequence[Change]]:
            registrar = Registrar(connection, now, self._allow_edge_ca)
            return work(registrar), registrar.changes

        def announce(outcome: tuple[T, Sequence[Change]]) -> None:
            if apply is not None:
                apply(outcome[0])
            if self._caught_up is None:
                self._announce(outcome[1])
                return
            news = [change for change in outcome[1] if change.sequence > self._caught_up]
            self._heard.update(change.sequence for change in news)
            self._announce(news)

        result, _changes = await self._database.write(transaction, announce)
        return result

    def _announce(self, news: Sequence[Change]) -> None:
        for change in news:
            self._version = max(self._version, change.sequence)
            for listener in tuple(self._listeners):
                listener(change)
