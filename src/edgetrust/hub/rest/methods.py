"""Direct methods for services: call, wait, pass on the answer (hub specification 6.2)."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from aiohttp import web

from edgetrust.errors import UnavailableError
from edgetrust.hub.rest.answers import json_answer
from edgetrust.hub.rest.parts import PARTS, Parts
from edgetrust.protocol.methods import (
    MethodAnswer,
    MethodCall,
    MethodError,
    method_answer_body,
    not_answered,
    not_online,
    parse_method_call,
)
from edgetrust.telemetry import METHOD_CALLS
from edgetrust.trust.identity import Identity
from edgetrust.trust.policies import Right

T = TypeVar("T")

routes = web.RouteTableDef()


@routes.post("/twins/{device}/methods")
@routes.post("/twins/{device}/modules/{module}/methods")
async def invoke_method(request: web.Request) -> web.Response:
    """Call a method of a device or module and wait for its answer."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.SERVICE_CONNECT)
    device, module = request.match_info["device"], request.match_info.get("module")
    call = parse_method_call(await request.read())
    if module is None:
        await parts.identities.device(device)
    else:
        await parts.identities.module(device, module)
    try:
        answer = await invoke(parts, Identity(parts.settings.name, device, module), call)
        body = method_answer_body(answer)
    except MethodError as problem:
        METHOD_CALLS.labels(problem.reason).inc()
        raise
    METHOD_CALLS.labels("answered").inc()
    return json_answer(body)


async def invoke(parts: Parts, identity: Identity, call: MethodCall) -> MethodAnswer:
    """The device's answer. Raises MethodError; UnavailableError when the hub stops meanwhile."""
    loop = asyncio.get_running_loop()
    sent: asyncio.Future[None] = loop.create_future()
    answered: asyncio.Future[MethodAnswer] = loop.create_future()
    placed = parts.methods.place(identity, call, lambda: sent.set_result(None), answered.set_result)
    try:
        if not await _settled(parts, sent, call.connect_seconds):
            raise not_online(str(identity), call.connect_seconds)
        if not await _settled(parts, answered, call.response_seconds):
            raise not_answered(str(identity), call.response_seconds)
    finally:
        parts.methods.withdraw(placed)
    return answered.result()


async def _settled(parts: Parts, future: asyncio.Future[T], seconds: float) -> bool:
    if not future.done() and seconds:
        await parts.hold(asyncio.wait((future,), timeout=seconds))
        if not future.done() and parts.stopping.is_set():
            raise UnavailableError("the hub stops")
    return future.done()
