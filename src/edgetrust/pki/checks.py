"""The checks on a path whose signatures are known to fit. Decides the first thing that is wrong with it, and names it.

Rules, from the end entity to the anchor, each certificate before the next: it can be read and has no critical extension
that nobody here processes; its key and its signature are strong enough (an anchor's own signature counts for nothing);
`now` is within its dates. The end entity fits the purpose; every other certificate is a CA that may sign certificates,
may be used for the purpose, and has room for the CAs below it.

Purposes. An extension that is absent restricts nothing; one that is present must allow the use, in CAs too (that is how
OpenSSL nests extended key usage). anyExtendedKeyUsage alone allows nothing, as in OpenSSL. DEVICE needs clientAuth,
SERVER needs serverAuth, and neither may be a CA. CA asks whether certificates issued by the end entity would verify, so
that the end entity itself uses up path length. Self-issued CAs use it up too, as in the path builder; RFC 5280 would
not count them. Must not build paths nor verify signatures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from edgetrust.pki.facts import Facts
from edgetrust.pki.failures import ChainFailure, ChainReason, Purpose


@dataclass(frozen=True, slots=True)
class _Usage:
    eku: ObjectIdentifier
    eku_name: str
    key_usage: frozenset[str]  # one of these suffices


_USAGES: Final = {
    Purpose.DEVICE: _Usage(
        ExtendedKeyUsageOID.CLIENT_AUTH, "clientAuth", frozenset({"digital_signature", "key_agreement"})
    ),
    Purpose.SERVER: _Usage(
        ExtendedKeyUsageOID.SERVER_AUTH,
        "serverAuth",
        frozenset({"digital_signature", "key_encipherment", "key_agreement"}),
    ),
}


@dataclass(frozen=True, slots=True)
class _Place:
    """A certificate's position in a path: `below` counts the CAs under it that use up its path length."""

    index: int
    is_anchor: bool
    below: int


Check = Callable[[Facts, _Place, Purpose, datetime], tuple[ChainReason, str] | None]


def first_fault(path: Sequence[Facts], purpose: Purpose, now: datetime) -> tuple[int, ChainFailure] | None:
    """Index of the certificate at fault and what is wrong with it, or None. `path` ends with the anchor."""
    below = 0
    for index, facts in enumerate(path):
        place = _Place(index, index == len(path) - 1, below)
        for check in _CHECKS:
            found = check(facts, place, purpose, now)
            if found is not None:
                return index, ChainFailure(found[0], facts.subject, found[1])
        if index > 0 or purpose is Purpose.CA:
            below += 1
    return None


def _readable(facts: Facts, _place: _Place, _purpose: Purpose, _now: datetime) -> tuple[ChainReason, str] | None:
    if facts.unreadable is not None:
        return ChainReason.UNKNOWN_CRITICAL, f"its extensions or names cannot be read: {facts.unreadable}"
    if facts.unknown_critical:
        return (
            ChainReason.UNKNOWN_CRITICAL,
            f"it has critical extensions unknown here: {', '.join(facts.unknown_critical)}",
        )
    return None


def _strong(facts: Facts, place: _Place, _purpose: Purpose, _now: datetime) -> tuple[ChainReason, str] | None:
    if facts.key_fault is not None:
        return ChainReason.WEAK_KEY, facts.key_fault
    if facts.signature_fault is not None and not place.is_anchor:
        return ChainReason.WEAK_KEY, facts.signature_fault
    return None


def _within_dates(facts: Facts, _place: _Place, _purpose: Purpose, now: datetime) -> tuple[ChainReason, str] | None:
    if now > facts.not_after:
        return (
            ChainReason.EXPIRED,
            f"it expired at {facts.not_after:%Y-%m-%dT%H:%M:%SZ}; it is {now:%Y-%m-%dT%H:%M:%SZ}",
        )
    if now < facts.not_before:
        return (
            ChainReason.NOT_YET_VALID,
            f"it is valid from {facts.not_before:%Y-%m-%dT%H:%M:%SZ}; it is {now:%Y-%m-%dT%H:%M:%SZ}",
        )
    return None


def _right_kind(facts: Facts, place: _Place, purpose: Purpose, _now: datetime) -> tuple[ChainReason, str] | None:
    must_be_ca = place.index > 0 or purpose is Purpose.CA
    if must_be_ca and not facts.is_ca:
        return ChainReason.NOT_A_CA, "it is not a CA (basic constraints), so it may not issue certificates"
    if not must_be_ca and facts.is_ca:
        return ChainReason.LEAF_IS_CA, f"it is a CA; a {purpose} shows an end-entity certificate"
    if must_be_ca and facts.key_usage is not None and "key_cert_sign" not in facts.key_usage:
        return ChainReason.WRONG_USAGE, "its key usage does not allow signing certificates (keyCertSign)"
    return None


def _right_usage(facts: Facts, place: _Place, purpose: Purpose, _now: datetime) -> tuple[ChainReason, str] | None:
    usage = _USAGES.get(purpose)
    if usage is None:
        return None
    if facts.eku is not None and usage.eku not in facts.eku:
        allowed = ", ".join(sorted(oid._name for oid in facts.eku))
        return ChainReason.WRONG_USAGE, f"its extended key usage allows {allowed or 'nothing'}, not {usage.eku_name}"
    if place.index == 0 and facts.key_usage is not None and not facts.key_usage & usage.key_usage:
        return ChainReason.WRONG_USAGE, f"its key usage allows none of {', '.join(sorted(usage.key_usage))}"
    return None


def _room_below(facts: Facts, place: _Place, _purpose: Purpose, _now: datetime) -> tuple[ChainReason, str] | None:
    if facts.path_length is None or place.below <= facts.path_length:
        return None
    return ChainReason.PATH_LENGTH, f"it allows {facts.path_length} CAs below it, there are {place.below}"


_CHECKS: Final[tuple[Check, ...]] = (_readable, _strong, _within_dates, _right_kind, _right_usage, _room_below)
