"""Networks of a test's own: namespaces in a row, joined by veth pairs whose links can be cut; or, where they cannot be
made, addresses on loopback, where cutting means to stop the process on the upper side.

    hub -- 1 -- 2 -- ... -- n       link i joins place i and i + 1; nobody reaches further than its neighbours
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=check)


@dataclass
class Row:
    """A row of `places`. `prefix` starts a command in a place; `address` is what a place is reached at from below."""

    places: int
    isolated: bool = False
    why_not: str = ""
    _mark: str = ""
    _stopped: dict[int, list[int]] = field(default_factory=dict)

    def make(self) -> None:
        """Make the namespaces, or say in `why_not` why there are none."""
        self._mark = f"et{os.getpid() % 100_000}"
        try:
            for place in range(self.places):
                _ip("netns", "add", self._name(place))
                _ip("-n", self._name(place), "link", "set", "lo", "up")
            for link in range(self.places - 1):
                upper, lower = f"{self._mark}u{link}", f"{self._mark}l{link}"
                _ip(
                    *("link", "add", upper, "netns", self._name(link), "type", "veth"),
                    *("peer", "name", lower, "netns", self._name(link + 1)),
                )
                for place, name, last in ((link, upper, 1), (link + 1, lower, 2)):
                    _ip("-n", self._name(place), "address", "add", f"10.77.{link}.{last}/24", "dev", name)
                    _ip("-n", self._name(place), "link", "set", name, "up")
            self.isolated = True
        except (OSError, subprocess.SubprocessError) as problem:
            self.why_not = str(getattr(problem, "stderr", "") or problem).strip()
            self.close()

    def close(self) -> None:
        """Remove what was made."""
        for place in range(self.places):
            _ip("netns", "delete", self._name(place), check=False)

    def _name(self, place: int) -> str:
        return f"{self._mark}n{place}"

    def prefix(self, place: int) -> list[str]:
        """What a command is started with to run at a place."""
        return ["ip", "netns", "exec", self._name(place)] if self.isolated else []

    def address(self, place: int) -> str:
        """Where a place listens for those below it."""
        return f"10.77.{place}.1" if self.isolated else f"127.77.{place}.1"

    def cut(self, link: int, upper: Callable[[], list[int]]) -> None:
        """Nothing passes between place `link` and the next; `upper` are the processes at the upper one."""
        if self.isolated:
            _ip("-n", self._name(link), "link", "set", f"{self._mark}u{link}", "down")
            return
        self._stopped[link] = upper()
        for pid in self._stopped[link]:
            os.kill(pid, signal.SIGSTOP)

    def restore(self, link: int) -> None:
        """What was cut is whole again."""
        if self.isolated:
            _ip("-n", self._name(link), "link", "set", f"{self._mark}u{link}", "up")
            return
        for pid in self._stopped.pop(link, []):
            os.kill(pid, signal.SIGCONT)
