"""Registrations of a provisioning service: which device is assigned to which hub, and how far an assignment is.

Rules. A registration begins by writing down where it leads, before anything happens at a hub, and ends by saying that
it happened; each write is for one operation, so that a later registration or a deleted enrollment ends an earlier one
without a trace. What may hold the device, the last assignment and an unfinished one, is known at every moment.

It must not know enrollments beyond their names, nor how hubs are told.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Update, bindparam, delete, insert, select, update

from edgetrust.clock import Clock
from edgetrust.limits import PAGE_ITEMS
from edgetrust.protocol.dps.bodies import RegistrationState, RegistrationStatus, Substatus
from edgetrust.protocol.dps.enrollments import Enrollment, Kind
from edgetrust.protocol.dps.errors import PRECONDITION, REGISTRATION_NOT_FOUND, DpsError
from edgetrust.protocol.dps.names import registration_key
from edgetrust.store.dps_schema import dps_enrollments, dps_registrations
from edgetrust.store.engine import Database
from edgetrust.store.records import at_moment, milliseconds

_table = dps_registrations


@dataclass(frozen=True, slots=True)
class Assignment:
    """A device at a hub."""

    hub: str
    device: str


class Document(msgspec.Struct, frozen=True):
    """What else a registration's state shows; and, while it is in work, what the device had asked for with it."""

    credential: dict[str, Any] = msgspec.field(default_factory=dict)
    payload: Any = None
    chain: tuple[str, ...] = ()
    asked_payload: Any = None
    asked_csr: bytes | None = None


@dataclass(frozen=True, slots=True)
class ProvisionedRecord:
    """A registration as stored. `assigned` is the last assignment that was completed, `target` the unfinished one, and
    `left` those before it that were not completed either, or not cleared away.
    """

    state: RegistrationState
    operation_id: str
    kind: Kind
    enrollment: str
    assigned: Assignment | None
    target: Assignment | None
    left: tuple[Assignment, ...]
    document: Document

    @property
    def holders(self) -> tuple[Assignment, ...]:
        """Everywhere the device may be."""
        return tuple(dict.fromkeys(one for one in (self.assigned, self.target, *self.left) if one is not None))


@dataclass(frozen=True, slots=True)
class Beginning:
    """What is written down before anything happens. `target` may be unknown yet."""

    registration_id: str
    enrolled: Enrollment
    operation_id: str
    target: Assignment | None
    document: Document


