"""`edgetrust device send` and `listen`: what a device sends and receives. Data on stdout, the rest on stderr."""

from __future__ import annotations

import asyncio
import json as jsonlib
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import typer

from edgetrust.cli.as_device import as_device
from edgetrust.cli.output import Json, iso, print_json_line, print_line, say
from edgetrust.clock import SystemClock
from edgetrust.device.session import DeviceSession, Received
from edgetrust.errors import Error, UsageError

Message = Annotated[
    str | None,
    typer.Option("--message", metavar="TEXT", help="Default: a temperature. - sends stdin, line by line."),
]
Properties = Annotated[list[str] | None, typer.Option("--property", metavar="K=V", help="May be repeated.")]


@as_device
async def send(
    session: DeviceSession,
    *,
    message: Message = None,
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 1,
    interval: Annotated[float, typer.Option(metavar="S", min=0, help="Between two.")] = 0.0,
    properties: Properties = None,
    json: Json = False,
) -> None:
    bag, sent = pairs(properties), 0
    async with aclosing(_messages(message, count, interval)) as texts:
        async for text in texts:
            began = time.monotonic()
            await session.send(text.encode(), bag)
            sent += 1
            seconds = round(time.monotonic() - began, 4)
            if json:
                at = iso(SystemClock().now())
                print_json_line({"sequence": sent, "body": text, "acknowledgedAt": at, "seconds": seconds})
    say(f"sent {sent} message{'' if sent == 1 else 's'}, each acknowledged")


@as_device
async def listen(
    session: DeviceSession,
    *,
    count: Annotated[
        int | None, typer.Option(min=1, help="Stop after that many; fewer at --timeout is a failure.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(metavar="S", min=0, help="Stop after that many seconds.")] = None,
    json: Json = False,
) -> None:
    seen = 0
    try:
        async with asyncio.timeout(timeout), aclosing(session.messages()) as messages:
            async for received in messages:
                print_received(received, json=json)
                seen += 1
                if seen == count:
                    return
    except TimeoutError:
        if count is not None:
            raise Error(
                f"{seen} of {count} messages arrived", reason="messages-missing", fix="wait longer (--timeout)"
            ) from None


def print_received(received: Received, *, json: bool) -> None:
    """One message as one line."""
    text = received.body.decode("utf-8", "replace")
    if json:
        print_json_line({"body": text, "properties": received.properties})
    else:
        print_line(text + "".join(f"  {name}={value or ''}" for name, value in received.properties.items()))


def pairs(texts: list[str] | None) -> dict[str, str]:
    """`K=V` options as a mapping. Raises UsageError."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(
                f"--property {text!r} is not K=V", reason="property-malformed", fix="write it like --property k=v"
            )
        found[name] = value
    return found


async def _messages(message: str | None, count: int, interval: float) -> AsyncGenerator[str, None]:
    if message == "-":
        while line := await asyncio.to_thread(sys.stdin.readline):
            yield line.rstrip("\n")
        return
    for number in range(1, count + 1):
        if number > 1:
            await asyncio.sleep(interval)
        yield message if message is not None else jsonlib.dumps({"temperature": 21.5, "sequence": number})
