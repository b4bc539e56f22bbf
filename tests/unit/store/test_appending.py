"""How batches are grouped while the disk is busy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgetrust.errors import UnavailableError
from edgetrust.store.appending import Stored, size_of
from edgetrust.store.engine import Database
from edgetrust.store.events import EventLog
from edgetrust.store.queues import ForwardQueue
from support.database import Outcomes, message, queued


async def test_what_waits_for_the_disk_goes_together_and_before_the_end(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/store.db")
    await database.migrate()
    log = await EventLog.open(database)
    groups: list[Stored] = []
    log._appender._committed = groups.append
    done = Outcomes()
    other = database.connect_log()
    turn = other.turn  # of this thread: the log's thread waits for it
    with turn:
        log.append([message(0)], done)
        await asyncio.sleep(0.2)
        while not log._appender._waiting.empty():  # the log's thread has not taken it yet
            await asyncio.sleep(0.2)
        for number in range(1, 10):
            log.append([message(number)], done)
            await asyncio.sleep(0)
        assert log.waiting_bytes == size_of([message(number) for number in range(10)])
        closing = asyncio.create_task(log.close())
        await asyncio.sleep(0)
    await closing
    other.close()
    assert done.told == [None] * 10
    assert [(one.last, len(one.rows)) for one in groups] == [(1, 1), (10, 9)]
    await database.close()


async def opened_queue(tmp_path: Path, **how: int) -> tuple[Database, ForwardQueue]:
    database = Database(f"sqlite:///{tmp_path}/store.db")
    await database.migrate()
    return database, await ForwardQueue.open(database, **how)


async def test_what_has_arrived_is_forgotten_in_the_transaction_of_the_next(tmp_path: Path) -> None:
    database, queue = await opened_queue(tmp_path)
    done = Outcomes()
    queue.append([queued(number) for number in range(3)], done)
    await done.wait()
    lane = queue.lane("$upstream")
    offsets = [one.offset for one in await lane.lease()]
    statements: list[str] = []
    raw = queue._appender._connection
    assert raw is not None
    raw.raw.set_trace_callback(statements.append)
    forgetting = asyncio.create_task(lane.ack(offsets[:2]))
    await asyncio.sleep(0)
    queue.append([queued(3)], done)
    await forgetting
    assert await done.wait(2) == [None, None]
    raw.raw.set_trace_callback(None)
    verbs = [statement.split()[0] for statement in statements]
    assert (verbs.count("BEGIN"), verbs.count("COMMIT"), verbs.count("DELETE")) == (1, 1, 1)
    assert verbs.index("DELETE") < verbs.index("INSERT")  # so that it makes room
    assert (await queue.status()).messages == 2
    await queue.close()
    with pytest.raises(UnavailableError, match="closed"):
        await lane.ack(offsets)
    await database.close()


async def test_what_has_arrived_is_forgotten_when_nothing_more_fits(tmp_path: Path) -> None:
    size = size_of([queued(1)])
    database, queue = await opened_queue(tmp_path, limit_bytes=2 * size)
    done = Outcomes()
    queue.append([queued(1), queued(2)], done)
    await done.wait()
    lane = queue.lane("$upstream")
    offsets = [one.offset for one in await lane.lease()]
    forgetting = asyncio.create_task(lane.ack(offsets[:1]))
    await asyncio.sleep(0)
    queue.append([queued(3), queued(4)], done)  # too much even so
    await forgetting
    outcomes = await done.wait(2)
    assert isinstance(outcomes[1], UnavailableError)
    assert outcomes[1].reason == "queue-full"
    assert (await queue.status()).messages == 1
    await lane.ack(offsets[1:])  # nothing is taken before `resume`, but this is done
    assert (await queue.status()).messages == 0
    queue.resume()
    queue.append([queued(3), queued(4)], done)
    assert (await done.wait(3))[2] is None
    await queue.close()
    await database.close()


async def test_a_queue_tells_what_waits(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/store.db")
    await database.migrate()
    queue = await ForwardQueue.open(database)
    done = Outcomes()
    queue.append([queued(1)], done)
    assert queue.waiting_bytes == size_of([message(1)])
    await done.wait()
    assert queue.waiting_bytes == 0
    await queue.close()
    await database.close()
