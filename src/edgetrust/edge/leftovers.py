"""Modules end with the runtime that started them, however it ends.

Rules. The kernel kills a module's process when its runtime has died (PR_SET_PDEATHSIG, prctl(2)). What a module had
started itself is found when the runtime starts again, by the workload socket in its environment, and killed before any
module is started. Linux only, as is the runtime.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

WORKLOAD_VARIABLE = "IOTEDGE_WORKLOADURI"
_SET_PDEATHSIG = 1  # of prctl(2)
_libc = ctypes.CDLL(None, use_errno=True)


def dies_with_us() -> Callable[[], None]:
    """What a new process does before it becomes a module: it is killed when this process is not there any more."""
    ours = os.getpid()

    def ask_the_kernel() -> None:
        _libc.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != ours:  # it has died meanwhile
            os._exit(1)

    return ask_the_kernel


def end_leftovers(workload_uris: Collection[str]) -> list[int]:
    """Kill the processes that an earlier life of this runtime has left behind: their numbers."""
    marks = {f"{WORKLOAD_VARIABLE}={uri}".encode() for uri in workload_uris}
    found = [pid for pid in _others() if marks & set(_environment(pid))]
    for pid in found:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return found


def _others() -> list[int]:
    """All processes but this one and those above it."""
    above, pid = {0}, os.getpid()
    while pid not in above:
        above.add(pid)
        pid = parent_of(pid)
    return [number for path in Path("/proc").glob("[0-9]*") if (number := int(path.name)) not in above]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has gone, or is somebody else's
        return []


def parent_of(pid: int) -> int:
    """The parent of a process; 0 when it has gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])  # the name before may hold anything
