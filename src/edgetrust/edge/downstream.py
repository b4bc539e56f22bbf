"""What devices and modules ask a gateway by HTTPS, on the port that WebSocket has too (edge specification 6.2, 6.10).

    POST /devices/{d}[/modules/{m}]/messages/events     telemetry, one message or a batch: 204 when it is durable
    POST /twins/{d}[/modules/{m}]/methods               a module of this gateway calls somebody who is connected here
    /devices/{d}/messages/devicebound...                refused: cloud-to-device messages come by MQTT, as on edgeHub

Rules: every request is decided like a connection, by the copy and, where that may be behind, after asking the hub once;
a refusal is on record. Who calls a method says so in `x-ms-edge-moduleId`, and proves it with its own token. None of it
needs the hub.
"""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

from aiohttp import web

from edgetrust.broker.methods import Methods
from edgetrust.broker.ports import Endpoint
from edgetrust.broker.session import auth_method
from edgetrust.clock import Clock
from edgetrust.edge.answering import answering, said
from edgetrust.edge.callers import Callers
from edgetrust.edge.metrics import GatewayMetrics
from edgetrust.errors import PeerError
from edgetrust.protocol.iothub.http_telemetry import read_telemetry
from edgetrust.protocol.messages import TELEMETRY, Message
from edgetrust.protocol.methods import (
    MethodAnswer,
    MethodCall,
    method_answer_body,
    not_answered,
    not_online,
    parse_method_call,
)
from edgetrust.telemetry import MESSAGES_IN, METHOD_CALLS
from edgetrust.trust.identity import Identity

ACTOR: Final = "x-ms-edge-moduleId"
_TRY_LATER: Final = 503
_NOT_OFFERED: Final = 501
_RECEIVED = MESSAGES_IN.labels("telemetry")
T = TypeVar("T")


class Downstream:
    """The routes. `gateway` is this gateway's edge device."""

    def __init__(
        self,
        gateway: Identity,
        endpoint: Endpoint,
        methods: Methods,
        callers: Callers,
        metrics: GatewayMetrics,
        clock: Clock,
    ) -> None:
        self._gateway = gateway
        self._endpoint = endpoint
        self._methods = methods
        self._callers = callers
        self._metrics = metrics
        self._clock = clock

    def add_to(self, app: web.Application) -> None:
        """Add the routes to the gateway's application."""
        for path, handler in (
            ("/devices/{device}/messages/events", self._send),
            ("/devices/{device}/modules/{module}/messages/events", self._send),
            ("/twins/{device}/methods", self._call),
            ("/twins/{device}/modules/{module}/methods", self._call),
        ):
            app.router.add_post(path, answering(handler, _TRY_LATER))
        app.router.add_route(
            "*", "/devices/{device}/messages/devicebound{rest:.*}", answering(self._commands, _TRY_LATER)
        )

    # Who asks -------------------------------------------------------------------------------------------------------

    def _subject(self, request: web.Request) -> Identity:
        return Identity(self._gateway.hub, request.match_info["device"], request.match_info.get("module"))

    def _actor(self, request: web.Request) -> Identity:
        said = request.headers.get(ACTOR, "")
        device, slash, module = said.partition("/")
        if not (device and slash and module) or "/" in module:
            detail = f"{ACTOR} has to say DEVICE/MODULE, not {said[:140]!r}"
            raise PeerError(detail, reason="actor-malformed", status=400)
        if device != self._gateway.device:
            raise PeerError(f"{said[:140]!r} is no module of this gateway", reason="actor-elsewhere", status=401)
        return Identity(self._gateway.hub, device, module)

    # What is asked --------------------------------------------------------------------------------------------------

    async def _send(self, request: web.Request) -> web.Response:
        accepted = await self._callers.admit(request, self._subject(request))
        entries = read_telemetry(request.content_type, request.headers.items(), await request.read())
        who, how, now = accepted.identity, auth_method(accepted), self._clock.milliseconds()
        messages = [Message(who.device, who.module, bag, body, now, how, TELEMETRY) for bag, body in entries]
        stored: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self._endpoint.append(messages, lambda error: None if stored.done() else stored.set_result(error))
        error = await stored
        if error is not None:
            raise error
        _RECEIVED.inc(len(messages))
        return web.Response(status=204)

    async def _commands(self, request: web.Request) -> web.Response:
        await self._callers.admit(request, self._subject(request))
        detail = "cloud-to-device messages do not come by HTTPS on a gateway: subscribe to them by MQTT"
        return said(_NOT_OFFERED, detail)

    async def _call(self, request: web.Request) -> web.Response:
        actor, target = self._actor(request), self._subject(request)
        await self._callers.admit(request, actor)
        call = parse_method_call(await request.read())
        began = self._clock.monotonic()
        try:
            body = method_answer_body(await self._invoke(target, call))
        except PeerError as problem:
            METHOD_CALLS.labels(problem.reason).inc()
            return web.json_response({"message": problem.message}, status=problem.status)
        METHOD_CALLS.labels("answered").inc()
        self._metrics.methods.add(str(actor), str(target))
        self._metrics.method_seconds.observe(self._clock.monotonic() - began, str(actor), str(target))
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    async def _invoke(self, target: Identity, call: MethodCall) -> MethodAnswer:
        """The answer of who is called. Raises MethodError."""
        loop = asyncio.get_running_loop()
        sent: asyncio.Future[None] = loop.create_future()
        answered: asyncio.Future[MethodAnswer] = loop.create_future()
        placed = self._methods.place(target, call, lambda: sent.set_result(None), answered.set_result)
        try:
            if not await _settled(sent, call.connect_seconds):
                raise not_online(str(target), call.connect_seconds)
            if not await _settled(answered, call.response_seconds):
                raise not_answered(str(target), call.response_seconds)
        finally:
            self._methods.withdraw(placed)
        return answered.result()


async def _settled(future: asyncio.Future[T], seconds: float) -> bool:
    if not future.done() and seconds:
        await asyncio.wait((future,), timeout=seconds)
    return future.done()
