"""What the store does when its process, its disk or its server fails: nothing that was answered is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from edgetrust.clock import ManualClock
from edgetrust.errors import ConfigError, IntegrityError, UnavailableError
from edgetrust.store.engine import Database
from edgetrust.store.events import EventLog
from edgetrust.store.identities import Identities
from edgetrust.store.queues import ForwardQueue
from edgetrust.store.records import Change, DeviceDraft, RegistryError
from support.database import Outcomes, PostgresServer, message
from support.faulty_disk import full_disk

# Appends batches of seven for ever and writes the number of each batch to stdout once it is done.
_APPEND_FOR_EVER = """
import asyncio, os, sys
from edgetrust.protocol.messages import Message
from edgetrust.store.engine import Database
from edgetrust.store.events import EventLog
from edgetrust.store.lanes import QueuedMessage
from edgetrust.store.queues import ForwardQueue

async def main(url, kind):
    database = Database(url)
    await database.migrate()
    log = await {"log": EventLog, "queue": ForwardQueue}[kind].open(database)
    numbers = iter(range(10**9))
    def send():
        number = next(numbers)
        kind_of = {"log": Message, "queue": QueuedMessage}[kind]
        batch = [kind_of("d", None, "", b"%d.%d" % (number, part), 0, "", "") for part in range(7)]
        def done(error):
            if error is not None:
                raise SystemExit(str(error))
            os.write(1, b"%d\\n" % number)
            send()
        log.append(batch, done)
    for _window in range(8):
        send()
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("kind", ["log", "queue"])
@pytest.mark.parametrize("after_acks", [1, 60, 400])
async def test_what_was_answered_survives_kill_9(durable_url: str, kind: str, after_acks: int) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _APPEND_FOR_EVER, durable_url, kind], stdout=subprocess.PIPE, env=os.environ
    )
    assert child.stdout is not None
    answered = [int(child.stdout.readline()) for _number in range(after_acks)]
    child.send_signal(signal.SIGKILL)
    answered += [int(line) for line in child.stdout.read().split(b"\n")[:-1]]
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL

    database = Database(durable_url)
    await database.migrate()
    if kind == "log":
        log = await EventLog.open(database)
        stored = [event.message.body for event in (await log.read(0, 10**6)).events]
        await log.close()
    else:
        queue = await ForwardQueue.open(database)
        stored = [event.message.body for event in await queue.lane("$upstream").lease(10**6)]
        assert (await queue.status()).messages == len(stored)
        await queue.close()
    await database.close()
    batches = len(stored) // 7
    assert stored == [b"%d.%d" % (number, part) for number in range(batches) for part in range(7)]
    assert answered == list(range(len(answered)))
    assert len(answered) <= batches


async def test_a_full_disk_answers_with_errors_and_recovers(tmp_path: Path, clock: ManualClock) -> None:
    database = Database(f"sqlite:///{tmp_path}/full.db")
    await database.migrate()
    log = await EventLog.open(database)
    registry = Identities(database, clock, "hub.example")
    done: dict[int, Outcomes] = {number: Outcomes() for number in range(60)}
    with full_disk(1_500_000):
        for number in range(60):
            log.append([message(number, body=bytes(50_000))], done[number])
            await done[number].wait()
        with pytest.raises(UnavailableError):
            for number in range(10_000):
                await registry.create_device(DeviceDraft(f"d{number}"))
    stored = {event.message.enqueued_ms - 1_700_000_000_000 for event in (await log.read(0)).events}
    assert stored == {number for number, outcome in done.items() if outcome.told == [None]}
    errors = [outcome.told[0] for outcome in done.values() if outcome.told != [None]]
    assert 0 < len(errors) < 60
    assert all(isinstance(error, UnavailableError) for error in errors)

    again = Outcomes()
    log.append([message(99)], again)
    assert await again.wait() == [None]
    await registry.create_device(DeviceDraft("after"))
    await log.close()
    await database.close()


