"""Feedback: what became of cloud-to-device messages."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _name(length: int = 128) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _number() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "c2d_feedback",
        sa.Column("seq", _number(), nullable=False),
        sa.Column("message_id", sa.String(128), nullable=False),
        sa.Column("device", _name(), nullable=False),
        sa.Column("module", _name(), nullable=False),
        sa.Column("generation", sa.String(18), nullable=False),
        sa.Column("outcome", sa.String(24), nullable=False),
        sa.Column("recorded_ms", sa.BigInteger(), nullable=False),
        sa.Column("lock_token", sa.String(36), nullable=True),
        sa.Column("locked_until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_c2d_feedback"),
        sqlite_autoincrement=True,
    )
