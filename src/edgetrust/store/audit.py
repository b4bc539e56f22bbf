"""The audit trail: every decision; of refusals also every check that was made.

Rules: `record` returns at once; what gathers within a fraction of a second, or while a write is under way, is written
together, since nobody waits for it. The newest refusals and the newest acceptances are kept, in numbers, so that a
flood of the one does not push out the other; what is too much is removed now and then. If the disk falls behind, the
oldest waiting records are dropped and counted, never the decision itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

from sqlalchemy import Connection, delete, insert, select

from edgetrust.limits import (
    ACCEPTED_KEPT,
    AUDIT_GATHER_SECONDS,
    AUDIT_SLACK,
    AUDIT_WAITING,
    PAGE_ITEMS,
    REFUSALS_KEPT,
)
from edgetrust.store.engine import Database
from edgetrust.store.records import at_moment, milliseconds
from edgetrust.store.schema import audit, audit_checks
from edgetrust.trust.audit import Record
from edgetrust.trust.verdict import Check


class AuditTrail:
    """Decisions on disk. Reading raises the store's errors."""

    def __init__(
        self, database: Database, *, refusals_kept: int = REFUSALS_KEPT, accepted_kept: int = ACCEPTED_KEPT
    ) -> None:
        self._database = database
        self._kept = {False: refusals_kept, True: accepted_kept}
        self._waiting: deque[Record] = deque()
        self._untrimmed = dict.fromkeys(self._kept, 0)
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.dropped = 0

    def record(self, record: Record) -> None:
        """Keep one decision."""
        if len(self._waiting) >= AUDIT_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(record)
        if self._idle.is_set():
            self._idle.clear()
            self._timer = asyncio.get_running_loop().call_later(AUDIT_GATHER_SECONDS, self._write)

    async def flush(self) -> None:
        """Wait until everything recorded so far is on disk, or was dropped."""
        if self._timer is not None:
            self._write()
        await self._idle.wait()

    async def records(
        self, limit: int = PAGE_ITEMS, *, accepted: bool | None = None, identity: str | None = None
    ) -> tuple[Record, ...]:
        """The newest first: all, or only acceptances or refusals, or only those about one identity."""
        query = select(audit).order_by(audit.c.seq.desc()).limit(limit)
        if accepted is not None:
            query = query.where(audit.c.accepted.is_(accepted))
        if identity is not None:
            query = query.where(audit.c.identity == identity)

        def work(connection: Connection) -> tuple[Record, ...]:
            found = connection.execute(query).all()
            checks = _checks(connection, [row.seq for row in found])
            return tuple(
                Record(
                    at_moment(row.at_ms),
                    row.place,
                    row.peer,
                    row.identity,
                    row.accepted,
                    row.reason,
                    tuple(checks.get(row.seq, ())),
                )
                for row in found
            )

        return await self._database.read(work)

    async def refusals(self, limit: int = PAGE_ITEMS) -> tuple[Record, ...]:
        """The newest refusals first, with all their checks."""
        return await self.records(limit, accepted=False)

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        taken = list(self._waiting)
        self._waiting.clear()
        trims = self._due([record.accepted for record in taken])

        def work(connection: Connection) -> None:
            _insert(connection, taken)
            for accepted in trims:
                _trim(connection, accepted, self._kept[accepted])

        def written(error: BaseException | None) -> None:
            self._written(0 if error is None else len(taken))

        self._database.post(work, written)

    def _due(self, outcomes: Sequence[bool]) -> list[bool]:
        """Of which outcome so many were added that the oldest should be removed now."""
        due = []
        for accepted, kept in self._kept.items():
            self._untrimmed[accepted] += outcomes.count(accepted)
            if self._untrimmed[accepted] > kept // AUDIT_SLACK:
                self._untrimmed[accepted] = 0
                due.append(accepted)
        return due

    def _written(self, lost: int) -> None:
        self.dropped += lost
        if self._waiting:
            self._write()
        else:
            self._idle.set()


def _insert(connection: Connection, records: Sequence[Record]) -> None:
    for accepted, run in groupby(records, key=attrgetter("accepted")):
        if accepted:
            connection.execute(insert(audit), [_row(record) for record in run])
        else:
            for record in run:
                _insert_refusal(connection, record)


def _insert_refusal(connection: Connection, record: Record) -> None:
    sequence = connection.execute(insert(audit).returning(audit.c.seq), _row(record)).scalar_one()
    checks = [
        {
            "audit_seq": sequence,
            "position": position,
            "name": check.name,
            "passed": check.passed,
            "detail": check.detail,
        }
        for position, check in enumerate(record.checks)
    ]
    if checks:
        connection.execute(insert(audit_checks), checks)


def _row(record: Record) -> dict[str, object]:
    return {
        "at_ms": milliseconds(record.at),
        "place": record.place,
        "peer": record.peer,
        "identity": record.identity,
        "accepted": record.accepted,
        "reason": record.reason,
    }


def _trim(connection: Connection, accepted: bool, kept: int) -> None:
    of_kind = audit.c.accepted.is_(accepted)
    newest = select(audit.c.seq).where(of_kind).order_by(audit.c.seq.desc()).offset(kept).limit(1)
    last = connection.execute(newest).scalar()
    if last is not None:
        old = select(audit.c.seq).where(of_kind, audit.c.seq <= last)
        connection.execute(delete(audit_checks).where(audit_checks.c.audit_seq.in_(old)))
        connection.execute(delete(audit).where(of_kind, audit.c.seq <= last))


def _checks(connection: Connection, sequences: Sequence[int]) -> dict[int, list[Check]]:
    if not sequences:
        return {}
    table = audit_checks
    query = select(table).where(table.c.audit_seq.between(min(sequences), max(sequences)))
    found: dict[int, list[Check]] = {}
    for row in connection.execute(query.order_by(table.c.audit_seq, table.c.position)):
        found.setdefault(row.audit_seq, []).append(Check(row.name, row.passed, row.detail))
    return found
