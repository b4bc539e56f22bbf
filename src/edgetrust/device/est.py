"""The client's side of EST: a request for a certificate goes out, a chain comes back.

Rules. Two requests go out together, `simpleenroll` (or `simplereenroll`) and `cacerts`, and both must succeed. The
server is always verified, its name too; plain HTTP is refused, since a forged answer would replace what we trust.
Exactly one certificate is taken: the one that certifies the requested key. Behind it stand the server's CA
certificates, each issuer after what it issued, the rest in the server's order. A server that says no is
EstRefusedError, one that is away or wants us to wait is UnavailableError, one that answers nonsense EstAnswerError.
Nothing is tried again here.

Sources: RFC 7030 4.1 to 4.2, RFC 8951, edge specification 3.4. It must not know files, renewal or what the
certificate is for.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import textwrap
import warnings
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs7
from multidict import CIMultiDict

from edgetrust import limits
from edgetrust.errors import ConfigError, PeerError, RefusedError, UnavailableError
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.keys import ClientKey, SecretText
from edgetrust.transport.http import https_session

_OK, _ACCEPTED, _TOO_MANY, _SERVER_ERROR = 200, 202, 429, 500
_REFUSALS = (401, 403)
_CSR_TYPE, _CERTIFICATES_TYPE = "application/pkcs10", "application/pkcs7-mime"
_RETRY_SECONDS = 60.0  # when a server does not say how long to wait


class EstRefusedError(RefusedError):
    """The server does not issue this certificate to us."""


class EstAnswerError(PeerError):
    """The server's answer is not what EST allows, or not for our key."""


@dataclass(frozen=True, slots=True)
class EstServer:
    """Where certificates come from. `url` ends before the operation; `bundle` None trusts the machine's store.

    `user` and `password` are for HTTP Basic, beside or instead of a certificate. `instead` is dialled in its place.
    """

    url: str
    bundle: TrustBundle | None = None
    user: str | None = None
    password: SecretText | None = None
    instead: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname:
            raise ConfigError(
                f"{self.url!r} is no address of an EST server",
                reason="est-url",
                fix="like https://est.example:8085/.well-known/est",
            )

    def operation(self, name: str) -> str:
        """The URL of an operation."""
        return f"{self.url.removesuffix('/')}/{name}"


@dataclass(frozen=True, slots=True)
class Shown:
    """The certificate that authenticates a request, with its intermediates, and its key."""

    chain: Chain
    key: ClientKey


async def enroll(server: EstServer, csr: bytes, shown: Shown | None, *, renewing: bool = False) -> Chain:
    """The certificate for `csr` (PEM) and the chain above it.

    `renewing` asks as the holder of the certificate that is `shown` (RFC 7030, 4.2.2). Raises EstRefusedError,
    EstAnswerError, UnavailableError, ConfigError.
    """
    request = x509.load_pem_x509_csr(csr)
    body = "\n".join(textwrap.wrap(base64.b64encode(request.public_bytes(Encoding.DER)).decode(), 64)) + "\n"
    headers = {"Content-Type": _CSR_TYPE, "Content-Transfer-Encoding": "base64"}
    async with _session(server, shown) as session:
        operation = "simplereenroll" if renewing else "simpleenroll"
        asking = asyncio.create_task(_call(session, server, "POST", operation, body.encode(), headers))
        listing = asyncio.create_task(_call(session, server, "GET", "cacerts"))
        try:
            issued, authorities = await asyncio.gather(asking, listing)
        finally:  # the first failure ends the other call too
            for task in (asking, listing):
                task.cancel()
            await asyncio.gather(asking, listing, return_exceptions=True)
    leaf = _ours(issued, request)
    return Chain((leaf, *_in_order(leaf, authorities)))


async def ca_certificates(server: EstServer, shown: Shown | None = None) -> tuple[x509.Certificate, ...]:
    """The server's CA certificates, in its order. Raises as `enroll`."""
    async with _session(server, shown) as session:
        return await _call(session, server, "GET", "cacerts")


def _session(server: EstServer, shown: Shown | None) -> aiohttp.ClientSession:
    if shown is None:
        return https_session(server.bundle, instead=server.instead, timeout=limits.EST_SECONDS)
    chain, key = shown.chain, shown.key
    return https_session(server.bundle, chain=chain, key=key, instead=server.instead, timeout=limits.EST_SECONDS)


