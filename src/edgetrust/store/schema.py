"""The tables. Column order in `events` is the order of `Message`, after the sequence number.

Rules: times are integers, milliseconds since 1970-01-01 UTC, 0 for "never"; names compare byte by byte (collation C
on PostgreSQL, the default on SQLite), so that paging is the same on both; sequence numbers are never used twice
(AUTOINCREMENT); a change here comes with a migration beside it, which a test compares.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeEngine

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _name(length: int = 128) -> TypeEngine[str]:
    return String(length).with_variant(String(length, collation="C"), "postgresql")


# SQLite numbers rows by itself only where the type is exactly INTEGER.
_SEQUENCE: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")


def _sequence() -> Column[int]:
    return Column("seq", _SEQUENCE, primary_key=True, autoincrement=True)


def _authentication() -> list[Column[object]]:
    """How an identity authenticates: its type, and what belongs to the type; the other columns are NULL."""
    return [
        Column("authentication", String(24), nullable=False),
        Column("key_primary", LargeBinary),
        Column("key_secondary", LargeBinary),
        Column("thumbprint_primary", String(64)),
        Column("thumbprint_secondary", String(64)),
    ]


def _presence() -> list[Column[object]]:
    return [
        Column("connected", Boolean, nullable=False),
        Column("connection_changed_ms", BigInteger, nullable=False),
        Column("last_activity_ms", BigInteger, nullable=False),
    ]


devices = Table(
    "devices",
    METADATA,
    Column("device", _name(), primary_key=True),
    Column("generation", String(18), nullable=False, unique=True),
    Column("revision", BigInteger, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("status_reason", Text),
    Column("status_changed_ms", BigInteger, nullable=False),
    Column("edge", Boolean, nullable=False),
    Column("parent", _name(), ForeignKey("devices.device"), index=True),
    *_authentication(),
    *_presence(),
)
Index("ix_devices_thumbprint_primary", devices.c.thumbprint_primary)
Index("ix_devices_thumbprint_secondary", devices.c.thumbprint_secondary)

# A module has no status of its own: its device's counts.
modules = Table(
    "modules",
    METADATA,
    Column("device", _name(), ForeignKey("devices.device", ondelete="CASCADE"), primary_key=True),
    Column("module", _name(), primary_key=True),
    Column("generation", String(18), nullable=False, unique=True),
    Column("revision", BigInteger, nullable=False),
    Column("managed_by", Text),
    *_authentication(),
    *_presence(),
)

# Made and deleted with the identity. Sections and their metadata are JSON objects.
twins = Table(
    "twins",
    METADATA,
    Column("device", _name(), ForeignKey("devices.device", ondelete="CASCADE"), primary_key=True),
    Column("module", _name(), primary_key=True),  # "" for the device itself: a key column cannot be NULL
    Column("version", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("tags", Text, nullable=False),
    Column("desired", Text, nullable=False),
    Column("desired_metadata", Text, nullable=False),
    Column("desired_version", BigInteger, nullable=False),
    Column("reported", Text, nullable=False),
    Column("reported_metadata", Text, nullable=False),
    Column("reported_version", BigInteger, nullable=False),
    Column("model_id", Text, nullable=False),
    Column("product_info", Text, nullable=False),
)

revoked_certificates = Table(
    "revoked_certificates",
    METADATA,
    Column("device", _name(), ForeignKey("devices.device", ondelete="CASCADE"), primary_key=True),
    Column("module", _name(), primary_key=True),  # "" for the device itself
    Column("thumbprint", String(64), primary_key=True),
)

changes = Table(
    "changes",
    METADATA,
    _sequence(),
    Column("kind", String(24), nullable=False),
    Column("device", _name()),
    Column("module", _name()),
    sqlite_autoincrement=True,
)

ca_certificates = Table(
    "ca_certificates",
    METADATA,
    Column("name", _name(64), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("der", LargeBinary, nullable=False),
    Column("subject", Text, nullable=False),
    Column("thumbprint_sha1", String(40), nullable=False),
    Column("thumbprint_sha256", String(64), nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("verified", Boolean, nullable=False),
    Column("verification_code", String(64)),
)

sessions = Table(
    "sessions",
    METADATA,
    Column("device", _name(), primary_key=True),
    Column("module", _name(), primary_key=True),  # "" for the device itself
    Column("created_ms", BigInteger, nullable=False),
)

session_subscriptions = Table(
    "session_subscriptions",
    METADATA,
    Column("device", _name(), primary_key=True),
    Column("module", _name(), primary_key=True),
    Column("filter", Text, primary_key=True),
    Column("qos", Integer, nullable=False),
    ForeignKeyConstraint(["device", "module"], ["sessions.device", "sessions.module"], ondelete="CASCADE"),
)

c2d_messages = Table(
    "c2d_messages",
    METADATA,
    _sequence(),
    Column("device", _name(), nullable=False),
    Column("module", _name(), nullable=False),  # "" for the device itself
    Column("message_id", String(128), nullable=False),
    Column("properties", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("ack", String(8), nullable=False),
    Column("enqueued_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("deliveries", Integer, nullable=False),
    Column("lock_token", String(36)),
    Column("locked_until_ms", BigInteger, nullable=False),
    Index("ix_c2d_messages_device", "device", "module", "seq"),
    Index("ix_c2d_messages_expires_ms", "expires_ms"),
    sqlite_autoincrement=True,
)


c2d_feedback = Table(
    "c2d_feedback",
    METADATA,
    _sequence(),
    Column("message_id", String(128), nullable=False),
    Column("device", _name(), nullable=False),
    Column("module", _name(), nullable=False),  # "" for the device itself
    Column("generation", String(18), nullable=False),
    Column("outcome", String(24), nullable=False),
    Column("recorded_ms", BigInteger, nullable=False),
    Column("lock_token", String(36)),
    Column("locked_until_ms", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)


events = Table(
    "events",
    METADATA,
    _sequence(),
    Column("device", _name(), nullable=False),
    Column("module", _name()),
    Column("properties", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("enqueued_ms", BigInteger, nullable=False),
    Column("auth_method", Text, nullable=False),
    Column("message_source", Text, nullable=False),
    sqlite_autoincrement=True,
)

consumers = Table(
    "consumers",
    METADATA,
    Column("name", _name(), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
)

uploads = Table(
    "uploads",
    METADATA,
    Column("correlation", String(36), primary_key=True),
    Column("device", _name(), nullable=False),
    Column("blob", Text, nullable=False),
    Column("secret_sha256", String(64), nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Index("ix_uploads_device", "device"),
    Index("ix_uploads_expires_ms", "expires_ms"),
)

scope_snapshot = Table(
    "scope_snapshot",
    METADATA,
    Column("device", _name(), primary_key=True),
    Column("module", _name(), primary_key=True),  # "" for the device itself
    Column("as_of_ms", BigInteger, nullable=False),
    Column("member", Boolean, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)

scope_state = Table(
    "scope_state",
    METADATA,
    Column("actor", _name(), primary_key=True),
    Column("as_of_ms", BigInteger, nullable=False),
)

twin_copies = Table(
    "twin_copies",
    METADATA,
    Column("device", _name(), primary_key=True),
    Column("module", _name(), primary_key=True),  # "" for the device itself
    Column("waiting", Boolean, nullable=False),  # reports that the hub does not have yet
    Column("sealed", LargeBinary, nullable=False),
)

audit = Table(
    "audit",
    METADATA,
    _sequence(),
    Column("at_ms", BigInteger, nullable=False),
    Column("place", Text, nullable=False),
    Column("peer", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("accepted", Boolean, nullable=False),
    Column("reason", String(64), nullable=False),
    Index("ix_audit_accepted", "accepted", "seq"),
    sqlite_autoincrement=True,
)

audit_checks = Table(
    "audit_checks",
    METADATA,
    Column("audit_seq", _SEQUENCE, ForeignKey("audit.seq", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("passed", Boolean, nullable=False),
    Column("detail", Text, nullable=False),
)
