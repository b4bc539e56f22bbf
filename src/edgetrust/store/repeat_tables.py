"""The table of what was taken lately, at hubs and gateways, beside those of `schema`."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, String, Table

from edgetrust.store.schema import METADATA, events

# What is recognised when it comes again. Nothing refers to it: a message may be gone while it is still recognised.
recent_messages = Table(
    "recent_messages",
    METADATA,
    Column("seq", events.c.seq.type, primary_key=True, autoincrement=True),
    Column("fingerprint", String(32), nullable=False, unique=True),
    Column("sender", String(257).with_variant(String(257, collation="C"), "postgresql"), nullable=False),
    Column("taken_ms", BigInteger, nullable=False),
    Index("ix_recent_messages_sender", "sender", "seq"),
    sqlite_autoincrement=True,
)
