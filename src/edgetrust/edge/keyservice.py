"""The key service's routes: keys are made and used here, and only handles, signatures and public parts go out.

Who may create, load, import and move a key is decided by the caller's uid; everything else needs the handle, which is
a capability (edge specification 2.1 to 2.3).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web

from edgetrust.edge import keyuse
from edgetrust.edge.api import (
    NO_CONTENT,
    ServiceError,
    Who,
    answer,
    bad_parameter,
    caller,
    check_identifier,
    read,
    service,
)
from edgetrust.edge.handles import VALIDATION_KEY, AnyKey, DerivedId, HandleError, Handles, KeyId, KeyPairId
from edgetrust.edge.keyd import ensure_secret
from edgetrust.edge.keyuse import KeyUseError
from edgetrust.edge.principals import Principals
from edgetrust.errors import IntegrityError
from edgetrust.pki.keys import KeyAlgorithm, KeyExistsError, KeyHandle, KeyStore, SecretBytes
from edgetrust.transport.unix import peer

VERSIONS = frozenset({"2020-09-01", "2021-05-01"})
_USAGES = frozenset({"derive", "sign", "encrypt"})
_ALGORITHMS = {
    "ec-p256": KeyAlgorithm.P256,
    "rsa-2048": KeyAlgorithm.RSA2048,
    "rsa-4096": KeyAlgorithm.RSA4096,
    "*": KeyAlgorithm.P256,
}


class _NewKey(msgspec.Struct, rename="camel"):
    key_id: str
    usage: str
    key_bytes: bytes | None = None


class _NewKeyPair(msgspec.Struct, rename="camel"):
    key_id: str
    preferred_algorithms: str | None = None


class _Handle(msgspec.Struct, rename="camel"):
    key_handle: str


class _Source(msgspec.Struct):
    source: str = msgspec.field(name="from")


class _Derive(msgspec.Struct, rename="camel"):
    base_key_handle: str
    derivation_data: bytes


class _Message(msgspec.Struct):
    message: bytes


class _Digest(msgspec.Struct):
    digest: bytes


class _Aead(msgspec.Struct):
    iv: bytes
    aad: bytes


class _SignHmac(msgspec.Struct, tag_field="algorithm", tag="HMAC-SHA256", rename="camel"):
    key_handle: str
    parameters: _Message


class _SignEcdsa(msgspec.Struct, tag_field="algorithm", tag="ECDSA", rename="camel"):
    key_handle: str
    parameters: _Digest


class _EncryptAead(msgspec.Struct, tag_field="algorithm", tag="AEAD", rename="camel"):
    key_handle: str
    parameters: _Aead
    plaintext: bytes


class _EncryptPkcs1(msgspec.Struct, tag_field="algorithm", tag="RSA-PKCS1", rename="camel"):
    key_handle: str
    plaintext: bytes


class _EncryptRaw(msgspec.Struct, tag_field="algorithm", tag="RSA-NO-PADDING", rename="camel"):
    key_handle: str
    plaintext: bytes


class _DecryptAead(msgspec.Struct, tag_field="algorithm", tag="AEAD", rename="camel"):
    key_handle: str
    parameters: _Aead
    ciphertext: bytes


_SIGN: Any = _SignHmac | _SignEcdsa
_ENCRYPT: Any = _EncryptAead | _EncryptPkcs1 | _EncryptRaw


class KeyService:
    """The keys of one gateway, for whoever may use them."""

    def __init__(self, keys: KeyStore, principals: Principals) -> None:
        self._keys = keys
        self._principals = principals
        self.handles = Handles(ensure_secret(keys, VALIDATION_KEY))

    def app(self, who: Who = peer, more: Iterable[web.RouteDef] = ()) -> web.Application:
        """The service's application, with `more` routes of the same rules."""
        routes = [
            web.post("/key", self._create_key),
            web.get("/key/{id}", self._load_key),
            web.delete("/key", self._delete_key),
            web.post("/keypair", self._create_pair),
            web.get("/keypair/{id}", self._load_pair),
            web.post("/keypair/{id}", self._move_pair),
            web.delete("/keypair", self._delete_pair),
            web.post("/parameters/{name}", self._parameter),
            web.post("/derivedkey", self._derive),
            web.post("/derivedkey/export", self._export),
            web.post("/sign", self._sign),
            web.post("/encrypt", self._encrypt),
            web.post("/decrypt", self._decrypt),
            *more,
        ]
        return service(routes, VERSIONS, who=who)

    # By identifier: the caller must be allowed to -------------------------------------------------------------------

    def _authorize(self, request: web.Request, key_id: str) -> str:
        uid = caller(request).uid
        check_identifier("keyId", key_id)
        if key_id == VALIDATION_KEY or not self._principals.may_use_key(uid, key_id):
            message = f"user {uid} is not authorized to access the key {key_id}"
            raise ServiceError(401, message, reason="key-not-authorized")
        return key_id

    async def _create_key(self, request: web.Request) -> web.Response:
        body = await read(request, _NewKey)
        _check_usage(body.usage)
        key_id = self._authorize(request, body.key_id)
        if body.key_bytes is not None:
            await self._refuse_a_pair(key_id)
            await self._by_id(self._keys.import_secret, key_id, SecretBytes(body.key_bytes))
        elif not await asyncio.to_thread(self._keys.exists, key_id):
            await self._made(self._keys.create_secret, key_id)
        await self._by_id(self._keys.load_secret, key_id)
        return self._handle(KeyId(key_id))

    async def _refuse_a_pair(self, key_id: str) -> None:
        """An import replaces a symmetric key. It must not be the end of a key pair, which is kept in the same place."""
        with contextlib.suppress(IntegrityError):  # there is none
            await asyncio.to_thread(self._keys.load, key_id)
            raise bad_parameter("keyId", "there is a key pair of this name")

    async def _load_key(self, request: web.Request) -> web.Response:
        key_id = self._authorize(request, request.match_info["id"])
        await self._by_id(self._keys.load_secret, key_id)
        return self._handle(KeyId(key_id))

    async def _create_pair(self, request: web.Request) -> web.Response:
        body = await read(request, _NewKeyPair)
        key_id = self._authorize(request, body.key_id)
        if not await asyncio.to_thread(self._keys.exists, key_id):
            await self._made(self._keys.create, key_id, _algorithm(body.preferred_algorithms))
        await self._by_id(self._keys.load, key_id)
        return self._handle(KeyPairId(key_id))

    async def _load_pair(self, request: web.Request) -> web.Response:
        key_id = self._authorize(request, request.match_info["id"])
        await self._by_id(self._keys.load, key_id)
        return self._handle(KeyPairId(key_id))

    async def _move_pair(self, request: web.Request) -> web.Response:
        body = await read(request, _Source)
        target = self._authorize(request, request.match_info["id"])
        source = self._authorize(request, body.source)
        if source == target:
            raise bad_parameter("from", "source and destination are the same key")
        await self._by_id(self._keys.load, source)
        await self._by_id(self._keys.move, source, target)
        return web.Response(status=NO_CONTENT)

    async def _made(self, make: Any, *arguments: Any) -> None:
        with contextlib.suppress(KeyExistsError):  # somebody made it in between, and it is as good
            await asyncio.to_thread(make, *arguments)

    async def _by_id(self, operation: Any, *arguments: Any) -> Any:
        try:
            return await asyncio.to_thread(operation, *arguments)
        except IntegrityError as problem:
            raise bad_parameter("keyId", problem.message) from problem

    def _handle(self, key: AnyKey) -> web.Response:
        return answer({"keyHandle": self.handles.make(key)})

    # By handle: it is the capability --------------------------------------------------------------------------------

    def _read(self, handle: str) -> AnyKey:
        try:
            return self.handles.read(handle)
        except HandleError as problem:
            raise bad_parameter("handle", problem.message) from problem

    async def _pair(self, handle: str) -> KeyHandle:
        key = self._read(handle)
        if not isinstance(key, KeyPairId):
            raise bad_parameter("handle", "it is not the handle of a key pair")
        pair: KeyHandle = await self._by_id(self._keys.load, key.key_id)
        return pair

    def key_pair(self, handle: str) -> KeyHandle:
        """The key pair of a handle, for the other services of this process. Raises HandleError, IntegrityError."""
        key = self.handles.read(handle)
        if not isinstance(key, KeyPairId):
            raise HandleError("it is not the handle of a key pair")
        return self._keys.load(key.key_id)

    async def secret(self, handle: str) -> SecretBytes:
        """The symmetric or derived key of a handle; it must not leave the services. Raises ServiceError."""
        match self._read(handle):
            case KeyId(key_id):
                held: SecretBytes = await self._by_id(self._keys.load_secret, key_id)
                return held
            case DerivedId(base, data):
                return keyuse.derive(await self.secret(base), data)
            case KeyPairId():
                raise bad_parameter("handle", "it is not the handle of a symmetric key")

    async def _delete_key(self, request: web.Request) -> web.Response:
        key = self._read((await read(request, _Handle)).key_handle)
        if not isinstance(key, KeyId):
            raise bad_parameter("handle", "it is not the handle of a symmetric key")
        await self._by_id(self._keys.delete, key.key_id)
        return web.Response(status=NO_CONTENT)

    async def _delete_pair(self, request: web.Request) -> web.Response:
        pair = await self._pair((await read(request, _Handle)).key_handle)
        await self._by_id(self._keys.delete, pair.key_id)
        return web.Response(status=NO_CONTENT)

    async def _parameter(self, request: web.Request) -> web.Response:
        name, body = request.match_info["name"], await read(request, _Handle)
        value = keyuse.parameter((await self._pair(body.key_handle)).public_key(), name)
        if value is None:
            raise bad_parameter("name", f"a key of this kind has no {name[:40]!r}")
        return answer({"value": value})

    async def _derive(self, request: web.Request) -> web.Response:
        body = await read(request, _Derive)
        match self._read(body.base_key_handle):
            case KeyId():
                return self._handle(DerivedId(body.base_key_handle, body.derivation_data))
            case DerivedId():
                raise bad_parameter(
                    "baseKeyHandle", "nested derived keys are not supported, import the outer derived key first"
                )
            case KeyPairId():
                raise bad_parameter("baseKeyHandle", "it is not the handle of a symmetric key")

    async def _export(self, request: web.Request) -> web.Response:
        handle = (await read(request, _Handle)).key_handle
        if not isinstance(self._read(handle), DerivedId):
            raise bad_parameter("handle", "only derived keys are given out")
        return answer({"key": _encoded((await self.secret(handle)).reveal())})

    async def _sign(self, request: web.Request) -> web.Response:
        body: _SignHmac | _SignEcdsa = await read(request, _SIGN)
        if isinstance(body, _SignHmac):
            signature = keyuse.mac(await self.secret(body.key_handle), body.parameters.message)
        else:
            pair = await self._pair(body.key_handle)
            signature = await _used(keyuse.sign_digest, pair, body.parameters.digest)
        return answer({"signature": _encoded(signature)})

    async def _encrypt(self, request: web.Request) -> web.Response:
        body: _EncryptAead | _EncryptPkcs1 | _EncryptRaw = await read(request, _ENCRYPT)
        if isinstance(body, _EncryptAead):
            key, given = await self.secret(body.key_handle), body.parameters
            made = await _used(keyuse.encrypt, key, given.iv, given.aad, body.plaintext)
        else:
            operation = keyuse.rsa_pkcs1 if isinstance(body, _EncryptPkcs1) else keyuse.rsa_raw
            made = await _used(operation, await self._pair(body.key_handle), body.plaintext)
        return answer({"ciphertext": _encoded(made)})

    async def _decrypt(self, request: web.Request) -> web.Response:
        body = await read(request, _DecryptAead)
        key, given = await self.secret(body.key_handle), body.parameters
        opened = await _used(keyuse.decrypt, key, given.iv, given.aad, body.ciphertext)
        return answer({"plaintext": _encoded(opened)})


async def _used(operation: Any, *arguments: Any) -> bytes:
    try:
        made: bytes = await asyncio.to_thread(operation, *arguments)
    except KeyUseError as problem:
        raise bad_parameter("parameters", problem.message) from problem
    return made


def _algorithm(preferred: str | None) -> KeyAlgorithm:
    """The first known one; unknown names are passed over (edge specification 2.4)."""
    names = (preferred or "*").split(":")
    found = next((_ALGORITHMS[name] for name in names if name in _ALGORITHMS), None)
    if found is None:
        raise bad_parameter("preferredAlgorithms", f"none of {preferred!r} is known")
    return found


def _check_usage(text: str) -> None:
    """A comma list of what a symmetric key is for; here each does everything."""
    unknown = sorted(set(text.split(",")) - _USAGES)
    if unknown:
        raise ServiceError(422, f"invalid usage {unknown[0][:40]!r}, expected of {', '.join(sorted(_USAGES))}")


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
