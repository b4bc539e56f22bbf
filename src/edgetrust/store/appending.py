"""Append messages durably, in groups, without holding up the event loop.

    loop thread    append(messages, done)          a batch; returns at once
    loop thread    end of the loop's turn          what gathered in it is handed over
    own thread     all that waits -> one transaction -> commit
    loop thread    done(None) for each batch       one call into the loop per group

Rules. `done(None)` is called after the commit of every message of the batch, `done(error)` when none of them will ever
be there; nothing else may be taken as stored. Batches are stored in the order of `append`, each whole or not at all.
No delay is added to make groups larger: what one turn of the loop brought goes together, and while one group commits,
the next one gathers. What waits is bounded in bytes: above the bound a batch is refused with UnavailableError
`append-backlog`. One batch that the database cannot take does not spoil the others of its group.

A multi-row INSERT and not `executemany`: SQLite lets go of the interpreter's lock at every step, and a busy loop thread
would make each row wait for it. A group that fits into one statement is a transaction by itself, insert and commit in
one step; there is a statement for each number of rows, and the driver keeps them prepared.

What else changes in the same tables goes into the same transaction (`also`), before the inserts: one sync for both. By
itself it is done where what was appended with it cannot be stored.

An appender that `keeps_order` takes nothing more after it could not store a batch, until it is told to `resume`: what
came later must not overtake what is to be tried again.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from edgetrust.errors import Error, UnavailableError
from edgetrust.limits import APPEND_BACKLOG_BYTES, APPEND_GROUP_MESSAGES
from edgetrust.protocol.messages import Message
from edgetrust.store.engine import Database, LogConnection
from edgetrust.store.failures import driver_errors, failure

Done = Callable[[BaseException | None], None]

_ROWS_MAX = 250  # rows of about ten values in one statement; the driver keeps twice as many statements prepared
_MESSAGE_TYPES = ("text", "text", "text", "bytea", "int8", "text", "text")


Row = tuple[Any, ...]  # a Message, or what begins with one
Work = Callable[[Any, str], None]  # with a raw cursor and the name of its dialect
Batch = tuple[Sequence[Row], Done, int, Work | None]  # what one `append` brought, its size (`size_of`); or one `also`


def size_of(messages: Sequence[Row]) -> int:
    """Bytes of bodies and characters of properties: what a message is said to take."""
    size = 0
    for message in messages:  # most often one: a generator or a list would cost more than it
        size += len(message[3]) + len(message[2])
    return size


class Extra(Protocol):
    """What a table does besides the inserts, on the appender's own thread; in this order for each group."""

    def concerns(self, messages: Sequence[Row]) -> bool:
        """Whether there is anything to do; if not, of the others only `taken` is called."""
        ...

    def choose(self, cursor: Any, dialect: str, messages: Sequence[Row]) -> Sequence[Row]:
        """In their transaction, before them: which of them are inserted. The others count as stored."""
        ...

    def taking(self, cursor: Any, dialect: str, messages: Sequence[Row]) -> None:
        """In their transaction, after them, for those that were."""
        ...

    def taken(self) -> None:
        """After its commit."""
        ...


@dataclass(frozen=True, slots=True)
class Columns:
    """A table that messages go to: what stands in a message, in its order, and the types of that."""

    table: str
    names: tuple[str, ...] = Message._fields
    types: tuple[str, ...] = _MESSAGE_TYPES


@dataclass(frozen=True, slots=True)
class Stored:
    """What one transaction has inserted: `rows` have the sequence numbers up to `last`, without a gap."""

    last: int
    rows: Sequence[Row]


class _Rows(Protocol):
    """Inserts messages into one table, one transaction per call, after `works`."""

    def insert(self, messages: Sequence[Row], works: Sequence[Work]) -> Stored: ...


