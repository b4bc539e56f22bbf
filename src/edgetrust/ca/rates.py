"""How often one address may ask: two token buckets, one for requests, one for refusals.

An address whose refusals have used up theirs is answered 429 before any password or signature is looked at. Must not
know what is asked.
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
    """So many at once, then so many a second, for each address. Time is an argument: monotonic seconds."""

    def __init__(self, burst: float, per_second: float, kept: int = limits.EST_ADDRESSES_KEPT) -> None:
        self._burst, self._per_second, self._kept = burst, per_second, kept
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait(self, address: str, now: float) -> float:
        """Seconds until the address may ask; 0 if it may now. Takes nothing."""
        bucket = self._buckets.get(address)
        left = self._burst if bucket is None else self._filled(bucket, now)
        return 0.0 if left >= 1 else (1 - left) / self._per_second

    def take(self, address: str, now: float) -> None:
        """One less for the address; never below none."""
        bucket = self._buckets.pop(address, None)
        left = self._burst if bucket is None else self._filled(bucket, now)
        self._buckets[address] = _Bucket(max(0.0, left - 1), now)
        if len(self._buckets) > self._kept:
            self._buckets.popitem(last=False)

    def _filled(self, bucket: _Bucket, now: float) -> float:
        return min(self._burst, bucket.left + (now - bucket.at) * self._per_second)
