"""What operators ask a provisioning service that stands alone, and MQTT over WebSocket. As a guest of a hub these paths
are the hub's, whose audit trail the service shares.
"""

from __future__ import annotations

from aiohttp import web
from prometheus_client import generate_latest

from edgetrust import __version__
from edgetrust.limits import REFUSALS_KEPT
from edgetrust.protocol.dps.enrollments import bad
from edgetrust.provisioning.rest.parts import PARTS, json_answer
from edgetrust.store.audit import AuditTrail
from edgetrust.telemetry import METRICS
from edgetrust.transport.websocket import WebSockets
from edgetrust.trust.audit import refusal_entry
from edgetrust.trust.policies import DpsRight

TRAIL: web.AppKey[AuditTrail] = web.AppKey("dps-trail", AuditTrail)
WEBSOCKETS: web.AppKey[WebSockets] = web.AppKey("dps-websockets", WebSockets)
routes = web.RouteTableDef()
_DIGITS = 6


@routes.get("/edgetrust/health")
async def health(request: web.Request) -> web.Response:
    """Answers when the service can read its store. Open to everybody: it says nothing but that."""
    await request.app[PARTS].enrollments.page("group", "", 1)
    return json_answer({"status": "ok", "version": __version__})


@routes.get("/edgetrust/refusals")
async def refusals(request: web.Request) -> web.Response:
    """The newest refusals first, each with its checks in the order made."""
    request.app[PARTS].allow(request, DpsRight.REGISTRATION_STATUS_READ)
    text = request.query.get("limit", "100")
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS):
        raise bad("limit must be a whole number", "argument-invalid")
    trail = request.app[TRAIL]
    await trail.flush()
    found = await trail.refusals(max(1, min(int(text), REFUSALS_KEPT)))
    return json_answer({"refusals": [refusal_entry(record) for record in found]})


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """Prometheus text."""
    request.app[PARTS].allow(request, DpsRight.REGISTRATION_STATUS_READ)
    return web.Response(body=generate_latest(METRICS), headers={"Content-Type": "text/plain; version=0.0.4"})


@routes.get("/$iothub/websocket")
async def mqtt(request: web.Request) -> web.StreamResponse:
    """The device API over MQTT."""
    return await request.app[WEBSOCKETS].serve(request)