class _SqliteRows:
    def __init__(self, connection: LogConnection, columns: Columns, extra: Extra | None) -> None:
        self._connection = connection
        self._cursor = connection.raw.cursor()
        self._extra = extra
        # The names are ours.
        self._prefix = f"INSERT INTO {columns.table} ({', '.join(columns.names)}) VALUES "  # noqa: S608
        # The driver looks for adapters of each None and each bytes that it binds, which costs as much as the insert;
        # text and bytearrays it takes as they are.
        self._row = "(?, NULLIF(?, '')" + ", ?" * (len(columns.names) - 2) + ")"
        self._statements: dict[int, str] = {}

    def insert(self, messages: Sequence[Row], works: Sequence[Work]) -> Stored:
        with self._connection.turn:
            extra = self._extra if self._extra is not None and self._extra.concerns(messages) else None
            if extra is None and not works and len(messages) <= _ROWS_MAX:
                return Stored(self._insert_rows(messages), messages)  # one statement is a transaction of its own
            self._cursor.execute("BEGIN IMMEDIATE")
            try:
                for work in works:
                    work(self._cursor, "sqlite")
                if extra is not None:
                    messages = extra.choose(self._cursor, "sqlite", messages)
                last = 0
                for start in range(0, len(messages), _ROWS_MAX):
                    last = self._insert_rows(messages[start : start + _ROWS_MAX])
                if extra is not None:
                    extra.taking(self._cursor, "sqlite", messages)
                self._cursor.execute("COMMIT")
            except BaseException:
                if self._connection.raw.in_transaction:
                    self._cursor.execute("ROLLBACK")
                raise
            return Stored(last, messages)

    def _insert_rows(self, messages: Sequence[Row]) -> int:
        count = len(messages)
        statement = self._statements.get(count)
        if statement is None:
            statement = self._statements[count] = self._prefix + ", ".join([self._row] * count)
        values: list[object] = []
        for message in messages:
            values += (message[0], message[1] or "", message[2], bytearray(message[3]), *message[4:])
        self._cursor.execute(statement, values)
        last: int = self._cursor.lastrowid
        return last


class _PostgresRows:
    def __init__(self, connection: LogConnection, columns: Columns, extra: Extra | None) -> None:
        self._connection = connection
        self._extra = extra
        self._table = columns.table
        self._copy = f"COPY {columns.table} ({', '.join(columns.names)}) FROM STDIN (FORMAT BINARY)"
        self._types = columns.types

    def insert(self, messages: Sequence[Row], works: Sequence[Work]) -> Stored:
        raw = self._connection.raw
        extra = self._extra if self._extra is not None and self._extra.concerns(messages) else None
        try:
            with raw.cursor() as cursor:
                # Numbers must become visible in their order: a reader who has seen n will not look below n again.
                cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (self._table,))
                for work in works:
                    work(cursor, "postgresql")
                if extra is not None:
                    messages = extra.choose(cursor, "postgresql", messages)
                last = self._copied(cursor, messages) if messages else 0
                if extra is not None:
                    extra.taking(cursor, "postgresql", messages)
            raw.commit()
        except BaseException:
            with suppress(*driver_errors()):
                raw.rollback()
            raise
        return Stored(last, messages)

    def _copied(self, cursor: Any, messages: Sequence[Row]) -> int:
        with cursor.copy(self._copy) as copy:
            copy.set_types(self._types)
            for message in messages:
                copy.write_row(message)
        cursor.execute("SELECT currval(pg_get_serial_sequence(%s, 'seq'))", (self._table,))
        last: int = cursor.fetchone()[0]
        return last


