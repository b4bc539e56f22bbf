"""Audit: a decision as a record, made before any effect of it is visible.

Clients put tokens where names belong: signatures and keys are cut out of whatever a peer made us write down.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, assert_never

from edgetrust.trust.verdict import Accepted, Check, Refused, Verdict

_CLAIM_CHARACTERS = 300  # of a claim that names nobody
_SECRET = re.compile(r"(?i)(sig|sharedaccesskey)=[^&;\s'\"]*")


@dataclass(frozen=True, slots=True)
class Record:
    """One decision: when, where it was asked, about whom, and how it went. `reason` is the slug of a refusal, or how
    it was accepted.

    `peer` is the peer's address, `place` the listener or route that asked.
    """

    at: datetime
    place: str
    peer: str
    identity: str
    accepted: bool
    reason: str
    checks: tuple[Check, ...]


def refusal_entry(record: Record) -> dict[str, Any]:
    """A refusal as operators get it in JSON."""
    return {
        "at": record.at.isoformat(timespec="milliseconds"),
        "place": record.place,
        "peer": record.peer,
        "identity": record.identity,
        "reason": record.reason,
        "checks": [{"name": check.name, "passed": check.passed, "detail": check.detail} for check in record.checks],
    }


def record(verdict: Verdict, *, at: datetime, place: str, peer: str, claimed: str = "") -> Record:
    """The record of `verdict`. `claimed` names the claim when it could not be read as an identity."""
    match verdict:
        case Accepted():
            return Record(at, place, peer, str(verdict.identity), True, verdict.how.value, verdict.checks)
        case Refused():
            identity = (
                str(verdict.claim) if verdict.claim is not None else _without_secrets(claimed)[:_CLAIM_CHARACTERS]
            )
            checks = tuple(replace(check, detail=_without_secrets(check.detail)) for check in verdict.checks)
            return Record(at, place, peer, identity, False, verdict.reason.value, checks)
        case _:
            assert_never(verdict)


def _without_secrets(text: str) -> str:
    return _SECRET.sub(r"\1=(cut out)", text)
