"""File upload: the notification handshake of device SDKs, and the place where the file goes (hub specification 7.3).

The device asks for a place, puts its file there as if it were a blob of Azure Storage (whole, or in blocks), and says
that it is done. The place is this hub. Rules: the address carries a secret of its own, good for one file and an hour,
since clients of blob storage send no other credential; whoever is disabled or deleted meanwhile may not go on; errors
below the container have the form of blob storage, since that is who reads them.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import msgspec
import structlog
from aiohttp import web

from edgetrust.errors import PeerError
from edgetrust.hub.rest.answers import json_value
from edgetrust.hub.rest.parts import PARTS, Parts
from edgetrust.hub.rest.reading import body_of
from edgetrust.limits import BLOB_NAME_CHARACTERS
from edgetrust.store.uploads import Upload
from edgetrust.telemetry import EVENT_UPLOADED
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Missing

routes = web.RouteTableDef()

CONTAINER = "device-files"
_CREATED = 201
_LISTED = re.compile(rb"<(?:Latest|Uncommitted|Committed)>\s*([A-Za-z0-9+/=]{1,128})\s*</")
_log = structlog.get_logger()


class _Wish(msgspec.Struct, frozen=True):
    blob_name: str = msgspec.field(name="blobName")


class _Notification(msgspec.Struct, frozen=True):
    correlation: str = msgspec.field(name="correlationId", default="")
    success: bool = msgspec.field(name="isSuccess", default=False)
    status: int = msgspec.field(name="statusCode", default=0)
    description: str | None = msgspec.field(name="statusDescription", default=None)


@routes.post("/devices/{device}/files")
async def begin_upload(request: web.Request) -> web.Response:
    """A place for one file: host, container, blob and a token for the address."""
    parts, device = request.app[PARTS], request.match_info["device"]
    await parts.access.identity(request, device)
    name = (await body_of(request, _Wish)).blob_name
    if not 0 < len(name) <= BLOB_NAME_CHARACTERS or not name.isprintable():
        detail = f"blobName has 1 to {BLOB_NAME_CHARACTERS} printable characters"
        raise PeerError(detail, reason="argument-invalid", status=400)
    upload, secret = await parts.uploads.begin(device, name, parts.clock.now())
    return json_value(
        {
            "correlationId": upload.correlation,
            "hostName": request.host,
            "containerName": CONTAINER,
            "blobName": f"{device}/{name}",
            "sasToken": f"?sv=2018-03-28&sr=b&sp=rw&si={upload.correlation}&sig={quote(secret.reveal(), safe='')}",
        }
    )


@routes.post("/devices/{device}/files/notifications")
@routes.post("/devices/{device}/files/notifications/{correlation}")
async def end_upload(request: web.Request) -> web.Response:
    """The device is done: the address is void, and what is not complete is dropped."""
    parts, device = request.app[PARTS], request.match_info["device"]
    await parts.access.identity(request, device)
    said = await body_of(request, _Notification)
    correlation = request.match_info.get("correlation") or said.correlation
    upload = await parts.uploads.end(correlation, device, parts.clock.now())
    await parts.files.forget(upload.correlation)
    file = parts.files.place(upload.device, upload.blob)
    _log.info(EVENT_UPLOADED, device=device, blob=upload.blob, success=said.success, stored=file.exists())
    return web.Response(status=204)


@routes.put(f"/{CONTAINER}/{{blob:.+}}")
async def put_blob(request: web.Request) -> web.Response:
    """The file, whole, one block of it, or the list of its blocks, as clients of blob storage send them."""
    parts = request.app[PARTS]
    upload = await _upload(parts, request)
    if upload is None:
        return _blob_error(403, "AuthenticationFailed", "the address is not, or no longer, good for an upload")
    try:
        await _put(parts, upload, request)
    except PeerError as problem:
        code = "RequestBodyTooLarge" if problem.reason == "upload-too-large" else "InvalidInput"
        return _blob_error(problem.status, code, problem.message)
    return web.Response(status=_CREATED, headers=_blob_headers())


async def _put(parts: Parts, upload: Upload, request: web.Request) -> None:
    kind, chunks = request.query.get("comp"), _while_welcome(parts, upload, request)
    if kind == "block":
        block = request.query.get("blockid", "")
        await parts.files.put_block(upload.correlation, block, chunks)
    elif kind == "blocklist":
        listed = [block.decode() for block in _LISTED.findall(await request.read())]
        await parts.files.put_together(upload.correlation, upload.device, upload.blob, listed)
    elif kind is None and request.headers.get("x-ms-blob-type", "BlockBlob") == "BlockBlob":
        await parts.files.put(upload.correlation, upload.device, upload.blob, chunks)
    else:
        raise PeerError("only block blobs can be put here", reason="argument-invalid", status=400)


async def _while_welcome(parts: Parts, upload: Upload, request: web.Request) -> AsyncIterator[bytes]:
    """The bytes of the request, as long as its device is still welcome. Raises PeerError 403."""
    decided_on = parts.identities.version
    async for chunk in request.content.iter_any():
        yield chunk
        if parts.identities.version != decided_on:
            decided_on = parts.identities.version
            if not await _is_welcome(parts, upload):
                raise PeerError("the device may not upload any more", reason="unauthorized", status=403)


async def _is_welcome(parts: Parts, upload: Upload) -> bool:
    found = await parts.registry.find(Identity(parts.settings.name, upload.device, None))
    return not isinstance(found, Missing) and found.enabled


async def _upload(parts: Parts, request: web.Request) -> Upload | None:
    """The upload that the address is for; None unless it is open, secret and all, and its device still welcome."""
    secret = request.query.get("sig", "")
    upload = await parts.uploads.find(request.query.get("si", ""), secret, parts.clock.now())
    if upload is None or request.match_info["blob"] != f"{upload.device}/{upload.blob}":
        return None
    return upload if await _is_welcome(parts, upload) else None


def _blob_headers() -> dict[str, str]:
    return {"x-ms-version": "2018-03-28", "x-ms-request-id": str(uuid.uuid4()), "ETag": f'"0x{uuid.uuid4().hex[:15]}"'}


def _blob_error(status: int, code: str, text: str) -> web.Response:
    headers: dict[str, Any] = {**_blob_headers(), "x-ms-error-code": code}
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{text}</Message></Error>'
    return web.Response(status=status, text=body, content_type="application/xml", headers=headers)
