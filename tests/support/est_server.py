"""A small EST server over our TLS, for tests of clients: issues what it is told to, remembers what it was asked.

Only the happy path of RFC 7030 and, on request, its failures; who is authenticated is what the test says.
"""

from __future__ import annotations

import asyncio
import base64
import textwrap
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from edgetrust.device.est import EstServer
from edgetrust.pki.chain import Chain
from edgetrust.transport.http import HttpServer, application, peer_chain, serve_http
from support.pki import Holder, Pki
from support.wire import server_slot


@dataclass(frozen=True)
class Asked:
    """One enrolment as the server saw it."""

    operation: str
    client: str | None
    request: x509.CertificateSigningRequest
    authorization: str | None


@dataclass
class TestEst:
    """`answer` replaces the answer to an enrolment when it is set; `life` is that of what is issued."""

    __test__ = False

    pki: Pki = field(default_factory=lambda: Pki(datetime.now(UTC), intermediates=1, root_name="EST root"))
    life: timedelta = timedelta(hours=1)
    begin: timedelta = timedelta(minutes=-5)
    answer: Callable[[], web.Response | None] = lambda: None
    cacerts_status: int = 200
    drop_extensions: bool = False
    certifies: x509.CertificateSigningRequest | None = None
    asked: list[Asked] = field(default_factory=list)
    issued: list[x509.Certificate] = field(default_factory=list)
    _server: HttpServer | None = None

    async def start(self, port: int = 0) -> None:
        app = application()
        app.router.add_post("/.well-known/est/simpleenroll", self._enroll)
        app.router.add_post("/.well-known/est/simplereenroll", self._enroll)
        app.router.add_get("/.well-known/est/cacerts", self._cacerts)
        slot = server_slot(self.pki.server("localhost", "127.0.0.1"))
        self._server = await serve_http(app, slot, "127.0.0.1", port)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.close()
            self._server = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"https://localhost:{self._server.port}/.well-known/est"

    def server(self, **options: Any) -> EstServer:
        return EstServer(self.url, self.pki.bundle, **options)

    def bootstrap(self) -> Holder:
        return self.pki.device("bootstrap")

    async def _enroll(self, request: web.Request) -> web.Response:
        csr = x509.load_der_x509_csr(base64.b64decode(await request.read()))
        shown = peer_chain(request)
        client = Chain.from_der(shown).end_entity.subject.rfc4514_string() if shown else None
        operation = request.path.rpartition("/")[2]
        self.asked.append(Asked(operation, client, csr, request.headers.get("Authorization")))
        if (given := self.answer()) is not None:
            return given
        certificate = self._certify(self.certifies or csr)
        self.issued.append(certificate)
        return _certificates([certificate])

    def _certify(self, csr: x509.CertificateSigningRequest) -> x509.Certificate:
        issuer, now = self.pki.issuing, datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(csr.subject)
            .issuer_name(issuer.certificate.subject)
            .public_key(csr.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + self.begin)
            .not_valid_after(now + self.begin + self.life)
        )
        key_id = x509.SubjectKeyIdentifier.from_public_key(csr.public_key())
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.certificate.public_key())  # type: ignore[arg-type]
        for extension in () if self.drop_extensions else csr.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        builder = builder.add_extension(key_id, critical=False).add_extension(authority, critical=False)
        return builder.sign(issuer.private_key, hashes.SHA256())

    async def _cacerts(self, _request: web.Request) -> web.Response:
        if self.cacerts_status != 200:
            return web.Response(status=self.cacerts_status)
        return _certificates([holder.certificate for holder in reversed(self.pki.issuers)])


def _certificates(certificates: list[x509.Certificate]) -> web.Response:
    der = pkcs7.serialize_certificates(certificates, Encoding.DER)
    body = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64)) + "\n"
    return web.Response(body=body.encode(), headers={"Content-Type": "application/pkcs7-mime; smime-type=certs-only"})


class Served:
    """An EST server in a thread of its own, since commands have their own loop."""

    def __init__(self, directory: Path, est: TestEst | None = None) -> None:
        self.est = est or TestEst(life=timedelta(days=1))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.run(self.est.start())
        self.trust = directory / "est-root.pem"
        self.trust.write_text(self.est.pki.bundle.pem())
        bootstrap = self.est.bootstrap()
        self.certificate, self.key = directory / "bootstrap.pem", directory / "bootstrap.key"
        self.certificate.write_text(bootstrap.chain.pem())
        self.key.write_bytes(bootstrap.key_pem())

    def run(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)  # type: ignore[arg-type]

    def stop(self) -> None:
        self.run(self.est.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def issuance(self) -> str:
        """The `[cert_issuance]` of a gateway that uses this server."""
        return f"""
[cert_issuance.est]
trusted_certs = ["file://{self.trust}"]
[cert_issuance.est.auth]
bootstrap_identity_cert = "file://{self.certificate}"
bootstrap_identity_pk = "file://{self.key}"
[cert_issuance.est.urls]
default = "{self.est.url}"
"""

    @property
    def options(self) -> tuple[str | Path, ...]:
        return (
            "--est", self.est.url, "--ca", self.trust,
            "--bootstrap-cert", self.certificate, "--bootstrap-key", self.key,
        )  # fmt: skip
