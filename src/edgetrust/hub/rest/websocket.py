"""MQTT over WebSocket, for devices behind firewalls that let only HTTPS out (hub specification 3.14)."""

from __future__ import annotations

from aiohttp import web

from edgetrust.hub.rest.parts import PARTS

routes = web.RouteTableDef()


@routes.get("/$iothub/websocket")
async def mqtt(request: web.Request) -> web.StreamResponse:
    """The same door as on the MQTT port: who asks is decided by what CONNECT says."""
    return await request.app[PARTS].websockets.serve(request)
