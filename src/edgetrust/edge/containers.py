"""Modules in containers that somebody else starts: each has a directory to mount, with its socket and its variables.

    /var/lib/aziot/edged/mnt/MODULE/workload.sock       mounted as /var/run/iotedge/workload.sock
    /var/lib/aziot/edged/mnt/MODULE/environment         NAME=VALUE lines, for --env-file; no secrets

Rules. The processes of a container are nobody's children here, so a caller is told by the socket that it came through
and by its user, as the kernel sees it from outside the container. The directory is what is mounted, not the socket:
a socket that is made anew is then seen inside. Source: edge specification 5.5, 5.9, 5.10.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from edgetrust.errors import Error
from edgetrust.limits import MODULE_RESTART_SECONDS
from edgetrust.pki.softkeys import write_public
from edgetrust.telemetry import EVENT_MODULE_ENDED

_INSIDE = "unix:///var/run/iotedge/workload.sock"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Container:
    """A module in a container: its name, and the user that its processes are on this machine."""

    module: str
    uid: int


class Containers:
    """The modules in containers of one gateway. `environment` is what a module is told, by its name."""

    def __init__(
        self, uids: Mapping[str, int], environment: Callable[[str], Awaitable[Mapping[str, str]]], mounts: Path
    ) -> None:
        self._containers = [Container(module, uid) for module, uid in uids.items()]
        self._environment = environment
        self._mounts = mounts
        self._tasks: list[asyncio.Task[None]] = []

    def sockets(self) -> list[tuple[Container, Path]]:
        """Each container and where it asks."""
        return [(one, self._mounts / one.module / "workload.sock") for one in self._containers]

    def start(self) -> None:
        """Write what each is told, as soon as the hub knows it."""
        self._tasks = [asyncio.create_task(self._tell(one.module)) for one in self._containers]

    async def close(self) -> None:
        """Do not try any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _tell(self, module: str) -> None:
        pause = MODULE_RESTART_SECONDS[0]
        while True:
            try:
                await self._write(module)
            except (Error, OSError) as problem:
                _log.warning(EVENT_MODULE_ENDED, module=module, detail=str(problem))
            else:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, MODULE_RESTART_SECONDS[1])

    async def _write(self, module: str) -> None:
        told = {**await self._environment(module), "IOTEDGE_WORKLOADURI": _INSIDE}
        text = "".join(f"{name}={value}\n" for name, value in told.items())
        await asyncio.to_thread(write_public, self._mounts / module / "environment", text.encode())
