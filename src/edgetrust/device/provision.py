"""A device that registers with a provisioning service over HTTPS, as the edge runtime's client does (hub specification
13.2; edge specification 4.4).

    register     202 and an operation
    ask          every few seconds, until it is assigned or failed

Rules: the service is verified, always; a token is made for half a minute and used to the end; what the service refuses
becomes a RefusedError with its number and words, what keeps it from answering an UnavailableError. Nothing is stored
here: a caller that renews its certificate registers it first, and stores it when that has succeeded.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from edgetrust.clock import Clock
from edgetrust.errors import RefusedError, UnavailableError
from edgetrust.limits import DEVICE_REGISTER_SECONDS, DEVICE_REGISTER_TOKEN_SECONDS
from edgetrust.pki.chain import Chain, ChainError, TrustBundle
from edgetrust.pki.keys import ClientKey, SecretBytes
from edgetrust.protocol.dps.errors import error_values
from edgetrust.protocol.sas import SasToken, format_token, sign, string_to_sign
from edgetrust.transport.http import https_session

API_VERSION = "2021-06-01"
CSR_API_VERSION = "2025-07-01-preview"
_ACCEPTED, _OK, _TOO_MANY, _SERVER_FAULT, _UNAUTHORIZED = 202, 200, 429, 500, 401
_ASK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class DpsAddress:
    """Where to register. `url` is https://host[:port]; `bundle` verifies it, None means the machine's store.
    `instead` is dialled in its place.
    """

    url: str
    id_scope: str
    bundle: TrustBundle | None = None
    instead: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class ByKey:
    """The device's own key; of a group it is derived beforehand."""

    key: SecretBytes


