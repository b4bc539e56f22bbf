"""Modules of devices below a gateway, managed by their runtimes through that gateway (hub specification 9.5).

The caller is the module `$edgeHub` of the edge device in the path; the auth-chain leads from the device whose modules
are meant up to the caller. What a gateway may do this way is what that device may do itself with its own modules.
"""

from __future__ import annotations

from aiohttp import web

from edgetrust.errors import PeerError
from edgetrust.hub.rest.answers import json_answer
from edgetrust.hub.rest.bodies import module_body, module_draft
from edgetrust.hub.rest.parts import Parts
from edgetrust.hub.rest.scope import EDGE_HUB_PATH, edge_hub_of, target_of
from edgetrust.protocol.iothub import parse_auth_chain
from edgetrust.protocol.registry import OnBehalfRequest, encode_body, parse_on_behalf_request

routes = web.RouteTableDef()


@routes.put(f"{EDGE_HUB_PATH}/putModuleOnBehalfOf")
async def put_module(request: web.Request) -> web.Response:
    """Create without If-Match, update with it."""
    parts, device, asked = await _asked(request)
    body = asked.module
    if body is None or body.device_id != device:
        raise PeerError("module must be one of the first device of authChain", reason="argument-invalid", status=400)
    draft = module_draft(device, body.module_id, body)
    record = await parts.identities.put_module(draft, request.headers.get("If-Match"))
    return json_answer(encode_body(module_body(record)), record.etag)


@routes.post(f"{EDGE_HUB_PATH}/getModuleOnBehalfOf")
async def get_module(request: web.Request) -> web.Response:
    """One module."""
    parts, device, asked = await _asked(request)
    record = await parts.identities.module(device, _named("targetModuleId", asked.target_module_id))
    return json_answer(encode_body(module_body(record)), record.etag)


@routes.post(f"{EDGE_HUB_PATH}/getModulesOnTargetDevice")
async def list_modules(request: web.Request) -> web.Response:
    """All modules of the device."""
    parts, device, _ = await _asked(request)
    found = await parts.identities.modules(device)
    return json_answer(encode_body([module_body(record) for record in found]))


@routes.post(f"{EDGE_HUB_PATH}/deleteModuleOnBehalfOf")
async def delete_module(request: web.Request) -> web.Response:
    """Delete a module, whatever its ETag unless If-Match says which."""
    parts, device, asked = await _asked(request)
    module = _named("moduleId", asked.module_id)
    await parts.identities.delete_module(device, module, request.headers.get("If-Match", "*"))
    return web.Response(status=204)


async def _asked(request: web.Request) -> tuple[Parts, str, OnBehalfRequest]:
    """Parts, the device whose modules are meant, and the body."""
    parts, actor = await edge_hub_of(request)
    asked = parse_on_behalf_request(await request.read())
    device = await target_of(request, parse_auth_chain(asked.auth_chain), actor)
    return parts, device, asked


def _named(member: str, value: str | None) -> str:
    if not value:
        raise PeerError(f"{member} is missing", reason="argument-invalid", status=400)
    return value
