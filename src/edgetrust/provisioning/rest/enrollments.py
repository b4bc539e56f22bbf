"""The service API: enrollments, groups and registrations, one by one, many at once, and page by page (hub specification
15). Paths are the same in any letter case.
"""

from __future__ import annotations

import base64
import re
from typing import Any

import msgspec
from aiohttp import web

from edgetrust.errors import Error
from edgetrust.limits import BULK_ENROLLMENTS, PAGE_ITEMS
from edgetrust.protocol.dps.enrollments import Enrollment, Kind, bad, parse_enrollment
from edgetrust.protocol.dps.errors import CONFLICT, DpsError
from edgetrust.provisioning.answers import error_of
from edgetrust.provisioning.bodies import attestation_body, enrollment_body
from edgetrust.provisioning.rest.parts import PARTS, Parts, json_answer
from edgetrust.store.enrollments import EnrollmentRecord
from edgetrust.trust.policies import DpsRight

_QUERY = re.compile(r"(?i)\s*select\s+\*(\s+from\s+\w+)?\s*;?\s*")
_MODES = ("create", "update", "updateIfMatchETag", "delete")
_KINDS: tuple[tuple[Kind, str, str], ...] = (
    ("individual", "enrollments", "(?i:enrollments)"),
    ("group", "enrollmentGroups", "(?i:enrollmentGroups)"),
)


class _Bulk(msgspec.Struct, frozen=True, rename="camel"):
    mode: str
    enrollments: list[Any] = []
    enrollment_groups: list[Any] = []


class _Query(msgspec.Struct, frozen=True):
    query: str = "SELECT *"


def add_routes(app: web.Application) -> None:
    """Both nouns have the same routes."""
    for kind, _, pattern in _KINDS:
        _Noun(kind, f"/{{noun:{pattern}}}").add_to(app)
    registrations = "/{noun:(?i:registrations)}/{id}"
    app.router.add_get(registrations, get_registration)
    app.router.add_delete(registrations, delete_registration)
    app.router.add_post(f"{registrations}/query", query_registrations)


class _Noun:
    """The routes of enrollments or of groups."""

    def __init__(self, kind: Kind, path: str) -> None:
        self._kind = kind
        self._path = path

    def add_to(self, app: web.Application) -> None:
        router, path = app.router, self._path
        router.add_post(f"{path}/query", self.query)
        router.add_post(path, self.bulk)
        router.add_post(f"{path}/", self.bulk)  # one SDK keeps the slash
        router.add_get(f"{path}/{{id}}", self.get)
        router.add_put(f"{path}/{{id}}", self.put)
        router.add_delete(f"{path}/{{id}}", self.delete)
        router.add_post(f"{path}/{{id}}/attestationmechanism", self.attestation)

    async def get(self, request: web.Request) -> web.Response:
        """One of them."""
        parts = _parts(request, DpsRight.ENROLLMENT_READ)
        return await self._shown(parts, await parts.enrollments.get(self._kind, request.match_info["id"]))

    async def put(self, request: web.Request) -> web.Response:
        """Create, or update with If-Match."""
        parts = _parts(request, DpsRight.ENROLLMENT_WRITE)
        body = parse_enrollment(await request.read(), self._kind, request.match_info["id"])
        return await self._shown(parts, await parts.enrollments.put(body, request.headers.get("If-Match")))

    async def delete(self, request: web.Request) -> web.Response:
        """Delete it with its registrations; devices stay at their hubs."""
        parts = _parts(request, DpsRight.ENROLLMENT_WRITE)
        await parts.enrollments.delete(self._kind, request.match_info["id"], request.headers.get("If-Match"))
        return web.Response(status=204)

    async def attestation(self, request: web.Request) -> web.Response:
        """How its devices prove themselves, with the keys."""
        parts = _parts(request, DpsRight.ENROLLMENT_WRITE)
        record = await parts.enrollments.get(self._kind, request.match_info["id"])
        return json_answer(attestation_body(record.body.attestation, secrets=True))

    async def query(self, request: web.Request) -> web.Response:
        """All, page by page."""
        parts = _parts(request, DpsRight.ENROLLMENT_READ)
        after, limit = await _page_of(request)
        found = await parts.enrollments.page(self._kind, after, limit)
        item = "enrollment" if self._kind == "individual" else "enrollmentGroup"
        last = found[-1].body.name.lower() if len(found) == limit else None
        return _page([enrollment_body(record) for record in found], item, last)

    async def bulk(self, request: web.Request) -> web.Response:
        """Many at once, each for itself: the answer says which could not be done and why."""
        parts = _parts(request, DpsRight.ENROLLMENT_WRITE)
        wished = _decode(await request.read(), _Bulk)
        bodies = wished.enrollments if self._kind == "individual" else wished.enrollment_groups
        if wished.mode not in _MODES:
            raise bad(f"mode {wished.mode[:40]!r} is none of {', '.join(_MODES)}", "bulk-mode")
        if not 0 < len(bodies) <= BULK_ENROLLMENTS:
            raise bad(f"1 to {BULK_ENROLLMENTS} enrollments at once, {len(bodies)} came", "bulk-size")
        errors = []
        for body in bodies:
            problem = await self._one(parts, wished.mode, body)
            if problem is not None:
                errors.append(problem)
        return json_answer({"isSuccessful": not errors, "errors": errors})

    async def _one(self, parts: Parts, mode: str, body: Any) -> dict[str, Any] | None:
        name = body.get(_name_field(self._kind)) if isinstance(body, dict) else None
        try:
            if mode == "delete":
                if not isinstance(name, str):
                    raise bad(f"{_name_field(self._kind)} is missing")
                await parts.enrollments.delete(self._kind, name, body.get("etag"))
            else:
                enrollment = parse_enrollment(body, self._kind)
                await parts.enrollments.put(enrollment, _condition(mode, enrollment))
        except Error as problem:
            error = error_of(problem, parts.clock.now())
            code = problem.code if isinstance(problem, DpsError) else error.status * 1000
            return {_name_field(self._kind): str(name)[:140], "errorCode": code, "errorStatus": problem.message}
        return None

    async def _shown(self, parts: Parts, record: EnrollmentRecord) -> web.Response:
        registration = None
        if self._kind == "individual":
            registration = await parts.provisioned.find(record.body.name)
        return json_answer(enrollment_body(record, registration))


