"""The event log, on every engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from edgetrust.clock import ManualClock
from edgetrust.errors import IntegrityError, UnavailableError
from edgetrust.store.engine import Database
from edgetrust.store.events import EventLog
from edgetrust.store.records import at_moment
from support.database import Outcomes, message


@pytest_asyncio.fixture
async def log(database: Database) -> AsyncIterator[EventLog]:
    opened = await EventLog.open(database)
    yield opened
    await opened.close()


async def append(log: EventLog, *numbers: int, **fields: object) -> None:
    done = Outcomes()
    log.append([message(number, **fields) for number in numbers], done)
    assert await done.wait() == [None]


async def test_what_is_appended_is_read_in_order(log: EventLog) -> None:
    await append(log, *range(700))
    page = await log.read(0, 1000)
    assert [event.message for event in page.events] == [message(number) for number in range(700)]
    offsets = [event.offset for event in page.events]
    assert offsets == sorted(set(offsets))
    assert page.read_to == offsets[-1] == await log.newest()


async def test_every_value_comes_back(log: EventLog) -> None:
    sent = message(
        1,
        device="d:1'\"%",
        module="$edgeHub",
        body=bytes(range(256)) * 4,
        properties="%24.ct=application%2Fjson&k=\u00e4\u20ac\U0001f600&empty=&novalue",
        auth_method='{"scope":"module"}',
        message_source="Will",
    )
    done = Outcomes()
    log.append([sent, message(2, body=b"", properties="")], done)
    await done.wait()
    assert [event.message for event in (await log.read(0)).events] == [sent, message(2, body=b"", properties="")]


async def test_done_is_told_once_per_batch_and_in_order(log: EventLog) -> None:
    told: list[int] = []
    last = asyncio.Event()

    def done(number: int, error: BaseException | None) -> None:
        assert error is None
        told.append(number)
        if number == 99:
            last.set()

    for number in range(100):
        log.append([message(number)], lambda error, number=number: done(number, error))
    async with asyncio.timeout(60):
        await last.wait()
    assert told == list(range(100))
    assert log.waiting_bytes == 0
    assert [event.message.enqueued_ms % 1000 for event in (await log.read(0)).events] == list(range(100))


async def test_when_done_is_told_the_message_is_visible(log: EventLog) -> None:
    for number in range(10):
        await append(log, number)
        assert len((await log.read(0)).events) == number + 1


async def test_an_empty_batch_is_done_at_once(log: EventLog) -> None:
    await append(log)
    assert (await log.read(0)).events == ()


async def test_one_bad_batch_does_not_spoil_its_group(log: EventLog) -> None:
    good, bad = Outcomes(), Outcomes()
    for number in range(20):
        log.append([message(number)], good)
        log.append([message(1), message(2, properties=3.5j)._replace(properties="\ud800")], bad)
    await good.wait(20)
    await bad.wait(20)
    assert good.told == [None] * 20
    assert all(isinstance(error, (IntegrityError, ValueError)) for error in bad.told)
    assert len((await log.read(0)).events) == 20


async def test_a_failing_listener_does_not_silence_the_others(log: EventLog) -> None:
    problems: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: problems.append(context["exception"]))

    def broken(_error: BaseException | None) -> None:
        raise RuntimeError("broken")

    done = Outcomes()
    for _number in range(5):
        log.append([message(1)], broken)
        log.append([message(2)], done)
    await done.wait(5)
    await asyncio.sleep(0)
    assert len(problems) == 5


async def test_the_backlog_is_bounded(database: Database) -> None:
    log = await EventLog.open(database, backlog=1000)
    fits, refused = Outcomes(), Outcomes()
    log.append([message(1, body=bytes(5000))], fits)  # one batch is always taken: it could never be sent otherwise
    log.append([message(2, body=bytes(900))], refused)
    await refused.wait()
    error = refused.told[0]
    assert isinstance(error, UnavailableError)
    assert error.reason == "append-backlog"
    assert await fits.wait() == [None]
    await append(log, 3)
    await log.close()


async def test_a_closed_log_takes_nothing(database: Database) -> None:
    log = await EventLog.open(database)
    before, after = Outcomes(), Outcomes()
    log.append([message(1)], before)
    await log.close()
    assert before.told == [None]
    log.append([message(2)], after)
    error = (await after.wait())[0]
    assert isinstance(error, UnavailableError)
    await log.close()


async def test_filters_tell_how_far_they_have_read(log: EventLog, clock: ManualClock) -> None:
    await append(log, 1, 2, device="a")
    await append(log, 3, device="b", module="m")
    await append(log, 4, device="b")
    newest = await log.newest()
    only_b = await log.read(0, device="b")
    assert [event.message.enqueued_ms % 10 for event in only_b.events] == [3, 4]
    assert [event.message.device for event in (await log.read(0, device="b", module="m")).events] == ["b"]
    nothing = await log.read(0, device="c")
    assert (nothing.events, nothing.read_to) == ((), newest)
    page = await log.read(0, 1, device="a")
    assert page.read_to == page.events[0].offset
    since = await log.read(0, since=at_moment(1_700_000_000_003))
    assert len(since.events) == 2
    assert (await log.read(newest)).read_to == newest


async def test_consumers_keep_their_place(log: EventLog, clock: ManualClock) -> None:
    assert await log.consumed("monitor") == 0
    await log.consume("monitor", 7, clock.now())
    await log.consume("other", 9, clock.now())
    await log.consume("monitor", 5, clock.now())
    assert (await log.consumed("monitor"), await log.consumed("other")) == (5, 9)


async def test_waiting_for_what_comes(log: EventLog) -> None:
    assert not await log.wait_for(0, 0)
    assert not await log.wait_for(0, 0.01)
    waiting = asyncio.create_task(log.wait_for(0, 20))
    await asyncio.sleep(0)
    await append(log, 1)
    assert await waiting
    assert await log.wait_for(0, 0)


async def test_what_another_process_appends_is_noticed(durable_url: str) -> None:
    here, there = Database(durable_url), Database(durable_url)
    await here.migrate()
    reading, writing = await EventLog.open(here), await EventLog.open(there)
    await append(writing, 1)
    assert await reading.wait_for(0, 20)
    assert len((await reading.read(0)).events) == 1
    for log in (reading, writing):
        await log.close()
    for database in (here, there):
        await database.close()


async def test_readers_miss_nothing_while_several_write(durable_url: str) -> None:
    databases = [Database(durable_url) for _number in range(3)]
    await databases[0].migrate()
    logs = [await EventLog.open(database) for database in databases]
    done = Outcomes()
    for number in range(150):
        logs[number % 3].append([message(number, device=f"d{number % 3}", body=b"%d" % number)], done)
    seen: list[tuple[str, int]] = []
    after = 0
    async with asyncio.timeout(60):
        while len(seen) < 150:
            page = await logs[0].read(after, 7)
            seen += [(event.message.device, int(event.message.body)) for event in page.events]
            after = page.read_to
            await asyncio.sleep(0.001)
    assert done.told.count(None) == len(done.told)
    for device in range(3):
        assert [number for name, number in seen if name == f"d{device}"] == list(range(device, 150, 3))
    for log in logs:
        await log.close()
    for database in databases:
        await database.close()


async def test_what_was_done_is_there_after_reopening(durable_url: str) -> None:
    for round_ in range(3):
        database = Database(durable_url)
        await database.migrate()
        log = await EventLog.open(database)
        assert len((await log.read(0)).events) == 10 * round_
        await append(log, *range(10))
        await log.close()
        await database.close()
