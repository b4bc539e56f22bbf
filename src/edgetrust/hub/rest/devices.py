"""Devices and modules: the registry as service SDKs and the edge runtime use it (hub specification 6.1 and 8)."""

from __future__ import annotations

from aiohttp import web

from edgetrust.errors import PeerError
from edgetrust.hub.rest.answers import json_answer, json_value
from edgetrust.hub.rest.bodies import device_body, device_draft, module_body, module_draft
from edgetrust.hub.rest.parts import PARTS
from edgetrust.hub.rest.query import number
from edgetrust.limits import PAGE_ITEMS
from edgetrust.protocol.registry import encode_body, parse_device, parse_module
from edgetrust.trust.policies import Right

routes = web.RouteTableDef()


@routes.get("/devices")
@routes.get("/devices/")
async def list_devices(request: web.Request) -> web.Response:
    """The first `top` devices, at most 1,000."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.REGISTRY_READ)
    found = await parts.identities.devices(limit=max(1, number(request, "top", PAGE_ITEMS, PAGE_ITEMS)))
    return json_answer(encode_body([device_body(record) for record in found]))


@routes.get("/devices/{device}")
async def get_device(request: web.Request) -> web.Response:
    """One device."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.REGISTRY_READ)
    record = await parts.identities.device(request.match_info["device"])
    return json_answer(encode_body(device_body(record)), record.etag)


@routes.put("/devices/{device}")
async def put_device(request: web.Request) -> web.Response:
    """Create without If-Match, update with it."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.REGISTRY_WRITE)
    device = request.match_info["device"]
    body = parse_device(await request.read())
    _agree("deviceId", body.device_id, device)
    record = await parts.identities.put_device(device_draft(device, body), request.headers.get("If-Match"))
    return json_answer(encode_body(device_body(record)), record.etag)


@routes.delete("/devices/{device}")
async def delete_device(request: web.Request) -> web.Response:
    """Delete a device and all that is kept for it."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.REGISTRY_WRITE)
    await parts.identities.delete_device(request.match_info["device"], request.headers.get("If-Match"))
    return web.Response(status=204)


@routes.get("/devices/{device}/modules")
async def list_modules(request: web.Request) -> web.Response:
    """All modules of a device."""
    parts = request.app[PARTS]
    device = request.match_info["device"]
    await parts.access.service_or_device(request, Right.REGISTRY_READ, device)
    found = await parts.identities.modules(device)
    return json_answer(encode_body([module_body(record) for record in found], _version(request)))


@routes.get("/devices/{device}/modules/{module}")
async def get_module(request: web.Request) -> web.Response:
    """One module."""
    parts = request.app[PARTS]
    device, module = request.match_info["device"], request.match_info["module"]
    await parts.access.service_or_device(request, Right.REGISTRY_READ, device)
    record = await parts.identities.module(device, module)
    return json_answer(encode_body(module_body(record), _version(request)), record.etag)


@routes.put("/devices/{device}/modules/{module}")
async def put_module(request: web.Request) -> web.Response:
    """Create without If-Match, update with it; exactly 200 either way, as the edge runtime wants it."""
    parts = request.app[PARTS]
    device, module = request.match_info["device"], request.match_info["module"]
    await parts.access.service_or_device(request, Right.REGISTRY_WRITE, device)
    body = parse_module(await request.read())
    _agree("deviceId", body.device_id, device)
    _agree("moduleId", body.module_id, module)
    record = await parts.identities.put_module(module_draft(device, module, body), request.headers.get("If-Match"))
    return json_answer(encode_body(module_body(record), _version(request)), record.etag)


@routes.delete("/devices/{device}/modules/{module}")
async def delete_module(request: web.Request) -> web.Response:
    """Delete a module."""
    parts = request.app[PARTS]
    device, module = request.match_info["device"], request.match_info["module"]
    await parts.access.service_or_device(request, Right.REGISTRY_WRITE, device)
    await parts.identities.delete_module(device, module, request.headers.get("If-Match"))
    return web.Response(status=204)


@routes.get("/statistics/devices")
async def device_statistics(request: web.Request) -> web.Response:
    """How many devices there are."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.REGISTRY_READ)
    found = await parts.identities.statistics()
    return json_value(
        {
            "totalDeviceCount": found.total,
            "enabledDeviceCount": found.enabled,
            "disabledDeviceCount": found.disabled,
        }
    )


@routes.get("/statistics/service")
async def service_statistics(request: web.Request) -> web.Response:
    """How many devices are connected."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.REGISTRY_READ)
    return json_value({"connectedDeviceCount": (await parts.identities.statistics()).connected})


def _version(request: web.Request) -> str:
    return request.query.get("api-version", "")


def _agree(name: str, in_body: str, in_path: str) -> None:
    if in_body != in_path:
        raise PeerError(f"{name} in the body differs from the path", reason="argument-invalid", status=400)
