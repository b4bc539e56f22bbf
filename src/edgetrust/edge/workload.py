"""The workload API: what a module may ask the runtime for, and only for itself.

Rules (edge specification 5.5, 5.7). The caller's process must be one of the module that the path names; the list of
modules and the trust bundle are open. Certificates come from the Edge CA: with a key made for the call and never kept,
for 30 days at most and never longer than the Edge CA, whatever the module asks. `sign` uses the module's key, which the
module never sees. What is encrypted belongs to a module and its generation: nobody else can have it decrypted.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from aiohttp import web
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgetrust.clock import Clock
from edgetrust.edge.api import ServiceError, Who, answer, bad_parameter, caller, check_identifier, read, service
from edgetrust.edge.containers import Container
from edgetrust.edge.files import MASTER_ENCRYPTION_KEY, TRUST_BUNDLE, server_certificate_id
from edgetrust.edge.keyd import decrypt, encrypt
from edgetrust.edge.keyuse import KeyUseError
from edgetrust.edge.moduleids import Module
from edgetrust.edge.pairs import Certificates
from edgetrust.edge.settings import Settings
from edgetrust.edge.signing import sign_by
from edgetrust.errors import Error
from edgetrust.pki.chain import Chain
from edgetrust.pki.csr import parse_csr, request_for
from edgetrust.pki.issue import Issuer
from edgetrust.pki.keys import KeyAlgorithm, KeyStore
from edgetrust.pki.names import COMMON_NAME_CHARACTERS
from edgetrust.pki.softkeys import SoftKey
from edgetrust.transport.unix import peer

VERSIONS = frozenset({"2018-06-28", "2019-01-30", "2019-10-22", "2019-11-05", "2020-07-07", "2021-12-07", "2022-08-03"})
_CREATED, _FORBIDDEN, _INTERNAL = 201, 403, 500
_KEY = KeyAlgorithm.RSA2048
_THROUGH: web.AppKey[Container | None] = web.AppKey("through")


class Identified(Protocol):
    """Who the modules are, and their signatures."""

    async def get(self, module_id: str) -> Module: ...

    def sign(self, module: Module, data: bytes) -> bytes: ...


class Processes(Protocol):
    """Which processes are modules."""

    def names(self) -> list[str]: ...

    def is_of(self, pid: int, module: str) -> bool: ...

    def describe(self, module: str) -> dict[str, Any]: ...


class _Server(msgspec.Struct, rename="camel"):
    common_name: str
    expiration: str = ""


class _Sign(msgspec.Struct, rename="camel"):
    data: str
    key_id: str = ""
    algo: str = ""


class _Encrypt(msgspec.Struct, rename="camel"):
    plaintext: str
    initialization_vector: str


class _Decrypt(msgspec.Struct, rename="camel"):
    ciphertext: str
    initialization_vector: str


class Workload:
    """The workload API of one gateway. `edge_ca` and `trust_bundle` give what is in use now."""

    def __init__(
        self,
        settings: Settings,
        keys: KeyStore,
        store: Certificates,
        identities: Identified,
        processes: Processes,
        edge_ca: Callable[[], Issuer],
        trust_bundle: Callable[[], str | None],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._store = store
        self._identities = identities
        self._processes = processes
        self._edge_ca = edge_ca
        self._trust_bundle_text = trust_bundle
        self._clock = clock

    def app(self, who: Who = peer, through: Container | None = None) -> web.Application:
        """The service's application; each socket has one of its own. `through` is whose socket it is alone."""
        routes = [
            web.get("/modules", self._list),
            web.get("/modules/", self._list),
            web.post("/modules/{module}/genid/{generation}/certificate/server", self._server),
            web.post("/modules/{module}/certificate/identity", self._identity),
            web.post("/modules/{module}/genid/{generation}/sign", self._sign),
            web.post("/modules/{module}/genid/{generation}/encrypt", self._encrypt),
            web.post("/modules/{module}/genid/{generation}/decrypt", self._decrypt),
            web.get("/trust-bundle", self._trust_bundle),
            web.get("/manifest-trust-bundle", self._manifest_trust_bundle),
        ]
        app = service(routes, VERSIONS, who=who)
        app[_THROUGH] = through
        return app

    def _own(self, request: web.Request) -> str:
        """The module of the path, which the caller must be."""
        module, asking, through = request.match_info["module"], caller(request), request.app[_THROUGH]
        if through is not None and (through.module, through.uid) == (module, asking.uid):
            return module
        if not self._processes.is_of(asking.pid, module.removeprefix("$")):
            raise ServiceError(_FORBIDDEN, "forbidden", reason="not-the-module")
        return module

    # Open to all ----------------------------------------------------------------------------------------------------

    async def _list(self, _request: web.Request) -> web.Response:
        return answer({"modules": [self._processes.describe(name) for name in self._processes.names()]})

    async def _trust_bundle(self, _request: web.Request) -> web.Response:
        text = await asyncio.to_thread(self._trust_bundle_text)
        if not text:
            raise ServiceError(404, f'certificate "{TRUST_BUNDLE}" not found', reason="trust-bundle-missing")
        return answer({"certificate": text})

    async def _manifest_trust_bundle(self, _request: web.Request) -> web.Response:
        return answer({"certificate": ""})

    # Certificates ---------------------------------------------------------------------------------------------------

    async def _server(self, request: web.Request) -> web.Response:
        module, body = self._own(request), await read(request, _Server)
        names = [_general(body.common_name), x509.DNSName(module.removeprefix("$"))]
        certificate_id = server_certificate_id(
            module, request.match_info["generation"], keep_dollar=self._settings.keep_dollar_in_certificate_ids
        )
        check_identifier("genId", certificate_id)
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        return await self._issued(certificate_id, _subject(body.common_name), names, usage)

    async def _identity(self, request: web.Request) -> web.Response:
        module, settings = self._own(request), self._settings
        uri = f"URI: azureiot://{settings.hub}/devices/{settings.device}/modules/{module}"
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate_id = f"aziot-edged/module/{module}:identity"
        return await self._issued(certificate_id, _subject(module), [x509.DNSName(uri)], usage)

    async def _issued(
        self, certificate_id: str, subject: x509.Name, names: list[x509.GeneralName], usage: x509.ExtendedKeyUsage
    ) -> web.Response:
        try:
            key, chain = await asyncio.to_thread(self._issue, certificate_id, subject, names, usage)
        except Error as problem:
            raise ServiceError(_INTERNAL, problem.message, reason=problem.reason) from problem
        return answer(
            {
                "privateKey": {"type": "key", "bytes": key.private_pem().reveal().decode()},
                "certificate": chain.pem(),
                "expiration": chain.end_entity.not_valid_after_utc.isoformat(),
            },
            _CREATED,
        )

    def _issue(
        self, certificate_id: str, subject: x509.Name, names: list[x509.GeneralName], usage: x509.ExtendedKeyUsage
    ) -> tuple[SoftKey, Chain]:
        key = SoftKey.generate(certificate_id, _KEY)
        asked = request_for(key, subject, ((x509.SubjectAlternativeName(names), False), (usage, False)))
        chain = sign_by(self._edge_ca(), parse_csr(asked), self._clock.now())
        self._store.save(certificate_id, chain)
        return key, chain

    # Keys -----------------------------------------------------------------------------------------------------------

    async def _sign(self, request: web.Request) -> web.Response:
        module, body = self._own(request), await read(request, _Sign)
        data = _decoded("data", body.data)
        try:
            known = await self._identities.get(module)
        except Error as problem:
            message = f"failed to get module identity for {module}\ncaused by: {problem.message}"
            raise ServiceError(_INTERNAL, message, reason=problem.reason) from problem
        return answer({"digest": _encoded(await asyncio.to_thread(self._identities.sign, known, data))})

    async def _encrypt(self, request: web.Request) -> web.Response:
        self._own(request)
        body = await read(request, _Encrypt)
        plaintext = _decoded("plaintext", body.plaintext)
        return answer({"ciphertext": _encoded(await self._aead(request, encrypt, body, plaintext))})

    async def _decrypt(self, request: web.Request) -> web.Response:
        self._own(request)
        body = await read(request, _Decrypt)
        ciphertext = _decoded("ciphertext", body.ciphertext)
        return answer({"plaintext": _encoded(await self._aead(request, decrypt, body, ciphertext))})

    async def _aead(
        self,
        request: web.Request,
        operation: Callable[[KeyStore, str, bytes, bytes, bytes], bytes],
        body: _Encrypt | _Decrypt,
        content: bytes,
    ) -> bytes:
        owner = f"{request.match_info['module']}{request.match_info['generation']}".encode()
        iv = _decoded("initializationVector", body.initialization_vector)
        try:
            return await asyncio.to_thread(operation, self._keys, MASTER_ENCRYPTION_KEY, iv, owner, content)
        except KeyUseError as problem:
            raise bad_parameter("body", problem.message) from problem


def _subject(common_name: str) -> x509.Name:
    if not 1 <= len(common_name.encode()) <= COMMON_NAME_CHARACTERS:
        raise ServiceError(
            _INTERNAL,
            f"failed to generate csr subject\ncaused by: a common name has 1 to {COMMON_NAME_CHARACTERS} bytes, "
            f"not {len(common_name.encode())}",
            reason="common-name-too-long",
        )
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general(common_name: str) -> x509.GeneralName:
    """An iPAddress for an address, else a dNSName."""
    try:
        return x509.IPAddress(ipaddress.ip_address(common_name))
    except ValueError:
        pass
    try:
        return x509.DNSName(common_name)
    except ValueError as problem:
        raise bad_parameter("commonName", str(problem)) from problem


def _decoded(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as problem:
        raise bad_parameter(name, "it is not base64") from problem


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
