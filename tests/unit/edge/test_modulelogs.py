"""Logs of modules: whole lines with their times, cut where they are full, read in part, and followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgetrust import limits
from edgetrust.clock import ManualClock
from edgetrust.edge.modulelogs import ModuleLog, Wanted, moment

NOW = datetime(2026, 11, 27, 8, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Bench:
    """A module that prints what a test says, and may be over."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(NOW)
        self.path = folder / "logs/m.log"
        self.log = ModuleLog(self.path, self.clock)
        self.over = False

    async def prints(self, words: bytes) -> None:
        """As one process, to its end."""
        output = asyncio.StreamReader()
        output.feed_data(words)
        output.feed_eof()
        await self.log.take(output)

    def follow(self, wanted: Wanted = Wanted()) -> AsyncGenerator[bytes]:  # noqa: B008 - frozen
        return self.log.follow(wanted, lambda: self.over)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def heard(words: AsyncGenerator[bytes]) -> bytes:
    """What comes next that is something."""
    while not (some := await anext(words)):
        pass
    return some


async def test_lines_have_their_times(bench: Bench) -> None:
    await bench.prints(b"one\ntwo\n")
    bench.clock.jump(NOW + MINUTE)
    await bench.prints(b"progress\rthree\nno end")
    assert bench.log.read(Wanted()) == b"one\ntwo\nprogress\rthree\nno end\n"
    assert bench.log.read(Wanted(tail=1, timestamps=True)) == b"2026-11-27T08:31:00.000000Z no end\n"
    assert bench.log.read(Wanted(tail=0)) == b""
    assert bench.log.read(Wanted(tail=10**18)).count(b"\n") == 4
    assert bench.log.read(Wanted(since=NOW + MINUTE, tail=5)) == b"progress\rthree\nno end\n"
    assert bench.log.read(Wanted(until=NOW)) == b"one\ntwo\n"


async def test_lines_of_an_earlier_version_are_older_than_all(bench: Bench) -> None:
    bench.path.parent.mkdir()
    bench.path.write_bytes(b"old\n2020-01-01 said the module\n")
    await bench.prints(b"new\n")
    assert bench.log.read(Wanted()) == b"old\n2020-01-01 said the module\nnew\n"
    assert bench.log.read(Wanted(since=NOW)) == b"new\n"


async def test_a_very_long_line_is_several(bench: Bench) -> None:
    await bench.prints(b"x" * (limits.MODULE_LOG_LINE_BYTES * 10))
    text = bench.log.read(Wanted())
    assert text.count(b"x") == limits.MODULE_LOG_LINE_BYTES * 10
    assert text.count(b"\n") >= 2


async def test_a_full_disk_costs_the_words(bench: Bench) -> None:
    bench.path.parent.write_text("no directory")
    await bench.prints(b"one\n")
    assert bench.log.read(Wanted()) == b""


async def test_who_follows_gets_what_comes_through_every_change_of_files(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MODULE_LOG_BYTES", 100)
    monkeypatch.setattr(limits, "MODULE_LOG_LOOK_SECONDS", 0.01)
    words = bench.follow(Wanted(tail=1))
    assert await anext(words) == b""
    await bench.prints(b"0\n1\n")
    assert await heard(words) == b"0\n1\n"
    for number in range(2, 12):
        await bench.prints(b"%d\n" % number)
        assert await heard(words) == b"%d\n" % number
    assert bench.path.with_suffix(".log.old").exists()
    later = bench.follow(Wanted(tail=1))
    assert await anext(later) == b"11\n"
    await bench.prints(b"last\n")
    bench.over = True
    for following in (words, later):
        assert b"".join([some async for some in following]) == b"last\n"


async def test_a_module_that_does_not_run_is_not_waited_for(bench: Bench) -> None:
    await bench.prints(b"one\n")
    bench.over = True
    assert [some async for some in bench.follow()] == [b"one\n", b""]


async def test_following_ends_when_the_time_that_was_named_is_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MODULE_LOG_LOOK_SECONDS", 0.01)
    words = bench.follow(Wanted(until=NOW))
    assert await anext(words) == b""
    await bench.prints(b"in time\n")
    bench.clock.jump(NOW + MINUTE)
    await bench.prints(b"too late\n")
    assert b"".join([some async for some in words]) == b"in time\n"


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("2026-11-27T08:00:00Z", 30 * MINUTE),
        ("2026-11-27T09:30:00+01:00", timedelta()),
        ("1795768200", timedelta()),
        ("0", NOW - datetime(1970, 1, 1, tzinfo=UTC)),
        ("1 hour 20m", 80 * MINUTE),
        ("1h", 60 * MINUTE),
        ("2days", timedelta(days=2)),
        ("90sec", 1.5 * MINUTE),
    ],
)
def test_what_times_may_be(text: str, ago: timedelta) -> None:
    assert moment(text, NOW) == NOW - ago


@pytest.mark.parametrize(
    "text", ["", "x", "2026-11-27", "2026-11-27T08:00:00", "1 fortnight", "h", "9" * 12, "-1h", "999999999w", "²h"]
)
def test_what_they_may_not(text: str) -> None:
    assert moment(text, NOW) is None
