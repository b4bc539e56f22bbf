"""Feedback: what became of cloud-to-device messages whose sender wants to know (hub specification 3.11, 10).

Rules: a record is written in the transaction in which its message leaves the queue: `success` when the sender asked for
`positive` or `full`, every other end when it asked for `negative` or `full`. Services read records in batches, oldest
first; a batch is locked for a minute, then completed (its records go) or abandoned (they come again). Records are kept
FEEDBACK_TTL_SECONDS, and at most FEEDBACK_KEPT of them: the oldest go first.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from edgetrust.clock import Clock
from edgetrust.limits import FEEDBACK_BATCH, FEEDBACK_KEPT, FEEDBACK_LOCK_SECONDS, FEEDBACK_TTL_SECONDS
from edgetrust.store.engine import Database
from edgetrust.store.records import RegistryError, at_moment, milliseconds
from edgetrust.store.schema import c2d_feedback, devices

_table = c2d_feedback


class Outcome(StrEnum):
    """How a cloud-to-device message ended."""

    SUCCESS = "success"
    EXPIRED = "expired"
    DELIVERY_COUNT_EXCEEDED = "deliveryCountExceeded"
    REJECTED = "rejected"
    PURGED = "purged"


_ASKING = {True: ("positive", "full"), False: ("negative", "full")}  # by whether the message was completed


@dataclass(frozen=True, slots=True)
class FeedbackRecord:
    """What became of one message. `message_id` is the sender's, or the one that the hub gave it."""

    message_id: str
    device: str
    module: str | None
    generation: str
    outcome: Outcome
    at: datetime


@dataclass(frozen=True, slots=True)
class FeedbackBatch:
    """Locked records; `lock_token` completes or abandons them."""

    records: tuple[FeedbackRecord, ...]
    lock_token: str


def note_outcomes(connection: Connection, gone: Sequence[Any], outcome: Outcome, now_ms: int) -> None:
    """Write what became of messages that have just left their queue: rows with ack, device, module, message_id."""
    asked = [row for row in gone if row.ack in _ASKING[outcome is Outcome.SUCCESS]]
    for row in asked:
        generation = connection.execute(select(devices.c.generation).where(devices.c.device == row.device)).scalar()
        record = {
            "message_id": row.message_id,
            "device": row.device,
            "module": row.module,
            "generation": generation or "",
            "outcome": outcome.value,
            "recorded_ms": now_ms,
            "lock_token": None,
            "locked_until_ms": 0,
        }
        connection.execute(insert(_table), record)


class Feedback:
    """The records of a hub. Methods raise the store's errors."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def lease(self, limit: int = FEEDBACK_BATCH) -> FeedbackBatch | None:
        """Lock the oldest records that nobody has locked; None when there is none."""
        now_ms = milliseconds(self._clock.now())
        token = str(uuid.uuid4())

        def work(connection: Connection) -> tuple[FeedbackRecord, ...]:
            free = select(_table).where(_table.c.locked_until_ms <= now_ms, _alive(now_ms))
            found = connection.execute(free.order_by(_table.c.seq).limit(limit)).all()
            lock = {"lock_token": token, "locked_until_ms": now_ms + int(FEEDBACK_LOCK_SECONDS * 1000)}
            mine = _table.c.seq.in_([row.seq for row in found])
            connection.execute(update(_table).where(mine).values(lock))
            return tuple(_record(row) for row in found)

        records = await self._database.write(work)
        return FeedbackBatch(records, token) if records else None

    async def settle(self, lock_token: str, *, keep: bool) -> None:
        """Complete (`keep` False) or abandon a batch. RegistryError 412 if its lock is lost."""
        now_ms = milliseconds(self._clock.now())
        held = (_table.c.lock_token == lock_token) & (_table.c.locked_until_ms > now_ms)
        change = update(_table).where(held).values(lock_token=None, locked_until_ms=0)

        def work(connection: Connection) -> None:
            if connection.execute(change if keep else delete(_table).where(held)).rowcount == 0:
                raise RegistryError("the lock of the batch is lost", code="DeviceMessageLockLost", status=412)

        await self._database.write(work)

    async def trim(self, kept: int = FEEDBACK_KEPT) -> int:
        """Forget records that are too old, or too many; returns how many those were."""
        now_ms = milliseconds(self._clock.now())

        def work(connection: Connection) -> int:
            newest = connection.execute(select(func.max(_table.c.seq))).scalar() or 0
            old = delete(_table).where(~_alive(now_ms) | (_table.c.seq <= newest - kept))
            return connection.execute(old).rowcount

        return await self._database.write(work)


def _alive(now_ms: int) -> Any:
    return _table.c.recorded_ms > now_ms - int(FEEDBACK_TTL_SECONDS * 1000)


def _record(row: Row[Any]) -> FeedbackRecord:
    return FeedbackRecord(
        row.message_id,
        row.device,
        row.module or None,
        row.generation,
        Outcome(row.outcome),
        at_moment(row.recorded_ms),
    )
