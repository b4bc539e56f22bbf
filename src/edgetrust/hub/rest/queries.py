"""Queries: `POST /devices/query`, page by page (hub specification 6.4)."""

from __future__ import annotations

import hashlib

import msgspec
from aiohttp import web

from edgetrust.errors import PeerError
from edgetrust.hub.rest.answers import json_value
from edgetrust.hub.rest.continuation import CONTINUATION, continued, continuing, page_size
from edgetrust.hub.rest.parts import PARTS, Parts
from edgetrust.hub.rest.reading import body_of
from edgetrust.limits import QUERY_PAGE_ITEMS
from edgetrust.protocol.query import Query, Source, parse_query
from edgetrust.protocol.query.evaluation import Row
from edgetrust.store.queries import START, Place
from edgetrust.trust.policies import Right

routes = web.RouteTableDef()
ITEM_TYPE = "x-ms-item-type"


class QueryBody(msgspec.Struct, frozen=True):
    """What is asked."""

    query: str


class _More(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended: of which query, how many rows were given, and behind whom it goes on."""

    query: str
    given: int
    place: Place


@routes.post("/devices/query")
async def query_devices(request: web.Request) -> web.Response:
    """A page of what a query finds; `x-ms-max-item-count` rows at most, `x-ms-continuation` leads to the next."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.SERVICE_CONNECT, Right.REGISTRY_READ)
    text = (await body_of(request, QueryBody)).query
    query = parse_query(text)
    rows, more = await _page(parts, query, page_size(request, QUERY_PAGE_ITEMS), _before(request, text))
    answer = json_value(list(rows))
    answer.headers[ITEM_TYPE] = "raw" if query.columns else "twin"
    if more is not None:
        answer.headers[CONTINUATION] = continuing(msgspec.json.encode(more).decode())
    return answer


async def _page(parts: Parts, query: Query, limit: int, before: _More) -> tuple[list[Row], _More | None]:
    if query.source is Source.JOBS:
        raise PeerError("devices.jobs cannot be queried", reason="query-source", status=400)
    if query.aggregates:
        rows = await parts.queries.aggregate(query)
        given = before.given + limit
        more = _More(before.query, given, START) if len(rows) > given else None
        return rows[before.given : given], more
    left = limit if query.top is None else min(limit, query.top - before.given)
    page = await parts.queries.page(query, left, before.place)
    given = before.given + len(page.rows)
    if page.more is None or given == query.top:
        return page.rows, None
    return page.rows, _More(before.query, given, page.more)


def _before(request: web.Request, text: str) -> _More:
    """Where the page before ended. Raises PeerError 400 when it was one of another query."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    word = continued(request)
    if not word:
        return _More(digest, 0, START)
    try:
        more = msgspec.json.decode(word, type=_More)
    except msgspec.DecodeError as problem:
        raise _foreign() from problem
    if more.query != digest or more.given < 1:
        raise _foreign()
    return more


def _foreign() -> PeerError:
    return PeerError(f"{CONTINUATION} is none of this query", reason="argument-invalid", status=400)
