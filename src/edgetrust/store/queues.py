"""A gateway's queues: what it has taken, for the hub and for its modules, until it has arrived there.

Rules (edge specification 6.7): appended like events, durable before `done`, a message for several destinations in one
transaction; one queue for each destination. Leased by priority, within a priority in the order of arrival, which keeps
the order of each device; what is leased stays until it is acknowledged, and after a restart or `release` it is leased
again from the head: at least once. What has expired is not leased any more. Leases are kept in memory by the one
process that drains; any number of processes may append. Sizes are kept in rows of their own and are exact.

Who drains as fast as messages come is given them from memory, after their commit, and nothing is read: a lane that was
read to its end keeps what is stored behind that, until all lanes have too much, somebody else has stored or dropped
something, or it is released. Then it is read again.

At the limit of bytes the queues take nothing (`queue-full`), nor anything later before `resume`; or they make room
(`queue_accounts`). What comes again is answered like what is stored, and not stored (`repeats`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, cast

from sqlalchemy import ColumnElement, Connection, Select, func, or_, select

from edgetrust.clock import Clock, SystemClock
from edgetrust.limits import (
    APPEND_BACKLOG_BYTES,
    EVENT_POLL_SECONDS,
    QUEUE_BYTES,
    QUEUE_FRESH_BYTES,
    QUEUE_FRESH_MESSAGE_BYTES,
    TRIM_STEP_ROWS,
    UPSTREAM_BATCH,
    UPSTREAM_UNFORGOTTEN,
)
from edgetrust.protocol.edge_routes import LOWEST_PRIORITY, UPSTREAM
from edgetrust.protocol.repeats import Recognition
from edgetrust.store.appending import Appender, Columns, Done, Stored
from edgetrust.store.engine import Database
from edgetrust.store.queue_accounts import Accounts, Dropped, forget, remove
from edgetrust.store.queue_tables import queue_lanes, queued_messages
from edgetrust.store.records import milliseconds, moment
from edgetrust.store.repeats import forget_old

_row = queued_messages.c
_lane = queue_lanes.c


class QueuedMessage(NamedTuple):
    """A `Message` on its way: `queue` is UPSTREAM or a module, whose `input` it is for; `expires_ms` 0 is never."""

    device: str
    module: str | None
    properties: str
    body: bytes
    enqueued_ms: int
    auth_method: str
    message_source: str
    queue: str = UPSTREAM
    input: str = ""
    priority: int = LOWEST_PRIORITY
    expires_ms: int = 0


class LeasedMessage(NamedTuple):
    """A message that was leased, and its place; `again`: it may have been sent before, if by an earlier process."""

    offset: int
    message: QueuedMessage
    again: bool = False


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
        self._database = database
        self._clock = clock
        self._newest = newest
        self._lanes: dict[str, Lane] = {}
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._opened_at = newest
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
        return cls(database, await database.read(_newest), clock or SystemClock(), limit_bytes, backlog)

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
        if first == self._newest + 1:
            for lane in self._lanes.values():
                lane.stored(first, cast("Sequence[QueuedMessage]", stored.rows))
            self._bound_memory()
        else:  # somebody else has stored something too
            self._read_again()
        self._newest = max(self._newest, stored.last)
        self._news.set()
        self._news = asyncio.Event()

    def _bound_memory(self) -> None:
        if sum([lane.fresh_bytes for lane in self._lanes.values()]) > QUEUE_FRESH_BYTES:
            max(self._lanes.values(), key=lambda lane: lane.fresh_bytes).read_again()

    def _read_again(self) -> None:
        for lane in self._lanes.values():
            lane.read_again()

    def _went(self, dropped: Sequence[Dropped]) -> None:
        self._read_again()
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
        kept = await self._database.read(lambda connection: connection.execute(first).scalar())
        end = self._newest if kept is None else kept - 1
        return await self._drop(_row.seq <= end)

    async def expire_due(self) -> list[Dropped]:
        """Drop what has reached the end of its time to live."""
        return await self._drop((_row.expires_ms > 0) & (_row.expires_ms <= self._clock.milliseconds()))

    async def forget_repeats(self) -> int:
        """Forget what was taken too long ago to be recognised; how many."""
        return await forget_old(self._database, self._clock.milliseconds())

    async def _drop(self, condition: ColumnElement[bool]) -> list[Dropped]:
        query = select(_row.seq, _row.device, _row.module, _row.properties).where(condition)
        query = query.order_by(_row.seq).limit(TRIM_STEP_ROWS)

        def work(connection: Connection) -> list[Dropped]:
            rows = connection.execute(query).all()
            remove(connection, _row.seq.in_([row[0] for row in rows]))
            return [Dropped(*row[1:]) for row in rows]

        dropped: list[Dropped] = []
        while step := await self._database.write(work):
            dropped += step
            self._read_again()
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

        return await self._database.read(work)

    async def lanes(self) -> list[LaneStatus]:
        """The same for each destination and priority that anything was ever for."""
        lanes = select(queue_lanes).order_by(_lane.queue, _lane.input, _lane.priority)

        def work(connection: Connection) -> list[LaneStatus]:
            found = []
            for lane in connection.execute(lanes).all():
                oldest = moment(_head(connection, lane) if lane.messages else 0)
                found.append(LaneStatus(lane.queue, lane.input, lane.priority, lane.messages, lane.bytes, oldest))
            return found

        return await self._database.read(work)


_Fresh = dict[int, deque[LeasedMessage]]  # by priority


class Lane:
    """The queue towards one destination. For one caller at a time."""

    def __init__(self, queues: ForwardQueue, queue: str) -> None:
        self._queues = queues
        self._queue = queue
        self._leased_to: dict[int, int] = {}  # by priority
        self._once_leased_to: dict[int, int] = {}
        # All that is left to lease; None: it has to be read.
        self._fresh: _Fresh | None = None if queues._newest else {}
        self.fresh_bytes = 0  # what `_fresh` takes
        self._releases = 0

    async def lease(self, limit: int = UPSTREAM_BATCH) -> tuple[LeasedMessage, ...]:
        """The next messages nobody has leased, the first priority first; empty if there are none."""
        if self._fresh:
            return self._lease_fresh(self._fresh, limit)
        releases = self._releases
        self._fresh, self.fresh_bytes = {}, 0  # what is stored from now on
        try:
            leased, reached = await self._read(limit)
        except BaseException:
            self.read_again()
            raise
        if releases != self._releases:
            return ()  # released meanwhile: leasing begins at the head again
        self._leased_to = reached
        for one in leased:
            priority = one.message.priority
            self._once_leased_to[priority] = max(one.offset, self._once_leased_to.get(priority, 0))
        if len(leased) >= limit:
            self.read_again()
        elif self._fresh is not None:
            self._forget_leased(self._fresh)
        return tuple(leased)

    async def _read(self, limit: int) -> tuple[list[LeasedMessage], dict[int, int]]:
        """The next messages in the store, and up to where each priority is leased with them."""
        queues, reached = self._queues, dict(self._leased_to)
        newest, now_ms = queues._newest, queues._clock.milliseconds()
        priorities = select(_lane.priority).where((_lane.queue == self._queue) & (_lane.messages > 0)).distinct()

        def work(connection: Connection) -> list[LeasedMessage]:
            found: list[LeasedMessage] = []
            for priority in connection.execute(priorities.order_by(_lane.priority)).scalars().all():
                query = self._after(priority, reached.get(priority, 0), now_ms).limit(limit - len(found))
                rows = connection.execute(query).all()
                again = self._sent_to(connection, priority)
                found += [LeasedMessage(row[0], QueuedMessage(*row[1:]), row[0] <= again) for row in rows]
                last = rows[-1][0] if rows else 0
                # What is not yet said to be stored may have been read already: never back.
                reached[priority] = last if len(found) >= limit else max(last, newest, reached.get(priority, 0))
                if len(found) >= limit:
                    break
            return found

        return await queues._database.read(work), reached

    # From memory ------------------------------------------------------------------------------------------------------

    def stored(self, first: int, messages: Sequence[QueuedMessage]) -> None:
        """These were stored right behind what was stored before, some of them for this lane; `first` is an offset."""
        fresh, queue = self._fresh, self._queue
        if fresh is None:
            return
        for offset, message in enumerate(messages, first):
            priority = message.priority
            if message.queue != queue or offset <= self._leased_to.get(priority, 0):
                continue
            self.fresh_bytes += _held(message)
            if priority not in fresh:
                fresh[priority] = deque()
            fresh[priority].append(LeasedMessage(offset, message))

    def read_again(self) -> None:
        """What is stored is not, or not only, what was told; or it shall not be kept."""
        self._fresh, self.fresh_bytes = None, 0

    def _forget_leased(self, fresh: _Fresh) -> None:
        """Some of what was stored during a reading was read too."""
        for priority, waiting in list(fresh.items()):
            while waiting and waiting[0].offset <= self._leased_to.get(priority, 0):
                self.fresh_bytes -= _held(waiting.popleft().message)
            if not waiting:
                del fresh[priority]

    def _lease_fresh(self, fresh: _Fresh, limit: int) -> tuple[LeasedMessage, ...]:
        now_ms = self._queues._clock.milliseconds()
        leased: list[LeasedMessage] = []
        for priority in sorted(fresh):
            waiting = fresh[priority]
            while waiting and len(leased) < limit:
                one = waiting.popleft()
                message = one.message
                self.fresh_bytes -= _held(message)
                self._leased_to[priority] = self._once_leased_to[priority] = one.offset
                if not message.expires_ms or message.expires_ms > now_ms:
                    leased.append(one)
            if not waiting:
                del fresh[priority]
        return tuple(leased)

    def _sent_to(self, connection: Connection, priority: int) -> int:
        """Up to where messages may have been sent before; after a start, what can have been under way at its end."""
        if priority not in self._once_leased_to:
            mine = (_row.queue == self._queue) & (_row.priority == priority) & (_row.seq <= self._queues._opened_at)
            first = select(_row.seq).where(mine).order_by(_row.seq).limit(UPSTREAM_UNFORGOTTEN).subquery()
            self._once_leased_to[priority] = connection.execute(select(func.max(first.c.seq))).scalar() or 0
        return self._once_leased_to[priority]

    def _after(self, priority: int, offset: int, now_ms: int) -> Select[Any]:
        query = select(queued_messages).where((_row.queue == self._queue) & (_row.priority == priority))
        alive = or_(_row.expires_ms == 0, _row.expires_ms > now_ms)
        return query.where((_row.seq > offset) & alive).order_by(_row.seq)

    def release(self) -> None:
        """What was leased and not acknowledged is leased again, from the head: the connection is lost."""
        self._releases += 1
        self._leased_to = {}
        self.read_again()

    async def ack(self, offsets: Iterable[int]) -> None:
        """These messages have arrived; forget them. Offsets that are not in the queue are fine."""
        await self._queues.forget(_runs(offsets))

    async def wait_for_new(self, wait_seconds: float) -> bool:
        """Wait until something can be leased, at most `wait_seconds`. Whether it can now, or the store has to tell."""
        queues, deadline = self._queues, time.monotonic() + wait_seconds
        while self._fresh is not None and not self._fresh:
            news = queues._news
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                async with asyncio.timeout(min(left, EVENT_POLL_SECONDS)):
                    await news.wait()
            except TimeoutError:  # another process may have stored something
                newest = await queues._database.read(_newest)
                if newest > queues._newest:
                    queues._newest = newest
                    queues._read_again()
        return True


def _head(connection: Connection, lane: Any) -> int:
    mine = (_row.queue == lane.queue) & (_row.priority == lane.priority) & (_row.input == lane.input)
    return connection.execute(select(_row.enqueued_ms).where(mine).order_by(_row.seq).limit(1)).scalar() or 0


def _newest(connection: Connection) -> int:
    return connection.execute(select(func.max(_row.seq))).scalar() or 0


def _held(message: QueuedMessage) -> int:
    """What it takes to have a message in memory."""
    return len(message.body) + len(message.properties) + QUEUE_FRESH_MESSAGE_BYTES


def _nobody(dropped: Sequence[Dropped]) -> None:
    """Nobody wants to know."""


def _settle(outcome: asyncio.Future[None], error: BaseException | None) -> None:
    if outcome.done():  # who waited has been cancelled
        return
    if error is None:
        outcome.set_result(None)
    else:
        outcome.set_exception(error)


def _runs(offsets: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending ranges without gaps: acknowledgements mostly come in order."""
    ordered = sorted(set(offsets))
    runs = []
    for _key, members in groupby(enumerate(ordered), lambda pair: pair[1] - pair[0]):
        run = [offset for _position, offset in members]
        runs.append((run[0], run[-1]))
    return runs
