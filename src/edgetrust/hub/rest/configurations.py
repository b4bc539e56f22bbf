"""Configurations for many edge devices, and content for one (hub specification 6.5)."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from edgetrust.errors import PeerError
from edgetrust.hub.rest.answers import json_value
from edgetrust.hub.rest.bodies import zulu
from edgetrust.hub.rest.parts import PARTS, Parts
from edgetrust.hub.rest.query import number
from edgetrust.limits import CONFIGURATIONS
from edgetrust.protocol.configuration import ContentBody, TestBody, content_of, parse_configuration, target
from edgetrust.protocol.query import Query, QueryError, parse_query
from edgetrust.protocol.registry import decode_body
from edgetrust.store.configurations import Configuration
from edgetrust.trust.policies import Right

routes = web.RouteTableDef()
_TOP = 20


@routes.get("/configurations")
async def list_configurations(request: web.Request) -> web.Response:
    """The first `top` configurations, the highest priority first."""
    parts = await _parts(request, Right.REGISTRY_READ)
    found = await parts.configurations.all(max(1, number(request, "top", _TOP, CONFIGURATIONS)))
    return json_value([await _body(parts, one) for one in found])


@routes.get("/configurations/{name}")
async def get_configuration(request: web.Request) -> web.Response:
    """One configuration with its metrics as of now."""
    parts = await _parts(request, Right.REGISTRY_READ)
    return await _answer(parts, await parts.configurations.get(request.match_info["name"]))


@routes.put("/configurations/{name}")
async def put_configuration(request: web.Request) -> web.Response:
    """Create without If-Match; with it change target, priority, labels and metrics. It reaches its devices at once."""
    parts = await _parts(request, Right.REGISTRY_WRITE)
    body = parse_configuration(await request.read())
    if body.id != request.match_info["name"]:
        raise PeerError("id in the body differs from the path", reason="argument-invalid", status=400)
    match = request.headers.get("If-Match")
    if match is None:
        content_of(body.content)
    stored = await parts.configurations.put(body, match)
    parts.deployments.changed()
    return await _answer(parts, stored)


@routes.delete("/configurations/{name}")
async def delete_configuration(request: web.Request) -> web.Response:
    """Delete it. Its devices get what the next one says, or keep what they have."""
    parts = await _parts(request, Right.REGISTRY_WRITE)
    await parts.configurations.delete(request.match_info["name"], request.headers.get("If-Match"))
    parts.deployments.changed()
    return web.Response(status=204)


@routes.post("/configurations/testQueries")
async def check_queries(request: web.Request) -> web.Response:
    """What is wrong with a target condition and with metric queries; nothing is stored."""
    await _parts(request, Right.REGISTRY_READ)
    body = decode_body(await request.read(), TestBody)
    wrong = {name: _problem(query) for name, query in (body.custom_metric_queries or {}).items()}
    try:
        target(body.target_condition or "")
        problem = ""
    except PeerError as error:
        problem = error.message
    return json_value(
        {
            "targetConditionError": problem,
            "customMetricQueryErrors": {name: text for name, text in wrong.items() if text},
        }
    )


@routes.post("/devices/{device}/applyConfigurationContent")
async def apply_content(request: web.Request) -> web.Response:
    """Apply a content to one edge device now."""
    parts = await _parts(request, Right.REGISTRY_WRITE)
    content = content_of(decode_body(await request.read(), ContentBody))
    await parts.deployments.apply(request.match_info["device"], content)
    return web.Response(status=204)


async def _parts(request: web.Request, right: Right) -> Parts:
    parts = request.app[PARTS]
    await parts.access.service(request, right)
    return parts


async def _answer(parts: Parts, stored: Configuration) -> web.Response:
    return json_value(await _body(parts, stored), etag=stored.etag)


async def _body(parts: Parts, stored: Configuration) -> dict[str, Any]:
    metrics = await parts.deployments.metrics(stored)
    body = stored.body
    queries = (body.metrics and body.metrics.queries) or {}
    counted = {name: await _count(parts, parse_query(text)) for name, text in queries.items()}
    return {
        "id": body.id,
        "schemaVersion": body.schema_version or "1.0",
        "labels": body.labels or {},
        "content": {"modulesContent": stored.content, "deviceContent": {}, "moduleContent": {}},
        "targetCondition": stored.target_condition,
        "priority": stored.priority,
        "createdTimeUtc": zulu(stored.created_at),
        "lastUpdatedTimeUtc": zulu(stored.updated_at),
        "systemMetrics": {
            "results": {"targetedCount": metrics.targeted, "appliedCount": metrics.applied},
            "queries": {},
        },
        "metrics": {"results": counted, "queries": queries},
        "etag": stored.etag,
    }


async def _count(parts: Parts, query: Query) -> int:
    """How many rows a metric's query finds; of one that aggregates, how many groups."""
    if query.aggregates:
        return len(await parts.queries.aggregate(query))
    return len(await parts.queries.identities(query))


def _problem(text: str) -> str:
    try:
        parse_query(text)
    except QueryError as error:
        return error.message
    return ""
