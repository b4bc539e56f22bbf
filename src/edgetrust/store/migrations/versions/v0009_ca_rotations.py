"""Rotations of CAs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def _name(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "ca_rotations",
        sa.Column("old", _name(64), nullable=False),
        sa.Column("new", _name(64), nullable=False),
        sa.Column("head", _name(64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("changed_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("old", name="pk_ca_rotations"),
        sa.ForeignKeyConstraint(["old"], ["authorities.name"], name="fk_ca_rotations_old"),
        sa.ForeignKeyConstraint(["new"], ["authorities.name"], name="fk_ca_rotations_new"),
    )
