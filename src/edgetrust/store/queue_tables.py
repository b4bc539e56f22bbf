"""The tables of a gateway's queues, beside those of `schema`.

Column order in `queued_messages` is the order of `QueuedMessage`, after the sequence number.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Table

from edgetrust.store.schema import METADATA, events

_NAME = events.c.device.type

queued_messages = Table(
    "queued_messages",
    METADATA,
    Column("seq", events.c.seq.type, primary_key=True, autoincrement=True),
    *(Column(one.name, one.type, nullable=one.nullable) for one in list(events.c)[1:]),
    Column("queue", _NAME, nullable=False),
    Column("input", _NAME, nullable=False),  # "" where the queue has none
    Column("priority", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Index("ix_queued_messages_queue", "queue", "priority", "seq"),
    sqlite_autoincrement=True,
)
# On PostgreSQL too it is of those that expire; to say so here, beside the migration, would import that dialect always.
Index("ix_queued_messages_expires_ms", queued_messages.c.expires_ms, sqlite_where=queued_messages.c.expires_ms > 0)

# How much waits, kept with every change of the queue: counting it would read all of it.
queue_lanes = Table(
    "queue_lanes",
    METADATA,
    Column("queue", _NAME, primary_key=True),
    Column("input", _NAME, primary_key=True),
    Column("priority", BigInteger, primary_key=True),
    Column("messages", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)
