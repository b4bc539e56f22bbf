"""The tables of a certificate authority. Rules as in `schema`: times in milliseconds, 0 for "never"; a column for what
people ask for.

A serial number is stored as 40 lower-case hexadecimal digits, a public key as the SHA-256 of its SubjectPublicKeyInfo.
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
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeEngine

from edgetrust.store.schema import METADATA


def _name(length: int = 128) -> TypeEngine[str]:
    return String(length).with_variant(String(length, collation="C"), "postgresql")


_SEQUENCE: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")

authorities = Table(
    "authorities",
    METADATA,
    Column("name", _name(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("parent", _name(64), ForeignKey("authorities.name")),
    Column("state", String(16), nullable=False),
    Column("default", Boolean, nullable=False),
    Column("key_reference", Text),
    Column("der", LargeBinary, nullable=False),
    Column("subject", Text, nullable=False),
    Column("public_key", String(64), nullable=False),
    Column("not_after_ms", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("crl_number", BigInteger, nullable=False),
)

authority_profiles = Table(
    "authority_profiles",
    METADATA,
    Column("authority", _name(64), ForeignKey("authorities.name", ondelete="CASCADE"), primary_key=True),
    Column("profile", String(32), primary_key=True),
)

issued_certificates = Table(
    "issued_certificates",
    METADATA,
    Column("authority", _name(64), ForeignKey("authorities.name"), primary_key=True),
    Column("serial", String(40), primary_key=True),
    Column("profile", String(32), nullable=False),
    Column("identity", _name(), nullable=False),
    Column("subject", Text, nullable=False),
    Column("public_key", String(64), nullable=False),
    Column("thumbprint", String(64), nullable=False),
    Column("der", LargeBinary, nullable=False),
    Column("not_before_ms", BigInteger, nullable=False),
    Column("not_after_ms", BigInteger, nullable=False),
    Column("issued_ms", BigInteger, nullable=False),
    Column("operation", String(24), nullable=False),
    Column("credential", Text, nullable=False),
    Column("revoked_ms", BigInteger, nullable=False),
    Column("revocation", String(32), nullable=False),
    Index("ix_issued_certificates_identity", "identity"),
    Index("ix_issued_certificates_public_key", "public_key"),
    Index("ix_issued_certificates_not_after_ms", "not_after_ms"),
    Index("ix_issued_certificates_thumbprint", "thumbprint"),
)

issued_names = Table(
    "issued_names",
    METADATA,
    Column("authority", _name(64), primary_key=True),
    Column("serial", String(40), primary_key=True),
    Column("kind", String(8), primary_key=True),
    Column("value", _name(255), primary_key=True),
    ForeignKeyConstraint(
        ["authority", "serial"], ["issued_certificates.authority", "issued_certificates.serial"], ondelete="CASCADE"
    ),
)

est_passwords = Table(
    "est_passwords",
    METADATA,
    Column("username", _name(), primary_key=True),
    Column("salt", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("names", Text, nullable=False),
    Column("uses_left", BigInteger, nullable=False),  # -1: without limit
    Column("expires_ms", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

est_claims = Table(
    "est_claims",
    METADATA,
    Column("name", _name(), primary_key=True),
    Column("credential", Text, nullable=False),
    Column("public_key", String(64), nullable=False),
    Column("claimed_ms", BigInteger, nullable=False),
)

est_requests = Table(
    "est_requests",
    METADATA,
    Column("id", String(64), primary_key=True),  # SHA-256 of who asked for what: the same request finds its row
    Column("authority", _name(64), nullable=False),
    Column("profile", String(32), nullable=False),
    Column("identity", _name(), nullable=False),
    Column("subject", Text, nullable=False),
    Column("public_key", String(64), nullable=False),
    Column("csr", LargeBinary, nullable=False),
    Column("credential", Text, nullable=False),
    Column("peer", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("asked_ms", BigInteger, nullable=False),
    Column("decided_ms", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
    Index("ix_est_requests_state", "state", "asked_ms"),
)

ca_bundle_fetches = Table(
    "ca_bundle_fetches",
    METADATA,
    Column("who", _name(), primary_key=True),
    Column("bundle", String(64), primary_key=True),
    Column("fetched_ms", BigInteger, nullable=False),
)

ca_rotations = Table(
    "ca_rotations",
    METADATA,
    Column("old", _name(64), ForeignKey("authorities.name"), primary_key=True),
    Column("new", _name(64), ForeignKey("authorities.name"), nullable=False),
    Column("head", _name(64), nullable=False),
    Column("position", Integer, nullable=False),
    Column("stage", String(16), nullable=False),
    Column("changed_ms", BigInteger, nullable=False),
)

ca_audit = Table(
    "ca_audit",
    METADATA,
    Column("seq", _SEQUENCE, primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("event", String(32), nullable=False),
    Column("place", Text, nullable=False),
    Column("peer", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("reason", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("hash", String(64), nullable=False),
    sqlite_autoincrement=True,
)
