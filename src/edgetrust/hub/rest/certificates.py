"""CA certificates and proof of possession, in the shape of the cloud's management plane (hub specification 11)."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from aiohttp import web
from cryptography import x509

from edgetrust.errors import PeerError
from edgetrust.hub.rest.answers import json_value
from edgetrust.hub.rest.parts import PARTS, Parts
from edgetrust.hub.rest.reading import body_of
from edgetrust.pki.chain import Chain, ChainError
from edgetrust.protocol.ca_certificates import OF_HUB, Proof, Upload, body
from edgetrust.store.certificates import CaRecord
from edgetrust.trust.policies import Right

routes = web.RouteTableDef()


@routes.get("/certificates")
async def list_certificates(request: web.Request) -> web.Response:
    """All registered CA certificates."""
    parts = await _parts(request, Right.REGISTRY_READ)
    return json_value({"value": [_body(record) for record in await parts.certificates.certificates()]})


@routes.get("/certificates/{name}")
async def get_certificate(request: web.Request) -> web.Response:
    """One of them."""
    parts = await _parts(request, Right.REGISTRY_READ)
    return _answer(await parts.certificates.certificate(request.match_info["name"]))


@routes.put("/certificates/{name}")
async def put_certificate(request: web.Request) -> web.Response:
    """Register, or replace with If-Match."""
    parts = await _parts(request, Right.REGISTRY_WRITE)
    upload = (await body_of(request, Upload)).properties
    match, name = request.headers.get("If-Match"), request.match_info["name"]
    certificate = _certificate(upload.certificate)
    record = await parts.certificates.put(name, certificate, verified=upload.is_verified, if_match=match)
    return _answer(record, status=201 if match is None else 200)


@routes.delete("/certificates/{name}")
async def delete_certificate(request: web.Request) -> web.Response:
    """Retire a CA: what rests on it is decided again at once."""
    parts = await _parts(request, Right.REGISTRY_WRITE)
    await parts.certificates.delete(request.match_info["name"], request.headers.get("If-Match"))
    return web.Response(status=204)


@routes.post("/certificates/{name}/generateVerificationCode")
async def generate_code(request: web.Request) -> web.Response:
    """A new code; the one before is void."""
    parts = await _parts(request, Right.REGISTRY_WRITE)
    record = await parts.certificates.generate_code(request.match_info["name"], request.headers.get("If-Match"))
    return _answer(record, code=True)


@routes.post("/certificates/{name}/verify")
async def verify(request: web.Request) -> web.Response:
    """Proof of possession: a certificate that the CA has issued for the code."""
    parts = await _parts(request, Right.REGISTRY_WRITE)
    proof = _certificate((await body_of(request, Proof)).certificate)
    match, name = request.headers.get("If-Match"), request.match_info["name"]
    return _answer(await parts.certificates.verify(name, proof, match))


async def _parts(request: web.Request, right: Right) -> Parts:
    parts = request.app[PARTS]
    await parts.access.service(request, right)
    return parts


def _answer(record: CaRecord, *, code: bool = False, status: int = 200) -> web.Response:
    return json_value(_body(record, code=code), etag=record.etag, status=status)


def _body(record: CaRecord, *, code: bool = False) -> dict[str, Any]:
    return body(record, Chain((record.certificate,)).pem(), kind=OF_HUB, code=code)


def _certificate(text: str) -> x509.Certificate:
    """PEM text, base64 of PEM, or base64 of DER: what people put there."""
    data = text.encode()
    if not text.lstrip().startswith("-----BEGIN"):
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as problem:
            raise _unreadable() from problem
    try:
        return (Chain.from_pem(data) if b"-----BEGIN" in data else Chain.from_der((data,))).end_entity
    except ChainError as problem:
        raise _unreadable() from problem


def _unreadable() -> PeerError:
    return PeerError("certificate holds neither PEM nor base64 of a certificate", reason="body-malformed", status=400)