@dataclass(frozen=True, slots=True)
class ByMac:
    """The device's own key where it is: `mac` has something signed with it by HMAC-SHA256, and takes its time."""

    mac: Callable[[bytes], bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ByCertificate:
    """The device's certificate, with the intermediates above it, and its key."""

    chain: Chain
    key: ClientKey = field(repr=False)


class Chip(Protocol):
    """A TPM, as far as it is used here; see `device.tpm`. Its methods take their time."""

    def keys(self) -> tuple[bytes, bytes]: ...

    def sign_once(self, wrapped: bytes, text: bytes) -> bytes: ...

    def keep(self, wrapped: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class ByTpm:
    """The device's TPM, which afterwards holds the key for its hub."""

    tpm: Chip


Credential = ByKey | ByMac | ByCertificate | ByTpm


@dataclass(frozen=True, slots=True)
class ProvisionedAs:
    """Where the device belongs from now on. `issued` is the chain that a CSR was answered with."""

    hub: str
    device: str
    substatus: str | None = None
    payload: Any = None
    issued: Chain | None = None


async def register(
    service: DpsAddress,
    registration_id: str,
    credential: Credential,
    clock: Clock,
    *,
    payload: Any = None,
    csr: bytes | None = None,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> ProvisionedAs:
    """Register and wait for the end. `csr` is DER. Raises RefusedError, UnavailableError."""
    shown = {"chain": credential.chain, "key": credential.key} if isinstance(credential, ByCertificate) else {}
    body: dict[str, Any] = {"registrationId": registration_id}
    if payload is not None:
        body["payload"] = payload
    if csr is not None:
        body["csr"] = base64.b64encode(csr).decode()
    if isinstance(credential, ByTpm):
        keys = await asyncio.to_thread(credential.tpm.keys)
        names = ("endorsementKey", "storageRootKey")
        body["tpm"] = {name: base64.b64encode(key).decode() for name, key in zip(names, keys, strict=True)}
    async with https_session(service.bundle, instead=service.instead, **shown) as session:  # type: ignore[arg-type]  # both or none
        line = _Line(session, service, registration_id, {}, CSR_API_VERSION if csr is not None else API_VERSION)
        await line.authorize(credential, clock, body)
        operation = await line.ask("PUT", "register", body)
        deadline = clock.monotonic() + DEVICE_REGISTER_SECONDS
        while True:
            answer = await line.ask("GET", f"operations/{quote(str(operation.get('operationId', '')), safe='')}")
            if answer.get("status") != "assigning":
                outcome = _outcome(answer)
                if isinstance(credential, ByTpm):
                    await asyncio.to_thread(credential.tpm.keep, _wrapped(answer["registrationState"].get("tpm")))
                return outcome
            if clock.monotonic() > deadline:
                raise UnavailableError(
                    f"not assigned within {DEVICE_REGISTER_SECONDS:g} seconds",
                    reason="registration-slow",
                    fix="look at the provisioning service's log: a hub may be away",
                )
            await pause(_ASK_AGAIN_SECONDS)


@dataclass(frozen=True, slots=True)
class _Line:
    """Requests about one registration."""

    session: aiohttp.ClientSession
    service: DpsAddress
    registration_id: str
    headers: dict[str, str]
    version: str

    async def authorize(self, credential: Credential, clock: Clock, body: object) -> None:
        """Have the header that proves who asks; none with a certificate."""
        if isinstance(credential, ByCertificate):
            return
        resource = quote(f"{self.service.id_scope}/registrations/{self.registration_id}", safe="")
        expires_at = clock.milliseconds() // 1000 + DEVICE_REGISTER_TOKEN_SECONDS
        if isinstance(credential, ByKey):
            token = sign(credential.key.reveal(), resource, expires_at, "registration")
        elif isinstance(credential, ByMac):
            signature = await asyncio.to_thread(credential.mac, string_to_sign(resource, expires_at))
            token = format_token(SasToken(resource, signature, expires_at, "registration"))
        else:
            status, content = await self._call("PUT", "register", body)
            if status != _UNAUTHORIZED:
                _read(status, content)
                raise UnavailableError("the service sends the TPM no challenge", reason="answer-malformed")
            try:
                challenge = _wrapped(msgspec.json.decode(content))
            except (UnavailableError, msgspec.DecodeError):
                _read(status, content)  # it is refused, and says why
                raise
            expires_at = clock.milliseconds() // 1000 + DEVICE_REGISTER_TOKEN_SECONDS
            text = string_to_sign(resource, expires_at)
            signature = await asyncio.to_thread(credential.tpm.sign_once, challenge, text)
            token = format_token(SasToken(resource, signature, expires_at, "registration"))
        self.headers["Authorization"] = token

    async def ask(self, method: str, what: str, body: object = None) -> dict[str, Any]:
        return _read(*await self._call(method, what, body))

    async def _call(self, method: str, what: str, body: object) -> tuple[int, bytes]:
        base = f"{self.service.url.rstrip('/')}/{quote(self.service.id_scope, safe='')}"
        url = f"{base}/registrations/{quote(self.registration_id, safe='')}/{what}?api-version={self.version}"
        try:
            async with self.session.request(method, URL(url, encoded=True), json=body, headers=self.headers) as answer:
                return answer.status, await answer.read()
        except aiohttp.ClientConnectorCertificateError as problem:
            raise RefusedError(
                f"{self.service.url} is not trusted: {problem.certificate_error}",
                reason="server-untrusted",
                fix=_not_passed_on(self.service.instead)
                or "trust the CA that issued its certificate, and use a name that stands in it",
            ) from problem
        except (aiohttp.ClientError, TimeoutError) as problem:
            raise UnavailableError(
                f"{self.service.url} does not answer: {str(problem) or type(problem).__name__}",
                reason="provisioning-unavailable",
            ) from problem


def _not_passed_on(instead: tuple[str, int] | None) -> str:
    if instead is None:
        return ""
    return f"let {instead[0]} pass this name on ([edgetrust.forward] there); else trust the CA of the service"


def _wrapped(holder: Any) -> bytes:
    """The key for a TPM in an answer."""
    try:
        return base64.b64decode(holder["authenticationKey"], validate=True)
    except (KeyError, TypeError, ValueError) as problem:
        raise UnavailableError("the answer has no key for a TPM", reason="answer-malformed") from problem


def _read(status: int, content: bytes) -> dict[str, Any]:
    if status in (_OK, _ACCEPTED):
        try:
            values = msgspec.json.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            values = None
        if isinstance(values, dict):
            return values
        raise UnavailableError("the answer is no JSON: that is no provisioning service", reason="answer-malformed")
    said = error_values(content)
    text = f"{said.get('errorCode', status)} {said.get('message', '')}".strip()
    if status == _TOO_MANY or status >= _SERVER_FAULT:
        raise UnavailableError(f"the service cannot do that now: {text}", reason="provisioning-unavailable")
    raise RefusedError(
        f"the provisioning service refused: {text}",
        reason="registration-refused",
        fix="the service's operator sees why: edgetrust refusals",
    )


def _outcome(answer: dict[str, Any]) -> ProvisionedAs:
    state = answer.get("registrationState") or {}
    if answer.get("status") != "assigned":
        text = f"{state.get('errorCode', '')} {state.get('errorMessage', '')}".strip()
        raise RefusedError(
            f"the registration ended as {answer.get('status')}{': ' if text else ''}{text}",
            reason="registration-failed",
            fix="the service's operator sees why: edgetrust enrollment registration ID",
        )
    issued = state.get("issuedCertificateChain")
    try:
        chain = None if not issued else Chain.from_der(base64.b64decode(one) for one in issued)
    except (ChainError, ValueError) as problem:
        raise UnavailableError(f"the issued chain cannot be read: {problem}", reason="answer-malformed") from problem
    hub, device = str(state.get("assignedHub", "")), str(state.get("deviceId", ""))
    return ProvisionedAs(hub, device, state.get("substatus"), state.get("payload"), chain)
