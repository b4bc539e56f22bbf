"""The EST server (RFC 7030, 8951, 9908): an HTTPS application over an `Enroller`.

    GET   cacerts          everybody     the addressed CA, its parents up to the root, then other roots in circulation
    GET   csrattrs         everybody     what a CSR should hold, as a list and as a template
    POST  simpleenroll     credential    exactly one certificate
    POST  simplereenroll   the certificate that is renewed
    POST  serverkeygen     credential    a new key and its certificate

A path without a label addresses the default CA. Answers that are not certificates are one line of text that begins with
the reason. Errors are chosen so that real clients read them: 401 only where a password would help, 202 and 429 with
Retry-After in seconds.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import assert_never

import structlog
from aiohttp import web
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from sqlalchemy import Connection

from edgetrust import limits
from edgetrust.ca.authority import Authority, CertificateAuthority, Issued
from edgetrust.ca.credentials import parse_basic
from edgetrust.ca.enroll import Enroller, Outcome, Peer, Waiting
from edgetrust.ca.policy import Refused
from edgetrust.ca.rates import Account, Accounts
from edgetrust.ca.reasons import MEANINGS, IssuanceReason
from edgetrust.clock import Clock
from edgetrust.errors import Error, PeerError, UnavailableError
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.softkeys import SoftKey
from edgetrust.protocol import est
from edgetrust.store.authorities import note_fetch
from edgetrust.store.issuance import thumbprint_of
from edgetrust.telemetry import DECISIONS, EVENT_CERTIFICATE_ISSUED, EVENT_ENROLL_REFUSED, EVENT_REQUEST_FAILED
from edgetrust.transport.http import peer_chain, tls_unique

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = structlog.get_logger()

_METHODS = {
    "cacerts": "GET",
    "csrattrs": "GET",
    "simpleenroll": "POST",
    "simplereenroll": "POST",
    "serverkeygen": "POST",
}
_KEY_DELIVERY = frozenset({"1.2.840.113549.1.9.16.2.37", "1.2.840.113549.1.9.16.2.54"})  # RFC 7030, 4.4.1.1 and 4.4.1.2


def claims(path: str) -> bool:
    """Whether a path is EST's."""
    return path == est.PREFIX or path.startswith(est.PREFIX + "/")


@web.middleware
async def errors_answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except PeerError as problem:
        return said(problem.status, problem.reason, problem.message)
    except UnavailableError as problem:
        return said(503, problem.reason, "try again", retry_after=problem.retry_after)
    except web.HTTPException as problem:
        return said(problem.status, "est-request", problem.reason)
    except Error as problem:
        _log.error(EVENT_REQUEST_FAILED, path=request.path, reason=problem.reason, detail=problem.message)
        return said(500, problem.reason, "the certificate authority cannot do that now; its log says why")
    except Exception as problem:  # noqa: BLE001 - one request's fault must not reach another, nor its traceback the peer
        _log.error(EVENT_REQUEST_FAILED, path=request.path, reason="defect", detail=repr(problem), exc_info=problem)
        return said(500, "defect", "the request could not be completed")


def said(status: int, reason: str, text: str, *, retry_after: float | None = None) -> web.Response:
    """An answer in words."""
    answer = web.Response(status=status, text=f"{reason}: {text}\n", content_type="text/plain")
    if retry_after is not None:
        answer.headers["Retry-After"] = str(max(1, round(retry_after)))
    if status == 401:  # noqa: PLR2004 - RFC 9110, 15.5.2
        answer.headers["WWW-Authenticate"] = 'Basic realm="est", charset="UTF-8"'
    return answer