class Appender:
    """The thread that appends to one table. Make it on the event loop that is to be answered.

    `committed` is called on the loop with each group, before its `done`s.
    """

    def __init__(
        self,
        database: Database,
        columns: Columns,
        committed: Callable[[Stored], None],
        extra: Extra | None = None,
        *,
        backlog: int = APPEND_BACKLOG_BYTES,
        keeps_order: bool = False,
    ) -> None:
        self._database = database
        self._columns = columns
        self._keeps_order = keeps_order
        self._stopped: BaseException | None = None
        self._committed = committed
        self._extra = extra
        self._backlog = backlog
        self._loop = asyncio.get_running_loop()
        self._gathered: list[Batch] = []
        self._waiting: queue.SimpleQueue[list[Batch] | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._closed = False
        self._connection: LogConnection | None = None
        self._rows: _Rows | None = None
        self._thread = threading.Thread(target=self._run, name=f"store-{columns.table}", daemon=True)
        self._thread.start()

    @property
    def waiting_bytes(self) -> int:
        """What waits in memory for the disk."""
        return self._waiting_bytes

    def append(self, messages: Sequence[Row], done: Done) -> None:
        """Store `messages` after everything appended before. Never raises; `done` is called later, once."""
        size = size_of(messages)
        if self._closed:
            self._loop.call_soon(done, UnavailableError("the store is closed", reason="store-closed"))
        elif self._waiting_bytes and self._waiting_bytes + size > self._backlog:
            self._loop.call_soon(done, UnavailableError("the disk is behind", reason="append-backlog"))
        elif not messages:
            self._loop.call_soon(done, None)
        else:
            self._gather((messages, done, size, None))

    def also(self, work: Work, done: Done) -> None:
        """Do `work` in a transaction of the appender's. Otherwise as `append`; it goes on while nothing is taken."""
        if self._closed:
            self._loop.call_soon(done, UnavailableError("the store is closed", reason="store-closed"))
        else:
            self._gather(((), done, 0, work))

    def _gather(self, batch: Batch) -> None:
        self._waiting_bytes += batch[2]
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append(batch)

    def resume(self) -> None:
        """Take batches again. Call it when all that was appended has been answered."""
        self._stopped = None

    def _hand_over(self) -> None:
        if self._gathered:
            self._waiting.put(self._gathered)
            self._gathered = []

    async def close(self) -> None:
        """Store what waits, answer it, and end the thread."""
        if not self._closed:
            self._closed = True
            self._hand_over()
            self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.sleep(0)  # the last answers were put into the loop before the thread ended

    # -- own thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        open_ended = True
        while open_ended and (group := self._waiting.get()) is not None:
            count = sum([len(batch[0]) for batch in group])
            while count < APPEND_GROUP_MESSAGES and not self._waiting.empty():
                following = self._waiting.get()
                if following is None:
                    open_ended = False
                    break
                group += following
                count += sum([len(batch[0]) for batch in following])
            self._store(group)
        self._disconnect()

    def _store(self, group: list[Batch], *, again: bool = True) -> None:
        if self._stopped is not None:
            self._answer([batch for batch in group if batch[3] is None], None, self._stopped)
            group = [batch for batch in group if batch[3] is not None]
            if not group:
                return
        messages = group[0][0] if len(group) == 1 else list(chain.from_iterable([batch[0] for batch in group]))
        works = [work for _, _, _, work in group if work is not None]
        try:
            stored = self._connected().insert(messages, works)
        except BaseException as problem:  # noqa: BLE001 - handed to whoever waits for it, whatever it is
            self._failed(group, problem, again)
        else:
            if self._extra is not None:
                self._extra.taken()
            self._answer(group, stored, None)

    def _failed(self, group: list[Batch], problem: BaseException, again: bool) -> None:
        driver = isinstance(problem, driver_errors())
        error = failure(problem) if driver else problem
        away = self._rows is None or (driver and isinstance(error, UnavailableError))
        lost = self._connection is not None and self._connection.lost
        if away or lost:
            self._disconnect()
        if lost and again:  # the server was restarted; if it had stored the group, it is there twice: at least once
            self._store(group, again=False)
        elif len(group) == 1 or (away and len({batch[3] is None for batch in group}) == 1):
            if self._keeps_order and isinstance(error, UnavailableError) and group[0][3] is None:
                self._stopped = error
            self._answer(group, None, error)
        else:
            for batch in group:  # one of them spoils the transaction: each for itself
                self._store([batch])

    def _connected(self) -> _Rows:
        if self._rows is None:
            self._connection = self._database.connect_log()
            kind = _SqliteRows if self._connection.dialect == "sqlite" else _PostgresRows
            self._rows = kind(self._connection, self._columns, self._extra)
        return self._rows

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(Error), self._connection.turn:
                self._connection.close()
        self._connection, self._rows = None, None

    def _answer(self, group: list[Batch], stored: Stored | None, error: BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to answer
            self._loop.call_soon_threadsafe(self._answered, group, stored, error)

    # -- loop thread --------------------------------------------------------------------------------------------------

    def _answered(self, group: list[Batch], stored: Stored | None, error: BaseException | None) -> None:
        self._waiting_bytes -= sum([batch[2] for batch in group])
        if stored is not None:
            self._committed(stored)
        self._tell(iter(group), error)

    def _tell(self, group: Iterator[Batch], error: BaseException | None) -> None:
        try:
            for batch in group:
                batch[1](error)
        except BaseException:
            self._loop.call_soon(self._tell, group, error)  # the others must hear of it too
            raise
