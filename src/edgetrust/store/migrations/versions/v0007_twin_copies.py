"""A gateway's copies of the twins of those it serves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def _name() -> sa.types.TypeEngine[str]:
    return sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "twin_copies",
        sa.Column("device", _name(), nullable=False),
        sa.Column("module", _name(), nullable=False),
        sa.Column("waiting", sa.Boolean(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("device", "module", name="pk_twin_copies"),
    )
