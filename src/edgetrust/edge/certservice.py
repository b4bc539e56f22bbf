"""The certificate service's routes: certificates are issued, imported, read and deleted by identifier.

Rules (edge specification 3.1 to 3.3). Reading is open to whoever reaches the socket; everything else is decided by the
caller's uid. Changes are written one at a time; reading waits for none, and nobody waits for an EST server but who
wants its certificate. An issuer that the request names goes before the configuration; subject and life
of the configuration apply to both. Preloaded certificates stand in files of the user, or put several together. Why
issuing failed is in the log only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from aiohttp import web

from edgetrust.clock import Clock
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
from edgetrust.edge.files import read_file
from edgetrust.edge.handles import HandleError
from edgetrust.edge.issuer import ConfiguredIssuer
from edgetrust.edge.issuing import Order
from edgetrust.edge.pairs import CertificateStore
from edgetrust.edge.principals import Principals
from edgetrust.edge.signing import sign_by
from edgetrust.errors import ConfigError, IntegrityError
from edgetrust.pki.chain import Chain
from edgetrust.pki.csr import Csr, CsrError, parse_csr
from edgetrust.pki.issue import Issuer
from edgetrust.pki.keys import KeyHandle
from edgetrust.pki.softkeys import write_public
from edgetrust.transport.unix import peer

VERSIONS = frozenset({"2020-09-01"})
_CREATED = 201
_TEMPORARY = "-temp"

KeyPairOf = Callable[[str], KeyHandle]
"""The key pair of a handle; raises HandleError or IntegrityError."""

Preloaded = Mapping[str, Path | tuple[str, ...]]
"""Identifiers that stand for a file, or for several other identifiers."""


class _NamedIssuer(msgspec.Struct, rename="camel"):
    cert_id: str
    private_key_handle: str


class _Wanted(msgspec.Struct, rename="camel"):
    cert_id: str
    csr: str
    issuer: _NamedIssuer | None = None
    keep: bool = True  # our own: issue without storing, for who proves a certificate before it is used


class _Pem(msgspec.Struct):
    pem: str


class CertificateService:
    """The certificates of one gateway, for whoever may have them."""

    def __init__(
        self,
        store: CertificateStore,
        key_pair: KeyPairOf,
        issuer: ConfiguredIssuer,
        orders: Mapping[str, Order],
        preloaded: Preloaded,
        principals: Principals,
        clock: Clock,
    ) -> None:
        self._store = store
        self._key_pair = key_pair
        self._issuer = issuer
        self._orders = orders
        self._preloaded = preloaded
        self._principals = principals
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()

    def app(self, who: Who = peer) -> web.Application:
        """The service's application."""
        routes = [
            web.post("/certificates", self._create),
            web.get("/certificates/{id}", self._get),
            web.put("/certificates/{id}", self._import),
            web.delete("/certificates/{id}", self._delete),
        ]
        return service(routes, VERSIONS, who=who)

    async def _create(self, request: web.Request) -> web.Response:
        body = await read(request, _Wanted)
        certificate_id = self._authorize(request, body.cert_id)
        csr = _csr(body.csr)
        chain = await self._issued(certificate_id, csr, body)
        if body.keep:
            async with self._one_at_a_time:
                await asyncio.to_thread(self._save, certificate_id, chain.pem())
        return answer({"pem": chain.pem()}, _CREATED)

    async def _issued(self, certificate_id: str, csr: Csr, body: _Wanted) -> Chain:
        order = self._orders.get(certificate_id.removesuffix(_TEMPORARY))
        if body.issuer is not None:
            issuer = await asyncio.to_thread(self._named_issuer, body.issuer)
            life, subject = (None, None) if order is None else (order.life, order.subject)
            return await asyncio.to_thread(sign_by, issuer, csr, self._clock.now(), life=life, subject=subject)
        if order is None:
            raise ConfigError(
                f"issuer is required for locally-issued certs: nothing says how {certificate_id!r} is issued",
                reason="issuer-missing",
                fix="name an issuer in the request, or a method in config.toml",
            )
        return await self._issuer.issue(order, body.csr.encode(), key_id=certificate_id)

    def _named_issuer(self, named: _NamedIssuer) -> Issuer:
        text = self._read(named.cert_id)
        if text is None:
            raise bad_parameter("issuer.certId", f"there is no certificate {named.cert_id[:200]!r}")
        try:
            return Issuer(self._key_pair(named.private_key_handle), Chain.from_pem(text))
        except (HandleError, IntegrityError) as problem:
            raise bad_parameter("issuer.privateKeyHandle", problem.message) from problem

    async def _get(self, request: web.Request) -> web.Response:
        certificate_id = request.match_info["id"]
        check_identifier("id", certificate_id)
        text = await asyncio.to_thread(self._read, certificate_id)
        if text is None:
            raise bad_parameter("id", f"there is no certificate {certificate_id[:200]!r}")
        return answer({"pem": text})

    async def _import(self, request: web.Request) -> web.Response:
        certificate_id = self._authorize(request, request.match_info["id"])
        body = await read(request, _Pem)
        async with self._one_at_a_time:
            await asyncio.to_thread(self._save, certificate_id, body.pem)
        return answer({"pem": body.pem}, _CREATED)

    async def _delete(self, request: web.Request) -> web.Response:
        certificate_id = self._authorize(request, request.match_info["id"])
        async with self._one_at_a_time:
            await asyncio.to_thread(self._remove, certificate_id)
        return web.Response(status=NO_CONTENT)

    def _authorize(self, request: web.Request, certificate_id: str) -> str:
        uid = caller(request).uid
        check_identifier("certId", certificate_id)
        if not self._principals.may_change_certificate(uid, certificate_id):
            message = f"user {uid} is not authorized to modify the cert {certificate_id}"
            raise ServiceError(401, message, reason="certificate-not-authorized")
        return certificate_id

    # Where they are -------------------------------------------------------------------------------------------------

    def read(self, certificate_id: str) -> str | None:
        """The PEM of a certificate, preloaded ones included; None when there is none."""
        return self._read(certificate_id)

    def _read(self, certificate_id: str, above: frozenset[str] = frozenset()) -> str | None:
        place = self._preloaded.get(certificate_id)
        if place is None:
            return self._store.text(certificate_id)
        if isinstance(place, Path):
            return read_file(place).decode("utf-8", "replace") if place.exists() else None
        inner = above | {certificate_id}
        parts = [self._read(member, inner) for member in place if member not in inner]
        found = [part if part.endswith("\n") else f"{part}\n" for part in parts if part]
        return "".join(found) or None

    def _save(self, certificate_id: str, pem: str) -> None:
        place = self._own_file(certificate_id)
        if place is None:
            self._store.save_text(certificate_id, pem)
        else:
            write_public(place, pem.encode())

    def _remove(self, certificate_id: str) -> None:
        place = self._own_file(certificate_id)
        if place is None:
            self._store.delete(certificate_id)
        else:
            place.unlink(missing_ok=True)

    def _own_file(self, certificate_id: str) -> Path | None:
        """The user's file of a preloaded certificate; None for one in the store. Raises ServiceError."""
        place = self._preloaded.get(certificate_id)
        if isinstance(place, tuple):
            raise bad_parameter("certId", f"{certificate_id!r} stands for several certificates")
        return place


def _csr(text: str) -> Csr:
    if not text.lstrip().startswith("-----BEGIN"):
        raise bad_parameter("csr", "it is not PEM")
    try:
        return parse_csr(text.encode())
    except CsrError as problem:
        cause = "CSR failed to be verified with its public key" if problem.reason == "bad-signature" else ""
        raise bad_parameter("csr", cause or problem.message) from problem
