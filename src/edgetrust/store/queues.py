"""The gateway's queue towards its hub: store and forward.

Rules (edge specification 6.7): appended like events, durable before `done`; leased in the order of arrival, which keeps
the order of each device; what is leased stays in the queue until it is acknowledged, and after a restart or `release`
it is leased again from the head: at least once, in order. Leases are kept in memory by the one process that drains the
queue; any number of processes may append. Sizes are kept in a row of their own and are exact. Above its limit of bytes
the queue takes nothing: publishers are not acknowledged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, delete, func, insert, select, update

from edgetrust.errors import UnavailableError
from edgetrust.limits import APPEND_BACKLOG_BYTES, EVENT_POLL_SECONDS, QUEUE_BYTES, TRIM_STEP_ROWS, UPSTREAM_BATCH
from edgetrust.protocol.messages import Message
from edgetrust.store.appending import Appender, Done
from edgetrust.store.engine import Database
from edgetrust.store.events import StoredMessage
from edgetrust.store.records import milliseconds, moment
from edgetrust.store.schema import forward_queue, queue_totals

_UPSTREAM = "upstream"
_TAKE = (
    "UPDATE queue_totals SET messages = messages + {m}, bytes = bytes + {m}"
    " WHERE queue = 'upstream' AND bytes + {m} <= {m}"
)
_TAKE_IN = {"sqlite": _TAKE.format(m="?"), "postgresql": _TAKE.format(m="%s")}


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """What is in the queue, leased or not."""

    messages: int
    bytes: int
    oldest_at: datetime | None


class ForwardQueue:
    """Make it with `await ForwardQueue.open(database)` on the loop that appends. Methods raise the store's errors."""

    def __init__(self, database: Database, newest: int, limit_bytes: int, backlog: int) -> None:
        self._database = database
        self._limit_bytes = limit_bytes
        self._newest = newest
        self._leased_to = 0
        self._releases = 0
        self._news = asyncio.Event()
        self._appender = Appender(database, forward_queue.name, self._committed, self._take, backlog=backlog)

    @classmethod
    async def open(
        cls, database: Database, *, limit_bytes: int = QUEUE_BYTES, backlog: int = APPEND_BACKLOG_BYTES
    ) -> ForwardQueue:
        """The queue in a migrated database. `limit_bytes` as `size_of` counts."""
        await database.write(_make_totals)
        return cls(database, await database.read(_newest), limit_bytes, backlog)

    def append(self, messages: Sequence[Message], done: Done) -> None:
        """Store `messages`; `done(None)` after the commit, UnavailableError `queue-full` above the limit."""
        self._appender.append(messages, done)

    @property
    def waiting_bytes(self) -> int:
        """What waits in memory for the disk."""
        return self._appender.waiting_bytes

    async def close(self) -> None:
        """Store and answer what waits."""
        await self._appender.close()

    def _take(self, cursor: Any, dialect: str, messages: int, size: int) -> None:
        cursor.execute(_TAKE_IN[dialect], (messages, size, size, self._limit_bytes))
        if cursor.rowcount == 0:
            raise UnavailableError(
                f"the queue holds its {self._limit_bytes} bytes",
                reason="queue-full",
                fix="restore the connection to the hub, or give the queue a larger limit",
            )

    def _committed(self, last: int) -> None:
        self._newest = max(self._newest, last)
        self._news.set()
        self._news = asyncio.Event()

    # -- draining -----------------------------------------------------------------------------------------------------

    async def lease(self, limit: int = UPSTREAM_BATCH) -> tuple[StoredMessage, ...]:
        """The next messages nobody has leased, in order; empty if there are none. For one caller at a time."""
        query = select(forward_queue).where(forward_queue.c.seq > self._leased_to)
        query = query.order_by(forward_queue.c.seq).limit(limit)

        def work(connection: Connection) -> tuple[StoredMessage, ...]:
            return tuple(StoredMessage(row[0], Message(*row[1:])) for row in connection.execute(query))

        newest, releases = self._newest, self._releases
        found = await self._database.read(work)
        if releases != self._releases:
            return ()  # released meanwhile: leasing begins at the head again
        self._leased_to = max(self._leased_to, found[-1].offset if found else newest)
        return found

    def release(self) -> None:
        """What was leased and not acknowledged is leased again, from the head: the connection is lost."""
        self._releases += 1
        self._leased_to = 0

    async def ack(self, offsets: Iterable[int]) -> None:
        """These messages have arrived; forget them. Offsets that are not in the queue are fine."""
        column = forward_queue.c.seq
        await self._forget([column.between(first, last) for first, last in _runs(offsets)])

    async def ack_up_to(self, offset: int) -> None:
        """Everything up to the offset has arrived."""
        await self._forget([forward_queue.c.seq <= offset])

    async def expire(self, before: datetime) -> int:
        """Drop what has waited since before a time, oldest first up to the first younger one; returns how many.

        In steps, so that whoever appends waits for one of them at most.
        """
        young = select(forward_queue.c.seq).where(forward_queue.c.enqueued_ms >= milliseconds(before))
        first = young.order_by(forward_queue.c.seq).limit(1)
        kept = await self._database.read(lambda connection: connection.execute(first).scalar())
        end = self._newest if kept is None else kept - 1
        dropped = 0
        while step := await self._forget([forward_queue.c.seq.in_(_oldest(end))]):
            dropped += step
        return dropped

    async def status(self) -> QueueStatus:
        """How much waits, and since when."""
        head = select(forward_queue.c.enqueued_ms).order_by(forward_queue.c.seq).limit(1)
        totals = select(queue_totals.c.messages, queue_totals.c.bytes).where(queue_totals.c.queue == _UPSTREAM)

        def work(connection: Connection) -> QueueStatus:
            messages, size = connection.execute(totals).one()
            return QueueStatus(messages, size, moment(connection.execute(head).scalar() or 0))

        return await self._database.read(work)

    async def wait_for_new(self, wait_seconds: float) -> bool:
        """Wait until something can be leased, at most `wait_seconds`. Whether it can now."""
        deadline = time.monotonic() + wait_seconds
        while self._newest <= self._leased_to:
            news = self._news
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                async with asyncio.timeout(min(left, EVENT_POLL_SECONDS)):
                    await news.wait()
            except TimeoutError:  # another process may have stored something
                self._newest = max(self._newest, await self._database.read(_newest))
        return True

    async def _forget(self, conditions: list[ColumnElement[bool]]) -> int:
        size = func.coalesce(func.sum(func.length(forward_queue.c.body) + func.length(forward_queue.c.properties)), 0)

        def work(connection: Connection) -> int:
            messages = total = 0
            for condition in conditions:
                count, taken = connection.execute(select(func.count(), size).where(condition)).one()
                connection.execute(delete(forward_queue).where(condition))
                messages, total = messages + count, total + taken
            connection.execute(
                update(queue_totals)
                .where(queue_totals.c.queue == _UPSTREAM)
                .values(messages=queue_totals.c.messages - messages, bytes=queue_totals.c.bytes - total)
            )
            return messages

        return await self._database.write(work)


def _make_totals(connection: Connection) -> None:
    known = select(queue_totals.c.queue).where(queue_totals.c.queue == _UPSTREAM)
    if connection.execute(known).first() is None:
        connection.execute(insert(queue_totals).values(queue=_UPSTREAM, messages=0, bytes=0))


def _oldest(end: int) -> Select[Any]:
    """The sequence numbers of the first messages up to `end`, so many as one step removes."""
    numbers = select(forward_queue.c.seq).where(forward_queue.c.seq <= end)
    return numbers.order_by(forward_queue.c.seq).limit(TRIM_STEP_ROWS)


def _newest(connection: Connection) -> int:
    return connection.execute(select(func.max(forward_queue.c.seq))).scalar() or 0


def _runs(offsets: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending ranges without gaps: acknowledgements mostly come in order."""
    ordered = sorted(set(offsets))
    runs = []
    for _key, members in groupby(enumerate(ordered), lambda pair: pair[1] - pair[0]):
        run = [offset for _position, offset in members]
        runs.append((run[0], run[-1]))
    return runs
