"""Answers: JSON with an ETag, and errors in the one shape that every SDK reads (hub specification 12.1)."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog
from aiohttp import web

from edgetrust.errors import Error, PeerError, UnavailableError
from edgetrust.protocol.iothub import valid_identifier
from edgetrust.protocol.registry import error_body, error_status
from edgetrust.telemetry import EVENT_REQUEST_FAILED

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_NAMES = {
    400: "GenericBadRequest",
    401: "IotHubUnauthorizedAccess",
    403: "GenericForbidden",
    404: "GenericNotFound",
    405: "GenericMethodNotAllowed",
    409: "GenericConflict",
    412: "PreconditionFailed",
    413: "MessageTooLarge",
    415: "GenericUnsupportedMediaType",
    429: "ThrottlingException",
    503: "ServiceUnavailable",
}
# Without an api-version: ours, MQTT, which says it itself, and the place of uploaded files, which is no IoT Hub.
API_VERSION = r"\d{4}-\d{2}-\d{2}(-preview)?"
OPEN_PATHS = ("/edgetrust/", "/metrics", "/$iothub/", "/device-files/")
_log = structlog.get_logger()


def json_answer(body: bytes, etag: str | None = None, *, status: int = 200) -> web.Response:
    """JSON bytes. The ETag header is quoted, the one in the body is not."""
    headers = {} if etag is None else {"ETag": f'"{etag}"'}
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8", headers=headers)


def json_value(value: Mapping[str, Any] | list[Any], *, status: int = 200, etag: str | None = None) -> web.Response:
    """A value as JSON."""
    return json_answer(msgspec.json.encode(value), etag, status=status)


def error_answer(name: str, text: str, *, retry_after: float | None = None) -> web.Response:
    """An error by its name in hub specification 12.2."""
    tracking = uuid.uuid4().hex
    answer = json_answer(error_body(name, text, tracking), status=error_status(name))
    answer.headers["iothub-errorcode"] = name
    if retry_after is not None:
        answer.headers["Retry-After"] = str(max(1, round(retry_after)))
    return answer


@web.middleware
async def errors_answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what a route raises into its answer. What nobody foresaw is logged and answered 503, never with a traceback.

    503 and not 500: the edge runtime reads 500 as a network that is down.
    """
    try:
        return await handler(request)
    except PeerError as problem:
        name = getattr(problem, "code", None) or _NAMES.get(problem.status, "GenericBadRequest")
        return error_answer(name, problem.message)
    except UnavailableError as problem:
        return error_answer("ServiceUnavailable", problem.message, retry_after=problem.retry_after)
    except web.HTTPException as problem:
        return error_answer(_NAMES.get(problem.status, "GenericBadRequest"), problem.reason)
    except Error as problem:
        _log.error(EVENT_REQUEST_FAILED, path=request.path, reason=problem.reason, detail=problem.message)
        return error_answer("ServiceUnavailable", "the request could not be completed")
    except Exception as problem:  # noqa: BLE001 - one request's fault must not reach another, nor its traceback the peer
        _log.error(EVENT_REQUEST_FAILED, path=request.path, reason="defect", detail=repr(problem), exc_info=problem)
        return error_answer("ServiceUnavailable", "the request could not be completed")


@web.middleware
async def words_checked(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Names in the path must be such names, and no word of the path or query holds U+0000, which no store takes."""
    for name in ("device", "module"):
        word = request.match_info.get(name)
        if word is not None and not valid_identifier(word):
            return error_answer("ArgumentInvalid", f"{word[:140]!r} names no {name}")
    if any("\0" in word for word in (*request.match_info.values(), *request.query.values())):
        return error_answer("ArgumentInvalid", "a word of the request holds U+0000")
    return await handler(request)


@web.middleware
async def api_version_named(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every route of the service wants an api-version; any that looks like one is taken (hub specification 1.3)."""
    if request.path.startswith(OPEN_PATHS):
        return await handler(request)
    version = request.query.get("api-version")
    if not version:
        return error_answer("InvalidProtocolVersion", "the query parameter api-version is missing")
    if not re.fullmatch(API_VERSION, version):
        return error_answer("InvalidProtocolVersion", f"{version[:40]!r} is no api-version, like 2021-04-12")
    return await handler(request)
