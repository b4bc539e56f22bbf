"""A gateway's queues: what it has taken, for the hub and for its modules, until it has arrived there.

Rules (edge specification 6.7): appended like events, durable before `done`, a message for several destinations in one
transaction; one queue for each destination (`lanes`). Leased by priority, within a priority in the order of arrival,
which keeps the order of each device; what is leased stays until it is acknowledged, and after a restart or `release` it
is leased again from the head: at least once. What has expired is not leased any more. Leases are kept in memory by the
one process that drains; any number of processes may append. Sizes are kept in rows of their own and are exact. What has
arrived leaves in the transaction of what is appended next: one sync for both.

At the limit of bytes the queues take nothing (`queue-full`), nor anything later before `resume`; or they make room
(`queue_accounts`). What comes again is answered like what is stored, and not stored (`repeats`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, cast

from sqlalchemy import ColumnElement, Connection, func, select

from edgetrust.clock import Clock, SystemClock
from edgetrust.limits import (
    APPEND_BACKLOG_BYTES,
    QUEUE_BYTES,
    QUEUE_FRESH_BYTES,
    TRIM_STEP_ROWS,
)
from edgetrust.protocol.repeats import Recognition
from edgetrust.store.appending import Appender, Columns, Done, Stored
from edgetrust.store.engine import Database
from edgetrust.store.lanes import Lane, QueuedMessage, newest_offset
from edgetrust.store.queue_accounts import Accounts, Dropped, forget, remove
from edgetrust.store.queue_tables import queue_lanes, queued_messages
from edgetrust.store.records import milliseconds, moment
from edgetrust.store.repeats import forget_old

_row = queued_messages.c
_lane = queue_lanes.c


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """What is in all queues, leased or not."""

    messages: int
    bytes: int
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """What waits for one destination at one priority."""

    queue: str
    input: str
    priority: int
    messages: int
    bytes: int
    oldest_at: datetime | None


class ForwardQueue:
    """Make it with `await ForwardQueue.open(database)` on the loop that appends. Methods raise the store's errors.

    `dropped` is called on that loop with what made room for newer messages, `repeated` with what came again.
    """

    def __init__(self, database: Database, newest: int, clock: Clock, limit_bytes: int, backlog: int) -> None:
        self.database = database
        self.clock = clock
        self.newest = newest
        self._lanes: dict[str, Lane] = {}
        self.news = asyncio.Event()
        self._room = asyncio.Event()
        self.opened_at = newest
        self._accounts = Accounts(limit_bytes, asyncio.get_running_loop(), self._went, self._came_again)
        self.dropped: Callable[[Sequence[Dropped]], None] = _nobody
        self.repeated: Callable[[Sequence[Dropped]], None] = _nobody
        columns = Columns(
            queued_messages.name,
            QueuedMessage._fields,
            ("text", "text", "text", "bytea", "int8", "text", "text", "text", "text", "int8", "int8"),
        )
        self._appender = Appender(database, columns, self._committed, self._accounts, backlog=backlog, keeps_order=True)

    @classmethod
    async def open(
        cls,
        database: Database,
        *,
        limit_bytes: int = QUEUE_BYTES,
        backlog: int = APPEND_BACKLOG_BYTES,
        clock: Clock | None = None,
    ) -> ForwardQueue:
        """The queues in a migrated database. `limit_bytes` as `size_of` counts, all queues together."""
        return cls(database, await database.read(newest_offset), clock or SystemClock(), limit_bytes, backlog)

    def append(self, messages: Sequence[QueuedMessage], done: Done) -> None:
        """Store `messages`; `done(None)` after the commit of all of them, UnavailableError `queue-full` above the
        limit. After an UnavailableError nothing is taken before `resume`.
        """
        self._appender.append(messages, done)

    def resume(self) -> None:
        """Take messages again; all that was appended has been answered."""
        self._appender.resume()

    def limit(self, limit_bytes: int, *, drop_oldest: bool) -> None:
        """How much all queues hold from now on, and whether they make room by themselves."""
        self._accounts.limit_bytes, self._accounts.drop_oldest = limit_bytes, drop_oldest

    def recognise(self, recognition: Recognition) -> None:
        """What is taken for a repetition from now on."""
        self._accounts.repeats.recognition = recognition

    @property
    def limit_bytes(self) -> int:
        """How much all queues hold."""
        return self._accounts.limit_bytes

    @property
    def waiting_bytes(self) -> int:
        """What waits in memory for the disk."""
        return self._appender.waiting_bytes

    async def close(self) -> None:
        """Store and answer what waits."""
        await self._appender.close()

    def lane(self, queue: str) -> Lane:
        """The queue towards one destination, to drain it; the same one each time."""
        lane = self._lanes.get(queue)
        if lane is None:
            lane = self._lanes[queue] = Lane(self, queue)
        return lane

    async def wait_for_room(self, seconds: float) -> None:
        """Wait until something has left a queue, at most `seconds`."""
        self._room.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._room.wait()
        except TimeoutError:
            return

    def _committed(self, stored: Stored) -> None:
        if not stored.rows:
            return  # all of it had come before
        first = stored.last - len(stored.rows) + 1
        if first == self.newest + 1:
            for lane in self._lanes.values():
                lane.stored(first, cast("Sequence[QueuedMessage]", stored.rows))
            self._bound_memory()
        else:  # somebody else has stored something too
            self.read_again()
        self.newest = max(self.newest, stored.last)
        self.news.set()
        self.news = asyncio.Event()

    def _bound_memory(self) -> None:
        if sum([lane.fresh_bytes for lane in self._lanes.values()]) > QUEUE_FRESH_BYTES:
            max(self._lanes.values(), key=lambda lane: lane.fresh_bytes).read_again()

    def read_again(self) -> None:
        for lane in self._lanes.values():
            lane.read_again()

    def _went(self, dropped: Sequence[Dropped]) -> None:
        self.read_again()
        self.dropped(dropped)

    def _came_again(self, repeated: Sequence[Dropped]) -> None:
        self.repeated(repeated)

    # What has waited too long ----------------------------------------------------------------------------------------

    async def expire(self, before: datetime) -> list[Dropped]:
        """Drop what has waited since before a time, oldest first up to the first younger one.

        In steps, so that whoever appends waits for one of them at most.
        """
        young = select(_row.seq).where(_row.enqueued_ms >= milliseconds(before))
        first = young.order_by(_row.seq).limit(1)
        kept = await self.database.read(lambda connection: connection.execute(first).scalar())
        end = self.newest if kept is None else kept - 1
        return await self._drop(_row.seq <= end)

    async def expire_due(self) -> list[Dropped]:
        """Drop what has reached the end of its time to live."""
        return await self._drop((_row.expires_ms > 0) & (_row.expires_ms <= self.clock.milliseconds()))

    async def forget_repeats(self) -> int:
        """Forget what was taken too long ago to be recognised; how many."""
        return await forget_old(self.database, self.clock.milliseconds())

    async def _drop(self, condition: ColumnElement[bool]) -> list[Dropped]:
        query = select(_row.seq, _row.device, _row.module, _row.properties).where(condition)
        query = query.order_by(_row.seq).limit(TRIM_STEP_ROWS)

        def work(connection: Connection) -> list[Dropped]:
            rows = connection.execute(query).all()
            remove(connection, _row.seq.in_([row[0] for row in rows]))
            return [Dropped(*row[1:]) for row in rows]

        dropped: list[Dropped] = []
        while step := await self.database.write(work):
            dropped += step
            self.read_again()
        if dropped:
            self._room.set()
        return dropped

    async def forget(self, runs: Sequence[tuple[int, int]]) -> None:
        """Remove what has arrived: sequence numbers, from and to. Together with what is appended just now."""
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._appender.also(partial(forget, runs), partial(_settle, outcome))
        await outcome
        self._room.set()

    # Sizes ------------------------------------------------------------------------------------------------------------

    async def status(self) -> QueueStatus:
        """How much waits, and since when."""
        head = select(_row.enqueued_ms).order_by(_row.seq).limit(1)
        totals = select(func.coalesce(func.sum(_lane.messages), 0), func.coalesce(func.sum(_lane.bytes), 0))

        def work(connection: Connection) -> QueueStatus:
            messages, size = connection.execute(totals).one()
            return QueueStatus(int(messages), int(size), moment(connection.execute(head).scalar() or 0))

        return await self.database.read(work)

    async def lanes(self) -> list[LaneStatus]:
        """The same for each destination and priority that anything was ever for."""
        lanes = select(queue_lanes).order_by(_lane.queue, _lane.input, _lane.priority)

        def work(connection: Connection) -> list[LaneStatus]:
            found = []
            for lane in connection.execute(lanes).all():
                oldest = moment(_head(connection, lane) if lane.messages else 0)
                found.append(LaneStatus(lane.queue, lane.input, lane.priority, lane.messages, lane.bytes, oldest))
            return found

        return await self.database.read(work)


def _head(connection: Connection, lane: Any) -> int:
    mine = (_row.queue == lane.queue) & (_row.priority == lane.priority) & (_row.input == lane.input)
    return connection.execute(select(_row.enqueued_ms).where(mine).order_by(_row.seq).limit(1)).scalar() or 0


def _nobody(dropped: Sequence[Dropped]) -> None:
    """Nobody wants to know."""


def _settle(outcome: asyncio.Future[None], error: BaseException | None) -> None:
    if outcome.done():  # who waited has been cancelled
        return
    if error is None:
        outcome.set_result(None)
    else:
        outcome.set_exception(error)
