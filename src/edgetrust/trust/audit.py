"""Audit: a decision as a record, made before any effect of it is visible."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from edgetrust.trust.verdict import Accepted, Check, Refused, Verdict


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


def record(verdict: Verdict, *, at: datetime, place: str, peer: str, claimed: str = "") -> Record:
    """The record of `verdict`. `claimed` names the claim when it could not be read as an identity."""
    match verdict:
        case Accepted():
            return Record(at, place, peer, str(verdict.identity), True, verdict.how.value, verdict.checks)
        case Refused():
            identity = str(verdict.claim) if verdict.claim is not None else claimed[:300]
            return Record(at, place, peer, identity, False, verdict.reason.value, verdict.checks)
        case _:
            assert_never(verdict)
