"""How batches are grouped while the disk is busy."""

from __future__ import annotations

import asyncio
from pathlib import Path

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
