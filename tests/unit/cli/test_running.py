"""Serving in the foreground: ready, told to stop, told to stop before it was ready."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Self

import pytest

from edgetrust.cli.running import run
from edgetrust.errors import ConfigError


class Actor:
    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.said: list[str] = []

    async def start(self) -> Self:
        self.said.append("started")
        return self

    async def wait_for_ever(self) -> Self:
        self.said.append("waiting")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.said.append("closed what was open")
            raise
        return self

    async def fail(self) -> Self:
        raise ConfigError("no", reason="test")

    async def stop(self) -> None:
        self.said.append("stopped")


def later(number: int) -> threading.Timer:
    timer = threading.Timer(0.2, os.kill, (os.getpid(), number))
    timer.start()
    return timer


def ready(actor: Actor) -> None:
    actor.said.append("ready")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("start", "said"),
    [
        (Actor.start, ["started", "ready", "stopped"]),
        (Actor.wait_for_ever, ["waiting", "closed what was open"]),
    ],
)
def test_told_to_stop(number: int, start: Callable[[Actor], object], said: list[str]) -> None:
    actor = Actor()
    timer = later(number)
    run(lambda: start(actor), ready)  # type: ignore[arg-type,return-value]
    timer.join()
    assert actor.said == said


def test_a_start_that_fails() -> None:
    actor = Actor()
    with pytest.raises(ConfigError):
        run(actor.fail, ready)
    assert actor.said == []


@pytest.mark.parametrize(
    ("problem", "printed"),
    [
        ("unable to perform operation on <TCPTransport closed=True>; the handler is closed", False),
        ("something else", True),
    ],
)
def test_what_nobody_waits_for_is_printed_unless_it_came_while_we_closed(
    problem: str, printed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def ready_and_told(_: Actor) -> None:
        told = {"message": "SSL error in data received", "exception": RuntimeError(problem)}
        asyncio.get_running_loop().call_exception_handler(told)
        os.kill(os.getpid(), signal.SIGTERM)

    actor = Actor()
    run(actor.start, ready_and_told)
    assert (problem in caplog.text) is printed
    assert actor.said == ["started", "stopped"]
