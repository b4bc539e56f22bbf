"""Scope synchronisation: what a gateway's edgeHub asks about the identities below it (hub specification 9).

The caller is always the module `$edgeHub` of the edge device in the path. It may ask about itself and about whoever
is below it, at any depth; a listing holds one level only, because edgeHub asks again for each gateway it finds. Three
routes are ours: what changed (a long poll instead of an hourly surprise), the hub's verified CAs, and whether
anything here is ours at all.
"""

from __future__ import annotations

from functools import partial
from typing import assert_never

from aiohttp import web

from edgetrust.errors import PeerError
from edgetrust.hub.rest.answers import json_answer, json_value
from edgetrust.hub.rest.bodies import listing
from edgetrust.hub.rest.parts import PARTS, Parts
from edgetrust.hub.rest.query import number, wait_seconds
from edgetrust.limits import PAGE_ITEMS
from edgetrust.pki.chain import Chain
from edgetrust.protocol.iothub import parse_auth_chain
from edgetrust.protocol.registry import encode_body, parse_scope_lookup, parse_scope_request
from edgetrust.store.records import ScopeEntry
from edgetrust.trust.authorize import EDGE_HUB
from edgetrust.trust.registration import Missing, MissingWhy
from edgetrust.trust.verdict import Reason

EDGE_HUB_PATH = "/devices/{device}/modules/$edgeHub"
_FLAT_PAGE = 100

routes = web.RouteTableDef()


@routes.post(f"{EDGE_HUB_PATH}/devicesAndModulesInTargetDeviceScope")
async def list_scope(request: web.Request) -> web.Response:
    """One level below the first element of the auth-chain, whose last one is the caller."""
    parts, actor = await edge_hub_of(request)
    asked = parse_scope_request(await request.read())
    target = await target_of(request, parse_auth_chain(asked.auth_chain), actor)
    page = await parts.identities.scope(target, asked.page_size or _FLAT_PAGE, asked.continuation_link)
    return json_answer(encode_body(listing(page.devices, page.modules, page.continuation)))


@routes.post(f"{EDGE_HUB_PATH}/getDeviceAndModuleOnBehalfOf")
async def find_in_scope(request: web.Request) -> web.Response:
    """One identity below the caller."""
    parts, actor = await edge_hub_of(request)
    asked = parse_scope_lookup(await request.read())
    await target_of(request, parse_auth_chain(asked.auth_chain), actor)
    return await _one(parts, actor, asked.target_device_id, asked.target_module_id)


@routes.get(f"{EDGE_HUB_PATH}/devicesAndModulesInDeviceScope")
async def list_scope_flat(request: web.Request) -> web.Response:
    """The listing of older edgeHubs: paged by a link."""
    parts, actor = await edge_hub_of(request)
    limit = max(1, number(request, "deviceCount", _FLAT_PAGE, PAGE_ITEMS))
    page = await parts.identities.scope(actor, limit, request.query.get("continuationToken") or None)
    link = None
    if page.continuation is not None:
        link = str(request.rel_url.update_query(continuationToken=page.continuation))
    return json_answer(encode_body(listing(page.devices, page.modules, link)))


@routes.get(f"{EDGE_HUB_PATH}/deviceAndModuleInDeviceScope")
async def find_in_scope_flat(request: web.Request) -> web.Response:
    """The look-up of older edgeHubs."""
    parts, actor = await edge_hub_of(request)
    module = request.query.get("targetModuleId") or None
    return await _one(parts, actor, request.query.get("targetDeviceId", ""), module)


@routes.get(f"{EDGE_HUB_PATH}/scopeVersion")
async def scope_version(request: web.Request) -> web.Response:
    """The registry's version; with `after`, waits until it is another, at most `wait_seconds`."""
    parts, _ = await edge_hub_of(request)
    version = parts.identities.version
    if request.query.get("after") == str(version):
        waiting = parts.registry.wait_for_change(version, wait_seconds(request))
        await parts.hold(waiting, partial(edge_hub_of, request))
        version = parts.identities.version
    return json_value({"version": version})


@routes.get(f"{EDGE_HUB_PATH}/verifiedCertificates")
async def verified_certificates(request: web.Request) -> web.Response:
    """The CAs that X.509 CA authentication accepts, for the gateway's own decisions."""
    parts, _ = await edge_hub_of(request)
    bundle = parts.certificates.bundle()
    return json_value(
        {
            "certificates": [Chain((certificate,)).pem() for certificate in bundle.anchors],
            "asOf": bundle.as_of.isoformat(),
        }
    )


async def edge_hub_of(request: web.Request) -> tuple[Parts, str]:
    """The gateway in the path, whose module `$edgeHub` must have sent this. Raises UnauthorizedError."""
    parts, device = request.app[PARTS], request.match_info["device"]
    await parts.access.identity(request, device, EDGE_HUB)
    return parts, device


async def target_of(request: web.Request, chain: tuple[str, ...], actor: str) -> str:
    """The device an auth-chain is about. Each element must be a child of the next, or a module of it, and the last one
    the caller (hub specification 9.4); if not, that is on record.
    """
    parts = request.app[PARTS]
    devices = tuple(dict.fromkeys(element.partition("/")[0] for element in chain))
    if devices[-1] != actor:
        detail = f"{';'.join(devices)[:140]!r} does not end with {actor}"
        parts.access.beyond(request, actor, Reason.AUTH_CHAIN_MISMATCH, detail)
        raise PeerError("the auth-chain does not end with the caller", reason="auth-chain-malformed", status=401)
    found = await parts.identities.below(actor, devices[0])
    if isinstance(found, Missing) or found.chain != devices:
        detail = f"{';'.join(devices)[:140]!r} does not lead to {actor}"
        parts.access.beyond(request, actor, Reason.NOT_A_CHILD, detail)
        raise _not_in_scope(devices[0])
    return devices[0]


async def _one(parts: Parts, actor: str, device: str, module: str | None) -> web.Response:
    found = await parts.identities.below(actor, device, module)
    match found:
        case ScopeEntry():
            modules = () if found.module is None else (found.module,)
            return json_answer(encode_body(listing((found.device,), modules, None)))
        case Missing(MissingWhy.NOT_A_CHILD):
            raise _not_in_scope(device)
        case Missing():
            raise PeerError(f"{device} is not registered", reason="device-not-found", status=404)
        case _:
            assert_never(found)


def _not_in_scope(device: str) -> PeerError:
    return PeerError(f"{device} is not below this gateway", reason="not-a-child", status=403)
