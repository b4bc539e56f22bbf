"""Device and module twins: one row each, made and deleted with the identity, changed by devices and services.

Rules: what a change does is decided by `protocol.twin`; here it is read, changed and written in one transaction. A
service's change may carry an If-Match for the twin's etag; a device's may not, its condition is the `$version` in the
patch. Listeners in this process hear of a change of desired properties after its commit, in the order of commits.
Sections and their metadata are JSON text, so that anybody can query them.

It must not know who may change what, nor who is connected.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, Select, bindparam, insert, select, update

from edgetrust.clock import Clock
from edgetrust.errors import Error
from edgetrust.limits import PAGE_ITEMS
from edgetrust.protocol.twin import (
    DesiredChange,
    Json,
    Section,
    Twin,
    TwinDraft,
    created_twin,
    patched,
    replaced,
    reported,
)
from edgetrust.store import rows
from edgetrust.store.engine import Database
from edgetrust.store.records import DeviceRecord, ModuleRecord, RegistryError
from edgetrust.store.schema import devices, twins

Change = Callable[[Twin], tuple[Twin, DesiredChange | None]]
Listener = Callable[[str, str | None, DesiredChange], None]

_ONE = select(twins).where(twins.c.device == bindparam("of_device"), twins.c.module == bindparam("of_module"))
_SECTIONS = (
    "version", "revision", "tags",
    "desired", "desired_metadata", "desired_version",
    "reported", "reported_metadata", "reported_version",
)  # fmt: skip
_UPDATE = update(twins).where(twins.c.device == bindparam("of_device"), twins.c.module == bindparam("of_module"))
_WRITE = _UPDATE.values({name: bindparam(f"new_{name}") for name in _SECTIONS})
_SAY = _UPDATE.values(model_id=bindparam("new_model_id"), product_info=bindparam("new_product_info")).where(
    (twins.c.model_id != bindparam("new_model_id")) | (twins.c.product_info != bindparam("new_product_info"))
)


@dataclass(frozen=True, slots=True)
class TwinRecord:
    """A twin with the identity it belongs to, as of one moment. `module` is None for a device's twin.

    `model_id` and `product_info` are what the client said when it connected last, "" if it never did.
    """

    twin: Twin
    device: DeviceRecord
    module: ModuleRecord | None
    model_id: str
    product_info: str

    @property
    def etag(self) -> str:
        """Of the twin, which is not that of the identity."""
        return twin_etag(self.twin)


def twin_etag(twin: Twin) -> str:
    """Base64 of the revision as eight bytes, big-endian (hub specification 1.1)."""
    return base64.b64encode(twin.revision.to_bytes(8, "big")).decode()


class Twins:
    """All twins of a hub. Methods raise the store's errors, RegistryError 404 and 412, and TwinError."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._listeners: list[Listener] = []
        self._said: dict[tuple[str, str], tuple[str, str]] = {}

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener(device, module, change)` on the loop for every change of desired properties made here."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def get(self, device: str, module: str | None = None) -> TwinRecord:
        """The twin and its identity."""
        return await self._database.read(lambda connection: twin_record(connection, device, module))

    async def twin(self, device: str, module: str | None = None) -> Twin:
        """The twin alone."""
        return await self._database.read(lambda connection: _stored(connection, device, module))

    async def device_twins(self, after: str = "", limit: int = PAGE_ITEMS) -> tuple[TwinRecord, ...]:
        """Those of devices, in byte order of their names, behind `after`."""
        query = rows.devices_by_name(after).limit(max(0, min(limit, PAGE_ITEMS)))
        return await self._database.read(lambda connection: device_twin_records(connection, query))

    async def patch(
        self, device: str, draft: TwinDraft, if_match: str | None = None, *, module: str | None = None
    ) -> TwinRecord:
        """Merge what a service wishes into tags and desired properties. Without `if_match` whatever the etag."""
        at = self._clock.now()
        return await self._change(device, module, if_match, lambda twin: patched(twin, draft, at))

    async def replace(
        self, device: str, draft: TwinDraft, if_match: str | None = None, *, module: str | None = None
    ) -> TwinRecord:
        """Put a service's tags and desired properties in the place of the stored ones."""
        at = self._clock.now()
        return await self._change(device, module, if_match, lambda twin: replaced(twin, draft, at))

    async def report(self, device: str, patch: Json, *, module: str | None = None) -> int:
        """Merge what a device reports; the new `$version` of its reported properties."""
        at = self._clock.now()

        def work(connection: Connection) -> int:
            before = _stored(connection, device, module)
            after = reported(before, patch, at)
            if after is not before:
                _write(connection, device, module, after)
            return after.reported.version

        return await self._database.write(work)

    def note_client(self, device: str, module: str | None, model_id: str, product_info: str) -> None:
        """What a client said of itself when it connected; no change of the twin. Written by `write_clients`."""
        self._said[device, module or ""] = (model_id, product_info)

    async def write_clients(self) -> None:
        """Write what was noted since the last time, in one transaction: a storm of connections costs one write."""
        said, self._said = self._said, {}
        if not said:
            return
        names = ("of_device", "of_module", "new_model_id", "new_product_info")
        batch = [dict(zip(names, (*of, *words), strict=True)) for of, words in said.items()]
        try:
            await self._database.write(lambda connection: connection.execute(_SAY, batch).close())
        except Error:
            self._said = {**said, **self._said}  # for the next time; what was noted meanwhile is newer
            raise

    def tell(self, device: str, module: str | None, change: DesiredChange) -> None:
        """Let listeners hear of a change that was committed by somebody else in this process."""
        self._announce(device, module, change)

    async def _change(self, device: str, module: str | None, if_match: str | None, change: Change) -> TwinRecord:
        def work(connection: Connection) -> tuple[TwinRecord, DesiredChange | None]:
            return change_twin(connection, device, module, if_match, change)

        outcome = await self._database.write(work, lambda outcome: self._announce(device, module, outcome[1]))
        return outcome[0]

    def _announce(self, device: str, module: str | None, change: DesiredChange | None) -> None:
        if change is not None:
            for listener in tuple(self._listeners):
                listener(device, module, change)


# In a transaction ---------------------------------------------------------------------------------------------------


def create_twin(
    connection: Connection, device: str, module: str | None, at: datetime, draft: TwinDraft | None = None
) -> None:
    """The twin of an identity that was just registered. TwinError for an initial twin beyond the limits."""
    twin = created_twin(at, draft)
    row = {"device": device, "module": module or "", "model_id": "", "product_info": "", **_columns(twin)}
    connection.execute(insert(twins), row)


def change_twin(
    connection: Connection, device: str, module: str | None, if_match: str | None, change: Change
) -> tuple[TwinRecord, DesiredChange | None]:
    """Apply `change`, a function of `protocol.twin`, if the etag fits. RegistryError 404, 412; TwinError."""
    before = _stored(connection, device, module)
    _check_match(if_match, before, device if module is None else f"{device}/{module}")
    after, told = change(before)
    if after is not before:
        _write(connection, device, module, after)
    return twin_record(connection, device, module), told


def twin_record(connection: Connection, device: str, module: str | None) -> TwinRecord:
    """RegistryError 404."""
    of_device = rows.device_row(connection, device)
    if of_device is None:
        raise _missing(connection, device, None)
    of_module = None if module is None else rows.module_row(connection, device, module)
    row = connection.execute(_ONE, {"of_device": device, "of_module": module or ""}).mappings().first()
    if row is None:
        raise _missing(connection, device, module)
    return _record(row, of_device, of_module)


def device_twin_records(connection: Connection, narrowed: Select[Any]) -> tuple[TwinRecord, ...]:
    """The twins of the devices of a query made from `rows.devices_by_name`."""
    found = rows.device_rows(connection, narrowed)
    names = [record.device for record in found]
    query = select(twins).where(twins.c.device.in_(names), twins.c.module == "")
    by_device = {row["device"]: row for row in connection.execute(query).mappings()}
    return tuple(_record(by_device[record.device], record, None) for record in found)


def selected_module_twins(connection: Connection, narrowed: Select[Any]) -> tuple[TwinRecord, ...]:
    """The twins of the modules of a query made from `rows.modules_by_name`."""
    found = rows.selected_modules(connection, narrowed)
    if not found:
        return ()
    names = {record.device for record in found}
    of_devices = rows.device_rows(connection, rows.devices_by_name().where(devices.c.device.in_(names)))
    by_name = {record.device: record for record in of_devices}
    query = select(twins).where(twins.c.device.in_(names), twins.c.module.in_({record.module for record in found}))
    by_module = {(row["device"], row["module"]): row for row in connection.execute(query).mappings()}
    return tuple(_record(by_module[one.device, one.module], by_name[one.device], one) for one in found)


def twins_between(connection: Connection, first: str, last: str) -> dict[tuple[str, str], Twin]:
    """The twins of the devices from `first` to `last` in byte order of their names, and of their modules; by device
    and module, which is "" for the device's own.
    """
    query = select(twins).where(twins.c.device.between(first, last))
    return {(row["device"], row["module"]): _twin(row) for row in connection.execute(query).mappings()}


def _stored(connection: Connection, device: str, module: str | None) -> Twin:
    row = connection.execute(_ONE, {"of_device": device, "of_module": module or ""}).mappings().first()
    if row is None:
        raise _missing(connection, device, module)
    return _twin(row)


def _missing(connection: Connection, device: str, module: str | None) -> RegistryError:
    known = connection.execute(select(devices.c.device).where(devices.c.device == device)).first() is not None
    if module is None or not known:
        return RegistryError(f"device {device} is not registered", code="DeviceNotFound", status=404)
    return RegistryError(f"device {device} has no module {module}", code="ModuleNotFound", status=404)


def _check_match(if_match: str | None, twin: Twin, what: str) -> None:
    wanted = (if_match or "*").strip().removeprefix("W/").strip('"')
    if wanted not in ("*", twin_etag(twin)):
        raise RegistryError(
            f"the twin of {what} has changed: its etag is another", code="PreconditionFailed", status=412
        )


def _write(connection: Connection, device: str, module: str | None, twin: Twin) -> None:
    values = {f"new_{name}": value for name, value in _columns(twin).items()}
    connection.execute(_WRITE, {"of_device": device, "of_module": module or "", **values})


def _columns(twin: Twin) -> dict[str, Any]:
    return {
        "version": twin.version,
        "revision": twin.revision,
        "tags": _text(twin.tags),
        "desired": _text(twin.desired.values),
        "desired_metadata": _text(twin.desired.metadata),
        "desired_version": twin.desired.version,
        "reported": _text(twin.reported.values),
        "reported_metadata": _text(twin.reported.metadata),
        "reported_version": twin.reported.version,
    }


def _twin(row: RowMapping) -> Twin:
    decode = msgspec.json.decode
    return Twin(
        decode(row["tags"]),
        Section(decode(row["desired"]), decode(row["desired_metadata"]), row["desired_version"]),
        Section(decode(row["reported"]), decode(row["reported_metadata"]), row["reported_version"]),
        row["version"],
        row["revision"],
    )


def _record(row: RowMapping, device: DeviceRecord, module: ModuleRecord | None) -> TwinRecord:
    return TwinRecord(_twin(row), device, module, row["model_id"], row["product_info"])


def _text(value: Json) -> str:
    return msgspec.json.encode(value).decode()
