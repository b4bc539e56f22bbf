"""The first schema: registry, CA certificates, sessions, queues, event log, scope snapshot, audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _name(length: int = 128) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _number() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "audit",
        sa.Column("seq", _number(), autoincrement=True, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_accepted", "audit", ["accepted", "seq"], unique=False)
    op.create_table(
        "c2d_messages",
        sa.Column("seq", _number(), autoincrement=True, nullable=False),
        sa.Column("device", _name(), nullable=False),
        sa.Column("module", _name(), nullable=False),
        sa.Column("message_id", sa.String(length=128), nullable=False),
        sa.Column("properties", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("ack", sa.String(length=8), nullable=False),
        sa.Column("enqueued_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("lock_token", sa.String(length=36), nullable=True),
        sa.Column("locked_until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_c2d_messages"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_c2d_messages_device", "c2d_messages", ["device", "module", "seq"], unique=False)
    op.create_index("ix_c2d_messages_expires_ms", "c2d_messages", ["expires_ms"], unique=False)
    op.create_table(
        "ca_certificates",
        sa.Column("name", _name(64), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("thumbprint_sha1", sa.String(length=40), nullable=False),
        sa.Column("thumbprint_sha256", sa.String(length=64), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.Column("verified", sa.Boolean(), nullable=False),
        sa.Column("verification_code", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_ca_certificates"),
    )
    op.create_table(
        "changes",
        sa.Column("seq", _number(), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("device", _name(), nullable=True),
        sa.Column("module", _name(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name="pk_changes"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "consumers",
        sa.Column("name", _name(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_consumers"),
    )
    op.create_table(
        "devices",
        sa.Column("device", _name(), nullable=False),
        sa.Column("generation", sa.String(length=18), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("status_reason", sa.Text(), nullable=True),
        sa.Column("status_changed_ms", sa.BigInteger(), nullable=False),
        sa.Column("edge", sa.Boolean(), nullable=False),
        sa.Column("parent", _name(), nullable=True),
        sa.Column("authentication", sa.String(length=24), nullable=False),
        sa.Column("key_primary", sa.LargeBinary(), nullable=True),
        sa.Column("key_secondary", sa.LargeBinary(), nullable=True),
        sa.Column("thumbprint_primary", sa.String(length=64), nullable=True),
        sa.Column("thumbprint_secondary", sa.String(length=64), nullable=True),
        sa.Column("connected", sa.Boolean(), nullable=False),
        sa.Column("connection_changed_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_activity_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["parent"], ["devices.device"], name="fk_devices_parent"),
        sa.PrimaryKeyConstraint("device", name="pk_devices"),
        sa.UniqueConstraint("generation", name="uq_devices_generation"),
    )
    op.create_index("ix_devices_parent", "devices", ["parent"], unique=False)
    op.create_index("ix_devices_thumbprint_primary", "devices", ["thumbprint_primary"], unique=False)
    op.create_index("ix_devices_thumbprint_secondary", "devices", ["thumbprint_secondary"], unique=False)
    op.create_table(
        "events",
        sa.Column("seq", _number(), autoincrement=True, nullable=False),
        sa.Column("device", _name(), nullable=False),
        sa.Column("module", _name(), nullable=True),
        sa.Column("properties", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("enqueued_ms", sa.BigInteger(), nullable=False),
        sa.Column("auth_method", sa.Text(), nullable=False),
        sa.Column("message_source", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "forward_queue",
        sa.Column("seq", _number(), autoincrement=True, nullable=False),
        sa.Column("device", _name(), nullable=False),
        sa.Column("module", _name(), nullable=True),
        sa.Column("properties", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("enqueued_ms", sa.BigInteger(), nullable=False),
        sa.Column("auth_method", sa.Text(), nullable=False),
        sa.Column("message_source", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_forward_queue"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "queue_totals",
        sa.Column("queue", sa.String(length=32), nullable=False),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("queue", name="pk_queue_totals"),
    )
    op.create_table(
        "scope_snapshot",
        sa.Column("device", _name(), nullable=False),
        sa.Column("module", _name(), nullable=False),
        sa.Column("as_of_ms", sa.BigInteger(), nullable=False),
        sa.Column("member", sa.Boolean(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("device", "module", name="pk_scope_snapshot"),
    )
    op.create_table(
        "scope_state",
        sa.Column("actor", _name(), nullable=False),
        sa.Column("as_of_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("actor", name="pk_scope_state"),
    )
    op.create_table(
        "sessions",
        sa.Column("device", _name(), nullable=False),
        sa.Column("module", _name(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device", "module", name="pk_sessions"),
    )
    op.create_table(
        "audit_checks",
        sa.Column("audit_seq", _number(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["audit_seq"], ["audit.seq"], name="fk_audit_checks_audit_seq", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("audit_seq", "position", name="pk_audit_checks"),
    )
    op.create_table(
        "modules",
        sa.Column("device", _name(), nullable=False),
        sa.Column("module", _name(), nullable=False),
        sa.Column("generation", sa.String(length=18), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("managed_by", sa.Text(), nullable=True),
        sa.Column("authentication", sa.String(length=24), nullable=False),
        sa.Column("key_primary", sa.LargeBinary(), nullable=True),
        sa.Column("key_secondary", sa.LargeBinary(), nullable=True),
        sa.Column("thumbprint_primary", sa.String(length=64), nullable=True),
        sa.Column("thumbprint_secondary", sa.String(length=64), nullable=True),
        sa.Column("connected", sa.Boolean(), nullable=False),
        sa.Column("connection_changed_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_activity_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name="fk_modules_device", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("device", "module", name="pk_modules"),
        sa.UniqueConstraint("generation", name="uq_modules_generation"),
    )
    op.create_table(
        "revoked_certificates",
        sa.Column("device", _name(), nullable=False),
        sa.Column("module", _name(), nullable=False),
        sa.Column("thumbprint", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["devices.device"], name="fk_revoked_certificates_device", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device", "module", "thumbprint", name="pk_revoked_certificates"),
    )
    op.create_table(
        "session_subscriptions",
        sa.Column("device", _name(), nullable=False),
        sa.Column("module", _name(), nullable=False),
        sa.Column("filter", sa.Text(), nullable=False),
        sa.Column("qos", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device", "module"],
            ["sessions.device", "sessions.module"],
            name="fk_session_subscriptions_device",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("device", "module", "filter", name="pk_session_subscriptions"),
    )