class EstServer:
    """EST for every authority of one CA: `answer` is the handler of every path below the prefix."""

    def __init__(self, enroller: Enroller, clock: Clock) -> None:
        self._enroller, self._clock = enroller, clock
        self._accounts = Accounts()
        self._noted: set[tuple[str, str]] = set()

    async def answer(self, request: web.Request) -> web.Response:
        """One request."""
        place = est.parse_path(request.path)
        if place is None or place[1] not in _METHODS:
            return said(404, "est-operation-unknown", "there is no such operation here")
        label, operation = place
        if request.method != _METHODS[operation]:
            answer = said(405, "est-method", f"{operation} is asked with {_METHODS[operation]}")
            answer.headers["Allow"] = _METHODS[operation]
            return answer
        signer = self._enroller.authority.addressed(label)
        if signer is None:
            return said(404, "est-label-unknown", "there is no CA of this label")
        if operation == "cacerts":
            return await self._cacerts(request, signer)
        if operation == "csrattrs":
            return self._csrattrs(request, signer)
        return await self._limited(request, signer, operation)

    # Open to everybody ----------------------------------------------------------------------------------------------

    async def _cacerts(self, request: web.Request, signer: Authority) -> web.Response:
        shown = cacerts_of(self._enroller.authority, signer)
        await self._note(request)
        return _certificates(request, shown)

    async def _note(self, request: web.Request) -> None:
        """Who has which root is evidence for the next step of a rotation."""
        peer, clock = _peer(request), self._clock.monotonic()
        if not peer.chain and peer.basic is None:
            return
        account = self._account(peer)
        if account.wait(clock) > 0:
            return  # the answer is for everybody; a password is not verified for who tries too many
        account.asked(clock)
        authority, who = self._enroller.authority, await self._enroller.who(peer)
        if who is None:
            account.refused(clock)
            return
        roots = [thumbprint_of(anchor) for anchor in authority.bundle().anchors]
        new = [root for root in roots if (who, root) not in self._noted]
        if not new or len(self._noted) >= limits.EST_ADDRESSES_KEPT:
            return
        now = self._clock.now()

        def work(connection: Connection) -> None:
            for root in new:
                note_fetch(connection, who, root, now)

        await authority.database.write(work)
        self._noted.update((who, root) for root in new)

    def _csrattrs(self, request: web.Request, signer: Authority) -> web.Response:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        server_only = not {"device", "downstream"} & signer.row.profiles
        if server_only:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        dictated = [(ExtensionOID.EXTENDED_KEY_USAGE.dotted_string, False, usage.public_bytes())]
        body = est.encode(est.csr_attributes(dictated), one_line=_reads_one_line(request))
        return _body(body, est.ATTRIBUTES_TYPE)

    # For credentials only -------------------------------------------------------------------------------------------

    async def _limited(self, request: web.Request, signer: Authority, operation: str) -> web.Response:
        peer, now = _peer(request), self._clock.monotonic()
        account = self._account(peer)
        wait = account.wait(now)
        if wait > 0:
            return said(429, "est-too-often", f"too many requests {account.who}", retry_after=wait)
        account.asked(now)
        content = request.content_type
        if request.headers.get("Content-Type") is None or content.lower() != est.CSR_TYPE:
            return said(415, "est-content-type", f"the body must be {est.CSR_TYPE}")
        der = est.decode(await request.read())
        if operation == "serverkeygen":
            return await self._generate(request, signer, der, peer, account)
        outcome = await self._enroller.enroll(signer, der, peer, operation, renewal=operation == "simplereenroll")
        return self._answered(request, outcome, peer, account)

    def _account(self, peer: Peer) -> Account:
        return self._accounts.of(peer.address, self._enroller.known_as(peer))

    async def _generate(
        self, request: web.Request, signer: Authority, der: bytes, peer: Peer, account: Account
    ) -> web.Response:
        if any(oid in _attribute_oids(der) for oid in _KEY_DELIVERY):
            meaning = MEANINGS[IssuanceReason.KEY_DELIVERY]
            return said(meaning.status, IssuanceReason.KEY_DELIVERY.value, meaning.text)
        key = SoftKey.generate("serverkeygen", _algorithm_like(der))
        outcome = await self._enroller.enroll(signer, der, peer, "serverkeygen", key=key.public_key())
        if not isinstance(outcome, Issued):
            return self._answered(request, outcome, peer, account)
        _note_issued(outcome)
        private = load_pem_private_key(key.private_pem().reveal(), None)
        pkcs8 = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        boundary = f"estServerKeyGen{secrets.token_hex(16)}"
        certificates = est.certs_only([outcome.row.certificate.public_bytes(Encoding.DER)])
        body = est.key_and_certificates(pkcs8, certificates, boundary, one_line=_reads_one_line(request))
        return web.Response(body=body, headers={"Content-Type": f"multipart/mixed; boundary={boundary}"})

    def _answered(self, request: web.Request, outcome: Outcome, peer: Peer, account: Account) -> web.Response:
        match outcome:
            case Issued():
                _note_issued(outcome)
                return _certificates(request, [outcome.row.certificate])
            case Waiting():
                text = f"the request {outcome.request[:12]} waits for approval; send it again later"
                return said(202, "enroll-waits-for-approval", text, retry_after=limits.EST_PENDING_SECONDS)
            case Refused():
                account.refused(self._clock.monotonic())
                DECISIONS.labels("refused", outcome.reason.value).inc()
                _log.warning(
                    EVENT_ENROLL_REFUSED,
                    peer=peer.address,
                    identity=outcome.identity,
                    reason=outcome.reason.value,
                    detail=outcome.detail,
                )
                meaning = MEANINGS[outcome.reason]
                return said(meaning.status, outcome.reason.value, meaning.text)
            case _:
                assert_never(outcome)


