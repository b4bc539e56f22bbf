"""What a gateway serves by HTTPS: MQTT over WebSocket for devices behind firewalls, what gateways below it need
(`nested`), what devices and modules send and ask (`downstream`), and how it is (`health`).

Rules: the path of a WebSocket is not looked at, as edgeHub does not (edge specification 6.2); who asks is decided by
what its CONNECT says, at the same door as on the MQTT port.
"""

from __future__ import annotations

from typing import Final, Protocol

from aiohttp import web

from edgetrust import __version__
from edgetrust.edge.health import Health
from edgetrust.transport.http import application
from edgetrust.transport.websocket import WebSockets

HEALTH: Final = "/edgetrust/health"


class Offer(Protocol):
    """A part of what is served."""

    def add_to(self, app: web.Application) -> None: ...


def build_app(websockets: WebSockets, health: Health, *offers: Offer) -> web.Application:
    """The application of one gateway."""

    async def up(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": __version__})

    async def anything(request: web.Request) -> web.StreamResponse:
        if "websocket" in request.headers.get("Upgrade", "").lower():
            return await websockets.serve(request)
        return web.json_response({"Message": "nothing is offered here"}, status=404)

    app = application()
    app.on_shutdown.append(websockets.close)
    app.router.add_get(HEALTH, up)
    health.add_to(app)
    for offer in offers:
        offer.add_to(app)
    app.router.add_route("*", "/{path:.*}", anything)
    return app
