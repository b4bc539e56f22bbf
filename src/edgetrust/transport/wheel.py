"""Deadlines of many connections with one timer. A connection that talks costs nothing here until its deadline comes.

Rules: an entry has at most one deadline; arming it again moves it. When it comes, the entry says whether it wants
another (a connection that has talked meanwhile does). Deadlines are late by up to one tick, never early. The timer
runs only while there is an entry. It must not know connections.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from edgetrust import limits


class Entry(Protocol):
    """Something with a deadline. `tick` belongs to the wheel and starts as 0."""

    tick: int

    def deadline_passed(self) -> float | None:
        """The deadline came. Seconds until the next one, or None for no other."""
        ...


class Wheel:
    """Entries by the tick in which they are due."""

    __slots__ = ("_buckets", "_loop", "_next", "_tick_seconds", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, tick_seconds: float = limits.DEADLINE_TICK_SECONDS) -> None:
        self._loop = loop
        self._tick_seconds = tick_seconds
        self._buckets: dict[int, set[Entry]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0  # the first tick that has not been turned

    def arm(self, entry: Entry, seconds: float) -> None:
        """Call `entry.deadline_passed` in `seconds`, and not at the time it was armed for before."""
        if entry.tick:
            self.disarm(entry)
        now = self._loop.time()
        if self._timer is None:
            self._next = math.floor(now / self._tick_seconds)
            self._timer = self._loop.call_later(self._tick_seconds, self._turn)
        entry.tick = max(math.ceil((now + seconds) / self._tick_seconds), self._next)
        self._buckets.setdefault(entry.tick, set()).add(entry)

    def disarm(self, entry: Entry) -> None:
        """Forget the entry's deadline, if it has one."""
        bucket = self._buckets.get(entry.tick)
        entry.tick = 0
        if bucket is not None:
            bucket.discard(entry)

    def _turn(self) -> None:
        now = math.floor(self._loop.time() / self._tick_seconds)
        due = [self._buckets.pop(tick) for tick in range(self._next, now + 1) if tick in self._buckets]
        self._next = now + 1
        self._timer = self._loop.call_later(self._tick_seconds, self._turn) if self._buckets or due else None
        for bucket in due:
            while bucket:
                entry = bucket.pop()
                entry.tick = 0
                again = entry.deadline_passed()
                if again is not None:
                    self.arm(entry, again)
