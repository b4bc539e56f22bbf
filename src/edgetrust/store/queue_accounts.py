"""The accounts of a gateway's queues: how much waits where, to the byte, and what happens at the limit.

Rules. Counts are rows of their own, changed in the transaction that changes the queues: they are exact, also after a
crash. What was taken before and comes again is not appended (`repeats`). At the limit nothing is appended
(`queue-full`); or room is made, if it may be: the oldest messages of the last priority go. What came again and what
went is told on the loop. On the appender's thread, but for `remove`.

`forget` and `remove` do the same, the former in what the appender does, the latter in what the writer does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, delete, func, select, update

from edgetrust.errors import UnavailableError
from edgetrust.protocol.repeats import Mark, mark_of
from edgetrust.store.appending import Row, size_of
from edgetrust.store.queue_tables import queue_lanes, queued_messages
from edgetrust.store.repeats import Repeats

QUEUE_FULL: Final = "queue-full"
_LANE: Final = itemgetter(7, 8, 9)  # of a QueuedMessage: queue, input, priority
_EVICTED_AT_ONCE: Final = 200
_RUNS_MAX: Final = 8  # ranges that are forgotten one by one; more are named message by message
_NAMED_AT_ONCE: Final = 500  # in one statement

_row = queued_messages.c
_lane = queue_lanes.c
Told = Callable[[Sequence["Dropped"]], None]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A message that was given up, or had come before: its sender, and its property bag."""

    device: str
    module: str | None
    properties: str


class Accounts:
    """The appender's Extra. `evicted` and `repeated` are called on `loop` with what went, and what had come before."""

    def __init__(self, limit_bytes: int, loop: asyncio.AbstractEventLoop, evicted: Told, repeated: Told) -> None:
        self.limit_bytes = limit_bytes
        self.drop_oldest = False
        self.repeats = Repeats(_mark)
        self._loop = loop
        self._evicted = evicted
        self._repeated = repeated
        self._evicting: list[Dropped] = []

    def concerns(self, messages: Sequence[Row]) -> bool:
        self._evicting = []
        self.repeats.concern(messages)
        return True

    def choose(self, cursor: Any, dialect: str, messages: Sequence[Row]) -> Sequence[Row]:
        return self.repeats.without(cursor, dialect, messages)

    def taking(self, cursor: Any, dialect: str, messages: Sequence[Row]) -> None:
        if not messages:
            return
        sql = _Sql(cursor, dialect)
        counts: Counter[tuple[str, str, int]] = Counter()
        sizes: Counter[tuple[str, str, int]] = Counter()
        for lane, grouped in groupby(messages, _LANE):
            some = list(grouped)
            counts[lane] += len(some)
            sizes[lane] += size_of(some)
        for lane in sorted(counts):
            sql.add(lane, counts[lane], sizes[lane])
        excess = sql.total() - self.limit_bytes
        if excess > 0 and not self.drop_oldest:
            raise UnavailableError(
                f"the queues hold their {self.limit_bytes} bytes",
                reason=QUEUE_FULL,
                fix="restore the connection to the hub and start the modules, or give the queues a larger limit",
            )
        while excess > 0 and (victims := sql.oldest_of_the_last()):
            for victim in victims:
                if excess > 0:
                    excess -= sql.remove(victim)
                    self._evicting.append(Dropped(*victim[2:5]))

    def taken(self) -> None:
        if self._evicting:
            self._loop.call_soon_threadsafe(self._evicted, self._evicting)
        if found := self.repeats.found():
            self._loop.call_soon_threadsafe(self._repeated, [Dropped(*one[:3]) for one in found])


