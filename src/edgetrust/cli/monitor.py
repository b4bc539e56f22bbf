"""`edgetrust monitor`: the telemetry that a hub stored, as it arrives.

It asks the hub for what lies behind the last offset and lets it wait for more. Nothing is lost between two requests;
when the hub goes away the tail says so and takes up where it was.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from edgetrust.cli.at_hub import at_hub
from edgetrust.cli.client import HubClient
from edgetrust.cli.output import Json, pairs, print_json_line, print_line, say
from edgetrust.errors import Error, UnavailableError, UsageError

app = typer.Typer()

WAIT_SECONDS = 20.0  # one long poll, below the usual 30 s of proxies
PAGE = 500
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Tail:
    """What to read: from where, of whom, how much, how long. `seconds` None and `count` None mean without end."""

    start: str
    device: str | None
    where: str | None
    follow: bool
    count: int | None
    seconds: float | None


@app.command(help="Live tail of telemetry: one line per message, or JSON lines.")
@at_hub
async def monitor(
    client: HubClient,
    *,
    device: Annotated[
        str | None, typer.Option("--device", metavar="ID", help="Only of this device and its modules.")
    ] = None,
    properties: Annotated[
        list[str] | None,
        typer.Option("--property", metavar="K=V", help="Only with this application property; may be repeated."),
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="CONDITION", help="Only for which it holds, as in routes.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait for more, or stop at the end.")] = True,
    start: Annotated[
        str,
        typer.Option("--from", metavar="OFFSET|start|latest", help="Where to begin; an offset itself is not shown."),
    ] = "latest",
    count: Annotated[
        int | None, typer.Option(min=1, help="Stop after that many; fewer at --timeout is a failure.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(metavar="S", min=0, help="Stop after that many seconds.")] = None,
    json: Json = False,
) -> None:
    tail = Tail(_start(start), device, _condition(where, properties), follow, count, timeout)
    if follow and not json:
        say(f"listening to {client.hub.host_name}" + (f", {device} only" if device else "") + "; Ctrl-C ends it")
    seen = 0
    async for event in events(client, tail):
        print_event(event, json=json)
        seen += 1
        if seen == count:
            break
    if count is not None and seen < count:
        raise Error(
            f"{seen} of {count} messages arrived",
            reason="messages-missing",
            fix="wait longer (--timeout), begin earlier (--from start), or look at edgetrust refusals",
        )


async def events(client: HubClient, tail: Tail) -> AsyncIterator[dict[str, Any]]:
    """Stored messages from the tail's start on, in the order of their offsets."""
    end = None if tail.seconds is None else time.monotonic() + tail.seconds
    after, away = tail.start, False
    while True:
        left = WAIT_SECONDS if end is None else max(0.0, min(WAIT_SECONDS, end - time.monotonic()))
        try:
            page = await _page(client, after, tail, left if tail.follow else 0.0)
        except UnavailableError as problem:
            if not tail.follow or (end is not None and time.monotonic() >= end):
                raise
            if not away:
                say(f"{problem.message}; trying again")
            away = True
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        away = False
        for event in page["events"]:
            yield event
        stayed, after = after == str(page["next"]), str(page["next"])
        if not page["events"] and stayed and (not tail.follow or (end is not None and time.monotonic() >= end)):
            return


async def _page(client: HubClient, after: str, tail: Tail, wait: float) -> dict[str, Any]:
    query = {"after": after, "wait_seconds": f"{wait:.1f}", "limit": str(PAGE)}
    if tail.device is not None:
        query["device"] = tail.device
    if tail.where is not None:
        query["where"] = tail.where
    page: dict[str, Any] = await client.request("GET", ("edgetrust", "events"), query=query, seconds=wait + 30)
    return page


def print_event(event: dict[str, Any], *, json: bool) -> None:
    """One message as one line."""
    if json:
        print_json_line(event)
        return
    who = str(event["device"]) + (f"/{event['module']}" if event.get("module") else "")
    properties = "".join(f"  {name}={value}" for name, value in (event.get("properties") or {}).items())
    print_line(f"{event['enqueuedAt']}  #{event['offset']}  {who}  {body_text(event)}{properties}")


def body_text(event: dict[str, Any]) -> str:
    """The body as text, or as `(N bytes)` where it is none."""
    text = event.get("bodyText")
    return str(text) if text is not None else f"({len(base64.b64decode(event.get('body') or ''))} bytes)"


def _condition(where: str | None, properties: list[str] | None) -> str | None:
    """One condition out of both options."""
    parts = [where if not properties else f"({where})"] if where else []
    for name, value in pairs(properties).items():
        if "{" in name or "}" in name:
            raise UsageError(f"--property {name!r} cannot be a name here", reason="property-malformed", fix="no braces")
        parts.append("{" + name + "} = '" + value.replace("'", "''") + "'")
    return " AND ".join(parts) or None


def _start(text: str) -> str:
    if text == "start":
        return "0"
    if text == "latest" or text.isdecimal():
        return text
    raise UsageError(
        f"--from {text!r} is no place to begin", reason="offset-malformed", fix="an offset, start or latest"
    )