async def get_registration(request: web.Request) -> web.Response:
    """The registration of a device."""
    parts = _parts(request, DpsRight.REGISTRATION_STATUS_READ)
    return json_answer((await parts.provisioned.get(request.match_info["id"])).state.body())


async def delete_registration(request: web.Request) -> web.Response:
    """Forget that a device registered; it stays at its hub, and may register again."""
    parts = _parts(request, DpsRight.REGISTRATION_STATUS_WRITE)
    await parts.provisioned.delete(request.match_info["id"], request.headers.get("If-Match"))
    return web.Response(status=204)


async def query_registrations(request: web.Request) -> web.Response:
    """The registrations of a group, page by page."""
    parts = _parts(request, DpsRight.REGISTRATION_STATUS_READ)
    group = request.match_info["id"]
    await parts.enrollments.get("group", group)
    after, limit = await _page_of(request)
    found = await parts.provisioned.page(group, after, limit)
    last = found[-1].state.registration_id.lower() if len(found) == limit else None
    return _page([record.state.body() for record in found], "deviceRegistration", last)


def _parts(request: web.Request, right: DpsRight) -> Parts:
    parts = request.app[PARTS]
    parts.allow(request, right)
    return parts


def _name_field(kind: Kind) -> str:
    return "registrationId" if kind == "individual" else "enrollmentGroupId"


def _condition(mode: str, enrollment: Enrollment) -> str | None:
    if mode == "create":
        return None
    if mode == "updateIfMatchETag":
        if enrollment.etag is None:
            raise DpsError(CONFLICT, "the enrollment has no etag", reason="etag-missing")
        return enrollment.etag
    return "*"


async def _page_of(request: web.Request) -> tuple[str, int]:
    """Behind which key, and how many: from the body and the headers of a query."""
    wished = _decode(await request.read() or b"{}", _Query)
    if not _QUERY.fullmatch(wished.query):
        raise bad("only SELECT * is understood, with or without FROM", "query-not-understood")
    text = request.headers.get("x-ms-max-item-count", str(PAGE_ITEMS))
    if text == "-1":
        text = str(PAGE_ITEMS)
    if not (text.isascii() and text.isdecimal()) or not int(text[:9]) > 0:
        raise bad("x-ms-max-item-count must be a number from 1", "argument-invalid")
    continuation = request.headers.get("x-ms-continuation", "")
    try:
        after = base64.urlsafe_b64decode(continuation).decode()
    except (ValueError, UnicodeDecodeError):
        raise bad("x-ms-continuation is not one that this service gave", "argument-invalid") from None
    return after, min(int(text[:9]), PAGE_ITEMS)


def _page(items: list[dict[str, Any]], item: str, last: str | None) -> web.Response:
    headers = {"x-ms-item-type": item, "x-ms-max-item-count": str(len(items))}
    if last is not None:
        headers["x-ms-continuation"] = base64.urlsafe_b64encode(last.encode()).decode()
    return json_answer(items, headers=headers)


def _decode(data: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise bad(f"the body cannot be read: {problem}", "body-malformed") from problem
