"""The root of a running `edgetrust up` is rotated by the command line, in another process: at every stage the hub takes
whom it should, shows what its clients trust, and none of it needs a restart.
"""

from __future__ import annotations

import asyncio
import base64
import io
import ssl
import sys
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support.ca import csr
from support.ca_server import HEADERS, body, certificates_in
from support.pki import key
from support.raw_mqtt import CONNACK, Raw, connect
from support.up import UpProcess, up

DEVICE = "dev1"
SECONDS = 60  # more than a running server takes to see what the command line changed


class Story:
    """One `up`, one device, and the command line."""

    def __init__(self, hub: UpProcess, directory: Path, scratch: Path) -> None:
        self.hub, self.directory, self.scratch = hub, directory, scratch
        self.root = scratch / "first-root.pem"
        self.root.write_bytes(hub.root.read_bytes())

    async def rotate(self, *words: str) -> None:
        command = ["ca", "rotate", *words, "root", "--config", str(self.directory / "ca" / "ca.toml")]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edgetrust.cli", *command,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, said.decode()

    def roots(self) -> list[str]:
        return [
            str(one.subject.rfc4514_string()) for one in x509.load_pem_x509_certificates(self.hub.root.read_bytes())
        ]

    async def until_roots(self, count: int, *, last: str = "") -> None:
        async with asyncio.timeout(SECONDS):
            while len(self.roots()) != count or last not in self.roots()[-1]:
                await asyncio.sleep(0.1)

    def context(self, roots: Path, pem: Path | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(roots))
        if pem is not None:
            context.load_cert_chain(pem)
        return context

    async def est(self, operation: str, der: bytes | None, pem: Path | None = None) -> tuple[int, bytes]:
        headers = dict(HEADERS) if der is not None else {}
        if pem is None:
            secret = Path(self.hub.ready["est"]["password_file"]).read_text().strip()
            headers["Authorization"] = aiohttp.encode_basic_auth(self.hub.ready["est"]["username"], secret)
        connector = aiohttp.TCPConnector(ssl=self.context(self.hub.root, pem))
        data = None if der is None else io.BytesIO(body(der))
        url, method = f"{self.hub.ready['est']['url']}/{operation}", "GET" if der is None else "POST"
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, url, data=data, headers=headers) as answer,
        ):
            return answer.status, await answer.read()

    async def enrolled(self, name: str, operation: str = "simpleenroll", pem: Path | None = None) -> Path:
        status, answer = await self.est(operation, csr(DEVICE, label=name), pem)
        assert status == 200, answer
        (certificate,) = certificates_in(base64.b64decode(answer))
        private = key(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file = self.scratch / f"{name}.pem"
        file.write_bytes(private + certificate.public_bytes(Encoding.PEM))
        return file

    async def connect(self, pem: Path, roots: Path) -> Raw:
        """ConnectionError when it is not accepted, ssl.SSLError when `roots` do not cover what it shows."""
        reader, writer = await asyncio.open_connection(
            "localhost", self.hub.mqtt_port, ssl=self.context(roots, pem), server_hostname="localhost"
        )
        raw = Raw(reader, writer)
        writer.write(connect(DEVICE, f"localhost/{DEVICE}/?api-version=2021-04-12", ""))
        kind, answer = await raw.read()
        if kind != CONNACK or answer[1] != 0:
            raw.abort()
            raise ConnectionError(f"not accepted: {kind} {answer!r}")
        return raw

    async def accepted(self, pem: Path, roots: Path) -> None:
        (await self.connect(pem, roots)).abort()

    async def knows(self, roots: Path) -> bool:
        """Whether a client that trusts only `roots` trusts the hub."""
        try:
            _, writer = await asyncio.open_connection("localhost", self.hub.mqtt_port, ssl=self.context(roots))
        except ssl.SSLError:
            return False
        writer.transport.abort()
        return True

    async def until_accepted(self, pem: Path, roots: Path) -> None:
        async with asyncio.timeout(SECONDS):
            while True:
                with suppress(ConnectionError, ssl.SSLError):
                    await self.accepted(pem, roots)
                    return
                await asyncio.sleep(0.1)

    async def issuer_of(self, pem: Path) -> str:
        return x509.load_pem_x509_certificate(pem.read_bytes()).issuer.rfc4514_string()


async def test_a_root_is_rotated_under_a_running_hub(tmp_path: Path) -> None:
    async with up(tmp_path / "up") as hub:
        story = Story(hub, tmp_path / "up", tmp_path)
        await hub.ask("PUT", f"/devices/{DEVICE}?api-version=2021-04-12", {
            "deviceId": DEVICE, "authentication": {"type": "certificateAuthority"},
        })  # fmt: skip
        old = await story.enrolled("old")
        await story.accepted(old, story.root)

        await story.rotate("start")
        await story.rotate("advance")  # distributed
        await story.until_roots(2)
        await story.accepted(old, story.root)
        status, _ = await story.est("cacerts", None, old)  # the evidence: it has the new root now
        assert status == 200

        await story.rotate("advance")  # active
        new_root = tmp_path / "new-root.pem"
        new_root.write_bytes(x509.load_pem_x509_certificates(hub.root.read_bytes())[1].public_bytes(Encoding.PEM))
        await story.until_accepted(old, new_root)  # the hub shows a certificate below the new root ...
        await story.accepted(old, story.root)  # ... with a bridge for who knows the old one only
        new = await story.enrolled("new", "simplereenroll", old)
        assert "G2" in await story.issuer_of(new)
        await story.accepted(new, new_root)

        await story.rotate("advance")  # tainted
        await story.accepted(old, story.root)
        held = await story.connect(old, story.root)

        await story.rotate("advance")  # retired
        await story.until_roots(1, last="G2")
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            async with asyncio.timeout(SECONDS):
                while await held.read():
                    pass
        with pytest.raises(ConnectionError):
            await story.accepted(old, new_root)
        status, said = await story.est("simplereenroll", csr(DEVICE, label="late"), old)
        assert (status, said.partition(b":")[0]) == (403, b"enroll-certificate-untrusted")
        await story.accepted(new, new_root)
        async with asyncio.timeout(SECONDS):
            while await story.knows(story.root):  # the bridge goes with the old root
                await asyncio.sleep(0.1)
    async with up(tmp_path / "up") as hub:  # and a restart finds all of it
        story.hub = hub
        await story.accepted(new, new_root)
        assert len(story.roots()) == 1
