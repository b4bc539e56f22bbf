"""Modules as processes of this machine: started with what they need to know, started again when they end.

A module's processes are the one that was started and everything below it. Who asks on a workload socket is found by
walking up from its process: whoever arrives at a module's process is that module. The gateway's own process is
`edgeHub`, and nothing below it is. Source: edge specification 5.9, 5.10.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from edgetrust.errors import Error
from edgetrust.limits import MODULE_RESTART_SECONDS, MODULE_STEADY_SECONDS, MODULE_STOP_SECONDS
from edgetrust.telemetry import EVENT_MODULE_ENDED, EVENT_MODULE_STARTED
from edgetrust.trust.authorize import EDGE_HUB

_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")
_DEPTH = 64  # generations of processes between a caller and its module
_log = structlog.get_logger()

Environment = Callable[[str], Awaitable[Mapping[str, str]]]
"""What a module is told, by its name; raises Error when it cannot be known yet."""


@dataclass(frozen=True, slots=True)
class ModuleCommand:
    """How a module is started: program and arguments, and further variables."""

    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


class Modules:
    """The modules of one gateway."""

    def __init__(self, commands: Mapping[str, ModuleCommand], environment: Environment) -> None:
        self._commands = commands
        self._environment = environment
        self._pids: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start all modules and keep them running."""
        self._tasks = [asyncio.create_task(self._keep(name, one)) for name, one in self._commands.items()]

    async def close(self) -> None:
        """End all modules."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def names(self) -> list[str]:
        """The modules that there are, without `$`."""
        return [EDGE_HUB.removeprefix("$"), *self._commands]

    def is_of(self, pid: int, module: str) -> bool:
        """Whether a process belongs to a module."""
        if module == EDGE_HUB.removeprefix("$"):
            return pid == os.getpid()
        wanted = self._pids.get(module)
        if wanted is None:
            return False
        for _ in range(_DEPTH):
            if pid == wanted:
                return True
            pid = _parent(pid)
            if pid <= 1:
                return False
        return False

    def describe(self, module: str) -> dict[str, Any]:
        """A module in the list of the workload API."""
        running = module not in self._commands or module in self._pids
        return {"name": module, "type": "process", "status": {"runtimeStatus": {"status": _word(running)}}}

    async def _keep(self, name: str, wanted: ModuleCommand) -> None:
        pause, loop = MODULE_RESTART_SECONDS[0], asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._run(name, wanted)
            except (Error, OSError) as problem:
                _log.warning(EVENT_MODULE_ENDED, module=name, detail=str(problem))
            lived = loop.time() - began
            pause = (
                MODULE_RESTART_SECONDS[0]
                if lived > MODULE_STEADY_SECONDS
                else min(2 * pause, MODULE_RESTART_SECONDS[1])
            )
            await asyncio.sleep(pause)

    async def _run(self, name: str, wanted: ModuleCommand) -> None:
        told = await self._environment(name)
        process = await asyncio.create_subprocess_exec(
            *wanted.command, env={**_own(), **told, **wanted.env}, stdin=asyncio.subprocess.DEVNULL
        )
        self._pids[name] = process.pid
        _log.info(EVENT_MODULE_STARTED, module=name, pid=process.pid)
        try:
            code = await process.wait()
            _log.warning(EVENT_MODULE_ENDED, module=name, detail=f"exit code {code}")
        finally:
            self._pids.pop(name, None)
            await _end(process)


def _own() -> dict[str, str]:
    """What every program needs; the gateway's other variables are none of a module's business."""
    return {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(MODULE_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _parent(pid: int) -> int:
    """The parent of a process; 0 when it has gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])  # the name before may hold anything


def _word(running: bool) -> str:
    return "running" if running else "stopped"
