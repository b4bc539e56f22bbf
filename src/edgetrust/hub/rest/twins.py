"""Twins as services see them: read, patched, replaced (hub specification 5.3 and 6.1)."""

from __future__ import annotations

from aiohttp import web

from edgetrust.hub.rest.answers import json_value
from edgetrust.hub.rest.bodies import twin_body
from edgetrust.hub.rest.parts import PARTS
from edgetrust.protocol.twin import parse_draft
from edgetrust.store.twins import TwinRecord
from edgetrust.trust.policies import Right

routes = web.RouteTableDef()


@routes.get("/twins/{device}")
@routes.get("/twins/{device}/modules/{module}")
async def get_twin(request: web.Request) -> web.Response:
    """The twin of a device or module."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.SERVICE_CONNECT)
    device, module = _subject(request)
    return _answer(await parts.twins.get(device, module))


@routes.patch("/twins/{device}")
@routes.patch("/twins/{device}/modules/{module}")
async def patch_twin(request: web.Request) -> web.Response:
    """Merge tags and desired properties. Without If-Match whatever the etag."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.SERVICE_CONNECT)
    device, module = _subject(request)
    draft = parse_draft(await request.read())
    return _answer(await parts.twins.patch(device, draft, request.headers.get("If-Match"), module=module))


@routes.put("/twins/{device}")
@routes.put("/twins/{device}/modules/{module}")
async def replace_twin(request: web.Request) -> web.Response:
    """Replace tags and desired properties; what is not said is emptied."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.SERVICE_CONNECT)
    device, module = _subject(request)
    draft = parse_draft(await request.read())
    return _answer(await parts.twins.replace(device, draft, request.headers.get("If-Match"), module=module))


def _subject(request: web.Request) -> tuple[str, str | None]:
    return request.match_info["device"], request.match_info.get("module")


def _answer(record: TwinRecord) -> web.Response:
    return json_value(twin_body(record), etag=record.etag)
