"""The key service's routes for a TPM that attests: it proves itself and signs, for who acts as the device.

    GET  /tpm/keys                          {"endorsement_key", "storage_root_key"}
    PUT  /tpm/key     {"key"}               keep a key that was wrapped for this TPM
    POST /tpm/sign    {"data", "key"?}      {"digest"}; with `key`, by that key, which is kept nowhere

Rules. Values are base64, under the names of the real TPM service (edge specification 4.10), whose routes could not sign
with a key without giving up the one before. Whoever may use the key `device-tpm` may ask, and is told what the TPM's
trouble is.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import msgspec
from aiohttp import web

from edgetrust.edge.api import NO_CONTENT, ServiceError, answer, bad_parameter, caller, read
from edgetrust.edge.files import TPM_KEY
from edgetrust.edge.principals import Principals
from edgetrust.edge.tpmclient import SigningChip
from edgetrust.errors import ConfigError, RefusedError, UnavailableError


class _Key(msgspec.Struct):
    key: bytes


class _Data(msgspec.Struct):
    data: bytes
    key: bytes | None = None


class TpmRoutes:
    """One TPM, for whoever may use it."""

    def __init__(self, chip: SigningChip, principals: Principals) -> None:
        self._chip = chip
        self._principals = principals

    def routes(self) -> list[web.RouteDef]:
        """What the key service serves besides."""
        return [
            web.get("/tpm/keys", self._keys),
            web.put("/tpm/key", self._keep),
            web.post("/tpm/sign", self._sign),
        ]

    def _authorize(self, request: web.Request) -> None:
        uid = caller(request).uid
        if not self._principals.may_use_key(uid, TPM_KEY):
            message = f"user {uid} is not authorized to access the key {TPM_KEY}"
            raise ServiceError(401, message, reason="key-not-authorized")

    async def _keys(self, request: web.Request) -> web.Response:
        self._authorize(request)
        endorsement, storage = await _used(self._chip.keys)
        return answer({"endorsement_key": _encoded(endorsement), "storage_root_key": _encoded(storage)})

    async def _keep(self, request: web.Request) -> web.Response:
        self._authorize(request)
        await _used(self._chip.keep, (await read(request, _Key)).key)
        return web.Response(status=NO_CONTENT)

    async def _sign(self, request: web.Request) -> web.Response:
        self._authorize(request)
        body = await read(request, _Data)
        if body.key is None:
            return answer({"digest": _encoded(await _used(self._chip.sign, body.data))})
        return answer({"digest": _encoded(await _used(self._chip.sign_once, body.key, body.data))})


async def _used(operation: Any, *arguments: bytes) -> Any:
    try:
        return await asyncio.to_thread(operation, *arguments)
    except RefusedError as problem:
        raise bad_parameter("key", problem.message) from problem
    except (UnavailableError, ConfigError) as problem:
        raise ServiceError(500, problem.message, reason=problem.reason) from problem


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
