"""The queues of cloud-to-device messages, one for each device and module.

Rules (hub specification 3.11): at most 50 wait; delivered in order and at least once; whoever leases a message holds
its lock for a minute, or until `release` when the connection is lost; after ten deliveries, or when it has expired, a
message is dropped; default lifetime one hour, at most 48. What becomes of a message is noted for its sender in the same
transaction (`feedback`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, or_, select, update

from edgetrust.clock import Clock
from edgetrust.limits import (
    C2D_DELIVERIES,
    C2D_LOCK_SECONDS,
    C2D_QUEUE,
    C2D_TTL_MAX_SECONDS,
    C2D_TTL_SECONDS,
    TRIM_STEP_ROWS,
)
from edgetrust.store.engine import Database
from edgetrust.store.feedback import Outcome, note_outcomes
from edgetrust.store.records import RegistryError, milliseconds, moment
from edgetrust.store.schema import c2d_messages, devices, modules

Done = Callable[[BaseException | None], None]

_messages = c2d_messages


@dataclass(frozen=True, slots=True)
class C2dDraft:
    """A message to a device, or to one of its modules. `expires_at` None: after the default lifetime."""

    device: str
    body: bytes
    module: str | None = None
    properties: str = ""
    message_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    ack: str = "none"
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class C2dMessage:
    """A leased message. `deliveries` counts this one; `lock_token` completes it over HTTP."""

    sequence: int
    device: str
    module: str | None
    message_id: str
    properties: str
    body: bytes
    ack: str
    enqueued_at: datetime | None
    expires_at: datetime | None
    deliveries: int
    lock_token: str


def _of(device: str, module: str | None) -> ColumnElement[bool]:
    return (_messages.c.device == device) & (_messages.c.module == (module or ""))


class C2dQueues:
    """All queues of a hub. Methods raise the store's errors."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._listeners: list[Callable[[str, str | None], None]] = []

    def listen(self, listener: Callable[[str, str | None], None]) -> Callable[[], None]:
        """Call `listener(device, module)` on the loop when a message was enqueued or abandoned in this process."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def enqueue(self, draft: C2dDraft) -> int:
        """Queue a message; returns its sequence number. RegistryError 403 (queue full), 404."""
        now = self._clock.now()
        row = _row(draft, now)

        def work(connection: Connection) -> int:
            _check_receiver(connection, draft)
            _drop_dead(connection, _of(draft.device, draft.module), milliseconds(now))
            count = select(func.count()).where(_of(draft.device, draft.module))
            if connection.execute(count).scalar_one() >= C2D_QUEUE:
                raise RegistryError(
                    f"{C2D_QUEUE} messages wait for {draft.device}",
                    code="DeviceMaximumQueueDepthExceeded",
                    status=403,
                    fix="let the device receive them, or purge its queue",
                )
            sequence: int = connection.execute(insert(_messages).returning(_messages.c.seq), row).scalar_one()
            return sequence

        return await self._database.write(work, lambda _sequence: self._tell(draft.device, draft.module))

    async def lease(
        self, device: str, limit: int, holding: Collection[int] = (), *, module: str | None = None
    ) -> tuple[C2dMessage, ...]:
        """Lock the next messages that nobody has locked, in order. The locks of those that the caller is `holding`
        begin anew.
        """
        now_ms = milliseconds(self._clock.now())
        until_ms = now_ms + int(C2D_LOCK_SECONDS * 1000)

        mine = _of(device, module) & _messages.c.seq.in_(tuple(holding))
        renewed = update(_messages).where(mine).values(locked_until_ms=until_ms)

        def work(connection: Connection) -> tuple[C2dMessage, ...]:
            if holding:
                connection.execute(renewed)
            _drop_dead(connection, _of(device, module), now_ms)
            free = select(_messages).where(_of(device, module), _messages.c.locked_until_ms <= now_ms)
            leased = []
            for row in connection.execute(free.order_by(_messages.c.seq).limit(limit)).all():
                token = str(uuid.uuid4())
                lock = {"lock_token": token, "locked_until_ms": until_ms, "deliveries": row.deliveries + 1}
                connection.execute(update(_messages).where(_messages.c.seq == row.seq).values(lock))
                leased.append(_message(row, token))
            return tuple(leased)

        return await self._database.write(work)

    def complete(self, device: str, sequence: int, done: Done, module: str | None = None) -> None:
        """The device has it (PUBACK): forget it. `done(None)` once that is on disk, also if it was gone already."""
        mine = _of(device, module) & (_messages.c.seq == sequence)
        now_ms = milliseconds(self._clock.now())
        self._database.post(lambda connection: _end(connection, mine, Outcome.SUCCESS, now_ms), done)

    def release(self, device: str, module: str | None = None, done: Done = lambda _error: None) -> None:
        """The connection is lost: what was leased and not completed is delivered again."""
        unlocked = update(_messages).where(_of(device, module)).values(lock_token=None, locked_until_ms=0)
        self._database.post(lambda connection: connection.execute(unlocked).close(), done)

    async def forget_locks(self) -> None:
        """Nobody holds anything: for a start after an end that could not give back."""
        unlocked = update(_messages).where(_messages.c.locked_until_ms > 0).values(lock_token=None, locked_until_ms=0)
        await self._database.write(lambda connection: connection.execute(unlocked).close())

    async def abandon(self, device: str, lock_token: str, module: str | None = None) -> None:
        """Give a message back by its lock token: it is delivered again. RegistryError 412 if the lock is lost."""
        held = self._held(device, lock_token, module)
        freed = update(_messages).where(held).values(lock_token=None, locked_until_ms=0)

        def work(connection: Connection) -> None:
            if connection.execute(freed).rowcount == 0:
                raise _lock_lost()

        await self._database.write(work, lambda _nothing: self._tell(device, module))

    async def settle(self, device: str, lock_token: str, outcome: Outcome, module: str | None = None) -> None:
        """Complete or reject a message by its lock token. RegistryError 412 if the lock is lost."""
        held = self._held(device, lock_token, module)
        now_ms = milliseconds(self._clock.now())

        def work(connection: Connection) -> None:
            if _end(connection, held, outcome, now_ms) == 0:
                raise _lock_lost()

        await self._database.write(work)

    async def purge(self, device: str, module: str | None = None) -> int:
        """Drop everything that waits; returns how many messages that was."""
        everything, now_ms = _of(device, module), milliseconds(self._clock.now())
        return await self._database.write(lambda connection: _end(connection, everything, Outcome.PURGED, now_ms))

    async def expire(self) -> int:
        """Drop what is dead, for all devices, so many in one call; returns how many messages that was."""
        now_ms = milliseconds(self._clock.now())
        dead = or_(_messages.c.expires_ms <= now_ms, _messages.c.deliveries >= C2D_DELIVERIES)
        free = select(_messages.c.seq).where(dead, _messages.c.locked_until_ms <= now_ms).limit(TRIM_STEP_ROWS)
        these = _messages.c.seq.in_(free)
        return await self._database.write(lambda connection: _drop_dead(connection, these, now_ms))

    def _held(self, device: str, lock_token: str, module: str | None) -> ColumnElement[bool]:
        now_ms = milliseconds(self._clock.now())
        return _of(device, module) & (_messages.c.lock_token == lock_token) & (_messages.c.locked_until_ms > now_ms)

    def _tell(self, device: str, module: str | None) -> None:
        for listener in tuple(self._listeners):
            listener(device, module)


def _row(draft: C2dDraft, now: datetime) -> dict[str, object]:
    latest = now + timedelta(seconds=C2D_TTL_MAX_SECONDS)
    expires_at = draft.expires_at or now + timedelta(seconds=C2D_TTL_SECONDS)
    return {
        "device": draft.device,
        "module": draft.module or "",
        "message_id": draft.message_id,
        "properties": draft.properties,
        "body": draft.body,
        "ack": draft.ack,
        "enqueued_ms": milliseconds(now),
        "expires_ms": milliseconds(min(expires_at, latest)),
        "deliveries": 0,
        "lock_token": None,
        "locked_until_ms": 0,
    }


def _check_receiver(connection: Connection, draft: C2dDraft) -> None:
    if connection.execute(select(devices.c.device).where(devices.c.device == draft.device)).first() is None:
        raise RegistryError(f"device {draft.device} is not registered", code="DeviceNotFound", status=404)
    if draft.module is None:
        return
    of_module = (modules.c.device == draft.device, modules.c.module == draft.module)
    if connection.execute(select(modules.c.module).where(*of_module)).first() is None:
        raise RegistryError(f"device {draft.device} has no module {draft.module}", code="ModuleNotFound", status=404)


def _drop_dead(connection: Connection, queue: ColumnElement[bool], now_ms: int) -> int:
    """Drop what has expired or was delivered too often and is not in somebody's hands now; how many that was."""
    free = queue & (_messages.c.locked_until_ms <= now_ms)
    often = free & (_messages.c.deliveries >= C2D_DELIVERIES)
    worn = _end(connection, often, Outcome.DELIVERY_COUNT_EXCEEDED, now_ms)
    return worn + _end(connection, free & (_messages.c.expires_ms <= now_ms), Outcome.EXPIRED, now_ms)


def _end(connection: Connection, these: ColumnElement[bool], outcome: Outcome, now_ms: int) -> int:
    """Forget messages and note what became of them; how many there were."""
    told = (_messages.c.ack, _messages.c.device, _messages.c.module, _messages.c.message_id)
    gone = connection.execute(delete(_messages).where(these).returning(*told)).all()
    note_outcomes(connection, gone, outcome, now_ms)
    return len(gone)


def _lock_lost() -> RegistryError:
    return RegistryError("the lock of the message is lost", code="DeviceMessageLockLost", status=412)


def _message(row: Row[tuple[object, ...]], token: str) -> C2dMessage:
    return C2dMessage(
        sequence=row.seq,
        device=row.device,
        module=row.module or None,
        message_id=row.message_id,
        properties=row.properties,
        body=bytes(row.body),
        ack=row.ack,
        enqueued_at=moment(row.enqueued_ms),
        expires_at=moment(row.expires_ms),
        deliveries=row.deliveries + 1,
        lock_token=token,
    )
