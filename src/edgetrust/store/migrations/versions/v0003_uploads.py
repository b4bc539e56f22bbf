"""File uploads of devices that are under way."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "uploads",
        sa.Column("correlation", sa.String(length=36), nullable=False),
        sa.Column("device", sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql"), nullable=False),
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("correlation", name="pk_uploads"),
    )
    op.create_index("ix_uploads_device", "uploads", ["device"], unique=False)
    op.create_index("ix_uploads_expires_ms", "uploads", ["expires_ms"], unique=False)
