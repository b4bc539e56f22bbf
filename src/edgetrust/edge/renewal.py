"""When a certificate is to be renewed. Pure arithmetic on validity, as the real renewal engine does it (edge
specification 3.6).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509

_GRAMMAR = re.compile(r"([1-9][0-9]{0,8})\s*(%|min|day)")
_LEAST_RETRY = timedelta(seconds=1)


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


def retry_after(certificate: x509.Certificate, policy: AutoRenew) -> timedelta:
    """How long to wait after a failed renewal. There is always another attempt."""
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return max(policy.retry.of(lifetime), _LEAST_RETRY)
