"""Networks of a test's own: namespaces in a row, joined by veth pairs whose links can be cut; or, where they cannot be
made, addresses on loopback, where cutting means to stop the process on the upper side.

    hub -- 1 -- 2 -- ... -- n       link i joins place i and i + 1; nobody reaches further than its neighbours

A place may know names that nobody else knows, as a file of hosts of its own.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET, of setns(2)


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=60, check=check)


@dataclass
class Row:
    """A row of `places`. `prefix` starts a command in a place; `address` is what a place is reached at from below."""

    places: int
    isolated: bool = False
    why_not: str = ""
    _mark: str = ""
    _stopped: dict[int, list[int]] = field(default_factory=dict)
    _hosts: dict[int, Path] = field(default_factory=dict)

    def make(self) -> None:
        """Make the namespaces, or say in `why_not` why there are none."""
        self._mark = f"et{secrets.token_hex(3)}"  # namespaces of a run that was killed stay
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
        for file in self._hosts.values():
            shutil.rmtree(file.parent)
        self._hosts.clear()

    def know(self, place: int, names: dict[str, str]) -> None:
        """The names, with their addresses, that are known at a place, besides localhost."""
        folder = Path("/etc/netns") / self._name(place) if self.isolated else Path(tempfile.mkdtemp())
        folder.mkdir(parents=True, exist_ok=True)
        self._hosts[place] = folder / "hosts"
        known = {"localhost": "127.0.0.1", **names}
        self._hosts[place].write_text("".join(f"{address} {name}\n" for name, address in known.items()))

    def _name(self, place: int) -> str:
        return f"{self._mark}n{place}"

    def prefix(self, place: int) -> list[str]:
        """What a command is started with to run at a place."""
        if self.isolated:  # which shows the place its own file of hosts
            return ["ip", "netns", "exec", self._name(place)]
        if place not in self._hosts:
            return []
        own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        script = f'mount --bind {self._hosts[place]} /etc/hosts; exec "$0" "$@"'
        return ["unshare", *own, "--mount", "sh", "-ec", script]

    def at(self, place: int, work: Callable[[], T]) -> T:
        """What `work` returns when every socket that it opens is at a place: in a thread of that network."""
        with ThreadPoolExecutor(1, initializer=self._enter, initargs=(place,)) as one:
            return one.submit(work).result()

    def _enter(self, place: int) -> None:
        if not self.isolated:
            return
        network = os.open(f"/run/netns/{self._name(place)}", os.O_RDONLY)
        try:
            if _libc.setns(network, _NEW_NETWORK):
                raise OSError(ctypes.get_errno(), f"cannot enter the network of place {place}")
        finally:
            os.close(network)

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
