"""A device over HTTPS: telemetry, one message or a batch, and its cloud-to-device messages one by one (hub
specification 7.1 and 7.2).

Rules: every request is decided like a connection, for the identity in its path. Telemetry is answered 204 after the
commit. A message that was received is locked for a minute; whoever holds its lock token completes, rejects or abandons
it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from edgetrust.broker.session import auth_method
from edgetrust.hub.rest.parts import PARTS, Parts
from edgetrust.protocol.iothub import parse_properties
from edgetrust.protocol.iothub.headers import headers_from
from edgetrust.protocol.iothub.http_telemetry import read_telemetry
from edgetrust.protocol.messages import Message
from edgetrust.store.c2d import C2dMessage
from edgetrust.store.feedback import Outcome
from edgetrust.telemetry import MESSAGES_IN
from edgetrust.trust.verdict import Accepted

routes = web.RouteTableDef()

_RECEIVED = MESSAGES_IN.labels("telemetry")


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
    entries = read_telemetry(request.content_type, request.headers.items(), await request.read())
    who, how = accepted.identity, auth_method(accepted)
    return [Message(who.device, who.module, bag, body, now_ms, how, "Telemetry") for bag, body in entries]


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