async def _call(
    session: aiohttp.ClientSession,
    server: EstServer,
    method: str,
    operation: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[x509.Certificate, ...]:
    sent: CIMultiDict[str] = CIMultiDict(headers or {})
    if server.user is not None:
        secret = "" if server.password is None else server.password.reveal()
        sent["Authorization"] = f"Basic {base64.b64encode(f'{server.user}:{secret}'.encode()).decode()}"
    url = server.operation(operation)
    try:
        async with session.request(method, url, data=body, headers=sent, allow_redirects=False) as response:
            content = await _bounded(response, url)
    except aiohttp.ClientConnectorCertificateError as problem:
        why = getattr(problem.certificate_error, "verify_message", "") or str(problem.certificate_error)
        raise EstRefusedError(
            f"the EST server {url} is not trusted: {why}",
            reason="est-server-not-trusted",
            fix=_not_trusted_fix(server),
        ) from problem
    except TimeoutError as problem:
        raise UnavailableError(f"the EST server {url} does not answer in time", reason="est-unreachable") from problem
    except (aiohttp.ClientError, OSError) as problem:
        message = f"the EST server {url} cannot be reached: {problem}"
        raise UnavailableError(message, reason="est-unreachable") from problem
    _accept_status(response, url, content)
    return _certificates(response.headers.get("Content-Type", ""), content, url)


def _not_trusted_fix(server: EstServer) -> str:
    fix = "name its root among the trusted certificates, or set SSL_CERT_FILE"
    return (
        fix if server.instead is None else f"let {server.instead[0]} pass this name on ([edgetrust.forward]); or {fix}"
    )


async def _bounded(response: aiohttp.ClientResponse, url: str) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > limits.EST_ANSWER_BYTES:
            message = f"the EST server {url} sends more than {limits.EST_ANSWER_BYTES} bytes"
            raise EstAnswerError(message, reason="est-answer-too-large")
    return bytes(content)


def _accept_status(response: aiohttp.ClientResponse, url: str, content: bytes) -> None:
    status = response.status
    if status == _OK:
        return
    said = content[:300].decode("utf-8", "replace").strip()
    what = f"the EST server {url} answers {status}" + (f": {said}" if said and said.isprintable() else "")
    wait = response.headers.get("Retry-After", "")
    seconds = float(wait) if wait.isdecimal() and len(wait) < 10 else _RETRY_SECONDS  # noqa: PLR2004 - ten digits of seconds are 30 years
    if status == _ACCEPTED:
        message = f"{what}: the request waits for a decision"
        raise UnavailableError(message, reason="est-pending", retry_after=seconds, fix="ask again later")
    if status == _TOO_MANY or status >= _SERVER_ERROR:
        raise UnavailableError(what, reason="est-unavailable", retry_after=seconds)
    fix = "ask the operator of the EST server: its log says why"
    reason = "est-not-authorized" if status in _REFUSALS else "est-refused"
    raise EstRefusedError(what, reason=reason, fix=fix)


def _certificates(content_type: str, content: bytes, url: str) -> tuple[x509.Certificate, ...]:
    if content_type.partition(";")[0].strip().lower() != _CERTIFICATES_TYPE:
        message = f"the EST server {url} answers {content_type[:80]!r}, not {_CERTIFICATES_TYPE}"
        raise EstAnswerError(message, reason="est-answer-malformed")
    try:
        found = _unpacked(content)
    except (ValueError, binascii.Error) as problem:
        message = f"the EST server {url} does not answer with certificates: {problem}"
        raise EstAnswerError(message, reason="est-answer-malformed") from problem
    if not found:
        raise EstAnswerError(f"the EST server {url} answers with no certificate", reason="est-answer-malformed")
    return tuple(found)


def _unpacked(content: bytes) -> list[x509.Certificate]:
    """Servers keep an order among the certificates, which is BER and not DER; the library warns of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if content.lstrip().startswith(b"-----BEGIN"):
            return pkcs7.load_pem_pkcs7_certificates(content.strip())
        packed = bytes(byte for byte in content if byte not in b" \t\r\n")
        return pkcs7.load_der_pkcs7_certificates(base64.b64decode(packed, validate=True))


def _ours(issued: tuple[x509.Certificate, ...], request: x509.CertificateSigningRequest) -> x509.Certificate:
    wanted = request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for certificate in issued:
        if certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == wanted:
            return certificate
    raise EstAnswerError("the EST server issued a certificate for another key", reason="est-answer-other-key")


def _in_order(leaf: x509.Certificate, authorities: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, ...]:
    """A PKCS#7 set has no order that one can rely on; a TLS chain has."""
    left, path, current = list(dict.fromkeys(authorities)), [], leaf
    while (above := next((one for one in left if one.subject == current.issuer), None)) is not None:
        left.remove(above)
        path.append(above)
        current = above
    return (*path, *left)
