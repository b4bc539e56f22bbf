"""What was taken lately, so that it is not taken again: for the appender of a table of messages.

Rules. What is remembered is written in the transaction of the message it is about: after a crash both are there, or
neither. At least the last REPEATS_KEPT of a sender are remembered, for REPEATS_SECONDS, whatever others send. Which
messages are repetitions: `protocol.repeats`. On the appender's thread, but for `forget`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, delete, select

from edgetrust.limits import REPEATS_KEPT, REPEATS_SECONDS, TRIM_STEP_ROWS
from edgetrust.protocol.repeats import Mark, Recognition, sift
from edgetrust.store.appending import Row
from edgetrust.store.engine import Database
from edgetrust.store.repeat_tables import recent_messages

_ENQUEUED_MS: Final = 4  # its place in a row
_AT_ONCE: Final = 500  # values in one statement
_SLACK: Final = REPEATS_KEPT // 4  # more than the limit of one sender before they are cut back to it
_row = recent_messages.c


class Repeats:
    """`mark` says what a row is recognised by; None for those that are taken anyway."""

    def __init__(self, mark: Callable[[Any], Mark | None], recognition: Recognition = Recognition.RESENT) -> None:
        self.recognition = recognition
        self._mark = mark
        self._marks: list[Mark | None] = []
        self._since: Counter[str] = Counter()  # remembered of a sender since it was cut back
        self._found: list[Any] = []

    def concern(self, messages: Sequence[Row]) -> bool:
        """Look at the next group; whether any of it has to be recognised."""
        self._found = []
        self._marks = [] if self.recognition is Recognition.OFF else [self._mark(one) for one in messages]
        return any(self._marks)

    def without(self, cursor: Any, dialect: str, messages: Sequence[Row]) -> Sequence[Row]:
        """The group without what was taken before; the rest is remembered, in this transaction."""
        prints = [mark.fingerprint for mark in self._marks if mark is not None]
        if not prints:
            return messages
        sql = _Sql(cursor, dialect)
        there = sql.remembered(prints)
        since_ms = max(one[_ENQUEUED_MS] for one in messages) - 1000 * REPEATS_SECONDS
        known = {fingerprint for fingerprint, taken_ms in there.items() if taken_ms >= since_ms}
        sifted = sift(self._marks, known, self.recognition)
        self._found = [messages[place] for place in sifted.repeated]
        sql.forget([fingerprint for fingerprint in sifted.remember.values() if fingerprint in there])
        self._remember(sql, [(one, messages[place]) for place, one in sifted.remember.items()])
        return [messages[place] for place in sifted.taken] if sifted.repeated else messages

    def found(self) -> Sequence[Any]:
        """What `without` left out the last time."""
        return self._found

    def _remember(self, sql: _Sql, new: list[tuple[str, Row]]) -> None:
        rows = [(fingerprint, _sender(row), row[_ENQUEUED_MS]) for fingerprint, row in new]
        sql.remember(rows)
        for sender, count in Counter(sender for _, sender, _ in rows).items():
            since = self._since.get(sender, _SLACK) + count  # after a start nobody knows: cut back at once
            if since > _SLACK:
                sql.cut_back(sender)
                since = 0
            self._since[sender] = since


def _sender(row: Row) -> str:
    return row[0] if not row[1] else f"{row[0]}/{row[1]}"


class _Sql:
    """The statements, for a raw cursor."""

    def __init__(self, cursor: Any, dialect: str) -> None:
        self._cursor = cursor
        self._mark = "?" if dialect == "sqlite" else "%s"

    def _run(self, statement: str, values: Sequence[Any]) -> Any:
        self._cursor.execute(statement.replace("?", self._mark), values)
        return self._cursor

    def remembered(self, prints: Sequence[str]) -> dict[str, int]:
        """Which of them are there, and since when."""
        found: dict[str, int] = {}
        for part in _parts(prints):
            where = f"WHERE fingerprint IN ({_marks(part)})"
            rows = self._run(f"SELECT fingerprint, taken_ms FROM recent_messages {where}", part)  # noqa: S608
            found.update(rows.fetchall())
        return found

    def forget(self, prints: Sequence[str]) -> None:
        for part in _parts(prints):
            self._run(f"DELETE FROM recent_messages WHERE fingerprint IN ({_marks(part)})", part)  # noqa: S608

    def remember(self, rows: Sequence[tuple[str, str, int]]) -> None:
        for part in _parts(rows):
            places = ", ".join(["(?, ?, ?)"] * len(part))
            statement = f"INSERT INTO recent_messages (fingerprint, sender, taken_ms) VALUES {places}"  # noqa: S608
            self._run(statement, [value for row in part for value in row])

    def cut_back(self, sender: str) -> None:
        newest = "SELECT seq FROM recent_messages WHERE sender = ? ORDER BY seq DESC LIMIT 1 OFFSET ?"
        statement = f"DELETE FROM recent_messages WHERE sender = ? AND seq <= ({newest})"  # noqa: S608 - our own text
        self._run(statement, [sender, sender, REPEATS_KEPT])


def _parts(values: Sequence[Any]) -> list[Sequence[Any]]:
    return [values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE)]


def _marks(values: Sequence[Any]) -> str:
    return ", ".join(["?"] * len(values))


async def forget_old(database: Database, now_ms: int) -> int:
    """Forget what was taken longer ago than REPEATS_SECONDS, in steps; how many. Raises the store's errors."""
    before = now_ms - 1000 * REPEATS_SECONDS
    young = select(_row.seq).where(_row.taken_ms >= before).order_by(_row.seq).limit(1)

    def work(connection: Connection) -> int:
        first = connection.execute(young).scalar()
        oldest = select(_row.seq).order_by(_row.seq).limit(TRIM_STEP_ROWS)
        old = oldest if first is None else oldest.where(_row.seq < first)
        return connection.execute(delete(recent_messages).where(_row.seq.in_(old))).rowcount

    removed = 0
    while step := await database.write(work):
        removed += step
    return removed
