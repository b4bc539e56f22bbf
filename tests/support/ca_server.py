"""A certificate authority with its listener, and what clients need to ask it."""

from __future__ import annotations

import asyncio
import base64
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from edgetrust.ca.service import CaService
from edgetrust.ca.settings import CaSettings
from edgetrust.clock import ManualClock
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.keys import SecretText
from edgetrust.pki.softkeys import SoftKey
from edgetrust.store.passwords import UNLIMITED, new_password, put_password
from edgetrust.transport.http import https_context
from support.ca import certificate_authority
from support.pki import key

HEADERS = {"Content-Type": "application/pkcs10"}


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Any
    body: bytes

    @property
    def reason(self) -> str:
        assert self.headers["Content-Type"].startswith("text/plain")
        return self.body.decode().partition(":")[0]

    @property
    def certificates(self) -> list[x509.Certificate]:
        assert self.status == 200, self.body
        assert self.headers["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
        return certificates_in(base64.b64decode(self.body))


@dataclass
class CaServer:
    """A running certificate authority."""

    service: CaService
    clock: ManualClock
    directory: Path
    sessions: list[aiohttp.ClientSession] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.service.https_port

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/.well-known/est"

    @property
    def root(self) -> Path:
        path = self.directory / "root.pem"
        path.write_text(self.bundle.pem())
        return path

    @property
    def bundle(self) -> TrustBundle:
        return self.service.authority.bundle()

    async def password(self, username: str, names: str | None = None, *, secret: str = "right") -> str:
        made = new_password(username, SecretText(secret), names or username, UNLIMITED, None, self.clock.now())
        await self.service.authority.database.write(lambda connection: put_password(connection, made))
        return aiohttp.encode_basic_auth(username, secret)

    async def ask(
        self,
        method: str,
        operation: str,
        body: Any = None,
        *,
        auth: str | None = None,
        shown: tuple[x509.Certificate, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own; `shown`: a certificate and the label of its key."""
        more = {} if shown is None else {"chain": Chain((shown[0],)), "key": SoftKey("k", key(shown[1]))}
        sent = {**(HEADERS if headers is None else headers), **({} if auth is None else {"Authorization": auth})}
        connector = aiohttp.TCPConnector(ssl=https_context(self.bundle, **more))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"{self.url}/{operation}", data=body, headers=sent) as answer,
        ):
            return Answer(answer.status, answer.headers, await answer.read())

    async def run(self, *command: str, ok: bool = True) -> str:
        """A foreign client; what it printed."""
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=self.directory
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert (process.returncode == 0) is ok, (command, out, err)
        return (out if ok else out + err).decode("utf-8", "replace")

    async def raw(self, request: bytes) -> bytes:
        """Bytes over TLS, and everything that comes back until the server closes."""
        reader, writer = await asyncio.open_connection("localhost", self.port, ssl=https_context(self.bundle))
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(60):
            answer = await reader.read()
        writer.close()
        return answer


def certificates_in(der: bytes) -> list[x509.Certificate]:
    """The certificates of a certs-only message, which is BER: their order means something (RFC 5652, 5.1)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return pkcs7.load_der_pkcs7_certificates(der)


def body(der: bytes) -> bytes:
    """A request's body as openssl writes it."""
    return base64.encodebytes(der)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


@asynccontextmanager
async def ca_server(directory: Path, **settings: Any) -> AsyncIterator[CaServer]:
    """Make a hierarchy in a file and serve it."""
    now = datetime.now(UTC)
    url = f"sqlite:///{directory / 'ca.sqlite'}"
    async with certificate_authority(directory, url, now):
        pass
    clock = ManualClock(now)
    wanted = replace(CaSettings(directory, url), host="127.0.0.1", https_port=0, **settings)
    service = await CaService.start(wanted, clock)
    try:
        yield CaServer(service, clock, directory)
    finally:
        await service.stop()