class _Sql:
    """The statements of the accounts, for a raw cursor."""

    def __init__(self, cursor: Any, dialect: str) -> None:
        self._cursor = cursor
        self._mark = "?" if dialect == "sqlite" else "%s"

    def _run(self, statement: str, *values: Any) -> Any:
        self._cursor.execute(statement.replace("?", self._mark), values)
        return self._cursor

    def add(self, lane: tuple[str, str, int], messages: int, size: int) -> None:
        where = "WHERE queue = ? AND input = ? AND priority = ?"
        changed = self._run(
            f"UPDATE queue_lanes SET messages = messages + ?, bytes = bytes + ? {where}",  # noqa: S608 - our own text
            *(messages, size, *lane),
        )
        if changed.rowcount == 0:
            columns = "queue, input, priority, messages, bytes"
            self._run(f"INSERT INTO queue_lanes ({columns}) VALUES (?, ?, ?, ?, ?)", *lane, messages, size)  # noqa: S608

    def total(self) -> int:
        return int(self._run("SELECT COALESCE(SUM(bytes), 0) FROM queue_lanes").fetchone()[0])

    def forget(self, where: str, values: Sequence[int]) -> None:
        lane, size = "queue, input, priority", "SUM(LENGTH(body) + LENGTH(properties))"
        counted = f"SELECT {lane}, COUNT(*), {size} FROM queued_messages {where} GROUP BY {lane} ORDER BY {lane}"  # noqa: S608
        lanes = self._run(counted, *values).fetchall()
        self._run(f"DELETE FROM queued_messages {where}", *values)  # noqa: S608 - our own text
        for queue, name, priority, messages, total in lanes:
            self.add((queue, name, priority), -messages, -int(total))

    def oldest_of_the_last(self) -> list[Any]:
        """The oldest messages of the last priority that there is: seq, size, device, module, properties, lane."""
        last = self._run("SELECT MAX(priority) FROM queue_lanes WHERE messages > 0").fetchone()[0]
        queues = "SELECT DISTINCT queue FROM queue_lanes WHERE messages > 0 AND priority = ?"
        found: list[Any] = []
        for (queue,) in self._run(queues, last).fetchall():
            found += self._run(
                "SELECT seq, LENGTH(body) + LENGTH(properties), device, module, properties, queue, input, priority"
                " FROM queued_messages WHERE queue = ? AND priority = ? ORDER BY seq LIMIT ?",
                *(queue, last, _EVICTED_AT_ONCE),
            ).fetchall()
        return sorted(found)[:_EVICTED_AT_ONCE]

    def remove(self, victim: Any) -> int:
        """Remove one of them; its size."""
        self._run("DELETE FROM queued_messages WHERE seq = ?", victim[0])
        self.add(victim[5:8], -1, -victim[1])
        return int(victim[1])


def forget(runs: Sequence[tuple[int, int]], cursor: Any, dialect: str) -> None:
    """Remove what has arrived and count it off: sequence numbers, from and to. What is not there is fine."""
    sql = _Sql(cursor, dialect)
    if len(runs) <= _RUNS_MAX:
        for first, last in runs:
            sql.forget("WHERE seq BETWEEN ? AND ?", (first, last))
        return
    each = [seq for first, last in runs for seq in range(first, last + 1)]
    for start in range(0, len(each), _NAMED_AT_ONCE):
        some = each[start : start + _NAMED_AT_ONCE]
        sql.forget(f"WHERE seq IN ({', '.join(['?'] * len(some))})", some)


def remove(connection: Connection, condition: ColumnElement[bool]) -> None:
    """Remove messages and count them off."""
    size = func.sum(func.length(_row.body) + func.length(_row.properties))
    lanes = (_row.queue, _row.input, _row.priority)
    counted = select(*lanes, func.count(), size).where(condition).group_by(*lanes).order_by(*lanes)
    rows = connection.execute(counted).all()
    connection.execute(delete(queued_messages).where(condition))
    for queue, name, priority, messages, total in rows:
        connection.execute(
            update(queue_lanes)
            .where((_lane.queue == queue) & (_lane.input == name) & (_lane.priority == priority))
            .values(messages=_lane.messages - messages, bytes=_lane.bytes - int(total))
        )


def _mark(row: Any) -> Mark | None:
    """A message counts once for each of its destinations."""
    return mark_of(row, row.queue, row.input)
