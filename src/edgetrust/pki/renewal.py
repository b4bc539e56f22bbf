"""When a certificate is to be renewed, and when to try again. Pure arithmetic on validity (edge specification 3.6).

Rules. The threshold is never undercut; past it, renewals spread over the first tenth of what is left, each certificate
at its own moment, so that a fleet that was made on one day does not come back on one day. There is always another
attempt: a failure only says when. What the clock says of the past is not believed: a failure that lies in the future
does not postpone anything, and a certificate that is not valid yet is not due. Must not know who renews, or how.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust.pki.chain import Chain

_GRAMMAR = re.compile(r"([1-9][0-9]{0,8})\s*(%|min|day)")
_LEAST_RETRY = timedelta(seconds=1)
_EXPIRED_RETRY = timedelta(hours=1)  # at the latest, once a certificate has ended: then every hour counts
_SPREAD = 0.1  # of the time between threshold and end
_RETRY_SPREAD = 0.2  # of the retry period


@dataclass(frozen=True, slots=True)
class Period:
    """A share of a certificate's life (percent, 1 to 99), or a fixed time; exactly one of them."""

    percent: int | None = None
    time: timedelta | None = None

    @classmethod
    def parse(cls, text: str) -> Period | None:
        """Read `80%`, `30 min` or `10 day`; None for everything else (edge specification 1.7)."""
        match = _GRAMMAR.fullmatch(text.strip())
        if match is None:
            return None
        number, unit = int(match[1]), match[2]
        if unit == "%":
            return cls(percent=number) if number < 100 else None  # noqa: PLR2004 - percent
        return cls(time=timedelta(minutes=number) if unit == "min" else timedelta(days=number))

    def __str__(self) -> str:
        """As `parse` reads it."""
        if self.time is None:
            return f"{self.percent}%"
        days, rest = divmod(self.time, timedelta(days=1))
        return f"{self.time // timedelta(minutes=1)} min" if rest else f"{days} day"

    def of(self, lifetime: timedelta) -> timedelta:
        """This period of a certificate that lives for `lifetime`."""
        return lifetime * (self.percent or 0) / 100 if self.time is None else self.time


@dataclass(frozen=True, slots=True)
class AutoRenew:
    """The `auto_renew` of a certificate. The threshold as a share counts from the start, as a time from the end."""

    rotate_key: bool = True
    threshold: Period = field(default=Period(percent=80))
    retry: Period = field(default=Period(percent=4))


def renew_at(certificate: x509.Certificate, policy: AutoRenew) -> datetime:
    """From when on `certificate` is due."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if policy.threshold.time is not None:
        return max(start, end - policy.threshold.time)
    return start + policy.threshold.of(end - start)


def is_due(certificate: x509.Certificate, policy: AutoRenew, now: datetime) -> bool:
    """Whether `certificate` should be replaced now: past its threshold, or not usable any more."""
    return now >= min(renew_at(certificate, policy), certificate.not_valid_after_utc)


@dataclass(frozen=True, slots=True)
class RenewalState:
    """What happened to the renewal of one certificate so far. `failures` counts those since the last success."""

    renewed_at: datetime | None = None
    failed_at: datetime | None = None
    failures: int = 0
    problem: str = ""

    def failed(self, now: datetime, problem: str) -> RenewalState:
        """After another failure."""
        return RenewalState(self.renewed_at, now, self.failures + 1, problem)

    def renewed(self, now: datetime) -> RenewalState:
        """After a success."""
        return RenewalState(renewed_at=now)


def effective_end(chain: Chain) -> datetime:
    """When the end entity stops to be of use: its own end, or that of an issuer above it in the chain."""
    end, current = chain.end_entity.not_valid_after_utc, chain.end_entity
    for above in chain.intermediates:
        if above.subject == current.issuer and above != current:
            end, current = min(end, above.not_valid_after_utc), above
    return end


def next_attempt(chain: Chain, policy: AutoRenew, state: RenewalState, now: datetime) -> datetime:
    """When to renew, or to try again. A time that has passed means now."""
    leaf, end = chain.end_entity, effective_end(chain)
    due = min(renew_at(leaf, policy), end)
    due += (end - due) * _SPREAD * _share(leaf)
    if state.failed_at is None or state.failed_at > now:
        return due
    pause = retry_after(leaf, policy)
    if now >= end:
        pause = min(pause, _EXPIRED_RETRY)
    return max(due, state.failed_at + pause * (1 + _RETRY_SPREAD * (_share(leaf) - 0.5)))


def _share(certificate: x509.Certificate) -> float:
    """0 to 1, always the same for a certificate: a lot that survives restarts."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()[0] / 255


def retry_after(certificate: x509.Certificate, policy: AutoRenew) -> timedelta:
    """How long to wait after a failed renewal. There is always another attempt."""
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return max(policy.retry.of(lifetime), _LEAST_RETRY)
