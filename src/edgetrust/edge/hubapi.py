"""HTTPS to the hub: one face as the device, one as its module `$edgeHub`.

Rules. The hub is always verified: its chain by the configured bundle, or else the machine's trust store, and its name
by the name that is configured, whatever address is dialled. A hub that cannot be reached, answers 5xx or 429, is
UnavailableError; a hub that is not who it should be is HubNotTrustedError and says why; every other answer is the
caller's to read. Sources: edge specification 4.6, hub specification 8, 9.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from edgetrust.clock import Clock
from edgetrust.edge.files import Stamp, stamp_of
from edgetrust.edge.pairs import read_chain
from edgetrust.edge.reaching import UpstreamAddress
from edgetrust.edge.settings import Settings
from edgetrust.errors import ConfigError, IntegrityError, UnavailableError
from edgetrust.limits import HUB_REQUEST_SECONDS, TRUST_REREAD_SECONDS
from edgetrust.pki.chain import Chain, TrustBundle, load_system_bundle
from edgetrust.pki.keys import ClientKey
from edgetrust.transport.http import Instead, present

SCOPE_API = "2020-06-30-preview"
MODULE_API = "2017-11-08-preview"

UNAUTHORIZED = (401, 403)
_SERVER_ERROR = 500
_TOO_MANY_REQUESTS = 429


class HubNotTrustedError(UnavailableError):
    """Whoever answers at the hub's address did not prove to be the hub. Nothing was sent to it; exit code 1."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and what came with it."""

    status: int
    content: bytes

    @property
    def body(self) -> Any:
        """The JSON in it, None when it is none."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None

    @property
    def problem(self) -> str:
        """What the hub says is wrong, for a person."""
        body = self.body
        text = body.get("Message") or body.get("errorMessage") if isinstance(body, dict) else None
        return f"{self.status} {str(text)[:300]}" if text else f"HTTP {self.status}"


class HubTrust:
    """The trust anchors that the hub is verified by. Replacing them needs no restart: a file is read again when it has
    changed, the machine's trust store every minute.
    """

    def __init__(self, address: UpstreamAddress, clock: Clock) -> None:
        self._address = address
        self._clock = clock
        self._bundle: TrustBundle | None = None
        self._read_at = 0.0
        self._stamp: Stamp | None = None

    def bundle(self) -> TrustBundle:
        """The anchors now. Raises ConfigError when they cannot be read."""
        now, file = self._clock.monotonic(), self._address.ca
        stamp = None if file is None else stamp_of(file)
        outdated = now - self._read_at > TRUST_REREAD_SECONDS if file is None else stamp != self._stamp
        if self._bundle is None or outdated:
            self._bundle, self._read_at, self._stamp = self._read(), now, stamp
        return self._bundle

    def _read(self) -> TrustBundle:
        now = self._clock.now()
        if self._address.ca is None:
            return load_system_bundle(now)
        return TrustBundle(read_chain(self._address.ca).certificates, as_of=now)

    def source(self) -> str:
        """Where the anchors come from, for a person."""
        return str(self._address.ca) if self._address.ca is not None else "the trust store of this machine"


Client = Callable[[], tuple[Chain, ClientKey]]
"""The certificate to show to the hub, and its key; asked whenever the certificate may be another one."""


class HubApi:
    """Calls to one hub as one identity. `authorization` gives the header's value, None when the certificate says it
    all. `refused` is asked when the hub does not take the identity: whether to call once more.
    """

    def __init__(
        self,
        settings: Settings,
        trust: HubTrust,
        *,
        authorization: Callable[[], str | None],
        client: Client | None = None,
        refused: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._refused = refused
        self._hub = settings.upstream.name
        self._port = settings.upstream.https_port
        self._trust = trust
        self._authorization = authorization
        self._client = client
        self._tls: tuple[str, ssl.SSLContext] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._dial = settings.upstream.host

    async def close(self) -> None:
        """Close what is open; a later call opens anew."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def forget_certificate(self) -> None:
        """Read the client certificate again at the next call, on a new connection."""
        self._tls = None

    async def call(
        self,
        method: str,
        path: str,
        *,
        api_version: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        if_match: str | None = None,
        timeout_seconds: float = HUB_REQUEST_SECONDS,
    ) -> Answer:
        """One request. `path` is made with `hub_path`. Raises UnavailableError, HubNotTrustedError, ConfigError."""
        wanted = (method, path, api_version, query, body, if_match, timeout_seconds)
        answer = await self._once(*wanted)
        if answer.status in UNAUTHORIZED and self._refused is not None and await self._refused():
            answer = await self._once(*wanted)
        return answer

    async def _once(
        self,
        method: str,
        path: str,
        api_version: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        if_match: str | None,
        timeout_seconds: float,
    ) -> Answer:
        url = f"https://{self._hub}:{self._port}{path}?{urlencode({**(query or {}), 'api-version': api_version})}"
        headers = {"Accept": "application/json"}
        if (authorization := await asyncio.to_thread(self._authorization)) is not None:  # a TPM takes its time
            headers["Authorization"] = authorization
        if if_match is not None:
            headers["If-Match"] = if_match
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json; charset=utf-8"
        context = await asyncio.to_thread(self._context)
        try:
            async with (
                asyncio.timeout(timeout_seconds),
                self._opened().request(
                    method, URL(url, encoded=True), headers=headers, data=data, ssl=context
                ) as response,
            ):
                return await _read(response)
        except aiohttp.ClientConnectorCertificateError as problem:
            raise self._not_trusted(problem.certificate_error) from problem
        except (aiohttp.ClientError, OSError, TimeoutError) as problem:
            what = "does not answer in time" if isinstance(problem, TimeoutError) else f"cannot be reached: {problem}"
            raise UnavailableError(f"the hub {self._hub} {what}", reason="hub-unreachable") from problem

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            connector = aiohttp.TCPConnector(resolver=Instead(self._dial), ttl_dns_cache=None, limit=16)
            self._session = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session

    def _context(self) -> ssl.SSLContext:
        bundle = self._trust.bundle()
        if self._tls is not None and self._tls[0] == bundle.version:
            return self._tls[1]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        context.hostname_checks_common_name = False
        if bundle.anchors:
            context.load_verify_locations(cadata=bundle.pem())
        if self._client is not None:
            try:
                present(context, *self._client())
            except (ssl.SSLError, OSError, IntegrityError) as problem:
                raise ConfigError(
                    f"the device identity cannot be used: {problem}", reason="device-identity-unusable"
                ) from problem
        self._tls = (bundle.version, context)
        return context

    def _not_trusted(self, problem: BaseException) -> HubNotTrustedError:
        why = getattr(problem, "verify_message", "") or str(problem)
        return HubNotTrustedError(
            f"the hub {self._hub} is not trusted: {why} (verified by {self._trust.source()})",
            reason="hub-not-trusted",
            fix="name the PEM file with the hub's root in [edgetrust.upstream] ca, or set SSL_CERT_FILE; "
            "if the name is wrong, correct iothub_hostname",
        )


def hub_path(*segments: str) -> str:
    """A path of percent-encoded segments."""
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)


async def _read(response: aiohttp.ClientResponse) -> Answer:
    content = await response.read()
    if response.status >= _SERVER_ERROR or response.status == _TOO_MANY_REQUESTS:
        raise UnavailableError(f"the hub answers HTTP {response.status}", reason="hub-unavailable")
    return Answer(response.status, content)
