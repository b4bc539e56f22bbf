"""Work that runs beside the connections of one actor, on its loop. A failure is logged and ends nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from edgetrust.errors import Error
from edgetrust.telemetry import EVENT_TASK_FAILED

_log = structlog.get_logger()


class LoopTasks:
    """The broker's Tasks port over asyncio; holds on to what it started until that is done."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end, or to `close`."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)

    async def close(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Error):
            _log.warning(EVENT_TASK_FAILED, reason=error.reason, detail=error.message)
        elif error is not None:
            _log.error(EVENT_TASK_FAILED, reason="defect", exc_info=error)
