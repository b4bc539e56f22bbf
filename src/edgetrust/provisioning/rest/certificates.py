"""The service's CA certificates and proof of possession, in the shape of the cloud's management plane (hub
specification 11).
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from aiohttp import web

from edgetrust.pki.chain import Chain
from edgetrust.protocol.ca_certificates import OF_DPS, Proof, Upload, body
from edgetrust.protocol.dps.enrollments import bad
from edgetrust.provisioning.rest.parts import PARTS, Parts, json_answer
from edgetrust.store.certificates import CaRecord
from edgetrust.trust.enrollment import read_certificate
from edgetrust.trust.policies import DpsRight

routes = web.RouteTableDef()
_ALL = "/provisioningServices/{service}/certificates"
_ONE = _ALL + "/{name}"
T = TypeVar("T")


@routes.get(_ALL)
async def list_certificates(request: web.Request) -> web.Response:
    """All of them."""
    parts = _parts(request)
    return json_answer({"value": [_body(record) for record in await parts.certificates.certificates()]})


@routes.get(_ONE)
async def get_certificate(request: web.Request) -> web.Response:
    """One of them."""
    return _answer(await _parts(request).certificates.certificate(request.match_info["name"]))


@routes.put(_ONE)
async def put_certificate(request: web.Request) -> web.Response:
    """Add, or replace with If-Match."""
    parts = _parts(request)
    upload = (await _read(request, Upload)).properties
    match, name = request.headers.get("If-Match"), request.match_info["name"]
    certificate = read_certificate(upload.certificate)
    record = await parts.certificates.put(name, certificate, verified=upload.is_verified, if_match=match)
    return _answer(record, status=201 if match is None else 200)


@routes.delete(_ONE)
async def delete_certificate(request: web.Request) -> web.Response:
    """Take it away, if no group names it."""
    parts = _parts(request)
    await parts.certificates.delete(request.match_info["name"], request.headers.get("If-Match"))
    return web.Response(status=204)


@routes.post(_ONE + "/generateVerificationCode")
async def generate_code(request: web.Request) -> web.Response:
    """A new code; the one before is void."""
    parts = _parts(request)
    record = await parts.certificates.generate_code(request.match_info["name"], request.headers.get("If-Match"))
    return _answer(record, code=True)


@routes.post(_ONE + "/verify")
async def verify(request: web.Request) -> web.Response:
    """Proof of possession: a certificate that the CA has issued for the code."""
    parts = _parts(request)
    proof = read_certificate((await _read(request, Proof)).certificate)
    match, name = request.headers.get("If-Match"), request.match_info["name"]
    return _answer(await parts.certificates.verify(name, proof, match))


def _parts(request: web.Request) -> Parts:
    parts = request.app[PARTS]
    parts.allow(request, DpsRight.SERVICE_CONFIG)
    return parts


async def _read(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise bad(f"the body cannot be read: {problem}", "body-malformed") from problem


def _answer(record: CaRecord, *, code: bool = False, status: int = 200) -> web.Response:
    return json_answer(_body(record, code=code), status=status, headers={"ETag": f'"{record.etag}"'})


def _body(record: CaRecord, *, code: bool = False) -> dict[str, Any]:
    return body(record, Chain((record.certificate,)).pem(), kind=OF_DPS, code=code)
