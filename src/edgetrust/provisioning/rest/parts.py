"""What the routes work with, and what happens around each of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

import msgspec
import structlog
from aiohttp import web

from edgetrust.broker.ports import Auditor
from edgetrust.clock import Clock
from edgetrust.errors import Error
from edgetrust.protocol.dps.errors import BAD_REQUEST, UNAUTHORIZED, DpsError
from edgetrust.provisioning.answers import ErrorAnswer, answer, error_of
from edgetrust.provisioning.registering import Registering
from edgetrust.store.certificates import CaCertificates
from edgetrust.store.enrollments import Enrollments
from edgetrust.store.provisioned import Provisioned
from edgetrust.telemetry import EVENT_REQUEST_FAILED
from edgetrust.transport.http import peer_chain
from edgetrust.trust.audit import record
from edgetrust.trust.authenticate import Policy
from edgetrust.trust.credential import credential_from
from edgetrust.trust.policies import DpsRight, SharedAccessPolicy, authenticate_service
from edgetrust.trust.verdict import Accepted, Refused

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_INTERNAL = 500_000
_OPEN_PATHS = ("/edgetrust/", "/metrics", "/$iothub/")  # without an api-version: ours, and MQTT
_STATUS_DIGITS = 1000
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Parts:
    """The service's parts that answer requests."""

    registering: Registering
    enrollments: Enrollments
    provisioned: Provisioned
    certificates: CaCertificates
    policies: Mapping[str, SharedAccessPolicy[DpsRight]]
    policy: Policy
    auditor: Auditor
    clock: Clock

    def allow(self, request: web.Request, right: DpsRight) -> None:
        """The request must carry a policy's token with `right`. Raises DpsError 401, which is on record before."""
        credential = credential_from(request.headers.get("Authorization"), peer_chain(request))
        now = self.clock.now()
        verdict = authenticate_service(credential, self.policies, (frozenset({right}),), now, self.policy)
        match verdict:
            case Accepted():
                return
            case Refused():
                place = f"{request.method} {request.path}"[:200]
                self.auditor.record(record(verdict, at=now, place=place, peer=request.remote or ""))
                raise DpsError(UNAUTHORIZED, reason="unauthorized")
            case _:
                assert_never(verdict)


PARTS: web.AppKey[Parts] = web.AppKey("dps-parts", Parts)


def json_answer(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A value, or JSON bytes."""
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8", headers=headers)


def error_answer(error: ErrorAnswer) -> web.Response:
    """An error with what clients look for in headers."""
    headers = {"x-ms-request-id": error.tracking_id}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return json_answer(error.body, status=error.status, headers=headers)


@web.middleware
async def errors_answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what a route raises into its answer. What nobody foresaw is logged and answered 500, without a traceback."""
    now = request.app[PARTS].clock.now()
    try:
        return await handler(request)
    except Error as problem:
        return error_answer(error_of(problem, now))
    except web.HTTPException as problem:
        return error_answer(answer(problem.status * _STATUS_DIGITS, problem.reason, now))
    except Exception as problem:  # noqa: BLE001 - one request's fault must not reach another, nor its traceback the peer
        _log.error(EVENT_REQUEST_FAILED, path=request.path, reason="defect", detail=repr(problem), exc_info=problem)
        return error_answer(answer(_INTERNAL, "the request could not be completed", now))


@web.middleware
async def api_version_named(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every route of the service wants an api-version (hub specification 1.3); any value is taken. No word holds
    U+0000.
    """
    if not request.path.startswith(_OPEN_PATHS) and not request.query.get("api-version"):
        raise DpsError(BAD_REQUEST, "the query parameter api-version is missing", reason="api-version-missing")
    if any("\0" in word for word in (*request.match_info.values(), *request.query.values())):
        raise DpsError(BAD_REQUEST, "a word of the request holds U+0000", reason="argument-invalid")
    return await handler(request)
