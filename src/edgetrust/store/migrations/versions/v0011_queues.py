"""A gateway's queues by destination and priority; what waited for the hub goes on waiting for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_LOWEST = 2_000_000_000
_COLUMNS = "seq, device, module, properties, body, enqueued_ms, auth_method, message_source"


def _name() -> sa.types.TypeEngine[str]:
    return sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql")


def upgrade() -> None:
    """Make the tables, move what waits, drop the old ones."""
    op.create_table(
        "queued_messages",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("device", _name(), nullable=False),
        sa.Column("module", _name(), nullable=True),
        sa.Column("properties", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("enqueued_ms", sa.BigInteger(), nullable=False),
        sa.Column("auth_method", sa.Text(), nullable=False),
        sa.Column("message_source", sa.Text(), nullable=False),
        sa.Column("queue", _name(), nullable=False),
        sa.Column("input", _name(), nullable=False),
        sa.Column("priority", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_queued_messages"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_queued_messages_queue", "queued_messages", ["queue", "priority", "seq"])
    op.create_index(
        "ix_queued_messages_expires_ms",
        "queued_messages",
        ["expires_ms"],
        sqlite_where=sa.text("expires_ms > 0"),
        postgresql_where=sa.text("expires_ms > 0"),
    )
    op.create_table(
        "queue_lanes",
        sa.Column("queue", _name(), nullable=False),
        sa.Column("input", _name(), nullable=False),
        sa.Column("priority", sa.BigInteger(), nullable=False),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("queue", "input", "priority", name="pk_queue_lanes"),
    )
    op.execute(
        f"INSERT INTO queued_messages ({_COLUMNS}, queue, input, priority, expires_ms)"  # noqa: S608 - our own text
        f" SELECT {_COLUMNS}, '$upstream', '', {_LOWEST}, 0 FROM forward_queue ORDER BY seq"
    )
    op.execute(
        "INSERT INTO queue_lanes (queue, input, priority, messages, bytes)"  # noqa: S608 - our own text
        f" SELECT '$upstream', '', {_LOWEST}, messages, bytes FROM queue_totals WHERE queue = 'upstream'"
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "SELECT setval(pg_get_serial_sequence('queued_messages', 'seq'),"
            " (SELECT COALESCE(MAX(seq), 0) + 1 FROM queued_messages), false)"
        )
    op.drop_table("forward_queue")
    op.drop_table("queue_totals")
