"""Modules as processes of this machine: started with what they need to know, started again when they end.

What they print goes to a log of each (`modulelogs`). None outlives the gateway (`leftovers`).

A module's processes are the one that was started and everything below it. Who asks on a workload socket is found by
walking up from its process: whoever arrives at a module's process is that module. The gateway's own process is
`edgeHub`, and nothing below it is. Source: edge specification 5.9, 5.10.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog

from edgetrust.clock import Clock
from edgetrust.edge.leftovers import dies_with_us, parent_of
from edgetrust.edge.modulelogs import ModuleLog, Wanted
from edgetrust.errors import Error
from edgetrust.limits import (
    MODULE_LOG_END_SECONDS,
    MODULE_RESTART_SECONDS,
    MODULE_STEADY_SECONDS,
    MODULE_STOP_SECONDS,
)
from edgetrust.telemetry import EVENT_MODULE_ENDED, EVENT_MODULE_STARTED
from edgetrust.trust.authorize import EDGE_HUB

_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")
_DEPTH = 64  # generations of processes between a caller and its module
_log = structlog.get_logger()

Environment = Callable[[str], Awaitable[Mapping[str, str]]]
"""What a module is told, by its name; raises Error when it cannot be known yet."""


class Restart(StrEnum):
    """When a module that ended is started again."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class ModuleCommand:
    """How a module is started: program and arguments, and further variables."""

    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    restart: Restart = Restart.ALWAYS


@dataclass(slots=True)
class _Life:
    """What is known of a module's process. `code` is that of the last one that ended."""

    pid: int | None = None
    began_at: datetime | None = None
    code: int | None = None


class Modules:
    """The modules of one gateway."""

    def __init__(
        self, commands: Mapping[str, ModuleCommand], environment: Environment, logs: Path, clock: Clock
    ) -> None:
        self._commands = commands
        self._environment = environment
        self._clock = clock
        self._lives = {name: _Life() for name in commands}
        self._logs = {name: ModuleLog(logs / f"{name}.log", clock) for name in commands}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Start all modules and keep them running."""
        for name in self._commands:
            self.begin(name)

    async def close(self) -> None:
        """End all modules."""
        await asyncio.gather(*(self.stop(name) for name in self._commands))

    # One module -----------------------------------------------------------------------------------------------------

    def begin(self, name: str) -> None:
        """Start a module, if it is not kept running already."""
        task = self._tasks.get(name)
        if task is None or task.done():
            task = self._tasks[name] = asyncio.create_task(self._keep(name, self._commands[name]))
            task.add_done_callback(lambda _: self._logs[name].wake())

    async def stop(self, name: str) -> None:
        """End a module, and do not start it again."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def is_declared(self, name: str) -> bool:
        """Whether it is a module that is started here: all but the gateway itself."""
        return name in self._commands

    def log_of(self, name: str, wanted: Wanted = Wanted()) -> bytes:  # noqa: B008 - frozen
        """What a module that is started here printed last. Reads the disk."""
        return self._logs[name].read(wanted)

    def follow(self, name: str, wanted: Wanted) -> AsyncGenerator[bytes]:
        """What such a module printed and prints, until it is stopped or ends for good; sometimes nothing."""
        task = self._tasks.get(name)
        return self._logs[name].follow(wanted, lambda: task is None or task.done())

    def names(self) -> list[str]:
        """The modules that there are, without `$`."""
        return [EDGE_HUB.removeprefix("$"), *self._commands]

    def is_of(self, pid: int, module: str) -> bool:
        """Whether a process belongs to a module."""
        if module == EDGE_HUB.removeprefix("$"):
            return pid == os.getpid()
        return self.module_of(pid) == module

    def module_of(self, pid: int) -> str | None:
        """The module whose process it is; None for any other."""
        modules = {life.pid: name for name, life in self._lives.items() if life.pid is not None}
        for _ in range(_DEPTH if modules else 0):
            if pid in modules:
                return modules[pid]
            pid = parent_of(pid)
            if pid <= 1:
                break
        return None

    def describe(self, module: str) -> dict[str, Any]:
        """A module in the list of the workload API."""
        return {"name": module, "type": "process", "status": {"runtimeStatus": {"status": self._word(module)}}}

    def details(self, module: str) -> dict[str, Any]:
        """A module in the management API."""
        life, wanted = self._lives.get(module, _Life()), self._commands.get(module)
        ended = life.code is not None and life.pid is None
        settings = {} if wanted is None else {"command": list(wanted.command)}
        env = [] if wanted is None else [{"key": key, "value": value} for key, value in wanted.env.items()]
        return {
            "id": module,
            "name": module,
            "type": "process",
            "config": {"settings": settings, "env": env},
            "status": {
                "startTime": None if life.began_at is None else life.began_at.isoformat(),
                "exitStatus": {"statusCode": str(life.code)} if ended else None,
                "runtimeStatus": {"status": self._word(module)},
            },
        }

    def _word(self, module: str) -> str:
        if module not in self._commands or self._lives[module].pid is not None:
            return "running"
        return "failed" if self._lives[module].code else "stopped"

    async def _keep(self, name: str, wanted: ModuleCommand) -> None:
        pause, loop = MODULE_RESTART_SECONDS[0], asyncio.get_running_loop()
        while True:
            began = loop.time()
            code: int | None = None
            try:
                code = await self._run(name, wanted)
            except (Error, OSError) as problem:
                _log.warning(EVENT_MODULE_ENDED, module=name, detail=str(problem))
            if code is not None and (
                wanted.restart is Restart.NEVER or (wanted.restart is Restart.ON_FAILURE and code == 0)
            ):
                return
            lived = loop.time() - began
            pause = (
                MODULE_RESTART_SECONDS[0]
                if lived > MODULE_STEADY_SECONDS
                else min(2 * pause, MODULE_RESTART_SECONDS[1])
            )
            await asyncio.sleep(pause)

    async def _run(self, name: str, wanted: ModuleCommand) -> int:
        told, life = await self._environment(name), self._lives[name]
        process = await asyncio.create_subprocess_exec(
            *wanted.command,
            env={**_own(), **told, **wanted.env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=dies_with_us(),
        )
        life.pid, life.began_at = process.pid, self._clock.now()
        _log.info(EVENT_MODULE_STARTED, module=name, pid=process.pid)
        assert process.stdout is not None
        printing = asyncio.create_task(self._logs[name].take(process.stdout))
        try:
            life.code = await process.wait()
            _log.warning(EVENT_MODULE_ENDED, module=name, detail=f"exit code {life.code}")
            return life.code
        finally:
            life.pid = None
            await _end(process)
            await asyncio.wait((printing,), timeout=MODULE_LOG_END_SECONDS)
            printing.cancel()


def _own() -> dict[str, str]:
    """What every program needs; the gateway's other variables are none of a module's business."""
    return {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a module with everything that it has started in its session."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(MODULE_STOP_SECONDS):
                await process.wait()
    with suppress(ProcessLookupError, PermissionError):  # most leave nobody behind
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
