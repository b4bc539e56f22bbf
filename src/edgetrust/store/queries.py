"""Queries over devices and modules, page by page.

Rules: rows come in byte order of their names, so that a page goes on where the one before ended whatever changed
meanwhile; SQL narrows what is read (`narrowing`), the evaluator decides. Rows are read and looked at in portions on a
reader's thread, so that a query over everything holds nobody up for long. A page that has a next one says so only when
something is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from edgetrust.limits import QUERY_ROWS_AT_ONCE
from edgetrust.protocol.query import Aggregation, Query, Source, holds, project
from edgetrust.protocol.query.evaluation import Row
from edgetrust.store import rows
from edgetrust.store.engine import Database
from edgetrust.store.narrowing import Narrowing
from edgetrust.store.schema import devices, modules
from edgetrust.store.twins import TwinRecord, device_twin_records, selected_module_twins

Place = tuple[str, str]  # a device and a module, which is "" for the device itself
START: Place = ("", "")
RowOf = Callable[[TwinRecord], Row]


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of an answer. `more` is the place of the last one when something follows, else None."""

    rows: list[Row]
    more: Place | None


class Queries:
    """Answers queries from `database`. `row_of` makes what conditions look at and `*` shows."""

    def __init__(self, database: Database, row_of: RowOf, *, at_once: int = QUERY_ROWS_AT_ONCE) -> None:
        self._database = database
        self._row_of = row_of
        self._at_once = at_once

    async def page(self, query: Query, limit: int, after: Place = START) -> Page:
        """The next at most `limit` rows behind `after`, of a query without aggregates."""
        reading = self._reading(query)
        taken: list[tuple[Place, Row]] = []
        place: Place | None = after
        while place is not None and len(taken) <= limit:
            portion = limit + 1 if query.condition is None else self._at_once
            found, place = await self._database.read(reading(place, portion))
            taken += found
        more = taken[limit - 1][0] if len(taken) > limit else None
        return Page([project(query, row) for _, row in taken[:limit]], more)

    async def identities(self, query: Query) -> list[Place]:
        """Everything that a query takes, by name."""
        reading = self._reading(query)
        taken: list[Place] = []
        place: Place | None = START
        while place is not None:
            found, place = await self._database.read(reading(place, self._at_once))
            taken += [where for where, _ in found]
        return taken

    async def aggregate(self, query: Query) -> list[Row]:
        """All rows of a query with aggregates."""
        gathered = Aggregation(query)
        counted = await self._counted(query)
        if counted is not None:
            gathered.count(counted)
            return gathered.answer()
        reading = self._reading(query)
        place: Place | None = START
        while place is not None:
            found, place = await self._database.read(reading(place, self._at_once))
            for _, row in found:
                gathered.add(row)
        return gathered.answer()

    async def _counted(self, query: Query) -> int | None:
        """How many rows there are, when that is all that is asked and SQL can tell."""
        clause = Narrowing(query.source, self._database.dialect).clause(query.condition)
        plain = not query.groups and all(column.path is None for column in query.columns)
        if not plain or clause is None or not clause.exact:
            return None
        table = modules if query.source is Source.MODULES else devices
        counting = select(func.count()).select_from(table).where(clause.sql)
        count: int = await self._database.read(lambda connection: connection.execute(counting).scalar_one())
        return count

    def _reading(self, query: Query) -> Callable[[Place, int], Callable[[Connection], _Portion]]:
        narrowed = Narrowing(query.source, self._database.dialect).clause(query.condition)
        clause = None if narrowed is None else narrowed.sql

        def reading(after: Place, portion: int) -> Callable[[Connection], _Portion]:
            def read(connection: Connection) -> _Portion:
                records = _records(connection, query.source, after, portion, clause)
                seen = [(_place(record), self._row_of(record)) for record in records]
                last = seen[-1][0] if len(seen) == portion else None
                return [(place, row) for place, row in seen if holds(query.condition, row)], last

            return read

        return reading


_Portion = tuple[list[tuple[Place, Row]], Place | None]


def _records(
    connection: Connection, source: Source, after: Place, portion: int, clause: ColumnElement[bool] | None
) -> tuple[TwinRecord, ...]:
    narrowed: Any = rows.modules_by_name(*after) if source is Source.MODULES else rows.devices_by_name(after[0])
    if clause is not None:
        narrowed = narrowed.where(clause)
    read = selected_module_twins if source is Source.MODULES else device_twin_records
    return read(connection, narrowed.limit(portion))


def _place(record: TwinRecord) -> Place:
    return record.device.device, "" if record.module is None else record.module.module
