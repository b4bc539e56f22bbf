"""The wheel of deadlines."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import cast

import pytest

from edgetrust.transport.wheel import Wheel

TICK = 0.02


class ManualLoop:
    """What a wheel needs of a loop. Time passes when it is told to, and a timer comes as late as `late` says."""

    def __init__(self, late: float = 0.0) -> None:
        self.late = late
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self._now, self._numbers = 1000.0, itertools.count()

    def time(self) -> float:
        return self._now

    def call_later(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        heapq.heappush(self.timers, (self._now + seconds + self.late, next(self._numbers), call))
        return cast("asyncio.TimerHandle", object())

    def go_on(self, seconds: float) -> None:
        end = self._now + seconds
        while self.timers and self.timers[0][0] <= end:
            self._now, _, call = heapq.heappop(self.timers)
            call()
        self._now = end


class Mark:
    """An entry that notes when it was called and answers from a list."""

    def __init__(self, loop: ManualLoop, *answers: float | None) -> None:
        self.tick = 0
        self.answers = list(answers)
        self.calls: list[float] = []
        self._loop = loop

    def deadline_passed(self) -> float | None:
        self.calls.append(self._loop.time())
        return self.answers.pop(0) if self.answers else None


@pytest.fixture
def loop() -> ManualLoop:
    return ManualLoop()


def wheel(loop: ManualLoop) -> Wheel:
    return Wheel(cast("asyncio.AbstractEventLoop", loop), TICK)


@pytest.mark.parametrize("late", [0.0, 0.001, 0.15])
def test_deadlines_come_late_by_a_tick_at_most_and_never_early(late: float) -> None:
    loop = ManualLoop(late)
    turning, marks = wheel(loop), {seconds: Mark(loop) for seconds in (0.0, 0.03, 0.11, 0.5)}
    start = loop.time()
    for seconds, mark in marks.items():
        turning.arm(mark, seconds)
    loop.go_on(1)
    for seconds, mark in marks.items():
        assert len(mark.calls) == 1
        assert seconds <= mark.calls[0] - start + 1e-9
        assert mark.calls[0] - start <= seconds + 2 * TICK + late  # the end of its tick, and the turn after that


def test_an_entry_has_one_deadline(loop: ManualLoop) -> None:
    turning, moved, gone = wheel(loop), Mark(loop), Mark(loop)
    turning.arm(moved, 0.02)
    turning.arm(moved, 0.08)
    turning.arm(gone, 0.02)
    turning.disarm(gone)
    turning.disarm(gone)
    loop.go_on(0.07)
    assert moved.calls == []
    loop.go_on(0.05)
    assert len(moved.calls) == 1
    assert gone.calls == []


def test_an_entry_may_want_another_deadline(loop: ManualLoop) -> None:
    turning, mark = wheel(loop), Mark(loop, 0.02, 0.02)
    turning.arm(mark, 0.02)
    loop.go_on(1)
    assert len(mark.calls) == 3


def test_entries_may_forget_each_other_when_they_are_due(loop: ManualLoop) -> None:
    turning = wheel(loop)
    second = Mark(loop)

    class First(Mark):
        def deadline_passed(self) -> float | None:
            super().deadline_passed()
            turning.disarm(second)
            return None

    first = First(loop)
    turning.arm(second, 0.5)
    turning.arm(first, 0.02)
    loop.go_on(1)
    assert (len(first.calls), second.calls, second.tick) == (1, [], 0)


def test_the_timer_runs_only_while_something_is_due(loop: ManualLoop) -> None:
    turning, mark = wheel(loop), Mark(loop)
    turning.arm(mark, 0.02)
    loop.go_on(1)
    assert (len(mark.calls), loop.timers) == (1, [])
    turning.arm(mark, 0.02)
    loop.go_on(1)
    assert (len(mark.calls), loop.timers) == (2, [])


async def test_it_turns_by_the_loop_that_runs() -> None:
    running = asyncio.get_running_loop()
    came = asyncio.Event()

    class Once:
        tick = 0

        def deadline_passed(self) -> None:
            came.set()

    Wheel(running, TICK).arm(Once(), 0.02)
    await asyncio.wait_for(came.wait(), 60)
