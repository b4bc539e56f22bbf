"""PointQuery and PointWrite: statements on the path of a connection, compiled once and given to the driver as they are.

SQLAlchemy's way from a statement to a row costs ten times what the driver and the database need for a look-up by key.
Values come back as the driver has them: on SQLite a Boolean is 0 or 1.

It must not know what is asked or written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Dialect, Select, Table, bindparam, insert
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql import ClauseElement


class _Compiled:
    """The text of one statement in each dialect that asked for it."""

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._texts: dict[str, str] = {}  # by dialect

    def text(self, dialect: Dialect) -> str:
        text = self._texts.get(dialect.name)
        if text is None:
            text = self._texts[dialect.name] = str(self._statement.compile(dialect=_named(dialect)))
        return text


class PointQuery:
    """`query` has only named parameters (`bindparam`) and no literals."""

    def __init__(self, query: Select[Any]) -> None:
        self._compiled = _Compiled(query)
        self._names = tuple(query.selected_columns.keys())

    def rows(self, connection: Connection, parameters: Mapping[str, object]) -> list[dict[str, Any]]:
        """The rows, by the names of their columns. Raises what the driver raises."""
        return [dict(zip(self._names, row, strict=True)) for row in self.values(connection, parameters)]

    def values(self, connection: Connection, parameters: Mapping[str, object]) -> list[Sequence[Any]]:
        """The rows, in the order of the columns. Raises what the driver raises."""
        cursor = connection.connection.cursor()
        try:
            cursor.execute(self._compiled.text(connection.dialect), parameters)
            return list(cursor.fetchall())
        finally:
            cursor.close()


class PointWrite:
    """An INSERT of whole rows into `table`; `without` names columns that the database fills in."""

    def __init__(self, table: Table, *, without: Sequence[str] = ()) -> None:
        columns: dict[str, Any] = {
            column.name: bindparam(column.name) for column in table.columns if column.name not in without
        }
        self._compiled = _Compiled(insert(table).values(columns).inline())

    def add(self, connection: Connection, *rows: Mapping[str, object]) -> None:
        """Insert rows, each a value for every column. Raises what the driver raises."""
        text = self._compiled.text(connection.dialect)
        cursor = connection.connection.cursor()
        try:
            for row in rows:
                cursor.execute(text, row)
        finally:
            cursor.close()


def _named(dialect: Dialect) -> Dialect:
    """A dialect that writes parameters by name, as psycopg's does and SQLite's does when it is asked to."""
    return sqlite.dialect(paramstyle="named") if dialect.name == "sqlite" else dialect
