"""Database: one SQL database, used from threads, awaited from the loop.

    writer     one thread, one connection: what waits runs together in one transaction and shares its sync
    readers    a few threads, each call a read transaction of its own; SQLite's keep their connections
    logs       one connection each for the threads that append messages (`connect_log`)

Rules. A write is answered after its commit and never before; `announce` is called on the caller's loop after the
commit and before the answer, also when the caller has been cancelled. Writers of one registry take turns across
processes (SQLite: the write lock; PostgreSQL: an advisory lock), so that sequence numbers become visible in their
order: who has read up to n has missed nothing below n. SQLite runs in WAL with synchronous=FULL: what was answered
survives a power cut. A function given to `write` or `read` must only use its connection: it may be run again, alone,
after a rollback.

It must not know what is stored.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import QueuePool, StaticPool

from edgetrust.errors import ConfigError, UnavailableError
from edgetrust.limits import STORE_BUSY_SECONDS, STORE_READERS, STORE_STATEMENTS, STORE_WRITES_TOGETHER
from edgetrust.store.failures import driver_errors, translated
from edgetrust.store.migrate import upgrade

T = TypeVar("T")

REGISTRY_LOCK = 0x65746701  # advisory lock of PostgreSQL: who holds it may number changes
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
_JOURNAL_RETRY_SECONDS = 0.01
_SYNCHRONOUS = {"full": "FULL", "normal": "NORMAL"}


class _Job:
    """A function waiting for the writer. `settle` is called on `loop`, after the commit or with the error."""

    __slots__ = ("announce", "done", "function", "loop")

    def __init__(
        self,
        function: Callable[[Connection], Any],
        announce: Callable[[Any], None] | None,
        done: Callable[[Any, BaseException | None], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.function = function
        self.announce = announce
        self.done = done
        self.loop = loop

    def settle(self, result: Any, problem: BaseException | None) -> None:
        try:
            if problem is None and self.announce is not None:
                self.announce(result)
        finally:
            self.done(result, problem)


def _settle(settled: Sequence[tuple[_Job, Any, BaseException | None]]) -> None:
    """Tell the loops, each woken once: waking costs more than telling."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Job, Any, BaseException | None]]] = {}
    for one in settled:
        by_loop.setdefault(one[0].loop, []).append(one)
    for loop, told in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            loop.call_soon_threadsafe(_tell, loop, told)


def _tell(loop: asyncio.AbstractEventLoop, settled: Sequence[tuple[_Job, Any, BaseException | None]]) -> None:
    for job, result, problem in settled:
        loop.call_soon(job.settle, result, problem)  # each by itself: one that raises does not take others along


def _answer(outcome: asyncio.Future[Any], result: Any, problem: BaseException | None) -> None:
    if outcome.done():  # who asked has been cancelled
        return
    if problem is None:
        outcome.set_result(result)
    else:
        outcome.set_exception(problem)


