"""Running an actor in the foreground: start it, say that it is ready, serve until told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import uvloop


class Stoppable(Protocol):
    """An actor that runs."""

    async def stop(self) -> None: ...


S = TypeVar("S", bound=Stoppable)


def run(start: Callable[[], Awaitable[S]], ready: Callable[[S], None]) -> None:
    """Start an actor, call `ready` with it, then serve until SIGTERM or SIGINT. Errors of the start are raised."""
    uvloop.run(_serve(start, ready))


async def _serve(start: Callable[[], Awaitable[S]], ready: Callable[[S], None]) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    actor = await start()
    try:
        ready(actor)
        await told.wait()
    finally:
        await actor.stop()