class Provisioned:
    """The registrations in a migrated database. Methods raise the store's errors, and DpsError as they say."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def find(self, registration_id: str) -> ProvisionedRecord | None:
        """The registration of an identifier."""
        key = registration_key(registration_id)
        return await self._database.read(lambda connection: _find(connection, key))

    async def get(self, registration_id: str) -> ProvisionedRecord:
        """DpsError 404."""
        found = await self.find(registration_id)
        if found is None:
            raise _not_found(registration_id)
        return found

    async def page(self, group: str, after: str, limit: int) -> tuple[ProvisionedRecord, ...]:
        """Registrations that a group decided, with keys behind `after`, in byte order of their keys."""
        query = (
            select(_table)
            .where(_table.c.kind == "group", _table.c.enrollment == registration_key(group), _table.c.key > after)
            .order_by(_table.c.key)
            .limit(max(1, min(limit, PAGE_ITEMS)))
        )
        return await self._database.read(lambda connection: tuple(map(_record, connection.execute(query))))

    async def delete(self, registration_id: str, if_match: str | None = None) -> None:
        """Forget a registration; the device stays at its hub. DpsError 404, 412."""
        key = registration_key(registration_id)

        def work(connection: Connection) -> None:
            found = _find(connection, key)
            if found is None:
                raise _not_found(registration_id)
            wanted = (if_match or "*").strip().removeprefix("W/").strip('"')
            if wanted not in ("*", found.state.etag):
                raise DpsError(PRECONDITION, "the registration has changed", reason="precondition-failed")
            connection.execute(delete(_table).where(_table.c.key == key))

        await self._database.write(work)

    async def begin(self, beginning: Beginning) -> ProvisionedRecord | None:
        """Write down that an assignment is in work; None when the enrollment is gone meanwhile."""
        now = milliseconds(self._clock.now())
        key = registration_key(beginning.registration_id)
        target = beginning.target
        kind, name = beginning.enrolled.kind, registration_key(beginning.enrolled.name)
        row = {
            "registration_id": beginning.registration_id,
            "kind": kind,
            "enrollment": name,
            "operation_id": beginning.operation_id,
            "status": RegistrationStatus.ASSIGNING.value,
            "target_hub": None if target is None else target.hub,
            "target_device": None if target is None else target.device,
            "updated_ms": now,
            "document": _document(beginning.document),
            "error_code": None,
            "error_message": None,
        }

        def work(connection: Connection) -> ProvisionedRecord | None:
            enrollments = dps_enrollments
            there = select(enrollments.c.key).where(enrollments.c.kind == kind, enrollments.c.key == name)
            if connection.execute(there).first() is None:
                return None
            before = _find(connection, key)
            if before is None:
                values: dict[str, Any] = {"key": key, "revision": 1, "created_ms": now, "left_behind": "[]", **row}
                connection.execute(insert(_table), values)
            else:
                left = [one for one in before.holders if one not in (before.assigned, target)]
                values = {"revision": _table.c.revision + 1, "left_behind": _left(left), **row}
                connection.execute(update(_table).where(_table.c.key == key).values(**values))
            return _find(connection, key)

        return await self._database.write(work)

    async def aim(self, registration_id: str, operation_id: str, target: Assignment) -> bool:
        """Write down where an assignment leads, when that was not known at its beginning."""
        return await self._step(
            registration_id, operation_id, {"target_hub": target.hub, "target_device": target.device}
        )

    async def finish(
        self,
        registration_id: str,
        operation_id: str,
        target: Assignment,
        substatus: Substatus,
        document: Document,
        left: Sequence[Assignment] = (),
    ) -> bool:
        """The device is assigned; at `left` it could not be cleared away. False when the operation is over: another one
        began, or its enrollment is gone.
        """
        return await self._step(
            registration_id,
            operation_id,
            {
                "status": RegistrationStatus.ASSIGNED.value,
                "substatus": substatus.value,
                "assigned_hub": target.hub,
                "device": target.device,
                "target_hub": None,
                "target_device": None,
                "left_behind": _left(left),
                "document": _document(document),
            },
        )

    async def fail(self, registration_id: str, operation_id: str, code: int, message: str) -> bool:
        """The operation has failed. A target that was written down stays: the device may be there."""
        row = {"status": RegistrationStatus.FAILED.value, "error_code": code, "error_message": message[:1000]}
        return await self._step(registration_id, operation_id, row)

    async def _step(self, registration_id: str, operation_id: str, row: dict[str, Any]) -> bool:
        which = {"of_key": registration_key(registration_id), "of_operation": operation_id}
        new = {f"new_{name}": value for name, value in (("updated_ms", milliseconds(self._clock.now())), *row.items())}
        statement = _step_of(tuple(row))
        return await self._database.write(lambda connection: connection.execute(statement, which | new).rowcount > 0)


@cache
def _step_of(columns: tuple[str, ...]) -> Update:
    """The statement that writes these columns for one operation; made once for each step."""
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in ("updated_ms", *columns)}
    which = (_table.c.key == bindparam("of_key"), _table.c.operation_id == bindparam("of_operation"))
    return update(_table).where(*which).values(revision=_table.c.revision + 1, **values)


def _document(document: Document) -> str:
    return msgspec.json.encode(document).decode()


def _left(assignments: Sequence[Assignment]) -> str:
    return msgspec.json.encode([[one.hub, one.device] for one in assignments]).decode()


def _find(connection: Connection, key: str) -> ProvisionedRecord | None:
    row = connection.execute(select(_table).where(_table.c.key == key)).first()
    return None if row is None else _record(row)


def _record(row: Row[Any]) -> ProvisionedRecord:
    document = msgspec.json.decode(row.document, type=Document)
    assigned = _assignment(row.assigned_hub, row.device)
    status = RegistrationStatus(row.status)
    shown = assigned if status is RegistrationStatus.ASSIGNED else None
    state = RegistrationState(
        registration_id=row.registration_id,
        status=status,
        created_at=at_moment(row.created_ms),
        updated_at=at_moment(row.updated_ms),
        substatus=None if row.substatus is None or shown is None else Substatus(row.substatus),
        assigned_hub=None if shown is None else shown.hub,
        device_id=None if shown is None else shown.device,
        etag=base64.b64encode(f'"{row.updated_ms:x}-{row.revision:x}"'.encode()).decode(),
        credential=document.credential,
        payload=document.payload if shown is not None else None,
        chain=document.chain if shown is not None else (),
        error_code=row.error_code,
        error_message=row.error_message,
    )
    target = _assignment(row.target_hub, row.target_device)
    left = tuple(Assignment(hub, device) for hub, device in msgspec.json.decode(row.left_behind))
    return ProvisionedRecord(state, row.operation_id, row.kind, row.enrollment, assigned, target, left, document)


def _assignment(hub: str | None, device: str | None) -> Assignment | None:
    return None if hub is None or device is None else Assignment(hub, device)


def _not_found(registration_id: str) -> DpsError:
    return DpsError(
        REGISTRATION_NOT_FOUND, f"{registration_id[:140]} has not registered", reason="registration-not-found"
    )
