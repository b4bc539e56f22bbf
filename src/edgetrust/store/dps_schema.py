"""The tables of the provisioning service, beside those of `schema` and by the same rules.

Keys of identifiers are lower case, since registration and group identifiers are the same in any letter case.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, String, Table, Text
from sqlalchemy.types import TypeEngine

from edgetrust.store.schema import METADATA


def _name(length: int = 128) -> TypeEngine[str]:
    return String(length).with_variant(String(length, collation="C"), "postgresql")


_SEQUENCE: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")


# Numbers every change of enrollments, groups and CA certificates: revisions never come back.
dps_changes = Table(
    "dps_changes",
    METADATA,
    Column("seq", _SEQUENCE, primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

dps_enrollments = Table(
    "dps_enrollments",
    METADATA,
    Column("kind", String(10), primary_key=True),  # individual, group
    Column("key", _name(), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("document", Text, nullable=False),  # the JSON body with its secrets
)

# One certificate stands in one enabled or disabled enrollment only: it must not be in doubt who decides.
dps_certificates = Table(
    "dps_certificates",
    METADATA,
    Column("thumbprint", String(64), primary_key=True),
    Column("kind", String(10), nullable=False),
    Column("key", _name(), nullable=False),
    Index("ix_dps_certificates_key", "kind", "key"),
)

# `assigned_hub` and `device` are the last assignment that was completed, `target_hub` and `target_device` the one in
# work: whatever happens in between, the next registration knows which hubs may hold the device.
dps_registrations = Table(
    "dps_registrations",
    METADATA,
    Column("key", _name(), primary_key=True),
    Column("registration_id", _name(), nullable=False),
    Column("kind", String(10), nullable=False),
    Column("enrollment", _name(), nullable=False),  # the key of the enrollment that decided
    Column("operation_id", String(80), nullable=False),
    Column("status", String(12), nullable=False),
    Column("substatus", String(40)),
    Column("assigned_hub", _name(255)),
    Column("device", _name()),
    Column("target_hub", _name(255)),
    Column("target_device", _name()),
    Column("left_behind", Text, nullable=False),  # JSON: [hub, device] of unfinished assignments before
    Column("revision", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("document", Text, nullable=False),  # the JSON of what else the registration's state shows
    Column("error_code", Integer),
    Column("error_message", Text),
    Index("ix_dps_registrations_enrollment", "kind", "enrollment", "key"),
)

dps_ca_certificates = Table(
    "dps_ca_certificates",
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
