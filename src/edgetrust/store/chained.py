"""The certificate authority's audit log: every signature and every refusal, each record chained to the one before.

Rules. A record's hash is the SHA-256 of the hash before it and of everything it says, so that no record can be changed,
removed or put between others without every later hash becoming wrong. A record is written in the transaction of what it
records: there is no signature without its record, and no record of what was not done. Records are never trimmed.

What the chain cannot show is that its newest records were cut off, or that all of it was written anew: keep a hash that
`head` gave elsewhere, and `verify` with it later. Functions run inside a transaction of `Database`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, func, select

from edgetrust.store.ca_tables import ca_audit
from edgetrust.store.pointquery import PointQuery, PointWrite
from edgetrust.store.records import at_moment, milliseconds

# On the path of every enrolment: compiled once. The newest record is the one with the largest number.
_HEAD = PointQuery(select(ca_audit.c.hash).where(ca_audit.c.seq == select(func.max(ca_audit.c.seq)).scalar_subquery()))
_ADD = PointWrite(ca_audit, without=("seq",))

BEGINNING = "0" * 64  # the hash before the first record


@dataclass(frozen=True, slots=True)
class Entry:
    """One record. `event` is what happened (`issued`, `refused`, `revoked`, ...), `detail` a JSON object."""

    at: datetime
    event: str
    place: str
    peer: str
    identity: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Chained:
    """A stored record with its number and hash."""

    number: int
    entry: Entry
    hash: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What verifying found. `broken_at` is the number of the first record that does not fit; None when all do.

    `seen` tells whether the head that was asked for is in the chain; True when none was.
    """

    records: int
    head: str
    broken_at: int | None
    seen: bool

    @property
    def intact(self) -> bool:
        return self.broken_at is None and self.seen


def append(connection: Connection, entry: Entry) -> str:
    """Chain one record to the last; returns its hash."""
    values = _values(entry)
    digest = _hash(head(connection), values)
    _ADD.add(connection, {**values, "hash": digest})
    return digest


def head(connection: Connection) -> str:
    """The newest record's hash: what to keep elsewhere."""
    rows = _HEAD.values(connection, {})
    return str(rows[0][0]) if rows else BEGINNING


def verify(connection: Connection, *, wanted: str | None = None) -> Outcome:
    """Compute every hash again. `wanted`: a head noted earlier, which must be in the chain."""
    previous, count, seen = BEGINNING, 0, wanted in (None, BEGINNING)
    for row in connection.execute(select(ca_audit).order_by(ca_audit.c.seq)).yield_per(1000):
        values = {name: getattr(row, name) for name in _FIELDS}
        if row.hash != _hash(previous, values):
            return Outcome(count, previous, row.seq, seen)
        previous, count = row.hash, count + 1
        seen = seen or row.hash == wanted
    return Outcome(count, previous, None, seen)


def entries(connection: Connection, limit: int, *, event: str | None = None) -> tuple[Chained, ...]:
    """The newest first."""
    query = select(ca_audit).order_by(ca_audit.c.seq.desc()).limit(limit)
    if event is not None:
        query = query.where(ca_audit.c.event == event)
    return tuple(_chained(row) for row in connection.execute(query))


_FIELDS = ("at_ms", "event", "place", "peer", "identity", "reason", "detail")


def _values(entry: Entry) -> dict[str, object]:
    texts = {name: _storable(getattr(entry, name)) for name in _FIELDS if name != "at_ms"}
    return {"at_ms": milliseconds(entry.at), **texts}


def _storable(text: str) -> str:
    """No store takes U+0000 or half a surrogate pair; peers choose names."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _hash(previous: str, values: dict[str, object]) -> str:
    said = json.dumps([previous, *(values[name] for name in _FIELDS)], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(said.encode("ascii")).hexdigest()


def _chained(row: Row[tuple[object, ...]]) -> Chained:
    entry = Entry(at_moment(row.at_ms), row.event, row.place, row.peer, row.identity, row.reason, row.detail)
    return Chained(row.seq, entry, row.hash)
