"""What operators ask: is it up, what was refused and why, what do the counters say."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import generate_latest

from edgetrust import __version__
from edgetrust.hub.rest.answers import json_value
from edgetrust.hub.rest.parts import PARTS
from edgetrust.hub.rest.query import number
from edgetrust.limits import REFUSALS_KEPT
from edgetrust.telemetry import METRICS
from edgetrust.trust.audit import refusal_entry
from edgetrust.trust.policies import Right

routes = web.RouteTableDef()


@routes.get("/edgetrust/health")
async def health(request: web.Request) -> web.Response:
    """Answers when the hub can read its store. Open to everybody: it says nothing but that."""
    await request.app[PARTS].identities.last_change()
    return json_value({"status": "ok", "version": __version__})


@routes.get("/edgetrust/refusals")
async def refusals(request: web.Request) -> web.Response:
    """The newest refusals first, each with its checks in the order made; of one `identity` only if asked."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.SERVICE_CONNECT)
    limit = max(1, number(request, "limit", 100, REFUSALS_KEPT))
    await parts.trail.flush()
    identity = request.query.get("identity") or None
    found = await parts.trail.records(limit, accepted=False, identity=identity)
    return json_value({"refusals": [refusal_entry(record) for record in found]})


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """Prometheus text."""
    await request.app[PARTS].access.service(request, Right.SERVICE_CONNECT)
    return web.Response(body=generate_latest(METRICS), headers={"Content-Type": "text/plain; version=0.0.4"})
