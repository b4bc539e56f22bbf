"""Retention of the event log, on every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from edgetrust.limits import TRIM_STEP_ROWS
from edgetrust.store import retention
from edgetrust.store.engine import Database
from edgetrust.store.events import EventLog
from edgetrust.store.records import at_moment
from edgetrust.store.retention import EventPolicy, EventTrimmer, Trimmed
from support.database import Outcomes, message

DAY = timedelta(days=1)
NOW = at_moment(1_700_000_000_000)  # the time of message 0
Append = Callable[..., Any]


@pytest_asyncio.fixture
async def log(database: Database) -> AsyncIterator[EventLog]:
    opened = await EventLog.open(database)
    yield opened
    await opened.close()


@pytest.fixture
def append(log: EventLog) -> Append:
    async def appended(*numbers: int, **fields: Any) -> None:
        done = Outcomes()
        log.append([message(number, **fields) for number in numbers], done)
        assert await done.wait() == [None]

    return appended


async def left(log: EventLog) -> list[int]:
    return [event.offset for event in (await log.read(0)).events]


def later(milliseconds: int, days: float = 1) -> datetime:
    return NOW + timedelta(days=days, milliseconds=milliseconds)


async def test_by_age(database: Database, log: EventLog, append: Append) -> None:
    await append(*range(100))
    newest, trimmer = await log.newest(), EventTrimmer(database, EventPolicy(DAY, None, DAY))
    assert await trimmer.trim(NOW) == Trimmed(0, 0)
    assert await trimmer.trim(later(40)) == Trimmed(40, 0)
    assert (await log.read(0)).events[0].message == message(40)
    assert await trimmer.trim(later(1_000)) == Trimmed(60, 0)
    assert await trimmer.trim(later(1_000)) == Trimmed(0, 0)
    await append(100)
    assert await log.newest() > newest


async def test_by_size(database: Database, log: EventLog, append: Append) -> None:
    await append(*range(10), body=b"x" * 90, properties="p" * 10)
    trimmer = EventTrimmer(database, EventPolicy(None, 600, DAY))
    assert await trimmer.trim(NOW) == Trimmed(0, 4)
    assert trimmer.bytes == 600
    assert len(await left(log)) == 6
    await append(10, body=b"x" * 250, properties="")
    assert await trimmer.trim(NOW) == Trimmed(0, 3)
    assert trimmer.bytes == 550
    assert await trimmer.trim(NOW) == Trimmed(0, 0)


async def test_age_and_size_together(database: Database, log: EventLog, append: Append) -> None:
    await append(*range(10), body=b"x" * 100, properties="")
    trimmer = EventTrimmer(database, EventPolicy(DAY, 500, DAY))
    assert await trimmer.trim(later(2)) == Trimmed(2, 3)
    assert await trimmer.trim(later(1_000)) == Trimmed(5, 0)
    assert trimmer.bytes == 0


async def test_many_steps(database: Database, log: EventLog, append: Append) -> None:
    await append(*range(2 * TRIM_STEP_ROWS + 5))
    assert await EventTrimmer(database, EventPolicy(DAY, None, DAY)).trim(later(9_000)) == Trimmed(4_005, 0)


async def test_large_events_go_in_small_steps(
    database: Database, log: EventLog, append: Append, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "TRIM_STEP_BYTES", 200)
    await append(*range(7), body=b"x" * 100, properties="")
    trimmer = EventTrimmer(database, EventPolicy(DAY, None, DAY))
    first = await database.write(lambda connection: trimmer._remove(connection, later(9_000)))
    assert first.by_age == 2
    assert await trimmer.trim(later(9_000)) == Trimmed(5, 0)


async def test_a_consumer_protects_what_it_has_not_dealt_with(
    database: Database, log: EventLog, append: Append
) -> None:
    await append(*range(10))
    offsets = await left(log)
    trimmer = EventTrimmer(database, EventPolicy(DAY, 10, 2 * DAY))
    await log.consume("slow", offsets[2], NOW)
    await log.consume("fast", offsets[8], NOW)
    assert await trimmer.trim(later(1_000)) == Trimmed(3, 0)
    await log.consume("slow", offsets[4], NOW)
    assert await trimmer.trim(later(1_000)) == Trimmed(2, 0)
    assert await trimmer.trim(later(1_000, days=2)) == Trimmed(5, 0)  # neither has said anything for two days


async def test_without_protection(database: Database, log: EventLog, append: Append) -> None:
    await append(*range(10))
    await log.consume("slow", 0, NOW)
    assert await EventTrimmer(database, EventPolicy(DAY, None, timedelta())).trim(later(1_000)) == Trimmed(10, 0)


async def test_a_log_that_another_process_has_shortened_is_counted_anew(
    database: Database, log: EventLog, append: Append
) -> None:
    await append(*range(10), body=b"x" * 100, properties="")
    first = EventTrimmer(database, EventPolicy(None, 800, DAY))
    second = EventTrimmer(database, EventPolicy(None, 300, DAY))
    assert await first.trim(NOW) == Trimmed(0, 2)
    assert await second.trim(NOW) == Trimmed(0, 5)
    await append(10, body=b"x" * 100, properties="")
    assert await first.trim(NOW) == Trimmed(0, 0)
    assert first.bytes == 400


async def test_an_empty_log(database: Database, log: EventLog) -> None:
    trimmer = EventTrimmer(database, EventPolicy(DAY, 1, DAY))
    assert await trimmer.trim(NOW) == Trimmed(0, 0)
    assert trimmer.bytes == 0
