"""What came before is not stored again, on every engine: in a gateway's queues, and in a hub's log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import func, select

from edgetrust.clock import ManualClock
from edgetrust.errors import UnavailableError
from edgetrust.limits import REPEATS_SECONDS
from edgetrust.protocol.messages import Forwarded
from edgetrust.protocol.repeats import Recognition
from edgetrust.store import repeats
from edgetrust.store.engine import Database
from edgetrust.store.events import EventLog
from edgetrust.store.lanes import QueuedMessage
from edgetrust.store.queues import ForwardQueue
from edgetrust.store.records import at_moment
from edgetrust.store.repeat_tables import recent_messages
from edgetrust.telemetry import MESSAGES_REPEATED
from support.database import Outcomes, message, queued

DUP = "&mqtt-dup=true"


@pytest_asyncio.fixture
async def queue(database: Database) -> AsyncIterator[ForwardQueue]:
    opened = await ForwardQueue.open(database)
    yield opened
    await opened.close()


def sent(name: str, body: bytes = b"1", *, again: bool = False, at: int = 0, **fields: Any) -> QueuedMessage:
    made: QueuedMessage = queued(at, body=body, properties=f"%24.mid={name}{DUP if again else ''}", **fields)
    return made


async def put(queue: ForwardQueue | EventLog, *messages: Any) -> list[BaseException | None]:
    done = Outcomes()
    queue.append(messages, done)
    return await done.wait()


async def waiting(queue: ForwardQueue, name: str = "$upstream") -> list[bytes]:
    lane = queue.lane(name)
    lane.release()
    return [one.message.body for one in await lane.lease()]


async def remembered(database: Database) -> int:
    count = select(func.count()).select_from(recent_messages)
    return int(await database.read(lambda connection: connection.execute(count).scalar()) or 0)


async def test_what_is_sent_again_is_acknowledged_and_told_and_not_stored(queue: ForwardQueue) -> None:
    told: list[str] = []
    queue.repeated = lambda found: told.extend(one.device for one in found)
    assert await put(queue, sent("a"), sent("b", b"2")) == [None]
    assert await put(queue, sent("a", again=True), sent("b", b"2", again=True), sent("c", b"3", again=True)) == [None]
    assert await put(queue, sent("c", b"3", again=True)) == [None]
    assert await waiting(queue) == [b"1", b"2", b"3"]
    assert told == ["device"] * 3
    assert (await queue.status()).messages == 3


async def test_only_what_is_equal_and_marked_counts_as_the_same(queue: ForwardQueue) -> None:
    first = sent("a")
    await put(queue, first)
    await put(queue, first)  # not marked
    await put(queue, sent("a", b"2", again=True))  # another body
    await put(queue, sent("a", again=True, device="other"), sent("a", again=True, module="m"))
    await put(queue, *[queued(0, body=b"1", properties=f"mqtt-dup=true{number}"[:13]) for number in range(2)])  # no id
    assert await waiting(queue) == [b"1", b"1", b"2", b"1", b"1", b"1", b"1"]


async def test_with_same_id_the_mark_is_not_needed_and_off_knows_nothing(queue: ForwardQueue) -> None:
    queue.recognise(Recognition.SAME_ID)
    await put(queue, sent("a"), sent("a"), sent("a", b"2"))
    await put(queue, sent("a"))
    assert await waiting(queue) == [b"1", b"2"]
    queue.recognise(Recognition.OFF)
    await put(queue, sent("a", again=True))
    assert await waiting(queue) == [b"1", b"2", b"1"]


async def test_each_destination_gets_it_once(queue: ForwardQueue) -> None:
    await put(queue, sent("a"), sent("a", queue="filter", input="in"))
    routes_changed = [sent("a", again=True, queue="filter", input="in"), sent("a", again=True, queue="new", input="in")]
    await put(queue, sent("a", again=True), *routes_changed)
    assert [await waiting(queue, name) for name in ("$upstream", "filter", "new")] == [[b"1"]] * 3


async def test_it_is_recognised_after_a_crash_and_when_it_has_left(database: Database) -> None:
    before = await ForwardQueue.open(database)
    await put(before, sent("a"), sent("b", b"2"))
    lane = before.lane("$upstream")
    await lane.ack([(await lane.lease(1))[0].offset])  # never closed: as after SIGKILL
    queue = await ForwardQueue.open(database)
    await put(queue, sent("a", again=True), sent("b", b"2", again=True))
    assert await waiting(queue) == [b"2"]
    await queue.close()
    await before.close()


async def test_what_a_full_queue_refused_is_not_remembered(database: Database) -> None:
    queue = await ForwardQueue.open(database)
    queue.limit(5, drop_oldest=False)
    (error,) = await put(queue, sent("a"))
    assert isinstance(error, UnavailableError)
    queue.limit(1000, drop_oldest=False)
    queue.resume()
    assert await put(queue, sent("a", again=True)) == [None]
    queue.limit(5, drop_oldest=False)
    assert await put(queue, sent("a", again=True)) == [None]  # nothing to store: a full queue does not matter
    assert await waiting(queue) == [b"1"]
    await queue.close()


async def test_so_many_of_each_sender_are_remembered(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "REPEATS_KEPT", 8)
    monkeypatch.setattr(repeats, "_SLACK", 2)
    queue = await ForwardQueue.open(database)
    await put(queue, sent("quiet", device="quiet"))
    for number in range(30):
        await put(queue, sent(str(number)))
        assert await remembered(database) <= 1 + 8 + 2
    await put(queue, *(sent(str(number), again=True) for number in range(22, 30)))
    await put(queue, sent("quiet", again=True, device="quiet"))
    assert (await queue.status()).messages == 31  # the last eight, and whoever sends little, are recognised
    await put(queue, sent("0", again=True))
    assert (await queue.status()).messages == 32
    await queue.close()


async def test_it_is_remembered_for_days_and_then_forgotten(database: Database, clock: ManualClock) -> None:
    queue = await ForwardQueue.open(database, clock=clock)
    start, end = clock.milliseconds(), REPEATS_SECONDS * 1000
    await put(queue, sent("a", enqueued_ms=start), sent("b", enqueued_ms=start + 1))
    await put(queue, sent("b", again=True, enqueued_ms=start + end))
    await put(queue, sent("a", again=True, enqueued_ms=start + end + 1))
    assert (await queue.status()).messages == 3
    assert await remembered(database) == 2  # the newer "a" instead of the old one
    assert await queue.forget_repeats() == 0
    clock.advance(REPEATS_SECONDS + 1)
    assert await queue.forget_repeats() == 1
    clock.advance(REPEATS_SECONDS + 1)
    assert await queue.forget_repeats() == 1
    assert await remembered(database) == 0
    await queue.close()


async def test_a_thousand_at_once(queue: ForwardQueue) -> None:
    many = [sent(str(number), b"%d" % number) for number in range(1200)]
    again = [sent(str(number), b"%d" % number, again=True) for number in range(1201)]
    assert await put(queue, *many) == [None]
    assert await put(queue, *again) == [None]
    assert (await queue.status()).messages == 1201


def handed_on(name: str, *, again: bool = False, **fields: Any) -> Forwarded:
    return Forwarded(*message(0, properties=f"%24.mid={name}{DUP if again else ''}", **fields))


async def bodies(log: EventLog) -> Sequence[bytes]:
    return [event.message.body for event in (await log.read(0)).events]


async def test_a_hub_stores_once_what_a_gateway_hands_on_twice(database: Database) -> None:
    log, counted = await EventLog.open(database), MESSAGES_REPEATED._value.get()
    assert await put(log, handed_on("a", body=b"1"), handed_on("b", body=b"2")) == [None]
    assert await put(log, handed_on("a", body=b"1", again=True), message(3)) == [None]
    assert await put(log, handed_on("b", body=b"2", again=True)) == [None]
    assert await bodies(log) == [b"1", b"2", b"body 3"]
    await log.close()
    log = await EventLog.open(database)
    assert await put(log, handed_on("b", body=b"2", again=True)) == [None]
    await put(log, message(4))  # nothing of the one before is counted again
    assert await bodies(log) == [b"1", b"2", b"body 3", b"body 4"]
    assert MESSAGES_REPEATED._value.get() - counted == 3
    assert await log.forget_repeats(at_moment(1_700_000_000_000) + timedelta(seconds=REPEATS_SECONDS + 1)) == 2
    await log.close()


async def test_a_hub_takes_from_a_device_whatever_it_sends(database: Database) -> None:
    """As the cloud service does: there it is for who reads the events to see `mqtt-dup`."""
    log = await EventLog.open(database)
    one = message(0, body=b"1", properties="%24.mid=a" + DUP)
    await put(log, one, one)
    assert await bodies(log) == [b"1", b"1"]
    assert await remembered(database) == 0
    await log.close()
