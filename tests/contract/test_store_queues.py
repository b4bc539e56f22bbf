"""The gateway's forward queue, on every engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from edgetrust.errors import UnavailableError
from edgetrust.store.appending import size_of
from edgetrust.store.engine import Database
from edgetrust.store.queues import ForwardQueue
from edgetrust.store.records import at_moment
from support.database import Outcomes, message


@pytest_asyncio.fixture
async def queue(database: Database) -> AsyncIterator[ForwardQueue]:
    opened = await ForwardQueue.open(database)
    yield opened
    await opened.close()


async def append(queue: ForwardQueue, *numbers: int) -> None:
    done = Outcomes()
    queue.append([message(number) for number in numbers], done)
    assert await done.wait() == [None]


async def leased(queue: ForwardQueue, limit: int = 100) -> list[int]:
    return [stored.message.enqueued_ms - 1_700_000_000_000 for stored in await queue.lease(limit)]


async def test_leased_in_order_and_once(queue: ForwardQueue) -> None:
    await append(queue, *range(10))
    assert await leased(queue, 4) == [0, 1, 2, 3]
    assert await leased(queue, 4) == [4, 5, 6, 7]
    await append(queue, 10)
    assert await leased(queue) == [8, 9, 10]
    assert await leased(queue) == []
    await append(queue, 11)
    assert await leased(queue) == [11]


async def test_what_is_not_acknowledged_comes_again_after_release(queue: ForwardQueue) -> None:
    await append(queue, *range(10))
    first = await queue.lease(10)
    await queue.ack(stored.offset for stored in first if stored.offset % 3)
    queue.release()
    assert [stored.offset for stored in await queue.lease()] == [
        stored.offset for stored in first if stored.offset % 3 == 0
    ]
    await queue.ack_up_to(first[-1].offset)
    queue.release()
    assert await leased(queue) == []


async def test_a_release_while_leasing_wins(queue: ForwardQueue) -> None:
    await append(queue, 0, 1)
    leasing = asyncio.create_task(queue.lease())
    await asyncio.sleep(0)
    queue.release()
    assert await leasing == ()
    assert await leased(queue) == [0, 1]


async def test_sizes_are_exact(queue: ForwardQueue) -> None:
    empty = await queue.status()
    assert (empty.messages, empty.bytes, empty.oldest_at) == (0, 0, None)
    messages = [message(number, properties="\u00e4" * number) for number in range(10)]
    done = Outcomes()
    queue.append(messages, done)
    await done.wait()
    full = await queue.status()
    assert (full.messages, full.bytes) == (10, size_of(messages))
    assert full.oldest_at == at_moment(1_700_000_000_000)
    taken = await queue.lease(4)
    await queue.ack([stored.offset for stored in taken])
    await queue.ack([stored.offset for stored in taken])
    rest = await queue.status()
    assert (rest.messages, rest.bytes) == (6, size_of(messages[4:]))
    assert rest.oldest_at == at_moment(1_700_000_000_004)
    await queue.ack([])
    await queue.ack_up_to(10**9)
    assert await queue.status() == empty


async def test_a_full_queue_takes_nothing_until_it_drains(database: Database) -> None:
    queue = await ForwardQueue.open(database, limit_bytes=1000)
    outcomes = [Outcomes() for _number in range(4)]
    for number, done in enumerate(outcomes):
        queue.append([message(number, body=bytes(391), properties="")], done)
    for done in outcomes:
        await done.wait()
    assert [done.told for done in outcomes[:2]] == [[None], [None]]
    for done in outcomes[2:]:
        error = done.told[0]
        assert isinstance(error, UnavailableError)
        assert error.reason == "queue-full"
    assert await leased(queue) == [0, 1]
    queue.release()
    await queue.ack_up_to((await queue.lease(1))[0].offset)
    await append(queue, 9)
    assert await leased(queue) == [1, 9]
    await queue.close()


async def test_old_messages_expire(queue: ForwardQueue) -> None:
    await append(queue, *range(10))
    assert await queue.expire(at_moment(1_700_000_000_003)) == 3
    assert await queue.expire(at_moment(1_700_000_000_003)) == 0
    assert await leased(queue) == [3, 4, 5, 6, 7, 8, 9]
    assert await queue.expire(at_moment(1_800_000_000_000)) == 7
    assert (await queue.status()).messages == 0


async def test_waiting_for_something_to_lease(queue: ForwardQueue) -> None:
    assert not await queue.wait_for_new(0.01)
    waiting = asyncio.create_task(queue.wait_for_new(20))
    await asyncio.sleep(0)
    await append(queue, 1)
    assert await waiting
    assert await leased(queue) == [1]
    assert not await queue.wait_for_new(0.01)
    queue.release()
    assert await queue.wait_for_new(0)
    await queue.ack_up_to(10**9)
    assert await leased(queue) == []
    assert not await queue.wait_for_new(0.01)  # an empty queue is waited for, not asked again and again


async def test_everything_is_there_after_a_restart(durable_url: str) -> None:
    database = Database(durable_url)
    await database.migrate()
    queue = await ForwardQueue.open(database)
    await append(queue, *range(10))
    taken = await queue.lease(6)
    await queue.ack_up_to(taken[2].offset)
    await queue.close()
    await database.close()

    database = Database(durable_url)
    queue = await ForwardQueue.open(database)
    assert (await queue.status()).messages == 7
    assert await queue.wait_for_new(0)
    assert await leased(queue) == [3, 4, 5, 6, 7, 8, 9]
    await queue.close()
    await database.close()


async def test_another_process_may_append(durable_url: str) -> None:
    here, there = Database(durable_url), Database(durable_url)
    await here.migrate()
    draining, filling = await ForwardQueue.open(here), await ForwardQueue.open(there)
    await append(filling, 1)
    assert await draining.wait_for_new(20)
    assert await leased(draining) == [1]
    assert await draining.status() == await filling.status()
    for queue in (draining, filling):
        await queue.close()
    for database in (here, there):
        await database.close()
