"""What a module prints: kept in a file that does not grow without end, each line with the time it came; read, followed.

    2026-11-27T08:30:00.123456Z what was printed

Rules. A line is written when it is whole, or very long, or nothing follows it; so nobody reads half of one. The file
is moved away when it is full, and the one that was moved away before is gone. A follower has the file open and goes on
in the next one: it costs no memory, and only one that is slower than two whole files misses anything. A disk that
fails costs the words, not the module. Source: edge specification 5.8; what `since` may be, as the real runtime takes
it.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from edgetrust import limits
from edgetrust.clock import Clock

_WORDS_BYTES = 64 * 1024
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_DURATION = re.compile(r"([0-9]{1,9})\s*([A-Za-z]+)\s*")
_UNITS = {
    ("s", "sec", "secs", "second", "seconds"): timedelta(seconds=1),
    ("m", "min", "mins", "minute", "minutes"): timedelta(minutes=1),
    ("h", "hr", "hrs", "hour", "hours"): timedelta(hours=1),
    ("d", "day", "days"): timedelta(days=1),
    ("w", "week", "weeks"): timedelta(weeks=1),
}
_UNIT = {word: length for words, length in _UNITS.items() for word in words}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a log is asked for. `tail`: how many lines of those that are there, None for all; `timestamps`: with the
    time before each.
    """

    tail: int | None = None
    since: datetime = _FIRST
    until: datetime = _LAST
    timestamps: bool = False

    def of(self, lines: Iterable[bytes]) -> list[bytes]:
        """Those of the lines of a file, in the form that is asked for. `tail` is not looked at."""
        return [line if self.timestamps else _words(line) for line in lines if self.since <= _time(line) <= self.until]

    def last_of(self, lines: Iterable[bytes]) -> list[bytes]:
        """As `of`, and no more of them than `tail`."""
        found = self.of(lines)
        return found if self.tail is None else found[len(found) - self.tail :] if self.tail < len(found) else found


def moment(text: str, now: datetime) -> datetime | None:
    """The time that `since` or `until` names: RFC 3339, seconds since 1970, or how long ago (`1h`, `1 hour 20m`); None
    for anything else.
    """
    text = text.strip()
    try:
        if re.fullmatch(r"-?[0-9]{1,12}", text):
            return datetime.fromtimestamp(int(text), UTC)
        if re.fullmatch(rf"({_DURATION.pattern})+", text):
            return now - sum((int(n) * _UNIT[unit] for n, unit in _DURATION.findall(text)), timedelta())
        found = datetime.fromisoformat(text)
    except (ValueError, KeyError, OverflowError, OSError):
        return None
    return None if found.tzinfo is None else found


class ModuleLog:
    """The log of one module, whatever processes it has had."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._files = threading.Lock()
        self._news = asyncio.Event()

    # Writing --------------------------------------------------------------------------------------------------------

    async def take(self, output: asyncio.StreamReader) -> None:
        """Write what a process prints, until it ends."""
        rest = b""
        try:
            while words := await output.read(_WORDS_BYTES):
                *lines, rest = (rest + words).split(b"\n")
                if len(rest) >= limits.MODULE_LOG_LINE_BYTES:
                    lines, rest = [*lines, rest], b""
                await asyncio.to_thread(self._write, lines)
                self.wake()
        finally:
            if rest:
                self._write([rest])
                self.wake()

    def wake(self) -> None:
        """Whoever follows is to look."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _write(self, lines: list[bytes]) -> None:
        if not lines:
            return
        now = self._clock.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ ").encode()
        words = b"".join(now + line + b"\n" for line in lines)
        with self._files, suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._path.exists() and self._path.stat().st_size + len(words) > limits.MODULE_LOG_BYTES:
                self._path.replace(self._old)
            with self._path.open("ab") as file:
                file.write(words)

    @property
    def _old(self) -> Path:
        return self._path.with_suffix(".log.old")

    # Reading --------------------------------------------------------------------------------------------------------

    def read(self, wanted: Wanted) -> bytes:
        """What is there. Reads the disk."""
        lines, file = self._begun()
        if file is not None:
            file.close()
        return b"".join(wanted.last_of(lines))

    async def follow(self, wanted: Wanted, over: Callable[[], bool]) -> AsyncGenerator[bytes]:
        """What is there, then what comes, until nothing can come any more: it is `over`, or the time is. Every now and
        then nothing, so that its user can see whether anybody is listening.
        """
        ended, news = False, self._news
        lines, file = await asyncio.to_thread(self._begun)
        try:
            yield b"".join(wanted.last_of(lines))
            while not ended:
                ended = over() or self._clock.now() > wanted.until
                with suppress(TimeoutError):
                    async with asyncio.timeout(0 if ended else limits.MODULE_LOG_LOOK_SECONDS):
                        await news.wait()
                news = self._news  # before the disk is read: what is written meanwhile sets this one
                lines, file = await asyncio.to_thread(self._more, file)
                yield b"".join(wanted.of(lines))
        finally:
            if file is not None:
                file.close()

    def _begun(self) -> tuple[list[bytes], IO[bytes] | None]:
        """All lines, and the file to go on with."""
        lines: list[bytes] = []
        with self._files:
            if self._old.exists():
                with self._old.open("rb") as old:
                    lines = old.readlines()
            more, file = self._rest(None)
        return lines + more, file

    def _more(self, file: IO[bytes] | None) -> tuple[list[bytes], IO[bytes] | None]:
        with self._files:
            return self._rest(file)

    def _rest(self, file: IO[bytes] | None) -> tuple[list[bytes], IO[bytes] | None]:
        lines = [] if file is None else file.readlines()
        try:
            if file is not None and os.fstat(file.fileno()).st_ino == self._path.stat().st_ino:
                return lines, file
            following = self._path.open("rb")
        except OSError:
            return lines, file
        if file is not None:
            file.close()
        return lines + following.readlines(), following


def _time(line: bytes) -> datetime:
    """When a line was written; the beginning of time for one of an earlier version, which has none."""
    try:
        found = datetime.fromisoformat(line.partition(b" ")[0].decode("ascii"))
    except (ValueError, UnicodeDecodeError):
        return _FIRST
    return _FIRST if found.tzinfo is None else found


def _words(line: bytes) -> bytes:
    return line if _time(line) is _FIRST else line.partition(b" ")[2]
