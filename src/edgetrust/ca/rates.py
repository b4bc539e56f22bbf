"""How often somebody may ask: token buckets for requests and for refusals, for each account.

    a certificate of ours, a password that was right before     an account for each, at each address
    everybody else                                              one account for each address

An account whose refusals have used up theirs is answered 429 before any password or signature is looked at. Behind the
gateway of a plant, or behind NAT, many have one address: those who are known do not share what a stranger beside them
uses up. Must not know what is asked.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from edgetrust import limits


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Rate:
    """So many at once, then so many a second, for each account. Time is an argument: monotonic seconds."""

    def __init__(self, burst: float, per_second: float, kept: int = limits.EST_ADDRESSES_KEPT) -> None:
        self._burst, self._per_second, self._kept = burst, per_second, kept
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait(self, account: str, now: float) -> float:
        """Seconds until the account may ask; 0 if it may now. Takes nothing."""
        bucket = self._buckets.get(account)
        left = self._burst if bucket is None else self._filled(bucket, now)
        return 0.0 if left >= 1 else (1 - left) / self._per_second

    def take(self, account: str, now: float) -> None:
        """One less for the account; never below none."""
        bucket = self._buckets.pop(account, None)
        left = self._burst if bucket is None else self._filled(bucket, now)
        self._buckets[account] = _Bucket(max(0.0, left - 1), now)
        if len(self._buckets) > self._kept:
            self._buckets.popitem(last=False)

    def _filled(self, bucket: _Bucket, now: float) -> float:
        return min(self._burst, bucket.left + (now - bucket.at) * self._per_second)


@dataclass(frozen=True, slots=True)
class Account:
    """Whose requests and refusals are counted together. `who` says it to the client."""

    name: str
    who: str
    requests: Rate
    refusals: Rate

    def wait(self, now: float) -> float:
        """Seconds until it may ask; 0 if it may now."""
        return max(self.requests.wait(self.name, now), self.refusals.wait(self.name, now))

    def asked(self, now: float) -> None:
        """A request more."""
        self.requests.take(self.name, now)

    def refused(self, now: float) -> None:
        """A refusal more."""
        self.refusals.take(self.name, now)


class Accounts:
    """The accounts of one server. Strangers cannot push out what is remembered of those who are known."""

    def __init__(self) -> None:
        self._strangers = (
            Rate(limits.EST_BURST_PER_ADDRESS, limits.EST_RATE_PER_ADDRESS),
            Rate(limits.EST_REFUSALS_PER_ADDRESS, limits.EST_REFUSAL_RECOVERY),
        )
        self._known = (
            Rate(limits.EST_BURST_PER_CREDENTIAL, limits.EST_RATE_PER_CREDENTIAL),
            Rate(limits.EST_REFUSALS_PER_CREDENTIAL, limits.EST_CREDENTIAL_REFUSAL_RECOVERY),
        )

    def of(self, address: str, credential: str | None) -> Account:
        """The account of who asks from `address`; `credential` names the good one that was shown, None: none was."""
        if credential is None:
            return Account(address, "from this address", *self._strangers)
        return Account(f"{address} {credential}", "with this credential from this address", *self._known)
