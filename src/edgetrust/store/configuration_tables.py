"""The tables of configurations, beside those of `schema`."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, String, Table, Text

from edgetrust.store.schema import METADATA, devices

_NAME = devices.c.device.type

configurations = Table(
    "configurations",
    METADATA,
    Column("id", _NAME, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("body", Text, nullable=False),  # JSON as it was sent, without what only the hub says
    Column("target_condition", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
)

# What was applied to an edge device last: which configurations it is from, and what came of it.
deployed = Table(
    "deployed",
    METADATA,
    Column("device", _NAME, ForeignKey("devices.device", ondelete="CASCADE"), primary_key=True),
    Column("configurations", Text, nullable=False),  # JSON list of identifiers
    Column("digest", String(64), nullable=False),
    Column("problem", Text, nullable=False),  # "" when it was applied
    Column("at_ms", BigInteger, nullable=False),
)
