"""The database's threads: what shares a transaction, what is answered, what is private."""

from __future__ import annotations

import asyncio
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Connection, text

from edgetrust.errors import ConfigError, IntegrityError, UnavailableError
from edgetrust.store.engine import Database
from edgetrust.store.schema import consumers
from support.database import Outcomes, PostgresServer


def add(name: str) -> Any:
    def work(connection: Connection) -> str:
        connection.execute(sqlalchemy.insert(consumers).values(name=name, seq=0, updated_ms=0))
        return threading.current_thread().name

    return work


async def names(database: Database) -> list[str]:
    query = sqlalchemy.select(consumers.c.name).order_by(consumers.c.name)
    return await database.read(lambda connection: list(connection.execute(query).scalars()))


async def test_writes_and_reads_have_their_threads(database: Database) -> None:
    assert await database.write(add("a")) == "store-writer"
    reader = await database.read(lambda _connection: threading.current_thread().name)
    assert reader.startswith("store-reader")


async def test_one_that_fails_does_not_spoil_those_beside_it(database: Database) -> None:
    def broken(connection: Connection) -> None:
        add("never")(connection)
        raise KeyError("broken")

    writes = [database.write(add("a")), database.write(broken), database.write(add("b")), database.write(add("a"))]
    first, second, third, fourth = await asyncio.gather(*writes, return_exceptions=True)
    assert (first, third) == ("store-writer", "store-writer")
    assert isinstance(second, KeyError)
    assert isinstance(fourth, IntegrityError)
    assert await names(database) == ["a", "b"]


async def test_announcements_come_before_the_answer_and_in_order(database: Database) -> None:
    seen: list[object] = []

    async def write(name: str) -> None:
        await database.write(add(name), lambda _result: seen.append(f"announced {name}"))
        seen.append(f"answered {name}")

    await asyncio.gather(*(write(str(number)) for number in range(5)))
    assert [item for item in seen if str(item).startswith("announced")] == [f"announced {n}" for n in range(5)]
    for number in range(5):
        assert seen.index(f"announced {number}") < seen.index(f"answered {number}")
    with pytest.raises(IntegrityError):
        await write("0")
    assert seen.count("announced 0") == 1


async def test_posting_answers_through_done(database: Database) -> None:
    done, failed = Outcomes(), Outcomes()
    database.post(add("a"), done)
    database.post(add("a"), failed)
    assert await done.wait() == [None]
    assert isinstance((await failed.wait())[0], IntegrityError)


async def test_a_reader_of_postgresql_cannot_write(postgres: PostgresServer) -> None:
    database = Database(postgres.new_database())
    with pytest.raises(UnavailableError):
        await database.read(add("a"))
    assert await names(database) == []
    await database.close()


async def test_a_reader_sees_one_moment(durable_url: str) -> None:
    database, other = Database(durable_url), Database(durable_url)
    await database.migrate()
    started, go_on = threading.Event(), threading.Event()
    count = sqlalchemy.select(sqlalchemy.func.count()).select_from(consumers)

    def twice(connection: Connection) -> tuple[int, int]:
        first = connection.execute(count).scalar_one()
        started.set()
        assert go_on.wait(60)
        return first, connection.execute(count).scalar_one()

    reading = asyncio.create_task(database.read(twice))
    assert await asyncio.to_thread(started.wait, 60)
    await other.write(add("a"))
    go_on.set()
    assert await reading == (0, 0)
    await database.close()
    await other.close()


async def test_a_closed_database_refuses(database_url: str) -> None:
    database = Database(database_url)
    await database.migrate()
    pending = asyncio.create_task(database.write(add("a")))
    await asyncio.sleep(0)
    await database.close()
    assert await pending == "store-writer"
    await database.close()
    done = Outcomes()
    database.post(add("b"), done)
    assert isinstance((await done.wait())[0], UnavailableError)
    for call in (database.write(add("b")), database.read(lambda _connection: None)):
        with pytest.raises(UnavailableError) as closed:
            await call
        assert closed.value.reason == "store-closed"


async def test_sqlite_is_durable_and_private(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    for synchronous, level in (("full", 2), ("normal", 1)):
        database = Database(f"sqlite:///{path}", synchronous=synchronous)
        await database.migrate()
        pragma = await database.read(lambda connection: connection.execute(text("PRAGMA synchronous")).scalar())
        journal = await database.read(lambda connection: connection.execute(text("PRAGMA journal_mode")).scalar())
        assert (pragma, journal) == (level, "wal")
        files = [path, *path.parent.glob("store.db-*")]
        assert len(files) == 3
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        await database.close()


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_arguments: object, **_options: object) -> None:
        raise ModuleNotFoundError("psycopg")

    monkeypatch.setattr(sqlalchemy, "create_engine", missing)
    with pytest.raises(ConfigError) as caught:
        Database("postgresql://somewhere/db")
    assert caught.value.reason == "store-driver-missing"


def test_answers_for_a_loop_that_is_gone_are_dropped(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/store.db")
    held, finished = threading.Event(), threading.Event()

    def slow(_connection: Connection) -> None:
        assert held.wait(60)

    async def leave() -> None:
        await database.migrate()
        database.post(slow, lambda _error: None)
        announced = asyncio.ensure_future(database.write(add("a"), lambda _result: None))
        await asyncio.sleep(0)
        announced.cancel()

    asyncio.run(leave())
    held.set()

    async def look() -> list[str]:
        found = await names(database)
        while not found:
            await asyncio.sleep(0.01)
            found = await names(database)
        await database.close()
        finished.set()
        return found

    assert asyncio.run(look()) == ["a"]
    assert finished.is_set()
