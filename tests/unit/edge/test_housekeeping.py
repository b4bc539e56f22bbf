"""A gateway's queue is shortened by age when it is told to, in steps, and says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio
import structlog

from edgetrust.clock import ManualClock
from edgetrust.edge.housekeeping import drop_old
from edgetrust.errors import UnavailableError
from edgetrust.store import queues
from edgetrust.store.engine import Database
from edgetrust.store.queue_accounts import Dropped
from edgetrust.store.queues import ForwardQueue
from edgetrust.store.records import at_moment
from support.database import Outcomes, queued

DAY = timedelta(days=1)


@pytest_asyncio.fixture
async def queue() -> AsyncIterator[ForwardQueue]:
    database = Database("sqlite://")
    await database.migrate()
    opened = await ForwardQueue.open(database)
    done = Outcomes()
    opened.append([queued(number) for number in range(10)], done)
    assert await done.wait() == [None]
    yield opened
    await opened.close()
    await database.close()


async def test_what_is_too_old_goes_and_is_said(queue: ForwardQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "TRIM_STEP_ROWS", 2)
    clock, dropped = ManualClock(at_moment(1_700_000_000_005) + DAY), list[Dropped]()
    with structlog.testing.capture_logs() as logs:
        await drop_old(queue, DAY, clock, dropped.extend)
        await drop_old(queue, DAY, clock, dropped.extend)
    assert [(entry["event"], entry["messages"]) for entry in logs] == [("upstream.expired", 5)]
    assert [one.properties for one in dropped] == [f"number={number}" for number in range(5)]
    status = await queue.status()
    assert (status.messages, status.oldest_at) == (5, at_moment(1_700_000_000_005))
    assert [stored.message for stored in await queue.lane("$upstream").lease()] == [
        queued(number) for number in range(5, 10)
    ]


async def test_without_an_age_nothing_is_dropped(queue: ForwardQueue) -> None:
    await drop_old(queue, None, ManualClock(at_moment(4_000_000_000_000)), fail)
    assert (await queue.status()).messages == 10


async def test_a_store_that_is_away_is_tried_again_later(queue: ForwardQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(_before: object) -> int:
        raise UnavailableError("the disk is full", reason="store-full")

    monkeypatch.setattr(queue, "expire", away)
    with structlog.testing.capture_logs() as logs:
        await drop_old(queue, DAY, ManualClock(), fail)
    assert [entry["reason"] for entry in logs] == ["store-full"]


def fail(dropped: object) -> None:
    raise AssertionError(f"nothing may be dropped: {dropped}")
