"""The only wall clock. Pure code takes `now` as an argument; whoever needs time for itself is given a `Clock`."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Clock(Protocol):
    """Wall time (aware, UTC), the same as milliseconds since 1970, and monotonic seconds."""

    def now(self) -> datetime: ...

    def milliseconds(self) -> int: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def milliseconds(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that tests turn by hand. Both faces move together, unless only the wall is set (`jump`)."""

    def __init__(self, now: datetime | None = None) -> None:
        self._now = now or datetime(2026, 1, 1, tzinfo=UTC)
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def milliseconds(self) -> int:
        return (self._now - _EPOCH) // _MILLISECOND

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def jump(self, now: datetime) -> None:
        """Set the wall clock, as an operator or a time server would; monotonic time does not move."""
        self._now = now
