"""Shared access policies: who may see, make and change them is who has every right already."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from edgetrust.hub.rest.answers import json_value
from edgetrust.hub.rest.parts import PARTS, Parts
from edgetrust.hub.rest.reading import body_of
from edgetrust.trust.policies import Right, SharedAccessPolicy

routes = web.RouteTableDef()


class PolicyBody(msgspec.Struct, frozen=True):
    """What a policy may."""

    rights: Annotated[frozenset[Right], msgspec.Meta(min_length=1)]


class KeyChange(msgspec.Struct, frozen=True):
    """Which key to make anew, or to swap them."""

    key: Literal["primary", "secondary", "both", "swap"]


@routes.get("/edgetrust/policies")
async def list_policies(request: web.Request) -> web.Response:
    """All policies, without their keys."""
    parts = await _owned(request)
    return json_value({"policies": [_body(policy, keys=False) for policy in parts.policies.values()]})


@routes.get("/edgetrust/policies/{name}")
async def get_policy(request: web.Request) -> web.Response:
    """One policy, keys included."""
    parts = await _owned(request)
    return json_value(_body(parts.policies.found(request.match_info["name"])))


@routes.put("/edgetrust/policies/{name}")
async def put_policy(request: web.Request) -> web.Response:
    """Create a policy with new keys; with If-Match `*` change the rights of one that exists."""
    parts, name = await _owned(request), request.match_info["name"]
    rights = (await body_of(request, PolicyBody)).rights
    if "If-Match" in request.headers:
        return json_value(_body(await parts.policies.change_rights(name, rights)))
    return json_value(_body(await parts.policies.create(name, rights)), status=201)


@routes.delete("/edgetrust/policies/{name}")
async def delete_policy(request: web.Request) -> web.Response:
    """Delete a policy: its tokens count no longer, and connections that rest on it end."""
    parts = await _owned(request)
    await parts.policies.delete(request.match_info["name"])
    return web.Response(status=204)


@routes.post("/edgetrust/policies/{name}/rollKey")
async def roll_key(request: web.Request) -> web.Response:
    """Make a key anew, or swap the two."""
    parts, name = await _owned(request), request.match_info["name"]
    key = (await body_of(request, KeyChange)).key
    if key == "swap":
        return json_value(_body(await parts.policies.swap_keys(name)))
    rolled = await parts.policies.roll_keys(
        name, primary=key in ("primary", "both"), secondary=key in ("secondary", "both")
    )
    return json_value(_body(rolled))


async def _owned(request: web.Request) -> Parts:
    parts = request.app[PARTS]
    await parts.access.owner(request)
    return parts


def _body(policy: SharedAccessPolicy[Right], *, keys: bool = True) -> dict[str, Any]:
    body: dict[str, Any] = {"name": policy.name, "rights": sorted(policy.rights)}
    if keys:
        body["primaryKey"] = base64.b64encode(policy.keys.primary.reveal()).decode()
        body["secondaryKey"] = base64.b64encode(policy.keys.secondary.reveal()).decode()
    return body
