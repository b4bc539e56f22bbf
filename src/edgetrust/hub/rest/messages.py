"""Messages: cloud-to-device ones in, device-to-cloud ones out for monitors and consumers."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from functools import partial
from typing import Annotated
from urllib.parse import unquote

import msgspec
from aiohttp import web

from edgetrust.errors import PeerError
from edgetrust.hub.event_entry import event_entry
from edgetrust.hub.rest.answers import json_value
from edgetrust.hub.rest.parts import PARTS, Parts
from edgetrust.hub.rest.query import number, wait_seconds
from edgetrust.hub.rest.reading import body_of
from edgetrust.limits import C2D_MESSAGE_ID_CHARACTERS, CONSUMER_CHARACTERS, MESSAGE_BYTES, PAGE_ITEMS
from edgetrust.protocol.expressions import parse_expression
from edgetrust.protocol.iothub import format_properties
from edgetrust.protocol.iothub.headers import APPLICATION, SYSTEM_HEADERS
from edgetrust.protocol.iothub.message_query import MessageQuery
from edgetrust.store.c2d import C2dDraft
from edgetrust.trust.policies import Right

routes = web.RouteTableDef()

_LAST_OFFSET = 2**62
_ACKS = ("none", "positive", "negative", "full")
_COMMAND_HEADERS = (
    "iothub-messageid",
    "iothub-correlationid",
    "iothub-userid",
    "iothub-contenttype",
    "iothub-contentencoding",
    "iothub-ack",
)


class _Offset(msgspec.Struct, frozen=True):
    offset: Annotated[int, msgspec.Meta(ge=0, le=_LAST_OFFSET)]


@routes.post("/devices/{device}/messages/devicebound")
async def send_command(request: web.Request) -> web.Response:
    """Queue a cloud-to-device message; properties come as headers, as devices send theirs over HTTPS."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.SERVICE_CONNECT)
    body = await request.read()
    if len(body) > MESSAGE_BYTES:
        raise PeerError(f"a message has at most {MESSAGE_BYTES} bytes", reason="message-too-large", status=413)
    properties: dict[str, str | None] = {}
    for header, value in request.headers.items():
        name = header.lower()
        if name in _COMMAND_HEADERS:
            properties[SYSTEM_HEADERS[name]] = value
        elif name.startswith(APPLICATION):
            properties[unquote(header[len(APPLICATION) :])] = unquote(value)
    draft = C2dDraft(
        request.match_info["device"],
        body,
        properties=format_properties(properties),
        message_id=_message_id(request),
        ack=_ack(request),
        expires_at=_expiry(request.headers.get("iothub-expiry")),
    )
    return json_value({"sequenceNumber": await parts.commands.enqueue(draft)}, status=202)


@routes.delete("/devices/{device}/commands")
async def purge_commands(request: web.Request) -> web.Response:
    """Drop what waits for a device."""
    parts, device = request.app[PARTS], request.match_info["device"]
    await parts.access.service(request, Right.SERVICE_CONNECT)
    await parts.identities.device(device)
    purged = await parts.commands.purge(device)
    return json_value({"totalMessagesPurged": purged, "deviceId": device, "moduleId": None})


@routes.get("/edgetrust/events")
async def read_events(request: web.Request) -> web.Response:
    """The next events after an offset; `latest` begins behind the newest. Waits for news at most `wait_seconds`.

    With `where` only those for which the condition holds; `next` goes on behind those that were looked at.
    """
    parts = request.app[PARTS]
    await parts.access.service(request, Right.SERVICE_CONNECT)
    where = parse_expression(request.query.get("where") or "true")
    latest = request.query.get("after") == "latest"
    after = await parts.events.newest() if latest else number(request, "after", 0, _LAST_OFFSET)
    limit, wait = number(request, "limit", 100, PAGE_ITEMS), wait_seconds(request)
    if wait:
        welcome = partial(parts.access.service, request, Right.SERVICE_CONNECT)
        await parts.hold(parts.events.wait_for(after, wait), welcome)
    page = await parts.events.read(after, max(1, limit), device=request.query.get("device") or None)
    chosen = [stored for stored in page.events if where.holds(MessageQuery(stored.message))]
    return json_value({"events": [event_entry(stored) for stored in chosen], "next": page.read_to})


@routes.get("/edgetrust/consumers/{name}")
async def get_consumer(request: web.Request) -> web.Response:
    """The offset that a consumer has dealt with."""
    parts, name = await _consumer(request)
    return json_value({"name": name, "offset": await parts.events.consumed(name)})


@routes.put("/edgetrust/consumers/{name}")
async def put_consumer(request: web.Request) -> web.Response:
    """Remember what a consumer has dealt with."""
    parts, name = await _consumer(request)
    offset = (await body_of(request, _Offset)).offset
    await parts.events.consume(name, offset, parts.clock.now())
    return json_value({"name": name, "offset": offset})


async def _consumer(request: web.Request) -> tuple[Parts, str]:
    parts, name = request.app[PARTS], request.match_info["name"]
    await parts.access.service(request, Right.SERVICE_CONNECT)
    if len(name) > CONSUMER_CHARACTERS:
        detail = f"a consumer's name has at most {CONSUMER_CHARACTERS} characters"
        raise PeerError(detail, reason="argument-invalid", status=400)
    return parts, name


def _message_id(request: web.Request) -> str:
    """What the sender calls its message; one of ours when it does not."""
    given = request.headers.get("iothub-messageid") or str(uuid.uuid4())
    if len(given) > C2D_MESSAGE_ID_CHARACTERS:
        detail = f"iothub-messageid has at most {C2D_MESSAGE_ID_CHARACTERS} characters"
        raise PeerError(detail, reason="argument-invalid", status=400)
    return given


def _ack(request: web.Request) -> str:
    ack = request.headers.get("iothub-ack", "none").lower()
    if ack not in _ACKS:
        raise PeerError(f"iothub-ack is one of {', '.join(_ACKS)}", reason="argument-invalid", status=400)
    return ack


def _expiry(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as problem:
        raise PeerError("iothub-expiry is no ISO 8601 time", reason="argument-invalid", status=400) from problem
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
