"""What a gateway serves by HTTPS: MQTT over WebSocket for devices behind firewalls, what gateways below it need
(`nested`), and whether it is up.

Rules: the path of a WebSocket is not looked at, as edgeHub does not (edge specification 6.2); who asks is decided by
what its CONNECT says, at the same door as on the MQTT port.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from edgetrust import __version__
from edgetrust.edge.nested import Nested
from edgetrust.transport.http import application
from edgetrust.transport.websocket import WebSockets

HEALTH: Final = "/edgetrust/health"


def build_app(websockets: WebSockets, nested: Nested) -> web.Application:
    """The application of one gateway."""

    async def health(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": __version__})

    async def anything(request: web.Request) -> web.StreamResponse:
        if "websocket" in request.headers.get("Upgrade", "").lower():
            return await websockets.serve(request)
        return web.json_response({"Message": "nothing is offered here"}, status=404)

    app = application()
    app.on_shutdown.append(websockets.close)
    app.router.add_get(HEALTH, health)
    nested.add_to(app)
    app.router.add_route("*", "/{path:.*}", anything)
    return app
