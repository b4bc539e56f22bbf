"""Rows of the registry, read as records and registrations. Plain functions on a connection; no rules."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, bindparam, func, literal, or_, select

from edgetrust.pki.chain import Thumbprint
from edgetrust.store.authentication import Row, authentication_from
from edgetrust.store.pointquery import PointQuery
from edgetrust.store.records import DeviceRecord, ModuleRecord, etag_of, moment, scope_of
from edgetrust.store.schema import c2d_messages, devices, modules, revoked_certificates
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Registration, SasKeys

_parents = devices.alias("parents")


def _waiting(device: Any, module: Any) -> Any:
    return (
        select(func.count())
        .where(c2d_messages.c.device == device, c2d_messages.c.module == module)
        .scalar_subquery()
        .label("c2d_messages")
    )


_WITH_PARENT = devices.outerjoin(_parents, devices.c.parent == _parents.c.device)
_DEVICES = select(
    devices, _parents.c.generation.label("parent_generation"), _waiting(devices.c.device, literal(""))
).select_from(_WITH_PARENT)
_MODULES = select(modules, _waiting(modules.c.device, modules.c.module))
_ONE_DEVICE = _DEVICES.where(devices.c.device == bindparam("of_device"))
_ONE_MODULE = _MODULES.where(modules.c.device == bindparam("of_device"), modules.c.module == bindparam("of_module"))
_FIND_DEVICE = PointQuery(
    select(devices, _parents.c.generation.label("parent_generation"))
    .select_from(_WITH_PARENT)
    .where(devices.c.device == bindparam("of_device"))
)
_FIND_MODULE = PointQuery(
    select(modules).where(modules.c.device == bindparam("of_device"), modules.c.module == bindparam("of_module"))
)
_REVOKED = PointQuery(
    select(revoked_certificates.c.thumbprint).where(
        revoked_certificates.c.device == bindparam("of_device"), revoked_certificates.c.module == bindparam("of_module")
    )
)
_BY_THUMBPRINT = tuple(
    (
        table,
        select(table).where(
            or_(
                table.c.thumbprint_primary == bindparam("digest"),
                table.c.thumbprint_secondary == bindparam("digest"),
            )
        ),
    )
    for table in (devices, modules)
)


def device_row(connection: Connection, device: str) -> DeviceRecord | None:
    """The device, None if there is none."""
    row = connection.execute(_ONE_DEVICE, {"of_device": device}).mappings().first()
    return None if row is None else _device(row)


def device_rows(connection: Connection, narrowed: Select[Any] | None = None) -> tuple[DeviceRecord, ...]:
    """The devices of a query made from `devices_by_name`."""
    query = devices_by_name() if narrowed is None else narrowed
    return tuple(_device(row) for row in connection.execute(query).mappings())


def devices_by_name(after: str = "") -> Select[Any]:
    """All devices with a name after `after`, in byte order of their names; to be narrowed further."""
    return _DEVICES.where(devices.c.device > after).order_by(devices.c.device)


def module_row(connection: Connection, device: str, module: str) -> ModuleRecord | None:
    """The module, None if there is none."""
    row = connection.execute(_ONE_MODULE, {"of_device": device, "of_module": module}).mappings().first()
    return None if row is None else _module(row)


def module_rows(connection: Connection, device: str) -> tuple[ModuleRecord, ...]:
    """The modules of a device in byte order of their names; empty also if there is no such device."""
    query = _MODULES.where(modules.c.device == device).order_by(modules.c.module)
    return tuple(_module(row) for row in connection.execute(query).mappings())


def modules_by_name(after_device: str = "", after_module: str = "") -> Select[Any]:
    """All modules behind this one, in byte order of their devices' names and their own; to be narrowed further."""
    behind = or_(
        modules.c.device > after_device,
        (modules.c.device == after_device) & (modules.c.module > after_module),
    )
    return _MODULES.where(behind).order_by(modules.c.device, modules.c.module)


def selected_modules(connection: Connection, narrowed: Select[Any]) -> tuple[ModuleRecord, ...]:
    """The modules of a query made from `modules_by_name`."""
    return tuple(_module(row) for row in connection.execute(narrowed).mappings())


def modules_between(connection: Connection, first: str, last: str) -> tuple[ModuleRecord, ...]:
    """The modules of the devices from `first` to `last` in byte order of their names."""
    query = _MODULES.where(modules.c.device.between(first, last)).order_by(modules.c.device, modules.c.module)
    return tuple(_module(row) for row in connection.execute(query).mappings())


def registration(connection: Connection, identity: Identity, as_of: datetime) -> Registration | None:
    """What decisions need of `identity`, None if it is not registered."""
    keys = {"of_device": identity.device, "of_module": identity.module or ""}
    device = next(iter(_FIND_DEVICE.rows(connection, {"of_device": identity.device})), None)
    if device is None:
        return None
    own = device
    device_keys = None
    if identity.module is not None:
        module = next(iter(_FIND_MODULE.rows(connection, keys)), None)
        if module is None:
            return None
        own = module
        device_authentication = authentication_from(device)
        device_keys = device_authentication if isinstance(device_authentication, SasKeys) else None
    scope, parents = _scopes(device)
    return Registration(
        identity=identity,
        authentication=authentication_from(own),
        enabled=bool(device["enabled"]) if identity.module is None else True,
        edge=bool(device["edge"]) if identity.module is None else False,
        generation=own["generation"],
        etag=etag_of(own["revision"]),
        scope=scope,
        parents=parents,
        as_of=as_of,
        device_keys=device_keys,
        device_enabled=bool(device["enabled"]),
        revoked=tuple(Thumbprint.parse(row["thumbprint"]) for row in _REVOKED.rows(connection, keys)),
    )


def holders(connection: Connection, digest: str) -> tuple[tuple[str, str | None], ...]:
    """Who registered the thumbprint with these upper-case hex digits: (device, module or None)."""
    found: list[tuple[str, str | None]] = []
    for table, query in _BY_THUMBPRINT:
        matching = connection.execute(query, {"digest": digest}).mappings()
        found.extend((row["device"], row["module"] if table is modules else None) for row in matching)
    return tuple(found)


def _scopes(row: Row) -> tuple[str | None, tuple[str, ...]]:
    above = scope_of(row["parent"], row["parent_generation"]) if row["parent"] is not None else None
    own = scope_of(row["device"], row["generation"]) if row["edge"] else above
    return own, (above,) if above else ()


def _device(row: RowMapping) -> DeviceRecord:
    scope, parents = _scopes(row)
    return DeviceRecord(
        device=row["device"],
        generation=row["generation"],
        etag=etag_of(row["revision"]),
        enabled=row["enabled"],
        status_reason=row["status_reason"],
        status_changed_at=moment(row["status_changed_ms"]),
        connected=row["connected"],
        connection_changed_at=moment(row["connection_changed_ms"]),
        last_activity_at=moment(row["last_activity_ms"]),
        c2d_messages=row["c2d_messages"],
        authentication=authentication_from(row),
        edge=row["edge"],
        scope=scope,
        parent_scopes=parents,
        parent=row["parent"],
    )


def _module(row: RowMapping) -> ModuleRecord:
    return ModuleRecord(
        device=row["device"],
        module=row["module"],
        generation=row["generation"],
        etag=etag_of(row["revision"]),
        managed_by=row["managed_by"],
        connected=row["connected"],
        connection_changed_at=moment(row["connection_changed_ms"]),
        last_activity_at=moment(row["last_activity_ms"]),
        c2d_messages=row["c2d_messages"],
        authentication=authentication_from(row),
    )
