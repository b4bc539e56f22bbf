"""What `edgetrust ca` prints of certificates and authorities."""

from __future__ import annotations

from typing import Any

from edgetrust.ca.authority import Authority, can_sign
from edgetrust.cli.output import iso, print_table
from edgetrust.store.issuance import IssuedRow


def as_json(row: IssuedRow) -> dict[str, Any]:
    """A certificate as commands print it."""
    return {
        "authority": row.authority,
        "serial": row.serial,
        "profile": row.profile,
        "identity": row.identity,
        "subject": row.certificate.subject.rfc4514_string(),
        "notBefore": iso(row.certificate.not_valid_before_utc),
        "notAfter": iso(row.not_after),
        "issued": iso(row.issued_at),
        "operation": row.operation,
        "credential": row.credential,
        "revoked": None if row.revoked_at is None else {"at": iso(row.revoked_at), "reason": row.revocation},
    }


def authority_as_json(one: Authority) -> dict[str, Any]:
    """An authority as commands print it."""
    reference = one.row.key_reference
    return {
        "name": one.name,
        "kind": one.row.kind,
        "parent": one.row.parent,
        "state": one.row.state,
        "default": one.row.default,
        "profiles": sorted(one.row.profiles),
        "subject": one.row.certificate.subject.rfc4514_string(),
        "notAfter": iso(one.row.certificate.not_valid_after_utc),
        "key": "elsewhere" if one.issuer is None else reference,
        "canSign": can_sign(one),
        "label": "default and " + one.name if one.row.default else one.name,
    }


def show_authorities(shown: list[dict[str, Any]]) -> None:
    """A table of them."""
    rows = [
        (
            one["name"],
            one["parent"] or "",
            one["state"],
            one["notAfter"],
            ", ".join(one["profiles"]),
            one["key"] or "elsewhere",
        )
        for one in shown
    ]
    print_table(("CA", "BELOW", "STATE", "UNTIL", "ISSUES", "KEY"), rows)
