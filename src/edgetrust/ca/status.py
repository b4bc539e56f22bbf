"""Certificate status over HTTP: CRLs, OCSP and the CA certificates, for everybody.

    GET   /ca/crl/NAME.crl       the CRL of a CA, DER
    GET   /ca/certs/NAME.cer     the certificate of a CA, DER
    POST  /ca/ocsp               an OCSP request
    GET   /ca/ocsp/BASE64        the same in the path

What is served is signed and holds no secret, so that it may also be served without TLS, as verifiers expect it.
"""

from __future__ import annotations

from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust import limits
from edgetrust.ca.authority import CertificateAuthority
from edgetrust.ca.revocation import RevocationLists, answer, request_in_path
from edgetrust.errors import UsageError

PREFIX = "/ca"


def claims(path: str) -> bool:
    """Whether a path is one of these."""
    return path.startswith(PREFIX + "/")


class StatusServer:
    """The routes."""

    def __init__(self, authority: CertificateAuthority) -> None:
        self._authority = authority
        self._lists = RevocationLists(authority)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(PREFIX + "/crl/{name}.crl", self._crl),
            web.get(PREFIX + "/certs/{name}.cer", self._certificate),
            web.post(PREFIX + "/ocsp", self._ocsp),
            web.get(PREFIX + "/ocsp/{request:.+}", self._ocsp_by_path),
        ]

    async def _crl(self, request: web.Request) -> web.Response:
        try:
            crl = await self._lists.crl(request.match_info["name"])
        except UsageError as problem:
            raise web.HTTPNotFound from problem
        return web.Response(body=crl, content_type="application/pkix-crl")

    async def _certificate(self, request: web.Request) -> web.Response:
        found = self._authority.authorities.get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        der = found.row.certificate.public_bytes(Encoding.DER)
        return web.Response(body=der, content_type="application/pkix-cert")

    async def _ocsp(self, request: web.Request) -> web.Response:
        asked = await request.read()
        if len(asked) > limits.OCSP_REQUEST_BYTES:
            raise web.HTTPRequestEntityTooLarge(limits.OCSP_REQUEST_BYTES, len(asked))
        return self._answered(await answer(self._authority, asked))

    async def _ocsp_by_path(self, request: web.Request) -> web.Response:
        said = self._answered(await answer(self._authority, request_in_path(request.match_info["request"])))
        said.headers["Cache-Control"] = f"max-age={limits.OCSP_SECONDS // 2}, public, no-transform, must-revalidate"
        return said

    def _answered(self, der: bytes) -> web.Response:
        return web.Response(body=der, content_type="application/ocsp-response")
