"""The event log: every device-to-cloud message the hub has accepted, in the order of acceptance.

Rules: offsets grow and are never used twice; who has read up to an offset has missed nothing below it, whichever
process stored it. A consumer is a name with the offset it has dealt with. What is forgotten, and when:
`retention`. What a gateway hands on a second time is not stored again, where its id shows that (`repeats`); what a
device sends itself always is, as on the cloud service.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from edgetrust.limits import APPEND_BACKLOG_BYTES, EVENT_POLL_SECONDS, PAGE_ITEMS
from edgetrust.protocol.messages import Forwarded, Message
from edgetrust.protocol.repeats import Mark, mark_of
from edgetrust.store.appending import Appender, Columns, Done, Row, Stored
from edgetrust.store.engine import Database
from edgetrust.store.records import milliseconds
from edgetrust.store.repeats import Repeats, forget_old
from edgetrust.store.schema import consumers, events
from edgetrust.telemetry import MESSAGES_REPEATED


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message and its place."""

    offset: int
    message: Message


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events in order. Reading goes on after `read_to`, which is behind the last one when others were filtered out."""

    events: tuple[StoredMessage, ...]
    read_to: int


class EventLog:
    """Make it with `await EventLog.open(database)` on the loop that appends. Methods raise the store's errors."""

    def __init__(self, database: Database, newest: int, backlog: int) -> None:
        self._database = database
        self._newest = newest
        self._news = asyncio.Event()
        self._appender = Appender(database, Columns(events.name), self._committed, _Once(), backlog=backlog)

    @classmethod
    async def open(cls, database: Database, *, backlog: int = APPEND_BACKLOG_BYTES) -> EventLog:
        """The log in a migrated database. `backlog`: bytes that may wait in memory for the disk."""
        return cls(database, await database.read(_newest), backlog)

    def append(self, messages: Sequence[Message], done: Done) -> None:
        """Store `messages`; `done(None)` after the commit, `done(error)` if that failed. Returns at once."""
        self._appender.append(messages, done)

    @property
    def waiting_bytes(self) -> int:
        """What waits in memory for the disk."""
        return self._appender.waiting_bytes

    async def close(self) -> None:
        """Store and answer what waits."""
        await self._appender.close()

    def _committed(self, stored: Stored) -> None:
        self._newest = max(self._newest, stored.last)
        self._news.set()
        self._news = asyncio.Event()

    async def forget_repeats(self, now: datetime) -> int:
        """Forget what was taken too long ago to be recognised; how many."""
        return await forget_old(self._database, milliseconds(now))

    # -- reading ------------------------------------------------------------------------------------------------------

    async def read(
        self,
        after: int,
        limit: int = PAGE_ITEMS,
        *,
        device: str | None = None,
        module: str | None = None,
        since: datetime | None = None,
    ) -> EventPage:
        """The next events after an offset, those of one device, of one of its modules, or from a time on if asked."""
        query = select(events).where(events.c.seq > after).order_by(events.c.seq).limit(limit)
        if device is not None:
            query = query.where(events.c.device == device)
        if module is not None:
            query = query.where(events.c.module == module)
        if since is not None:
            query = query.where(events.c.enqueued_ms >= milliseconds(since))

        def work(connection: Connection) -> EventPage:
            newest = _newest(connection)
            found = tuple(StoredMessage(row[0], Message(*row[1:])) for row in connection.execute(query))
            return EventPage(found, found[-1].offset if len(found) == limit and found else max(after, newest))

        return await self._database.read(work)

    async def newest(self) -> int:
        """The offset of the newest event, 0 if there is none."""
        return await self._database.read(_newest)

    async def wait_for(self, after: int, wait_seconds: float) -> bool:
        """Wait until there is an event after the offset, at most `wait_seconds`. Whether there is one now."""
        deadline = time.monotonic() + wait_seconds
        while self._newest <= after:
            news = self._news
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                async with asyncio.timeout(min(left, EVENT_POLL_SECONDS)):
                    await news.wait()
            except TimeoutError:  # another process may have stored something
                self._newest = max(self._newest, await self.newest())
        return True

    # -- consumers ----------------------------------------------------------------------------------------------------

    async def consumed(self, name: str) -> int:
        """The offset that the consumer has dealt with, 0 for a new one."""
        query = select(consumers.c.seq).where(consumers.c.name == name)
        return await self._database.read(lambda connection: connection.execute(query).scalar()) or 0

    async def is_consumer(self, name: str) -> bool:
        """Whether anybody of this name has ever said how far it is."""
        query = select(consumers.c.seq).where(consumers.c.name == name)
        return await self._database.read(lambda connection: connection.execute(query).first()) is not None

    async def consume(self, name: str, offset: int, at: datetime) -> None:
        """Remember that the consumer has dealt with everything up to the offset. It may also go back."""
        row = {"seq": offset, "updated_ms": milliseconds(at)}

        def work(connection: Connection) -> None:
            if connection.execute(update(consumers).where(consumers.c.name == name).values(row)).rowcount == 0:
                connection.execute(insert(consumers).values(name=name, **row))

        await self._database.write(work)


def _newest(connection: Connection) -> int:
    return connection.execute(select(func.max(events.c.seq))).scalar() or 0


class _Once:
    """What gateways hand on is stored once. On the appender's thread."""

    def __init__(self) -> None:
        self._repeats = Repeats(_mark)

    def concerns(self, messages: Sequence[Row]) -> bool:
        return self._repeats.concern(messages)

    def choose(self, cursor: Any, dialect: str, messages: Sequence[Row]) -> Sequence[Row]:
        return self._repeats.without(cursor, dialect, messages)

    def taking(self, cursor: Any, dialect: str, messages: Sequence[Row]) -> None:
        """Nothing more."""

    def taken(self) -> None:
        MESSAGES_REPEATED.inc(len(self._repeats.found()))


def _mark(message: Message) -> Mark | None:
    return mark_of(message) if type(message) is Forwarded else None
