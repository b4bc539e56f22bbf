"""`edgetrust device send` and `listen`: what a device sends and receives. Data on stdout, the rest on stderr."""

from __future__ import annotations

import asyncio
import json as jsonlib
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, assert_never

import typer

from edgetrust.cli.as_device import as_device
from edgetrust.cli.output import Json, iso, pairs, parse_json, print_json_line, print_line, say
from edgetrust.clock import SystemClock
from edgetrust.device.session import DesiredChanged, DeviceSession, Incoming, MethodRequested, Received
from edgetrust.errors import Error

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
    answer: Annotated[
        str | None, typer.Option("--answer", metavar="JSON", help="Take direct methods, and answer them with this.")
    ] = None,
    status: Annotated[int, typer.Option("--status", help="What --answer says: 200 is success.")] = 200,
    twin: Annotated[bool, typer.Option("--twin", help="Show changes of the desired properties too.")] = False,
    json: Json = False,
) -> None:
    payload = None if answer is None else jsonlib.dumps(parse_json("--answer", answer)).encode()
    seen = 0
    try:
        async with asyncio.timeout(timeout), aclosing(session.incoming(methods=bool(payload), twin=twin)) as news:
            async for one in news:
                print_incoming(one, json=json)
                if isinstance(one, MethodRequested) and payload is not None:
                    await session.answer(one, status, payload)
                seen += 1
                if seen == count:
                    return
    except TimeoutError:
        if count is not None:
            raise Error(
                f"{seen} of {count} messages arrived", reason="messages-missing", fix="wait longer (--timeout)"
            ) from None


@as_device
async def report(
    session: DeviceSession,
    *,
    patch: Annotated[str, typer.Option("--patch", metavar="JSON", help="Merged; null deletes.")],
    json: Json = False,
) -> None:
    version = await session.report(jsonlib.dumps(parse_json("--patch", patch)).encode())
    if json:
        print_json_line({"version": version})
    else:
        say(f"reported; the reported properties have version {version}")


def print_incoming(one: Incoming, *, json: bool) -> None:
    """What came, as one line."""
    line: dict[str, object]
    match one:
        case Received(body, properties):
            text = body.decode("utf-8", "replace")
            line = {"body": text, "properties": properties}
            shown = text + "".join(f"  {name}={value or ''}" for name, value in properties.items())
        case MethodRequested(method, payload):
            text = payload.decode("utf-8", "replace")
            line = {"method": method, "payload": text}
            shown = f"method {method} {text}"
        case DesiredChanged(patch, version):
            text = patch.decode("utf-8", "replace")
            line = {"desired": text, "version": version}
            shown = f"desired {text}"
        case _:
            assert_never(one)
    if json:
        print_json_line(line)
    else:
        print_line(shown)


async def _messages(message: str | None, count: int, interval: float) -> AsyncGenerator[str, None]:
    if message == "-":
        while line := await asyncio.to_thread(sys.stdin.readline):
            yield line.rstrip("\n")
        return
    for number in range(1, count + 1):
        if number > 1:
            await asyncio.sleep(interval)
        yield message if message is not None else jsonlib.dumps({"temperature": 21.5, "sequence": number})