async def test_a_database_locked_by_another_process(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetrust.store.engine.STORE_BUSY_SECONDS", 0.2)
    database = Database(f"sqlite:///{tmp_path}/locked.db")
    await database.migrate()
    log = await EventLog.open(database)
    registry = Identities(database, clock, "hub.example")
    refused, taken = Outcomes(), Outcomes()
    with closing(sqlite3.connect(tmp_path / "locked.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        log.append([message(1)], refused)
        with pytest.raises(UnavailableError) as busy:
            await registry.create_device(DeviceDraft("d1"))
        assert busy.value.reason == "store-busy"
        begun = time.monotonic()
        many = [registry.create_device(DeviceDraft(f"d{number}")) for number in range(200)]
        for outcome in await asyncio.gather(*many, return_exceptions=True):
            assert isinstance(outcome, UnavailableError)
        assert time.monotonic() - begun < 20  # they wait for the lock together, not 0.2 seconds each
        error = (await refused.wait())[0]
        assert isinstance(error, UnavailableError)
        assert error.reason == "store-busy"
        assert await registry.devices() == ()  # reading goes on
        other.execute("ROLLBACK")
    log.append([message(2)], taken)
    assert await taken.wait() == [None]
    await registry.create_device(DeviceDraft("d1"))
    assert [event.message for event in (await log.read(0)).events] == [message(2)]
    await log.close()
    await database.close()


async def test_a_writer_waits_for_a_short_lock(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/locked.db")
    await database.migrate()
    log = await EventLog.open(database)
    done = Outcomes()
    with closing(sqlite3.connect(tmp_path / "locked.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        log.append([message(1)], done)
        await asyncio.sleep(0.2)
        assert done.told == []
        other.execute("COMMIT")
    assert await done.wait() == [None]
    await log.close()
    await database.close()


async def test_a_server_that_restarts(postgres: PostgresServer, clock: ManualClock) -> None:
    database = Database(postgres.new_database())
    log = await EventLog.open(database)
    registry = Identities(database, clock, "hub.example")
    first = Outcomes()
    log.append([message(0)], first)
    assert await first.wait() == [None]
    for round_ in range(1, 4):
        postgres.end_connections()
        await registry.create_device(DeviceDraft(f"d{round_}"))
        done = Outcomes()
        log.append([message(round_)], done)
        assert await done.wait() == [None]
    assert [event.message for event in (await log.read(0)).events] == [message(number) for number in range(4)]
    await log.close()
    await database.close()


async def test_a_server_that_is_not_there(clock: ManualClock, tmp_path: Path) -> None:
    database = Database(f"postgresql://nobody@/nothing?host={tmp_path}")
    with pytest.raises(UnavailableError) as away:
        await database.migrate()
    assert away.value.reason == "store-unreachable"
    await database.close()


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "damaged.db").write_bytes(b"this is not a database" * 1000)
    database = Database(f"sqlite:///{tmp_path}/damaged.db")
    with pytest.raises(IntegrityError) as damaged:
        await database.migrate()
    assert damaged.value.reason == "store-damaged"
    await database.close()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as missing:
        Database(f"sqlite:///{tmp_path}/missing/store.db")
    assert str(tmp_path) in missing.value.message


@pytest.mark.parametrize("url", ["gibberish", "mysql://host/db", "nothing://x"])
def test_a_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigError):
        Database(url)


async def test_a_database_of_a_later_version(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/later.db")
    await database.migrate()
    await database.write(lambda c: c.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'").close())
    with pytest.raises(IntegrityError) as newer:
        await database.migrate()
    assert newer.value.reason == "store-newer"
    await database.close()


async def test_processes_that_migrate_together(tmp_path: Path, postgres: PostgresServer) -> None:
    new_files = [f"sqlite:///{tmp_path}/together-{number}.db" for number in range(20)]
    for url in (*new_files, postgres.new_database(migrated=False)):
        databases = [Database(url) for _number in range(4)]
        outcomes = await asyncio.gather(*(database.migrate() for database in databases), return_exceptions=True)
        for database in databases:
            await database.close()
        assert outcomes == [None] * 4


async def test_cancelling_the_caller_undoes_nothing(durable_url: str, clock: ManualClock) -> None:
    database = Database(durable_url)
    await database.migrate()
    registry = Identities(database, clock, "hub.example")
    heard: list[Change] = []
    registry.listen(heard.append)
    creating = asyncio.create_task(registry.create_device(DeviceDraft("d1")))
    await asyncio.sleep(0)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await registry.create_device(DeviceDraft("d2"))
    assert [change.device for change in heard] == ["d1", "d2"]
    assert len(await registry.devices()) == 2
    await database.close()


async def test_of_two_processes_that_create_the_same_device_one_wins(durable_url: str, clock: ManualClock) -> None:
    databases = [Database(durable_url) for _number in range(3)]
    await databases[0].migrate()
    registries = [Identities(database, clock, "hub.example") for database in databases]
    for number in range(10):
        draft = DeviceDraft(f"d{number}", edge=True)
        attempts = [registry.create_device(draft) for registry in registries]
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        losers = [outcome for outcome in outcomes if isinstance(outcome, RegistryError)]
        assert [loser.status for loser in losers] == [409, 409]
    changes = await registries[0].changes_after(0)
    assert len({change.sequence for change in changes}) == len(changes) == 30
    for database in databases:
        await database.close()


async def test_a_busy_loop_does_not_starve_the_log(tmp_path: Path) -> None:
    """A loop thread that computes all the time lets a group of 500 be committed all the same."""
    database = Database(f"sqlite:///{tmp_path}/busy.db")
    await database.migrate()
    log = await EventLog.open(database)
    done = Outcomes()
    begun = time.monotonic()
    log.append([message(number) for number in range(500)], done)
    while not done.told and time.monotonic() - begun < 30:
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            pass
        await asyncio.sleep(0)
    assert done.told == [None]
    assert time.monotonic() - begun < 2  # one wait for the interpreter per row would be 500 times 5 ms
    await log.close()
    await database.close()
