"""The hub takes changed certificate files while it serves; nobody connected notices."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from contextlib import suppress
from pathlib import Path

from edgetrust.hub.pki import HubPki
from edgetrust.pki.chain import Thumbprint
from support.hub import new_pki, running


def own_copy(directory: Path, pki: HubPki) -> HubPki:
    """Files that this test may change."""
    directory.mkdir()
    copies = [Path(shutil.copy2(path, directory)) for path in (pki.certificate, pki.key, pki.trust_bundle)]
    return HubPki(*copies)


async def connect(root: Path, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    context = ssl.create_default_context(cafile=root)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return reader, writer, Thumbprint.of(der).hex()


async def health(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET /edgetrust/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return await reader.readline()


async def served(root: Path, port: int) -> str:
    """The thumbprint that a new handshake shows."""
    _, writer, thumbprint = await connect(root, port)
    writer.close()
    with suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return thumbprint


async def seen_after_change(root: Path, port: int, before: str) -> str:
    for _ in range(600):
        thumbprint = await served(root, port)
        if thumbprint != before:
            return thumbprint
        await asyncio.sleep(0.1)
    return before


async def test_changed_files_are_taken_while_serving(tmp_path: Path, hub_pki: HubPki) -> None:
    pki = own_copy(tmp_path / "files", hub_pki)
    async with running(tmp_path / "data", pki) as world:
        reader, writer, first = await connect(world.root, world.hub.https_port)
        assert b"200" in await health(reader, writer)

        pki.key.write_text("no key")
        await asyncio.sleep(1.2)
        assert await served(world.root, world.hub.https_port) == first  # what cannot be used changes nothing

        shutil.copytree(hub_pki.certificate.parent, tmp_path / "issuer")
        for name in ("hub.cert.pem", "hub.key.pem"):
            (tmp_path / "issuer" / name).unlink()
        renewed = new_pki(tmp_path / "issuer")
        shutil.copy2(renewed.key, pki.key)
        shutil.copy2(renewed.certificate, pki.certificate)
        second = await seen_after_change(world.root, world.hub.https_port, first)
        expected = ssl.PEM_cert_to_DER_cert(
            renewed.certificate.read_text().split("-----END")[0] + "-----END CERTIFICATE-----\n"
        )
        assert second == Thumbprint.of(expected).hex() != first
        while (await reader.readline()) not in (b"\r\n", b""):
            pass
        await reader.readexactly(len(b'{"status":"ok","version":"0.1.0"}'))
        assert b"200" in await health(reader, writer)  # the connection from before still answers
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
