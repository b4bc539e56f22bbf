"""A lane: the queue towards one destination, as its one drainer sees it.

Rules: `queues`, to which it belongs. Who drains as fast as messages come is given them from memory, after their commit,
and nothing is read: a lane that was read to its end keeps what is stored behind that, until all lanes have too much,
somebody else has stored or dropped something, or it is released. Then it is read again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection, Select, func, or_, select

from edgetrust.clock import Clock
from edgetrust.limits import EVENT_POLL_SECONDS, QUEUE_FRESH_MESSAGE_BYTES, UPSTREAM_BATCH, UPSTREAM_UNFORGOTTEN
from edgetrust.protocol.edge_routes import LOWEST_PRIORITY, UPSTREAM
from edgetrust.store.engine import Database
from edgetrust.store.queue_tables import queue_lanes, queued_messages

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


class Queues(Protocol):
    """What the lanes of one store have in common: the ForwardQueue."""

    newest: int  # the last offset that is known to be stored
    news: asyncio.Event  # set when something is, and replaced

    @property
    def database(self) -> Database: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def opened_at(self) -> int:
        """What was the newest at the start."""
        ...

    def read_again(self) -> None:
        """Let every lane read again."""
        ...

    async def forget(self, runs: Sequence[tuple[int, int]]) -> None:
        """Remove what has arrived: offsets, from and to."""
        ...


_Fresh = dict[int, deque[LeasedMessage]]  # by priority


class Lane:
    """The queue towards one destination. For one caller at a time."""

    def __init__(self, queues: Queues, queue: str) -> None:
        self._queues = queues
        self._queue = queue
        self._leased_to: dict[int, int] = {}  # by priority
        self._once_leased_to: dict[int, int] = {}
        # All that is left to lease; None: it has to be read.
        self._fresh: _Fresh | None = None if queues.newest else {}
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
        newest, now_ms = queues.newest, queues.clock.milliseconds()
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

        return await queues.database.read(work), reached

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
        now_ms = self._queues.clock.milliseconds()
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
            mine = (_row.queue == self._queue) & (_row.priority == priority) & (_row.seq <= self._queues.opened_at)
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
            news = queues.news
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                async with asyncio.timeout(min(left, EVENT_POLL_SECONDS)):
                    await news.wait()
            except TimeoutError:  # another process may have stored something
                newest = await queues.database.read(newest_offset)
                if newest > queues.newest:
                    queues.newest = newest
                    queues.read_again()
        return True


def newest_offset(connection: Connection) -> int:
    """The last that is in any queue, 0 when they are empty."""
    return connection.execute(select(func.max(_row.seq))).scalar() or 0


def _held(message: QueuedMessage) -> int:
    """What it takes to have a message in memory."""
    return len(message.body) + len(message.properties) + QUEUE_FRESH_MESSAGE_BYTES


def _runs(offsets: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending ranges without gaps: acknowledgements mostly come in order."""
    ordered = sorted(set(offsets))
    runs = []
    for _key, members in groupby(enumerate(ordered), lambda pair: pair[1] - pair[0]):
        run = [offset for _position, offset in members]
        runs.append((run[0], run[-1]))
    return runs
