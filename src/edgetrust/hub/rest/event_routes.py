"""How the event routes are doing."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from edgetrust.hub.rest.answers import json_value
from edgetrust.hub.rest.parts import PARTS
from edgetrust.hub.routing import RouteState
from edgetrust.trust.policies import Right

routes = web.RouteTableDef()


@routes.get("/edgetrust/routes")
async def event_routes(request: web.Request) -> web.Response:
    """Each route with its place in the log, what it has delivered, and what stands in its way."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.SERVICE_CONNECT)
    newest = await parts.events.newest()
    return json_value({"routes": [_entry(state, newest) for state in parts.router.states]})


def _entry(state: RouteState, newest: int) -> dict[str, Any]:
    route = state.route
    return {
        "name": route.name,
        "endpoint": route.endpoint,
        "condition": None if route.fallback else route.conditions[0].text,
        "consumer": route.consumer,
        "offset": state.offset,
        "lag": max(0, newest - state.offset),
        "delivered": state.delivered,
        "problem": state.problem,
    }
