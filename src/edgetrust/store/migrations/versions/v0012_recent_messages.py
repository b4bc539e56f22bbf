"""What was taken lately: a message that comes again is recognised."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "recent_messages",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("fingerprint", sa.String(32), nullable=False),
        sa.Column("sender", sa.String(257).with_variant(sa.String(257, collation="C"), "postgresql"), nullable=False),
        sa.Column("taken_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_recent_messages"),
        sa.UniqueConstraint("fingerprint", name="uq_recent_messages_fingerprint"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_recent_messages_sender", "recent_messages", ["sender", "seq"])
