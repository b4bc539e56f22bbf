"""What the services on unix sockets have in common: versions, bodies, errors, and how many may ask at once.

Rules (edge specification 0.2). Every request names an `api-version`. An error is `{"message": TEXT}`, causes in lines
of their own; an unforeseen one is `internal error` with a number that is also in the log. A caller that has too many
requests open loses the connection without a word. A body has five seconds to arrive. Must not know what a service
does.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web

from edgetrust import limits
from edgetrust.errors import Error, PeerError
from edgetrust.telemetry import EVENT_SERVICE_FAILED, EVENT_SERVICE_THROTTLED
from edgetrust.transport.http import application
from edgetrust.transport.unix import Caller, peer

T = TypeVar("T")
Who = Callable[[web.BaseRequest], Caller | None]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
NO_CONTENT = 204
_CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
_NOT_FOUND = 404
_INTERNAL = 500
_log = structlog.get_logger()


class ServiceError(PeerError):
    """What a service answers instead: a status and a message."""

    def __init__(self, status: int, message: str, *, reason: str = "request-refused") -> None:
        super().__init__(message, reason=reason, status=status)


def bad_parameter(name: str, cause: str) -> ServiceError:
    """The answer to a parameter that cannot be."""
    return ServiceError(400, f'parameter "{name}" has an invalid value\ncaused by: {cause}', reason="bad-parameter")


def check_identifier(name: str, identifier: str) -> None:
    """An identifier of a key or a certificate, in the parameter `name`. Raises ServiceError."""
    most = limits.SERVICE_IDENTIFIER_CHARACTERS
    if not 1 <= len(identifier) <= most:
        raise bad_parameter(name, f"an identifier has 1 to {most} characters, not {len(identifier)}")


def not_found() -> ServiceError:
    """The answer where there is no route, or none in the version that is asked for."""
    return ServiceError(_NOT_FOUND, "not found", reason="no-route")


def caller(request: web.Request) -> Caller:
    """Who asks, as the kernel says."""
    return request[_CALLER]


def answer(value: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.json_response(value, status=status)


async def read(request: web.Request, kind: type[T]) -> T:
    """The body as a `kind`. Raises ServiceError 400, 408 or 422."""
    try:
        async with asyncio.timeout(limits.SERVICE_BODY_SECONDS):
            body = await request.read()
    except TimeoutError:
        raise ServiceError(408, "the request body did not arrive in time") from None
    if not body:
        raise ServiceError(400, "missing request body")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as problem:
        raise ServiceError(422, str(problem)) from problem


def service(
    routes: Iterable[web.AbstractRouteDef],
    versions: frozenset[str],
    *,
    at_once: int = limits.SERVICE_REQUESTS,
    who: Who = peer,
) -> web.Application:
    """An application with these routes and the common rules. `who` says who calls."""
    app = application(body_bytes=limits.SERVICE_BODY_BYTES)
    app.middlewares.append(_rules(versions, at_once, who))
    app.add_routes(routes)
    return app


def _rules(versions: frozenset[str], at_once: int, who: Who) -> Any:
    open_requests: Counter[int] = Counter()

    @web.middleware
    async def rules(request: web.Request, handler: Handler) -> web.StreamResponse:
        calling = who(request)
        if calling is None:
            return web.Response(status=400)  # nobody is there any more to read it
        if open_requests[calling.uid] >= at_once:
            _log.warning(EVENT_SERVICE_THROTTLED, uid=calling.uid, pid=calling.pid)
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=429)
        request[_CALLER] = calling
        open_requests[calling.uid] += 1
        try:
            return await _answered(request, handler, versions)
        finally:
            open_requests[calling.uid] -= 1
            if not open_requests[calling.uid]:
                del open_requests[calling.uid]

    return rules


async def _answered(request: web.Request, handler: Handler, versions: frozenset[str]) -> web.StreamResponse:
    try:
        _check_version(request, versions)
        _check_route(request)
        _check_content(request)
        return await handler(request)
    except ServiceError as problem:
        return answer({"message": problem.message}, problem.status)
    except web.HTTPRequestEntityTooLarge:
        return answer({"message": "the request body is too large"}, 413)
    except (Error, OSError) as problem:
        number = secrets.token_hex(8)
        reason = problem.reason if isinstance(problem, Error) else "disk"
        _log.error(
            EVENT_SERVICE_FAILED, place=request.path[:200], reason=reason, detail=str(problem)[:500], number=number
        )
        failed = answer({"message": "internal error"}, _INTERNAL)
        failed.headers["X-Request-Number"] = number
        return failed


def _check_version(request: web.Request, versions: frozenset[str]) -> None:
    version = request.query.get("api-version")
    if version is None:
        raise ServiceError(400, "api-version not specified", reason="api-version-missing")
    if version not in versions:
        raise ServiceError(400, f"invalid api-version {json.dumps(version[:40])}", reason="api-version-unknown")


def _check_route(request: web.Request) -> None:
    unrouted = request.match_info.http_exception
    if unrouted is not None and unrouted.status == _NOT_FOUND:
        raise not_found()
    if unrouted is not None or request.method == "HEAD":  # which aiohttp would answer wherever GET is
        raise ServiceError(400, "method not allowed", reason="no-route")


def _check_content(request: web.Request) -> None:
    if request.method == "PUT" and not request.content_type.lower().endswith("json"):
        raise ServiceError(415, "request body must be application/json")
