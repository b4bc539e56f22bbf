"""The description of the hub's REST interface, made from its routes: OpenAPI 3.1, served as JSON.

What a route's code says already (method, path, what it does, the types of bodies) is taken from there; what it does
not say (statuses, query parameters, media types) stands in the table below, one entry per handler. A test compares the
table with the routes, so that neither has an entry of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from edgetrust import __version__
from edgetrust.hub.rest.answers import API_VERSION, OPEN_PATHS, json_answer
from edgetrust.hub.rest.policies import KeyChange, PolicyBody
from edgetrust.hub.rest.queries import QueryBody
from edgetrust.protocol.bulk import BulkResult, IdentityBody
from edgetrust.protocol.configuration import ConfigurationBody, ContentBody, TestBody
from edgetrust.protocol.jobs import JobBody
from edgetrust.protocol.registry import DeviceBody, ModuleBody, ScopeListing, ScopeLookup, ScopeRequest

routes = web.RouteTableDef()
DOCUMENT: web.AppKey[Callable[[], bytes]] = web.AppKey("openapi")

_JSON, _ANY, _LINES, _TEXT = "application/json", "application/octet-stream", "application/x-ndjson", "text/plain"
_SUCCESS = {
    200: "Done; the body says what is there now.",
    201: "Created.",
    202: "Taken.",
    204: "Done; there is no body.",
    101: "The connection is MQTT over WebSocket from here on.",
}
_ERRORS = {
    400: "The request is malformed, or asks for what cannot be.",
    401: "The credential is not accepted for this request.",
    403: "Not possible for this identity.",
    404: "There is no such thing.",
    409: "It exists already.",
    412: "The ETag is another.",
    413: "Too large, or too many.",
    429: "Too many at the moment.",
    504: "The device did not answer in time.",
}
_WRITES = (403, 404, 409, 412, 413)
_TEXT_WORD: Mapping[str, Any] = {"type": "string"}
_NUMBER: Mapping[str, Any] = {"type": "integer", "minimum": 0}
_WAIT: Mapping[str, Any] = {"type": "number", "minimum": 0}
_FLAG: Mapping[str, Any] = {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class About:
    """What the code of a handler does not say. `body` and `answer` are types of JSON, or media types."""

    body: Any = None
    answer: Any = dict
    statuses: tuple[int, ...] = (200,)
    errors: tuple[int, ...] = ()
    query: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    headers: tuple[str, ...] = ()
    error_media: str = "application/json"


_MATCH = ("If-Match",)
_GONE = About(answer=None, statuses=(204,), errors=_WRITES, headers=_MATCH)
_ONE = About(errors=(404,))
_SCOPE_ERRORS = (403, 404)
_TWIN = About(body=dict, errors=_WRITES, headers=_MATCH)
ABOUT: Mapping[str, About] = {
    "bulk.export_identities": About(answer=_LINES, query=(("top", _NUMBER), ("excludeKeys", _FLAG))),
    "bulk.write_identities": About(list[IdentityBody], BulkResult, (200, 400), (413,)),
    "certificates.delete_certificate": _GONE,
    "certificates.generate_code": About(errors=_WRITES, headers=_MATCH),
    "certificates.get_certificate": _ONE,
    "certificates.list_certificates": About(),
    "certificates.put_certificate": About(dict, statuses=(200, 201), errors=_WRITES, headers=_MATCH),
    "certificates.verify": About(dict, errors=_WRITES, headers=_MATCH),
    "configurations.apply_content": About(ContentBody, None, (204,), _WRITES),
    "configurations.check_queries": About(TestBody, errors=(413,)),
    "configurations.delete_configuration": _GONE,
    "configurations.get_configuration": _ONE,
    "configurations.list_configurations": About(answer=list, query=(("top", _NUMBER),)),
    "configurations.put_configuration": About(ConfigurationBody, errors=_WRITES, headers=_MATCH),
    "device_http.abandon_command": _GONE,
    "device_http.receive_command": About(answer=_ANY, statuses=(200, 204), errors=(404,)),
    "device_http.send_telemetry": About(_ANY, None, (204,), _WRITES),
    "device_http.settle_command": About(
        answer=None, statuses=(204,), errors=_WRITES, query=(("reject", _TEXT_WORD),), headers=_MATCH
    ),
    "devices.delete_device": _GONE,
    "devices.delete_module": _GONE,
    "devices.device_statistics": About(),
    "devices.get_device": About(answer=DeviceBody, errors=(404,)),
    "devices.get_module": About(answer=ModuleBody, errors=(404,)),
    "devices.list_devices": About(answer=list[DeviceBody], query=(("top", _NUMBER),)),
    "devices.list_modules": About(answer=list[ModuleBody], errors=(404,)),
    "devices.put_device": About(DeviceBody, DeviceBody, errors=_WRITES, headers=_MATCH),
    "devices.put_module": About(ModuleBody, ModuleBody, errors=_WRITES, headers=_MATCH),
    "devices.service_statistics": About(),
    "event_routes.event_routes": About(),
    "explain.explain_credential": About(dict, errors=_WRITES),
    "feedback.abandon_feedback": _GONE,
    "feedback.complete_feedback": _GONE,
    "feedback.receive_feedback": About(answer=list, statuses=(200, 204)),
    "jobs.cancel_job": About(errors=(404,)),
    "jobs.create_job": About(JobBody, errors=(*_WRITES, 429)),
    "jobs.get_job": _ONE,
    "jobs.query_jobs": About(
        answer=list,
        query=(("jobType", _TEXT_WORD), ("jobStatus", _TEXT_WORD)),
        headers=("x-ms-max-item-count", "x-ms-continuation"),
    ),
    "messages.get_consumer": _ONE,
    "messages.purge_commands": _ONE,
    "messages.put_consumer": About(dict, errors=_WRITES),
    "messages.read_events": About(
        query=(
            ("after", _TEXT_WORD),
            ("limit", _NUMBER),
            ("device", _TEXT_WORD),
            ("where", _TEXT_WORD),
            ("wait_seconds", _WAIT),
        )
    ),
    "messages.send_command": About(_ANY, statuses=(202,), errors=_WRITES, headers=("iothub-messageid", "iothub-ack")),
    "methods.invoke_method": About(dict, errors=(*_WRITES, 504)),
    "on_behalf.delete_module": About(dict, None, (204,), _WRITES, headers=_MATCH),
    "on_behalf.get_module": About(dict, ModuleBody, errors=_SCOPE_ERRORS),
    "on_behalf.list_modules": About(dict, list[ModuleBody], errors=_SCOPE_ERRORS),
    "on_behalf.put_module": About(dict, ModuleBody, errors=_WRITES, headers=_MATCH),
    "openapi.description": About(),
    "operations.health": About(),
    "operations.metrics": About(answer=_TEXT),
    "operations.refusals": About(query=(("limit", _NUMBER), ("identity", _TEXT_WORD))),
    "policies.delete_policy": About(answer=None, statuses=(204,), errors=_WRITES),
    "policies.get_policy": _ONE,
    "policies.list_policies": About(),
    "policies.put_policy": About(PolicyBody, statuses=(200, 201), errors=_WRITES, headers=_MATCH),
    "policies.roll_key": About(KeyChange, errors=_WRITES),
    "queries.query_devices": About(
        QueryBody, list, errors=(413,), headers=("x-ms-max-item-count", "x-ms-continuation")
    ),
    "scope.find_in_scope": About(ScopeLookup, ScopeListing, errors=_SCOPE_ERRORS),
    "scope.find_in_scope_flat": About(
        answer=ScopeListing,
        errors=_SCOPE_ERRORS,
        query=(("targetDeviceId", _TEXT_WORD), ("targetModuleId", _TEXT_WORD)),
    ),
    "scope.list_scope": About(ScopeRequest, ScopeListing, errors=_SCOPE_ERRORS),
    "scope.list_scope_flat": About(
        answer=ScopeListing,
        errors=_SCOPE_ERRORS,
        query=(("deviceCount", _NUMBER), ("continuationToken", _TEXT_WORD)),
    ),
    "scope.scope_version": About(errors=_SCOPE_ERRORS, query=(("after", _TEXT_WORD), ("wait_seconds", _WAIT))),
    "scope.verified_certificates": About(errors=_SCOPE_ERRORS),
    "twins.get_twin": _ONE,
    "twins.patch_twin": _TWIN,
    "twins.replace_twin": _TWIN,
    "uploads.begin_upload": About(dict, errors=_WRITES),
    "uploads.end_upload": About(dict, None, (204,), _WRITES),
    "uploads.put_blob": About(
        _ANY, None, (201,), _WRITES, (("comp", _TEXT_WORD), ("blockid", _TEXT_WORD)), error_media="application/xml"
    ),
    "websocket.mqtt": About(answer=None, statuses=(101,)),
}


@routes.get("/edgetrust/openapi.json")
async def description(request: web.Request) -> web.Response:
    """This description. Open to everybody: it says what is possible, not what is there."""
    return json_answer(request.app[DOCUMENT]())


def document(defined: Iterable[web.RouteDef]) -> dict[str, Any]:
    """The description of these routes."""
    wanted = [about.body for about in ABOUT.values()] + [about.answer for about in ABOUT.values()]
    types = [kind for kind in wanted if kind is not None and not isinstance(kind, str)]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    of_type = dict(zip(map(str, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in defined:
        path = re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, of_type)
    error = {
        "type": "object",
        "required": ["Message", "ExceptionMessage"],
        "properties": {"Message": _TEXT_WORD, "ExceptionMessage": _TEXT_WORD},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "edgetrust hub", "version": __version__},
        "paths": {path: paths[path] for path in sorted(paths)},
        "components": {
            "schemas": {**components, "Error": error},
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "Authorization"}},
        },
        "security": [{"token": []}],
    }


def name_of(route: web.RouteDef) -> str:
    """`module.handler`, which is what the table calls it."""
    return f"{route.handler.__module__.rpartition('.')[2]}.{route.handler.__name__}"


def _operation(route: web.RouteDef, path: str, of_type: Mapping[str, Any]) -> dict[str, Any]:
    about = ABOUT.get(name_of(route), About())
    words = " ".join((route.handler.__doc__ or "").split())
    operation: dict[str, Any] = {
        "operationId": f"{name_of(route)} {route.method} {path}",
        "summary": words,
        "parameters": _parameters(about, path),
        "responses": _responses(about, of_type),
    }
    if about.body is not None:
        operation["requestBody"] = {"required": about.body != _ANY, "content": _content(about.body, of_type)}
    return operation


def _parameters(about: About, path: str) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    if not path.startswith(OPEN_PATHS):
        version = {"type": "string", "pattern": f"^{API_VERSION}$", "examples": ["2021-04-12"]}
        found.append({"name": "api-version", "in": "query", "required": True, "schema": version})
    found += [{"name": name, "in": "query", "schema": dict(schema)} for name, schema in about.query]
    return found + [{"name": name, "in": "header", "schema": {"type": "string"}} for name in about.headers]


def _responses(about: About, of_type: Mapping[str, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status in sorted({*about.errors, 400, 401}):
        content: dict[str, Any] = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
        if about.error_media != _JSON:
            content[about.error_media] = {}
        responses[str(status)] = {"description": _ERRORS[status], "content": content}
    for status in about.statuses:
        response: dict[str, Any] = {"description": _SUCCESS.get(status, "Some failed.")}
        if status not in (204, 101) and about.answer is not None:
            response["content"] = _content(about.answer, of_type)
        if status in _ERRORS:  # a bulk result with failures, or an error
            schemas = [response["content"][_JSON]["schema"], {"$ref": "#/components/schemas/Error"}]
            response["content"] = {_JSON: {"schema": {"anyOf": schemas}}}
        responses[str(status)] = response
    return responses


def _content(kind: Any, of_type: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(kind, str):
        return {kind: {} if kind == _ANY else {"schema": {"type": "string"}}}
    return {_JSON: {"schema": of_type[str(kind)]}}
