"""The device API over HTTPS: register, ask how it goes, look up (hub specification 13.2).

A certificate comes with TLS, a token in the Authorization header. A body must be JSON, if its type is said; clients
send one, empty, also when they only ask.
"""

from __future__ import annotations

from urllib.parse import quote

from aiohttp import web

from edgetrust.protocol.dps.bodies import parse_register
from edgetrust.protocol.dps.errors import MEDIA_TYPE, DpsError
from edgetrust.provisioning.registering import Answer, Claim
from edgetrust.provisioning.rest.parts import PARTS, json_answer
from edgetrust.transport.addresses import peer_address
from edgetrust.transport.http import peer_chain
from edgetrust.trust.credential import credential_from

routes = web.RouteTableDef()
_REGISTRATION = "/{scope}/registrations/{registration}"
_JSON = ("application/json", "application/octet-stream", "text/json")  # the second: no type was said


@routes.put(_REGISTRATION + "/register")
async def register(request: web.Request) -> web.Response:
    """Begin an assignment: 202, and where to ask for its end."""
    _json_only(request)
    body = parse_register(await request.read())
    return _answer(request, await request.app[PARTS].registering.register(_claim(request), body))


@routes.get(_REGISTRATION + "/operations/{operation}")
async def status(request: web.Request) -> web.Response:
    """202 while it is being assigned, then 200."""
    answer = await request.app[PARTS].registering.poll(_claim(request), request.match_info["operation"])
    return _answer(request, answer)


@routes.post(_REGISTRATION)
async def lookup(request: web.Request) -> web.Response:
    """The registration as it is now."""
    _json_only(request)
    parse_register(await request.read())
    return json_answer((await request.app[PARTS].registering.lookup(_claim(request))).body())


def _claim(request: web.Request) -> Claim:
    credential = credential_from(request.headers.get("Authorization"), peer_chain(request))
    peer = peer_address(request.get_extra_info("peername"))
    return Claim(request.match_info["scope"], request.match_info["registration"], credential, peer, "dps-https")


def _json_only(request: web.Request) -> None:
    if request.content_type not in _JSON:
        raise DpsError(
            MEDIA_TYPE, f"a body of type {request.content_type[:60]!r}: send application/json", reason="media-type"
        )


def _answer(request: web.Request, answer: Answer) -> web.Response:
    headers = {}
    if answer.retry_after is not None:
        headers["Retry-After"] = str(answer.retry_after)
        path = f"/{request.match_info['scope']}/registrations/{quote(request.match_info['registration'], safe='')}"
        version = quote(request.query["api-version"], safe="")
        url = f"https://{request.host}{path}/operations/{answer.operation_id}?api-version={version}"
        headers["Location"] = url
    return json_answer(answer.body, status=answer.status, headers=headers)