def cacerts_of(authority: CertificateAuthority, signer: Authority) -> list[x509.Certificate]:
    """The CA, its parents up to the root, then what else is in circulation: other roots, and roots certified by each
    other; each certificate once.
    """
    shown = [*signer.chain.certificates, *authority.bundle().anchors, *authority.cross]
    return list(dict.fromkeys(shown))


def _note_issued(issued: Issued) -> None:
    DECISIONS.labels("accepted", issued.row.operation).inc()
    _log.info(
        EVENT_CERTIFICATE_ISSUED,
        authority=issued.row.authority,
        serial=issued.row.serial,
        identity=issued.row.identity,
        profile=issued.row.profile,
        until=f"{issued.row.not_after:%Y-%m-%dT%H:%M:%SZ}",
    )


def _peer(request: web.Request) -> Peer:
    basic = parse_basic(request.headers.get("Authorization"))
    return Peer(_address(request), peer_chain(request), basic, tls_unique(request))


def _address(request: web.Request) -> str:
    peer = request.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""


def _reads_one_line(request: web.Request) -> bool:
    """strongSwan 5.9.8 and clients that want no white space name no agent; libest, which needs lines, does."""
    return "User-Agent" not in request.headers


def _certificates(request: web.Request, certificates: list[x509.Certificate]) -> web.Response:
    der = est.certs_only([certificate.public_bytes(Encoding.DER) for certificate in certificates])
    return _body(est.encode(der, one_line=_reads_one_line(request)), est.CERTIFICATES_TYPE)


def _body(body: bytes, kind: str) -> web.Response:
    return web.Response(body=body, headers={"Content-Type": kind, "Content-Transfer-Encoding": "base64"})


def _attribute_oids(der: bytes) -> set[str]:
    try:
        return {attribute.oid.dotted_string for attribute in x509.load_der_x509_csr(der).attributes}
    except ValueError:  # reading the request will say what is wrong with it
        return set()


def _algorithm_like(der: bytes) -> KeyAlgorithm:
    """RSA for who sent an RSA key, since such clients may know no other."""
    try:
        asked = x509.load_der_x509_csr(der).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return KeyAlgorithm.P256
    return KeyAlgorithm.RSA2048 if isinstance(asked, rsa.RSAPublicKey) else KeyAlgorithm.P256
