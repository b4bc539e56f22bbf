"""Clocks: the machine's, and one to turn by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from edgetrust.clock import ManualClock, SystemClock


def test_the_machines() -> None:
    clock = SystemClock()
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=1)
    assert clock.now().tzinfo is UTC
    first = clock.monotonic()
    assert clock.monotonic() >= first


def test_by_hand() -> None:
    clock = ManualClock()
    assert clock.now() == datetime(2026, 1, 1, tzinfo=UTC)
    clock.advance(90.5)
    assert clock.now() == datetime(2026, 1, 1, 0, 1, 30, 500_000, tzinfo=UTC)
    assert clock.monotonic() == 90.5


def test_a_jump_moves_the_wall_only() -> None:
    clock = ManualClock(datetime(2026, 6, 1, tzinfo=UTC))
    clock.advance(1)
    clock.jump(datetime(1970, 1, 1, tzinfo=UTC))
    assert clock.now() == datetime(1970, 1, 1, tzinfo=UTC)
    assert clock.monotonic() == 1