class _Reading:
    """A function waiting for a reader. `outcome` belongs to `loop`, and is filled there."""

    __slots__ = ("function", "loop", "outcome")

    def __init__(self, function: Callable[[Connection], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.function = function
        self.loop = loop
        self.outcome: asyncio.Future[Any] = loop.create_future()

    def answer(self, result: Any, problem: BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to answer
            self.loop.call_soon_threadsafe(_answer, self.outcome, result, problem)


@dataclass(frozen=True, slots=True)
class LogConnection:
    """A raw connection for one appending thread, and the lock (of this process) to hold during its transactions."""

    dialect: str
    raw: Any
    turn: AbstractContextManager[Any]
    close: Callable[[], None]

    @property
    def lost(self) -> bool:
        """Whether the server has gone away; a file cannot."""
        return self.dialect == "postgresql" and bool(self.raw.closed)


class Database:
    """`url`: `sqlite:///relative.db`, `sqlite:////absolute.db`, `sqlite://` (in memory, for tests) or `postgresql://...`.

    `synchronous`: "full", or "normal" to survive the end of the process but not a power cut (SQLite only).
    Raises ConfigError for a URL that cannot be used, UnavailableError if the database cannot be opened.
    """

    def __init__(self, url: str, *, synchronous: str = "full") -> None:
        self._url = _usable(url)
        self._synchronous = _SYNCHRONOUS[synchronous]
        self.dialect = self._url.get_backend_name()
        self.in_memory = self.dialect == "sqlite" and self._url.database in (None, "", ":memory:")
        # SQLite lets one connection write; in this process they take turns instead of polling its lock.
        self._turn = threading.RLock()
        self._engine = self._make_engine()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._writes: Connection | None = None  # the writer's, while it is good
        self._writer = threading.Thread(target=self._run_writer, name="store-writer", daemon=True)
        self._reads: queue.SimpleQueue[_Reading | None] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=self._run_reader, name=f"store-reader-{number}", daemon=True)
            for number in range(STORE_READERS)
        ]
        for thread in (self._writer, *self._readers):
            thread.start()

    # -- opening ------------------------------------------------------------------------------------------------------

    def _make_engine(self) -> Engine:
        if self.dialect == "postgresql":
            return _postgres_engine(self._url)
        if not self.in_memory:
            _make_private(Path(str(self._url.database)))
        engine = sqlalchemy.create_engine(
            self._url,
            connect_args={
                "check_same_thread": False,
                "timeout": STORE_BUSY_SECONDS,
                "cached_statements": STORE_STATEMENTS,
            },
            poolclass=StaticPool if self.in_memory else QueuePool,
        )
        event.listen(engine, "connect", self._prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _prepare_sqlite(self, raw: sqlite3.Connection, _record: object) -> None:
        raw.isolation_level = None  # transactions begin where we say, not where the driver guesses
        _journal_ahead(raw)
        raw.execute(f"PRAGMA synchronous = {self._synchronous}")
        raw.execute("PRAGMA foreign_keys = ON")
        raw.execute("PRAGMA temp_store = MEMORY")

    async def migrate(self) -> None:
        """Bring the schema up to date; safe while other processes do the same. UnavailableError, IntegrityError."""
        await self.write(upgrade)

    async def close(self) -> None:
        """Finish what waits, then close every connection. Later calls raise UnavailableError."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        for _ in self._readers:
            self._reads.put(None)
        for thread in (self._writer, *self._readers):
            await asyncio.to_thread(thread.join)
        await asyncio.to_thread(self._engine.dispose)

    # -- use ----------------------------------------------------------------------------------------------------------

    async def write(self, function: Callable[[Connection], T], announce: Callable[[T], None] | None = None) -> T:
        """Run `function` in a transaction on the writer's thread and return its result after the commit.

        Whatever it raises is raised here and leaves no trace in the database. Cancelling the caller undoes nothing.
        """
        self._open_or_raise()
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        self._jobs.put(_Job(function, announce, partial(_answer, outcome), loop))
        return await outcome

    def post(self, function: Callable[[Connection], object], done: Callable[[BaseException | None], None]) -> None:
        """Like `write`, without waiting: `done` is called on the loop after the commit, or with the error."""
        loop = asyncio.get_running_loop()
        if self._closed:
            loop.call_soon(done, UnavailableError("the store is closed", reason="store-closed"))
            return
        self._jobs.put(_Job(function, None, lambda _result, problem: done(problem), loop))

    async def read(self, function: Callable[[Connection], T]) -> T:
        """Run `function` on a reader's thread; it sees one moment of the database."""
        self._open_or_raise()
        reading = _Reading(function, asyncio.get_running_loop())
        self._reads.put(reading)
        result: T = await reading.outcome
        return result

    def connect_log(self) -> LogConnection:
        """A connection for a thread that appends messages. Blocking: call it on that thread."""
        with translated():
            pooled = self._engine.raw_connection()
        raw = pooled.driver_connection
        return LogConnection(self.dialect, raw, self._turn if self.dialect == "sqlite" else nullcontext(), pooled.close)

    def _open_or_raise(self) -> None:
        if self._closed:
            raise UnavailableError("the store is closed", reason="store-closed")

    # -- the readers' threads -----------------------------------------------------------------------------------------

    def _run_reader(self) -> None:
        connection: Connection | None = None
        while (reading := self._reads.get()) is not None:
            try:
                with translated():
                    connection = connection or self._engine.connect()
                    result = self._read(connection, reading.function)
            except BaseException as problem:  # noqa: BLE001 - handed to whoever waits for it, whatever it is
                reading.answer(None, problem)
                done_with = True
            else:
                reading.answer(result, None)
                done_with = self.dialect != "sqlite"  # a server may be gone by the next time: the pool looks then
            if done_with:
                self._let_go(connection)
                connection = None
        self._let_go(connection)

    def _read(self, connection: Connection, function: Callable[[Connection], T]) -> T:
        if self.dialect == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with self._alone(), connection.begin():
            return function(connection)

    def _let_go(self, connection: Connection | None) -> None:
        if connection is not None:
            with self._alone(), suppress(SQLAlchemyError, *driver_errors()):  # what is broken is let go of all the same
                connection.close()

    def _alone(self) -> AbstractContextManager[Any]:
        """In memory there is one connection for all."""
        return self._turn if self.in_memory else nullcontext()

    # -- the writer's thread ------------------------------------------------------------------------------------------

    def _run_writer(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            last = False
            while len(jobs) < STORE_WRITES_TOGETHER and not self._jobs.empty():
                waiting = self._jobs.get()
                if waiting is None:
                    last = True
                    break
                jobs.append(waiting)
            self._write_together(jobs)
            if last:
                break
        self._let_go_of_writer()

    def _write_together(self, jobs: list[_Job]) -> None:
        try:
            results = self._transact([job.function for job in jobs])
        except BaseException as problem:  # noqa: BLE001 - handed to whoever waits for it, whatever it is
            if len(jobs) > 1 and not isinstance(problem, UnavailableError):
                for job in jobs:  # one of them spoils the transaction: each for itself
                    self._write_together([job])
                return
            _settle([(job, None, problem) for job in jobs])
            return
        _settle([(job, result, None) for job, result in zip(jobs, results, strict=True)])

    def _transact(self, functions: list[Callable[[Connection], Any]]) -> list[Any]:
        turn = self._turn if self.dialect == "sqlite" else nullcontext()
        with turn:
            try:
                with translated():
                    connection = self._writing()
                    with connection.begin():
                        if self.dialect == "postgresql":
                            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({REGISTRY_LOCK})")
                        return [function(connection) for function in functions]
            except BaseException:
                self._let_go_of_writer()
                raise
            finally:
                if self.dialect != "sqlite":  # a server may be gone by the next time: the pool looks then
                    self._let_go_of_writer()

    def _writing(self) -> Connection:
        if self._writes is None:
            self._writes = self._engine.connect().execution_options(writes=True)
        return self._writes

    def _let_go_of_writer(self) -> None:
        connection, self._writes = self._writes, None
        self._let_go(connection)


def _journal_ahead(raw: sqlite3.Connection) -> None:
    """Set the write-ahead log. Whoever finds another process doing that for a new file is refused at once, whatever
    its busy time-out is: wait here.
    """
    until = time.monotonic() + STORE_BUSY_SECONDS
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as problem:
            if problem.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > until:
                raise
            time.sleep(_JOURNAL_RETRY_SECONDS)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that will write takes the lock at once: upgrading a read transaction fails without waiting.
    writes = connection.get_execution_options().get("writes", False)
    raw = connection.connection.driver_connection
    assert raw is not None
    raw.execute("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgres_engine(url: URL) -> Engine:
    try:
        return sqlalchemy.create_engine(url, poolclass=QueuePool, pool_size=STORE_READERS + 4, pool_pre_ping=True)
    except ModuleNotFoundError as problem:
        raise ConfigError(
            "PostgreSQL's driver is not installed",
            reason="store-driver-missing",
            fix="pip install 'edgetrust[postgresql]'",
        ) from problem


def _usable(text: str) -> URL:
    try:
        url = make_url(text)
        url = url.set(drivername=_DRIVERS.get(url.get_backend_name(), url.drivername))
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError) as problem:
        raise ConfigError(
            "the database URL cannot be read",
            reason="store-url",
            fix="write sqlite:////path/file.db or postgresql://...",
        ) from problem
    if url.get_backend_name() not in _DRIVERS:
        raise ConfigError(
            f"no support for {url.get_backend_name()} databases",
            reason="store-url",
            fix="write sqlite:////path/file.db or postgresql://...",
        )
    return url


def _make_private(path: Path) -> None:
    """Make the file, for its owner only, before SQLite does: it holds symmetric keys; -wal and -shm follow its mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as problem:
        raise UnavailableError(
            f"the database {path} cannot be opened: {problem.strerror}",
            reason="store-unreachable",
            fix="make its directory exist and writable for this user",
        ) from problem
