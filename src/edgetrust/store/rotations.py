"""Rotations of CAs as rows: which CA takes the place of which, and how far that is.

One row per pair; the pairs of one rotation share `head`, the name of the CA that is rotated. Functions run inside a
transaction of `Database`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from edgetrust.store.ca_tables import ca_rotations
from edgetrust.store.records import at_moment, milliseconds


@dataclass(frozen=True, slots=True)
class RotationRow:
    """`new` takes the place of `old`."""

    old: str
    new: str
    head: str
    position: int
    stage: str
    changed_at: datetime


def read_rotations(connection: Connection) -> tuple[RotationRow, ...]:
    """All, those that changed last at the end; the pairs of one in their order."""
    query = select(ca_rotations).order_by(ca_rotations.c.changed_ms, ca_rotations.c.head, ca_rotations.c.position)
    return tuple(
        RotationRow(row.old, row.new, row.head, row.position, row.stage, at_moment(row.changed_ms))
        for row in connection.execute(query)
    )


def put_rotation(connection: Connection, row: RotationRow) -> None:
    """Store a pair, or replace it."""
    connection.execute(delete(ca_rotations).where(ca_rotations.c.old == row.old))
    values = {
        "old": row.old,
        "new": row.new,
        "head": row.head,
        "position": row.position,
        "stage": row.stage,
        "changed_ms": milliseconds(row.changed_at),
    }
    connection.execute(insert(ca_rotations), values)


def remove_rotation(connection: Connection, head: str) -> None:
    """Forget all pairs of a rotation."""
    connection.execute(delete(ca_rotations).where(ca_rotations.c.head == head))
