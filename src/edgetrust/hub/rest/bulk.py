"""Identities in bulk: many writes with one result each (hub specification 6.3), and all identities page by page."""

from __future__ import annotations

import msgspec
from aiohttp import web

from edgetrust.errors import PeerError
from edgetrust.hub.rest.answers import json_answer
from edgetrust.hub.rest.bodies import bulk_item, identity_bodies
from edgetrust.hub.rest.continuation import CONTINUATION, continued, continuing
from edgetrust.hub.rest.parts import PARTS
from edgetrust.hub.rest.query import flag, number
from edgetrust.limits import BULK_ITEMS, PAGE_ITEMS
from edgetrust.protocol.bulk import IdentityBody, ItemError, parse_items, result_of
from edgetrust.protocol.registry import BodyError
from edgetrust.store.bulk import BulkItem, Refusal
from edgetrust.store.records import RegistryError
from edgetrust.trust.policies import Right

routes = web.RouteTableDef()
_LINES = "application/x-ndjson"


@routes.post("/devices")
@routes.post("/devices/")
async def write_identities(request: web.Request) -> web.Response:
    """Create, update or delete up to 100 identities; 400 with the same result when any of them failed."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.REGISTRY_WRITE)
    bodies = parse_items(await request.read())
    if len(bodies) > BULK_ITEMS:
        detail = f"{len(bodies)} identities; one request takes at most {BULK_ITEMS}"
        raise RegistryError(detail, code="TooManyDevices", status=413)
    read = [_read(body) for body in bodies]
    items = [item for item in read if isinstance(item, BulkItem)]
    told = parts.twins.tell
    refusals = iter(await parts.identities.write_each(items, lambda news: told(news.device, news.module, news.change)))
    errors = []
    for item in read:
        refusal = next(refusals) if isinstance(item, BulkItem) else None
        if isinstance(item, ItemError):
            errors.append(item)
        elif refusal is not None:
            errors.append(_error(item, refusal))
    return json_answer(msgspec.json.encode(result_of(errors)), status=400 if errors else 200)


@routes.get("/edgetrust/identities")
async def export_identities(request: web.Request) -> web.Response:
    """A page of all identities, one JSON object per line, each device before its modules.

    `x-ms-continuation` leads to the next page; without it this was the last.
    """
    parts = request.app[PARTS]
    await parts.access.service(request, Right.REGISTRY_READ)
    keys = not flag(request, "excludeKeys")
    limit = max(1, number(request, "top", PAGE_ITEMS, PAGE_ITEMS))
    found = await parts.identities.with_modules(continued(request), limit)
    lines = [msgspec.json.encode(body) + b"\n" for household in found for body in identity_bodies(household, keys=keys)]
    more = continuing(found[-1].device.device) if len(found) == limit else None
    headers = {} if more is None else {CONTINUATION: more}
    return web.Response(body=b"".join(lines), content_type=_LINES, charset="utf-8", headers=headers)


def _read(body: IdentityBody | ItemError) -> BulkItem | ItemError:
    if isinstance(body, ItemError):
        return body
    try:
        return bulk_item(body)
    except PeerError as problem:
        code = problem.code if isinstance(problem, BodyError | RegistryError) else "ArgumentInvalid"
        mode = None if body.import_mode is None else body.import_mode.value
        return ItemError(body.id, code, problem.message, body.module_id, mode)


def _error(item: BulkItem, refusal: Refusal) -> ItemError:
    module = getattr(item.draft, "module", None)
    return ItemError(item.draft.device, refusal.code, refusal.message, module, item.mode.value)
