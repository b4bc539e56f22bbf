"""The gateway's forward queue, on every engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest_asyncio

from edgetrust.clock import ManualClock
from edgetrust.errors import UnavailableError
from edgetrust.store.appending import Stored, size_of
from edgetrust.store.engine import Database
from edgetrust.store.lanes import Lane, LeasedMessage, QueuedMessage
from edgetrust.store.queue_accounts import Dropped
from edgetrust.store.queues import ForwardQueue
from edgetrust.store.records import at_moment
from support.database import Outcomes, queued


@pytest_asyncio.fixture
async def queue(database: Database) -> AsyncIterator[ForwardQueue]:
    opened = await ForwardQueue.open(database)
    yield opened
    await opened.close()


async def append(queue: ForwardQueue, *numbers: int) -> None:
    done = Outcomes()
    queue.append([queued(number) for number in numbers], done)
    assert await done.wait() == [None]


def up(queue: ForwardQueue) -> Lane:
    return queue.lane("$upstream")


async def leased(queue: ForwardQueue, limit: int = 100) -> list[int]:
    return [stored.message.enqueued_ms - 1_700_000_000_000 for stored in await up(queue).lease(limit)]


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
    first = await up(queue).lease(10)
    await up(queue).ack(stored.offset for stored in first if stored.offset % 3)
    up(queue).release()
    assert [stored.offset for stored in await up(queue).lease()] == [
        stored.offset for stored in first if stored.offset % 3 == 0
    ]
    await up(queue).ack(stored.offset for stored in first)
    up(queue).release()
    assert await leased(queue) == []


async def test_a_release_while_leasing_wins(queue: ForwardQueue) -> None:
    await append(queue, 0, 1)
    leasing = asyncio.create_task(up(queue).lease())
    await asyncio.sleep(0)
    up(queue).release()
    assert await leasing == ()
    assert await leased(queue) == [0, 1]


async def test_sizes_are_exact(queue: ForwardQueue) -> None:
    empty = await queue.status()
    assert (empty.messages, empty.bytes, empty.oldest_at) == (0, 0, None)
    messages = [queued(number, properties="\u00e4" * number) for number in range(10)]
    done = Outcomes()
    queue.append(messages, done)
    await done.wait()
    full = await queue.status()
    assert (full.messages, full.bytes) == (10, size_of(messages))
    assert full.oldest_at == at_moment(1_700_000_000_000)
    taken = await up(queue).lease(4)
    await up(queue).ack([stored.offset for stored in taken])
    await up(queue).ack([stored.offset for stored in taken])
    rest = await queue.status()
    assert (rest.messages, rest.bytes) == (6, size_of(messages[4:]))
    assert rest.oldest_at == at_moment(1_700_000_000_004)
    await up(queue).ack([])
    await up(queue).ack(range(1, 11))
    assert await queue.status() == empty


async def test_a_full_queue_takes_nothing_until_it_drains(database: Database) -> None:
    queue = await ForwardQueue.open(database, limit_bytes=1000)
    outcomes = [Outcomes() for _number in range(4)]
    for number, done in enumerate(outcomes):
        queue.append([queued(number, body=bytes(391), properties="")], done)
    for done in outcomes:
        await done.wait()
    assert [done.told for done in outcomes[:2]] == [[None], [None]]
    for done in outcomes[2:]:
        error = done.told[0]
        assert isinstance(error, UnavailableError)
        assert error.reason == "queue-full"
    assert await leased(queue) == [0, 1]
    up(queue).release()
    await up(queue).ack([(await up(queue).lease(1))[0].offset])
    refused = Outcomes()
    queue.append([queued(8, body=b"", properties="")], refused)
    await refused.wait()
    assert isinstance(refused.told[0], UnavailableError)  # it must not overtake what was refused before it
    queue.resume()
    await append(queue, 9)
    assert await leased(queue) == [1, 9]
    await queue.close()


async def test_old_messages_expire(queue: ForwardQueue) -> None:
    await append(queue, *range(10))
    assert await queue.expire(at_moment(1_700_000_000_003)) == [
        Dropped("device", None, f"number={number}") for number in range(3)
    ]
    assert await queue.expire(at_moment(1_700_000_000_003)) == []
    assert await leased(queue) == [3, 4, 5, 6, 7, 8, 9]
    assert len(await queue.expire(at_moment(1_800_000_000_000))) == 7
    assert (await queue.status()).messages == 0


async def test_what_was_read_before_it_was_told_is_not_leased_twice(queue: ForwardQueue) -> None:
    told: list[Stored] = []
    committed, queue._appender._committed = queue._appender._committed, told.append
    await append(queue, 1)
    assert await leased(queue) == [1]
    committed(told.pop())
    assert await leased(queue) == []
    await append(queue, 2)
    reading = asyncio.create_task(leased(queue))
    await asyncio.sleep(0)
    committed(told.pop())
    assert await reading == [2]
    assert await leased(queue) == []


async def test_what_is_dropped_is_not_leased_from_memory(queue: ForwardQueue) -> None:
    assert await leased(queue) == []
    await append(queue, *range(3))
    assert len(await queue.expire(at_moment(1_800_000_000_000))) == 3
    assert await leased(queue) == []
    await append(queue, 3)
    assert await leased(queue) == [3]


async def test_waiting_for_something_to_lease(queue: ForwardQueue) -> None:
    assert not await up(queue).wait_for_new(0.01)
    waiting = asyncio.create_task(up(queue).wait_for_new(20))
    await asyncio.sleep(0)
    await append(queue, 1)
    assert await waiting
    assert await leased(queue) == [1]
    assert not await up(queue).wait_for_new(0.01)
    up(queue).release()
    assert await up(queue).wait_for_new(0)
    await up(queue).ack(range(1, 11))
    assert await leased(queue) == []
    assert not await up(queue).wait_for_new(0.01)  # an empty queue is waited for, not asked again and again


async def test_everything_is_there_after_a_restart(durable_url: str) -> None:
    database = Database(durable_url)
    await database.migrate()
    queue = await ForwardQueue.open(database)
    await append(queue, *range(10))
    taken = await up(queue).lease(6)
    await up(queue).ack(stored.offset for stored in taken[:3])
    await queue.close()
    await database.close()

    database = Database(durable_url)
    queue = await ForwardQueue.open(database)
    assert (await queue.status()).messages == 7
    assert await up(queue).wait_for_new(0)
    assert await leased(queue) == [3, 4, 5, 6, 7, 8, 9]
    await queue.close()
    await database.close()


async def test_another_process_may_append(durable_url: str) -> None:
    here, there = Database(durable_url), Database(durable_url)
    await here.migrate()
    draining, filling = await ForwardQueue.open(here), await ForwardQueue.open(there)
    await append(filling, 1)
    assert await up(draining).wait_for_new(20)
    assert await leased(draining) == [1]
    assert await draining.status() == await filling.status()
    for queue in (draining, filling):
        await queue.close()
    for database in (here, there):
        await database.close()


# Several destinations -----------------------------------------------------------------------------------------------


def numbers(leased: Iterable[LeasedMessage]) -> list[int]:
    return [one.message.enqueued_ms - 1_700_000_000_000 for one in leased]


async def put(queue: ForwardQueue, *messages: QueuedMessage) -> None:
    done = Outcomes()
    queue.append(messages, done)
    assert await done.wait() == [None]


async def test_each_destination_has_a_queue_of_its_own(queue: ForwardQueue) -> None:
    await put(queue, queued(0), queued(0, queue="filter", input="in1"), queued(1, queue="filter", input="in2"))
    here = queue.lane("filter")
    found = await here.lease()
    assert [(one.message.body, one.message.input, one.again) for one in found] == [
        (b"body 0", "in1", False),
        (b"body 1", "in2", False),
    ]
    await here.ack([found[0].offset])
    here.release()
    assert [(one.message.input, one.again) for one in await here.lease()] == [("in2", True)]
    assert await leased(queue) == [0]
    assert await queue.lane("other").lease() == ()


async def test_the_first_priority_goes_first_and_each_keeps_its_order(queue: ForwardQueue) -> None:
    lane = up(queue)
    await put(queue, *(queued(number, priority=(5, 0, 2_000_000_000)[number % 3]) for number in range(9)))
    assert numbers(await lane.lease(4)) == [1, 4, 7, 0]
    await put(queue, queued(9, priority=0), queued(10, priority=5))
    assert numbers(await lane.lease(4)) == [9, 3, 6, 10]
    assert numbers(await lane.lease(4)) == [2, 5, 8]
    lane.release()
    assert numbers(await lane.lease()) == [1, 4, 7, 9, 0, 3, 6, 10, 2, 5, 8]


async def test_what_has_expired_is_not_leased_and_then_dropped(database: Database, clock: ManualClock) -> None:
    queue = await ForwardQueue.open(database, clock=clock)
    soon = clock.milliseconds() + 1000
    await put(queue, queued(0), queued(1, expires_ms=soon), queued(2, expires_ms=soon + 1000), queued(3))
    assert await queue.expire_due() == []
    clock.advance(1)
    assert numbers(await up(queue).lease()) == [0, 2, 3]
    assert [one.properties for one in await queue.expire_due()] == ["number=1"]
    assert (await queue.status()).messages == 3
    clock.advance(1)
    assert [one.properties for one in await queue.expire_due()] == ["number=2"]
    await queue.close()


async def test_sizes_of_each_destination_and_priority(queue: ForwardQueue) -> None:
    await put(queue, queued(0), queued(1, priority=3), queued(2, queue="filter", input="in"), queued(3))
    lanes = {(lane.queue, lane.input, lane.priority): lane for lane in await queue.lanes()}
    assert {lane: (is_.messages, is_.oldest_at) for lane, is_ in lanes.items()} == {
        ("$upstream", "", 3): (1, at_moment(1_700_000_000_001)),
        ("$upstream", "", 2_000_000_000): (2, at_moment(1_700_000_000_000)),
        ("filter", "in", 2_000_000_000): (1, at_moment(1_700_000_000_002)),
    }
    assert sum(lane.bytes for lane in lanes.values()) == (await queue.status()).bytes
    await up(queue).ack(one.offset for one in await up(queue).lease())
    assert [lane.messages for lane in await queue.lanes()] == [0, 0, 1]


async def test_acknowledged_one_by_one_between_those_of_others(queue: ForwardQueue) -> None:
    await put(queue, *(queued(number, queue=("$upstream", "m")[number % 2]) for number in range(40)))
    await up(queue).ack(one.offset for one in await up(queue).lease())
    up(queue).release()
    assert await leased(queue) == []
    assert numbers(await queue.lane("m").lease()) == list(range(1, 40, 2))


async def test_a_full_queue_that_may_makes_room_from_the_last_priority_the_oldest_first(database: Database) -> None:
    queue = await ForwardQueue.open(database)
    dropped: list[str] = []
    queue.dropped = lambda gone: dropped.extend(one.properties for one in gone)
    queue.limit(400, drop_oldest=True)
    own = {"body": bytes(92)}  # a hundred bytes with the eight or so of "number=N"
    await put(queue, queued(0, priority=1, **own), queued(1, **own), queued(2, queue="m", **own), queued(3, **own))
    await put(queue, queued(4, priority=1, **own))
    await put(queue, queued(5, priority=1, **own), queued(6, priority=1, **own))
    assert (await queue.status()).messages == 4
    await put(queue, queued(7, **own))  # what comes last in everything is what goes
    await asyncio.sleep(0)
    assert dropped == [f"number={number}" for number in (1, 2, 3, 7)]
    assert numbers(await up(queue).lease()) == [0, 4, 5, 6]
    assert (await queue.status()).bytes == 400
    await queue.close()
