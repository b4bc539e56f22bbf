"""The hub's HTTPS application: its routes, and what happens around each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import msgspec
from aiohttp import web

from edgetrust.hub.rest import (
    bulk,
    certificates,
    configurations,
    device_http,
    devices,
    event_routes,
    explain,
    feedback,
    jobs,
    messages,
    methods,
    on_behalf,
    openapi,
    operations,
    policies,
    queries,
    scope,
    twins,
    uploads,
    websocket,
)
from edgetrust.hub.rest.answers import api_version_named, errors_answered, words_checked
from edgetrust.hub.rest.parts import PARTS, Parts
from edgetrust.limits import HTTP_BODY_BYTES

MODULES = (
    event_routes,
    scope,
    on_behalf,
    devices,
    explain,
    bulk,
    certificates,
    configurations,
    twins,
    methods,
    messages,
    feedback,
    jobs,
    device_http,
    uploads,
    openapi,
    operations,
    policies,
    queries,
    websocket,
)


def defined_routes() -> list[web.RouteDef]:
    """Every route of the application."""
    return [route for module in MODULES for route in module.routes if isinstance(route, web.RouteDef)]


@cache
def description() -> bytes:
    """What the application says of itself, JSON. Made when somebody asks: it is a fifth of the start of a hub."""
    return msgspec.json.encode(openapi.document(defined_routes()))


def build_app(parts: Parts) -> web.Application:
    """The application over `parts`."""
    around = [errors_answered, api_version_named, words_checked]
    app = web.Application(middlewares=around, client_max_size=HTTP_BODY_BYTES)
    app[PARTS] = parts
    app.on_shutdown.append(parts.websockets.close)
    for module in MODULES:
        app.add_routes(module.routes)
    described: Callable[[], bytes] = description
    app[openapi.DOCUMENT] = described
    return app
