"""Twins: one for every device and module, empty for those that exist already."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_EMPTY_DESIRED = '{"$lastUpdated":"0001-01-01T00:00:00Z","$lastUpdatedVersion":1}'
_EMPTY_REPORTED = '{"$lastUpdated":"0001-01-01T00:00:00Z"}'
_FILL = (
    "INSERT INTO twins (device, module, version, revision, tags, desired, desired_metadata, desired_version,"
    " reported, reported_metadata, reported_version, model_id, product_info)"
    " SELECT device, {module}, 1, 1, '{{}}', '{{}}', :desired, 1, '{{}}', :reported, 1, '', '' FROM {table}"
)


def _name(length: int = 128) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """Create the table and fill it."""
    op.create_table(
        "twins",
        sa.Column("device", _name(), nullable=False),
        sa.Column("module", _name(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("desired", sa.Text(), nullable=False),
        sa.Column("desired_metadata", sa.Text(), nullable=False),
        sa.Column("desired_version", sa.BigInteger(), nullable=False),
        sa.Column("reported", sa.Text(), nullable=False),
        sa.Column("reported_metadata", sa.Text(), nullable=False),
        sa.Column("reported_version", sa.BigInteger(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("product_info", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name="fk_twins_device", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("device", "module", name="pk_twins"),
    )
    values = {"desired": _EMPTY_DESIRED, "reported": _EMPTY_REPORTED}
    for table, module in (("devices", "''"), ("modules", "module")):
        op.execute(sa.text(_FILL.format(table=table, module=module)).bindparams(**values))
