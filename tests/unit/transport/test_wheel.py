"""The wheel of deadlines."""

from __future__ import annotations

import asyncio

from edgetrust.transport.wheel import Wheel


class Mark:
    """An entry that notes when it was called and answers from a list."""

    def __init__(self, *answers: float | None) -> None:
        self.tick = 0
        self.answers = list(answers)
        self.calls: list[float] = []

    def deadline_passed(self) -> float | None:
        self.calls.append(asyncio.get_running_loop().time())
        return self.answers.pop(0) if self.answers else None


async def wait(condition: object, seconds: float = 60.0) -> None:
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def wheel() -> Wheel:
    return Wheel(asyncio.get_running_loop(), 0.02)


async def test_deadlines_come_late_by_a_tick_at_most_and_never_early() -> None:
    turning, marks = wheel(), {seconds: Mark() for seconds in (0.0, 0.03, 0.11)}
    start = asyncio.get_running_loop().time()
    for seconds, mark in marks.items():
        turning.arm(mark, seconds)
    await wait(lambda: all(mark.calls for mark in marks.values()))
    for seconds, mark in marks.items():
        assert seconds <= mark.calls[0] - start < seconds + 0.15  # one tick, and a busy machine
        assert len(mark.calls) == 1


async def test_an_entry_has_one_deadline() -> None:
    turning, moved, gone = wheel(), Mark(), Mark()
    turning.arm(moved, 0.02)
    turning.arm(moved, 0.08)
    turning.arm(gone, 0.02)
    turning.disarm(gone)
    turning.disarm(gone)
    await asyncio.sleep(0.05)
    assert moved.calls == []
    await wait(lambda: moved.calls)
    assert gone.calls == []


async def test_an_entry_may_want_another_deadline() -> None:
    turning, mark = wheel(), Mark(0.02, 0.02)
    turning.arm(mark, 0.02)
    await wait(lambda: len(mark.calls) == 3)


async def test_entries_may_forget_each_other_when_they_are_due() -> None:
    turning = wheel()
    second = Mark()

    class First(Mark):
        def deadline_passed(self) -> float | None:
            super().deadline_passed()
            turning.disarm(second)
            return None

    first = First()
    turning.arm(second, 0.5)
    turning.arm(first, 0.02)
    await wait(lambda: first.calls)
    assert second.tick == 0


async def test_the_timer_runs_only_while_something_is_due() -> None:
    turning, mark = wheel(), Mark()
    turning.arm(mark, 0.02)
    await wait(lambda: mark.calls)
    await wait(lambda: turning._timer is None)
    turning.arm(mark, 0.02)
    await wait(lambda: len(mark.calls) == 2)
