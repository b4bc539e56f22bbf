"""The certificate authority: authorities, what they issued, EST passwords, claims, requests, audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _name(length: int = 128) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _number() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables."""
    _authorities()
    _issued()
    _est()
    _evidence()


def _authorities() -> None:
    op.create_table(
        "authorities",
        sa.Column("name", _name(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("parent", _name(64), nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("default", sa.Boolean(), nullable=False),
        sa.Column("key_reference", sa.Text(), nullable=True),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.Column("not_after_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("crl_number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_authorities"),
        sa.ForeignKeyConstraint(["parent"], ["authorities.name"], name="fk_authorities_parent"),
    )
    op.create_table(
        "authority_profiles",
        sa.Column("authority", _name(64), nullable=False),
        sa.Column("profile", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("authority", "profile", name="pk_authority_profiles"),
        sa.ForeignKeyConstraint(
            ["authority"], ["authorities.name"], name="fk_authority_profiles_authority", ondelete="CASCADE"
        ),
    )


def _issued() -> None:
    op.create_table(
        "issued_certificates",
        sa.Column("authority", _name(64), nullable=False),
        sa.Column("serial", sa.String(40), nullable=False),
        sa.Column("profile", sa.String(32), nullable=False),
        sa.Column("identity", _name(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.Column("thumbprint", sa.String(64), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.Column("not_before_ms", sa.BigInteger(), nullable=False),
        sa.Column("not_after_ms", sa.BigInteger(), nullable=False),
        sa.Column("issued_ms", sa.BigInteger(), nullable=False),
        sa.Column("operation", sa.String(24), nullable=False),
        sa.Column("credential", sa.Text(), nullable=False),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=False),
        sa.Column("revocation", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("authority", "serial", name="pk_issued_certificates"),
        sa.ForeignKeyConstraint(["authority"], ["authorities.name"], name="fk_issued_certificates_authority"),
    )
    for column in ("identity", "public_key", "not_after_ms", "thumbprint"):
        op.create_index(f"ix_issued_certificates_{column}", "issued_certificates", [column])
    op.create_table(
        "issued_names",
        sa.Column("authority", _name(64), nullable=False),
        sa.Column("serial", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("value", _name(255), nullable=False),
        sa.PrimaryKeyConstraint("authority", "serial", "kind", "value", name="pk_issued_names"),
        sa.ForeignKeyConstraint(
            ["authority", "serial"],
            ["issued_certificates.authority", "issued_certificates.serial"],
            name="fk_issued_names_authority",
            ondelete="CASCADE",
        ),
    )


def _est() -> None:
    op.create_table(
        "est_passwords",
        sa.Column("username", _name(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("names", sa.Text(), nullable=False),
        sa.Column("uses_left", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("username", name="pk_est_passwords"),
    )
    op.create_table(
        "est_claims",
        sa.Column("name", _name(), nullable=False),
        sa.Column("credential", sa.Text(), nullable=False),
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.Column("claimed_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_est_claims"),
    )
    op.create_table(
        "est_requests",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("authority", _name(64), nullable=False),
        sa.Column("profile", sa.String(32), nullable=False),
        sa.Column("identity", _name(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.Column("csr", sa.LargeBinary(), nullable=False),
        sa.Column("credential", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("asked_ms", sa.BigInteger(), nullable=False),
        sa.Column("decided_ms", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_est_requests"),
    )
    op.create_index("ix_est_requests_state", "est_requests", ["state", "asked_ms"])


def _evidence() -> None:
    op.create_table(
        "ca_bundle_fetches",
        sa.Column("who", _name(), nullable=False),
        sa.Column("bundle", sa.String(64), nullable=False),
        sa.Column("fetched_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("who", "bundle", name="pk_ca_bundle_fetches"),
    )
    op.create_table(
        "ca_audit",
        sa.Column("seq", _number(), autoincrement=True, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_ca_audit"),
        sqlite_autoincrement=True,
    )
