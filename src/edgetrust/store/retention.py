"""Retention of the event log: which old events are forgotten, and how without holding anybody up.

Rules: only the oldest events go, in their order. One goes when it is older than the policy keeps, or when the log holds
more bytes than the policy allows. What a consumer has not dealt with stays all the same, until that consumer has said
nothing for longer than the policy waits for it. A step removes few rows in one transaction and then pauses as long as
it took: who appends waits for one step at most. Bytes are counted as `size_of` counts them, by reading each event's
lengths once; a log that another process has shortened is counted anew.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Executable, delete, func, select

from edgetrust.limits import TRIM_STEP_BYTES, TRIM_STEP_ROWS
from edgetrust.store.engine import Database
from edgetrust.store.records import milliseconds
from edgetrust.store.schema import consumers, events

_COUNT_ROWS = 50_000  # looked at in one read: a read holds nobody up, but its thread
_SIZE: ColumnElement[int] = func.length(events.c.body) + func.length(events.c.properties)


@dataclass(frozen=True, slots=True)
class EventPolicy:
    """How long events stay, None for ever; how many bytes of them, None without bound; and for how long an idle
    consumer protects what it has not dealt with.
    """

    age: timedelta | None
    size: int | None
    consumer: timedelta


@dataclass(frozen=True, slots=True)
class _Step:
    by_age: int = 0
    by_size: int = 0
    freed: int = 0


@dataclass(frozen=True, slots=True)
class Trimmed:
    """How many events were forgotten for their age, and how many for the size of the log."""

    by_age: int
    by_size: int


class EventTrimmer:
    """Applies a policy. Methods raise the store's errors; what was removed before one stays removed."""

    def __init__(self, database: Database, policy: EventPolicy) -> None:
        self._database = database
        self._policy = policy
        self._oldest: int | None = None
        self._counted_to = 0
        self.bytes = 0  # of the log, when the policy bounds it

    async def trim(self, now: datetime) -> Trimmed:
        """Forget what the policy does not keep at `now`."""
        if self._policy.size is not None:
            await self._count()
        by_age = by_size = 0
        while True:
            begun = time.monotonic()
            step = await self._database.write(lambda connection: self._remove(connection, now))
            self.bytes -= step.freed
            by_age, by_size = by_age + step.by_age, by_size + step.by_size
            if step.by_age + step.by_size == 0:
                break
            await asyncio.sleep(time.monotonic() - begun)
        self._oldest = await self._database.read(_oldest)
        return Trimmed(by_age, by_size)

    async def _count(self) -> None:
        oldest = await self._database.read(_oldest)
        if self._oldest is None or oldest != self._oldest:
            self._oldest, self._counted_to, self.bytes = oldest, 0, 0
        while True:
            rows = select(events.c.seq, _SIZE.label("size")).where(events.c.seq > self._counted_to)
            part = rows.order_by(events.c.seq).limit(_COUNT_ROWS).subquery()
            query = select(func.count(), func.max(part.c.seq), func.sum(part.c.size))
            count, last, size = await self._database.read(partial(_one, query))
            if count == 0:
                return
            self._counted_to, self.bytes = last, self.bytes + int(size)

    def _remove(self, connection: Connection, now: datetime) -> _Step:
        policy = self._policy
        before = None if policy.age is None else milliseconds(now - policy.age)
        excess = 0 if policy.size is None else self.bytes - policy.size
        protected = connection.execute(
            select(func.min(consumers.c.seq)).where(consumers.c.updated_ms > milliseconds(now - policy.consumer))
        ).scalar()
        query = select(events.c.seq, events.c.enqueued_ms, _SIZE.label("size")).order_by(events.c.seq)
        end = by_age = by_size = freed = 0
        for row in connection.execute(query.limit(TRIM_STEP_ROWS)):
            old = before is not None and row.enqueued_ms < before
            if not (old or excess > freed) or freed >= TRIM_STEP_BYTES:
                break
            if protected is not None and row.seq > protected:
                break
            end, freed = row.seq, freed + row.size
            by_age, by_size = by_age + old, by_size + (not old)
        if end:
            connection.execute(delete(events).where(events.c.seq <= end))
        return _Step(by_age, by_size, freed)


def _one(query: Executable, connection: Connection) -> Any:
    return connection.execute(query).one()


def _oldest(connection: Connection) -> int:
    return connection.execute(select(func.min(events.c.seq))).scalar() or 0
