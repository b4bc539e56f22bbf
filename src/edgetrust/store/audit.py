"""The audit trail: every decision; of refusals also every check that was made.

Rules: `record` returns at once; what gathers while a write is under way goes with the next one. The newest refusals and
the newest acceptances are kept, in numbers, so that a flood of the one does not push out the other. If the disk falls
behind, the oldest waiting records are dropped and counted, never the decision itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from edgetrust.limits import ACCEPTED_KEPT, AUDIT_WAITING, PAGE_ITEMS, REFUSALS_KEPT
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
            self._write()

    async def flush(self) -> None:
        """Wait until everything recorded so far is on disk, or was dropped."""
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
        taken = list(self._waiting)
        self._waiting.clear()

        def written(error: BaseException | None) -> None:
            self._written(0 if error is None else len(taken))

        self._database.post(lambda connection: _insert(connection, taken, self._kept), written)

    def _written(self, lost: int) -> None:
        self.dropped += lost
        if self._waiting:
            self._write()
        else:
            self._idle.set()


def _insert(connection: Connection, records: Sequence[Record], kept: dict[bool, int]) -> None:
    for record in records:
        row = {
            "at_ms": milliseconds(record.at),
            "place": record.place,
            "peer": record.peer,
            "identity": record.identity,
            "accepted": record.accepted,
            "reason": record.reason,
        }
        sequence = connection.execute(insert(audit).returning(audit.c.seq), row).scalar_one()
        if record.checks and not record.accepted:
            connection.execute(
                insert(audit_checks),
                [
                    {
                        "audit_seq": sequence,
                        "position": position,
                        "name": check.name,
                        "passed": check.passed,
                        "detail": check.detail,
                    }
                    for position, check in enumerate(record.checks)
                ],
            )
    for accepted in {record.accepted for record in records}:
        _trim(connection, accepted, kept[accepted])


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
