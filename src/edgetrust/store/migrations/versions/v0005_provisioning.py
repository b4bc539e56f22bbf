"""The tables of the provisioning service: enrollments, registrations, CA certificates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def _name(length: int = 128) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _number() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "dps_changes",
        sa.Column("seq", _number(), autoincrement=True, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_dps_changes"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "dps_enrollments",
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("key", _name(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "key", name="pk_dps_enrollments"),
    )
    op.create_table(
        "dps_certificates",
        sa.Column("thumbprint", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("key", _name(), nullable=False),
        sa.PrimaryKeyConstraint("thumbprint", name="pk_dps_certificates"),
    )
    op.create_index("ix_dps_certificates_key", "dps_certificates", ["kind", "key"], unique=False)
    op.create_table(
        "dps_registrations",
        sa.Column("key", _name(), nullable=False),
        sa.Column("registration_id", _name(), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("enrollment", _name(), nullable=False),
        sa.Column("operation_id", sa.String(length=80), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("substatus", sa.String(length=40), nullable=True),
        sa.Column("assigned_hub", _name(255), nullable=True),
        sa.Column("device", _name(), nullable=True),
        sa.Column("target_hub", _name(255), nullable=True),
        sa.Column("target_device", _name(), nullable=True),
        sa.Column("left_behind", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("error_code", sa.Integer(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("key", name="pk_dps_registrations"),
    )
    op.create_index("ix_dps_registrations_enrollment", "dps_registrations", ["kind", "enrollment", "key"], unique=False)
    op.create_table(
        "dps_ca_certificates",
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
        sa.PrimaryKeyConstraint("name", name="pk_dps_ca_certificates"),
    )
