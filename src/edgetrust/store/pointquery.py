"""PointQuery: a SELECT on the path of a connection, compiled once and given to the driver as it is.

SQLAlchemy's way from a statement to a row costs ten times what the driver and the database need for a look-up by key.
Values come back as the driver has them: on SQLite a Boolean is 0 or 1.

It must not know what is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Dialect, Select
from sqlalchemy.dialects import sqlite


class PointQuery:
    """`query` has only named parameters (`bindparam`) and no literals."""

    def __init__(self, query: Select[Any]) -> None:
        self._query = query
        self._names = tuple(query.selected_columns.keys())
        self._texts: dict[str, str] = {}  # by dialect

    def rows(self, connection: Connection, parameters: Mapping[str, object]) -> list[dict[str, Any]]:
        """The rows, by the names of their columns. Raises what the driver raises."""
        dialect = connection.dialect
        text = self._texts.get(dialect.name)
        if text is None:
            text = self._texts[dialect.name] = str(self._query.compile(dialect=_named(dialect)))
        cursor = connection.connection.cursor()
        try:
            cursor.execute(text, parameters)
            return [dict(zip(self._names, row, strict=True)) for row in cursor.fetchall()]
        finally:
            cursor.close()


def _named(dialect: Dialect) -> Dialect:
    """A dialect that writes parameters by name, as psycopg's does and SQLite's does when it is asked to."""
    return sqlite.dialect(paramstyle="named") if dialect.name == "sqlite" else dialect
