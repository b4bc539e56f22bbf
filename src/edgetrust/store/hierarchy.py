"""Who is below whom: the parent a device asks for, the way up from a device, and what a gateway may list.

Rules (hub specification 4.11, 9.3): only an edge device can be a parent, and it must exist in the generation that the
scope names; there is one parent, no cycle, and at most five gateways above each other. A listing holds the target, its
modules and its direct children, never what is further below. A single look-up finds the gateway itself, what is below
it at any depth, and their modules.

Plain functions on a connection.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from sqlalchemy import Connection, select

from edgetrust.limits import EDGE_DEPTH
from edgetrust.store.records import DeviceDraft, DeviceRecord, RegistryError, ScopeEntry, ScopePage, scope_of
from edgetrust.store.rows import device_row, device_rows, devices_by_name, module_row, module_rows
from edgetrust.store.schema import devices

_SCOPE_PREFIX = "ms-azure-iot-edge://"
_WALK_LIMIT = 64  # more than any permitted depth: ends a walk even if the table holds a cycle


def _invalid_scope(message: str) -> RegistryError:
    return RegistryError(message, code="InvalidDeviceScope", status=400)


def wanted_parent(connection: Connection, draft: DeviceDraft, stored: DeviceRecord | None, edge: bool) -> str | None:
    """The parent of the device once the draft is applied, None for no parent. Raises RegistryError 400.

    A device that is no edge device says its parent in `deviceScope`, in `parentScopes` or in both; where they differ,
    the one that differs from what is stored is the wish.
    """
    wish = _wish(draft, stored, edge)
    if wish is None:
        kept = stored.parent if stored else None
        if kept is not None:
            _check_place(connection, draft.device, kept, edge)
        return kept
    if wish == "":
        return None
    parent = _edge_device_of(connection, wish)
    _check_place(connection, draft.device, parent, edge)
    return parent


def _wish(draft: DeviceDraft, stored: DeviceRecord | None, edge: bool) -> str | None:
    """The scope of the wanted parent, "" for no parent, None for what it is."""
    parents = None if draft.parent_scopes is None else tuple(scope for scope in draft.parent_scopes if scope)
    if parents is not None and len(parents) > 1:
        raise _invalid_scope(f"device {draft.device} asks for {len(parents)} parents; there can be one")
    above = None if parents is None else (parents[0] if parents else "")
    if edge:
        _check_own_scope(draft, stored)
        return above
    own = scope_of(stored.device, stored.generation) if stored is not None else None
    scope = None if draft.scope == own else draft.scope  # repeated from the time when it was an edge device
    if scope is None or above is None or scope == above:
        return scope if above is None else above
    was = stored.parent_scopes[0] if stored is not None and stored.parent_scopes else ""
    wishes = {wish for wish in (scope, above) if wish != was}
    if len(wishes) != 1:
        raise _invalid_scope(f"device {draft.device}: deviceScope and parentScopes name different parents")
    return wishes.pop()


def _check_own_scope(draft: DeviceDraft, stored: DeviceRecord | None) -> None:
    # What a body repeats from an earlier answer is fine; before the device was an edge device that was its parent's.
    known = (None, "") if stored is None else (None, "", stored.scope, scope_of(stored.device, stored.generation))
    if draft.scope not in known:
        raise _invalid_scope(
            f"{draft.device} is an edge device: its deviceScope is its own; name a parent in parentScopes"
        )


def _edge_device_of(connection: Connection, scope: str) -> str:
    name, dash, generation = scope.removeprefix(_SCOPE_PREFIX).rpartition("-")
    row = connection.execute(select(devices.c.generation, devices.c.edge).where(devices.c.device == name)).first()
    if not scope.startswith(_SCOPE_PREFIX) or not dash or row is None or row.generation != generation:
        raise _invalid_scope(f"no device has the scope {scope[:200]!r}")
    if not row.edge:
        raise _invalid_scope(f"device {name} is no edge device and cannot be a parent")
    return name


def _check_place(connection: Connection, device: str, parent: str, edge: bool) -> None:
    above = ancestors(connection, parent)
    if device in above:
        raise _invalid_scope(f"device {device} cannot be below {parent}, which is below it")
    # Not yet stored, or not yet as an edge device, it is one gateway all the same.
    if edge and len(above) + max(1, _gateways_high(connection, device)) > EDGE_DEPTH:
        raise _invalid_scope(f"device {device} below {parent} would make more than {EDGE_DEPTH} gateways in a row")


def _gateways_high(connection: Connection, device: str) -> int:
    """How many gateways stand on top of each other from the device downwards, itself included."""
    height, level = 0, [device]
    while level and height < _WALK_LIMIT:
        edges = select(devices.c.device).where(devices.c.device.in_(level), devices.c.edge)
        gateways = connection.execute(edges).scalars().all()
        if not gateways:
            break
        height += 1
        below = select(devices.c.device).where(devices.c.parent.in_(gateways), devices.c.edge)
        level = list(connection.execute(below).scalars())
    return height


def ancestors(connection: Connection, device: str) -> tuple[str, ...]:
    """The device, its parent, and so on to the top. Empty if there is no such device."""
    way: list[str] = []
    step: str | None = device
    while step is not None and len(way) < _WALK_LIMIT:
        row = connection.execute(select(devices.c.parent).where(devices.c.device == step)).first()
        if row is None:
            break
        way.append(step)
        step = row.parent
    return tuple(way)


def is_below(connection: Connection, device: str, gateway: str) -> bool:
    """Whether the way up from the device comes to the edge device `gateway`, over enabled edge devices only."""
    step = connection.execute(select(devices.c.parent).where(devices.c.device == device)).scalar()
    for _ in range(_WALK_LIMIT):
        above = select(devices.c.device, devices.c.parent, devices.c.enabled, devices.c.edge)
        row = connection.execute(above.where(devices.c.device == step)).first()
        if row is None or not row.edge:
            return False
        if row.device == gateway:
            return True
        if not row.enabled:
            return False
        step = row.parent
    return False


def children(connection: Connection, device: str) -> Sequence[str]:
    """The names of the devices directly below."""
    query = select(devices.c.device).where(devices.c.parent == device).order_by(devices.c.device)
    return connection.execute(query).scalars().all()


def scope_page(connection: Connection, target: str, limit: int, continuation: str | None) -> ScopePage | None:
    """One page of the target's scope, with at most `limit` devices; None if there is no such edge device.

    The first page begins with the target and its modules. Raises RegistryError 400 for an unreadable continuation.
    """
    top = device_row(connection, target)
    if top is None or not top.edge:
        return None
    after = "" if not continuation else _decode(continuation)
    first: tuple[DeviceRecord, ...] = () if continuation else (top,)
    room = max(limit, 2) - len(first)
    rows = device_rows(connection, devices_by_name(after).where(devices.c.parent == target).limit(room + 1))
    more = _encode(rows[room - 1].device) if len(rows) > room else None
    return ScopePage(first + rows[:room], module_rows(connection, target) if first else (), more)


def scope_entry(connection: Connection, gateway: str, device: str, module: str | None) -> ScopeEntry | None:
    """The identity if it is the gateway, below it, or a module of one of these; None otherwise."""
    way = ancestors(connection, device)
    if gateway not in way:
        return None
    found = device_row(connection, device)
    of_device = None if module is None else module_row(connection, device, module)
    if found is None or (module is not None and of_device is None):
        return None
    return ScopeEntry(found, of_device, way[: way.index(gateway) + 1])


def _encode(device: str) -> str:
    return base64.urlsafe_b64encode(device.encode()).decode()


def _decode(continuation: str) -> str:
    try:
        return base64.b64decode(continuation, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as problem:
        raise RegistryError("the continuation is none of ours", code="ArgumentInvalid", status=400) from problem
