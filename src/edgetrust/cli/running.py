"""Running an actor in the foreground: start it, say that it is ready, serve until told to stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import uvloop

_CLOSED_BY_US = "the handler is closed"  # how uvloop calls a connection that is no more


class Stoppable(Protocol):
    """An actor that runs."""

    async def stop(self) -> None: ...


S = TypeVar("S", bound=Stoppable)


def run(
    start: Callable[[], Awaitable[S]],
    ready: Callable[[S], None],
    again: Callable[[S], Awaitable[None]] | None = None,
    reread: Callable[[S], Awaitable[None]] | None = None,
) -> None:
    """Start an actor, call `ready` with it, then serve until SIGTERM or SIGINT. Errors of the start are raised.

    When `again` ends, the actor is stopped and started anew. `reread` is called at each SIGHUP.

    A start may take as long as a gateway waits for its hub: told to stop meanwhile, it is given up.
    """
    uvloop.run(_serve(start, ready, again, reread))


async def _serve(
    start: Callable[[], Awaitable[S]],
    ready: Callable[[S], None],
    again: Callable[[S], Awaitable[None]] | None,
    reread: Callable[[S], Awaitable[None]] | None,
) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_unhandled)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    hung_up = asyncio.Event()
    if reread is not None:  # from the start on, since it would end the process otherwise
        loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    while not told.is_set():
        gc.unfreeze()  # a former actor can be collected
        actor = await _started(start, told)
        if actor is None:
            return
        gc.freeze()  # modules and the actor stay: no collection need look at them
        try:
            ready(actor)
            _tell_supervisor("READY=1")
            waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(told.wait())]
            if reread is not None:
                waits.append(asyncio.ensure_future(_rereading(actor, reread, hung_up)))
            if again is not None:
                waits.append(asyncio.ensure_future(again(actor)))
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for one in waits:
                one.cancel()
            if told.is_set():
                _tell_supervisor("STOPPING=1")
        finally:
            await actor.stop()


def _unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What no task waits for is printed. Not so what arrived on a TLS connection that we were closing: uvloop takes it
    for a fault, and nobody who stops a gateway should see a traceback for that.
    """
    problem = context.get("exception")
    if not (isinstance(problem, RuntimeError) and str(problem).endswith(_CLOSED_BY_US)):
        loop.default_exception_handler(context)


def _tell_supervisor(state: str) -> None:
    """Say so to systemd, or to whoever speaks its protocol (sd_notify(3)); nobody need be listening."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify, suppress(OSError):
        notify.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)


async def _rereading(actor: S, reread: Callable[[S], Awaitable[None]], told: asyncio.Event) -> None:
    """Call `reread` whenever `told` is set, one after the other."""
    while True:
        await told.wait()
        told.clear()
        await reread(actor)


async def _started(start: Callable[[], Awaitable[S]], told: asyncio.Event) -> S | None:
    """The actor; None when it was told to stop first."""
    starting = asyncio.ensure_future(start())
    telling = asyncio.create_task(told.wait())
    try:
        await asyncio.wait((starting, telling), return_when=asyncio.FIRST_COMPLETED)
    finally:
        telling.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.wait((starting,))
    return None if starting.cancelled() else starting.result()
