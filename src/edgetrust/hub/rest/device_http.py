"""A device over HTTPS: telemetry, one message or a batch, and its cloud-to-device messages one by one (hub
specification 7.1 and 7.2).

Rules: every request is decided like a connection, for the identity in its path. Telemetry is answered 204 after the
commit. A message that was received is locked for a minute; whoever holds its lock token completes, rejects or abandons
it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Any

import msgspec
from aiohttp import web

from edgetrust.broker.session import auth_method
from edgetrust.errors import PeerError
from edgetrust.hub.rest.headers import headers_from, properties_from
from edgetrust.hub.rest.parts import PARTS, Parts
from edgetrust.hub.rest.reading import body_of
from edgetrust.limits import BATCH_MESSAGES, MESSAGE_BYTES
from edgetrust.protocol.iothub import format_properties, parse_properties
from edgetrust.protocol.messages import Message
from edgetrust.store.c2d import C2dMessage
from edgetrust.store.feedback import Outcome
from edgetrust.telemetry import MESSAGES_IN
from edgetrust.trust.verdict import Accepted

routes = web.RouteTableDef()

_BATCH = "application/vnd.microsoft.iothub.json"
_RECEIVED = MESSAGES_IN.labels("telemetry")


class _BatchEntry(msgspec.Struct, frozen=True):
    body: str
    properties: dict[str, str | None] = {}
    base64_encoded: bool = msgspec.field(default=True, name="base64Encoded")


@routes.post("/devices/{device}/messages/events")
@routes.post("/devices/{device}/modules/{module}/messages/events")
async def send_telemetry(request: web.Request) -> web.Response:
    """Store what a device or module sends, then answer 204."""
    parts, device, module = request.app[PARTS], request.match_info["device"], request.match_info.get("module")
    accepted = await parts.access.identity(request, device, module)
    await _store(parts, await _messages(request, accepted, parts.clock.milliseconds()))
    return web.Response(status=204)


@routes.get("/devices/{device}/messages/devicebound")
async def receive_command(request: web.Request) -> web.Response:
    """The next cloud-to-device message, locked for this device; 204 when none waits."""
    parts, device = request.app[PARTS], request.match_info["device"]
    await parts.access.identity(request, device)
    leased = await parts.commands.lease(device, 1)
    return _command(leased[0]) if leased else web.Response(status=204)


@routes.delete("/devices/{device}/messages/devicebound/{lock_token}")
async def settle_command(request: web.Request) -> web.Response:
    """Complete a message, or reject it (`?reject`): it is not delivered again."""
    parts, device = request.app[PARTS], request.match_info["device"]
    await parts.access.identity(request, device)
    outcome = Outcome.REJECTED if "reject" in request.query else Outcome.SUCCESS
    await parts.commands.settle(device, request.match_info["lock_token"], outcome)
    return web.Response(status=204)


@routes.post("/devices/{device}/messages/devicebound/{lock_token}/abandon")
async def abandon_command(request: web.Request) -> web.Response:
    """Give a message back: it is delivered again."""
    parts, device = request.app[PARTS], request.match_info["device"]
    await parts.access.identity(request, device)
    await parts.commands.abandon(device, request.match_info["lock_token"])
    return web.Response(status=204)


async def _messages(request: web.Request, accepted: Accepted, now_ms: int) -> list[Message]:
    if request.content_type == _BATCH:
        entries = [_entry(entry) for entry in await body_of(request, list[_BatchEntry])]
        if not 0 < len(entries) <= BATCH_MESSAGES:
            detail = f"a batch holds 1 to {BATCH_MESSAGES} messages"
            raise PeerError(detail, reason="argument-invalid", status=400)
    else:
        entries = [(format_properties(properties_from(request.headers.items())), await request.read())]
    if sum(len(properties) + len(body) for properties, body in entries) > MESSAGE_BYTES:
        detail = f"a message or batch has at most {MESSAGE_BYTES} bytes, properties included"
        raise PeerError(detail, reason="message-too-large", status=413)
    who, how = accepted.identity, auth_method(accepted)
    return [Message(who.device, who.module, bag, body, now_ms, how, "Telemetry") for bag, body in entries]


def _entry(entry: _BatchEntry) -> tuple[str, bytes]:
    properties = {**_plain(entry.properties), **properties_from(_texts(entry.properties))}
    return format_properties(properties), _body(entry)


def _plain(properties: dict[str, str | None]) -> dict[str, str | None]:
    """Those that are not named like headers: they are application properties as they stand."""
    return {name: value for name, value in properties.items() if not properties_from([(name, "")])}


def _texts(properties: dict[str, str | None]) -> list[tuple[str, str]]:
    return [(name, value or "") for name, value in properties.items()]


def _body(entry: _BatchEntry) -> bytes:
    if not entry.base64_encoded:
        return entry.body.encode()
    try:
        return base64.b64decode(entry.body, validate=True)
    except (binascii.Error, ValueError) as problem:
        detail = "the body of a message in a batch is no base64"
        raise PeerError(detail, reason="body-malformed", status=400) from problem


async def _store(parts: Parts, messages: list[Message]) -> None:
    """Returns after the commit. Raises the store's errors."""
    stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: BaseException | None) -> None:
        if stored.done():
            return  # the request was cancelled; the messages are stored all the same
        if error is None:
            stored.set_result(None)
        else:
            stored.set_exception(error)

    parts.events.append(messages, done)
    await stored
    _RECEIVED.inc(len(messages))


def _command(message: C2dMessage) -> web.Response:
    headers: dict[str, Any] = {
        **headers_from(parse_properties(message.properties)),
        "ETag": f'"{message.lock_token}"',
        "iothub-to": f"/devices/{message.device}/messages/devicebound",
        "iothub-sequencenumber": str(message.sequence),
        "iothub-deliverycount": str(message.deliveries),
    }
    headers.setdefault("iothub-messageid", message.message_id)
    if message.ack != "none":
        headers["iothub-ack"] = message.ack
    for header, at in (("iothub-enqueuedtime", message.enqueued_at), ("iothub-expiry", message.expires_at)):
        if at is not None:
            headers[header] = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return web.Response(body=message.body, headers=headers)
