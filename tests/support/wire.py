"""Real sockets for tests of the transport: a PKI valid today, listeners that close themselves, openssl's own client."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from edgetrust.clock import SystemClock
from edgetrust.transport.listener import Listener, serve
from edgetrust.transport.tls.contexts import ClientContext, ContextSlot, ServerContext
from support.pki import Holder, Pki

PKI = Pki(datetime.now(UTC), intermediates=2)
SERVER = PKI.server("localhost", "127.0.0.1", "::1")
DEVICE = PKI.device("device-1")


def server_slot(holder: Holder = SERVER) -> ContextSlot[ServerContext]:
    return ContextSlot(ServerContext(holder.full_chain, holder.key))


def client_context(shown: Holder | None = None) -> ClientContext:
    return ClientContext(PKI.bundle, chain=shown and shown.chain, key=shown and shown.key, clock=SystemClock())


def stdlib_context(shown: Holder | None = None, directory: Path | None = None) -> ssl.SSLContext:
    """The standard library's client; `directory` is needed when it shows a certificate."""
    context = ssl.create_default_context(cadata=PKI.bundle.pem())
    if shown is not None:
        assert directory is not None
        context.load_cert_chain(identity_file(shown, directory))
    return context


def identity_file(holder: Holder, directory: Path) -> Path:
    """Key and chain in one file."""
    file = directory / "identity.pem"
    file.write_bytes(holder.key_pem() + holder.chain.pem().encode())
    return file


def trust_file(directory: Path) -> Path:
    file = directory / "trust.pem"
    file.write_text(PKI.bundle.pem())
    return file


@asynccontextmanager
async def listening(
    factory: Callable[[], asyncio.Protocol],
    slot: ContextSlot[ServerContext] | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[Listener]:
    listener = await serve(factory, slot or server_slot(), host, port, label="test")
    try:
        yield listener
    finally:
        await listener.close(1.0)


class Echo(asyncio.Protocol):
    """Sends back what it gets, in capitals."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.chunks: list[bytes] = []
        self.events: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        self.chunks.append(data)
        self.transport.write(data.upper())

    def eof_received(self) -> None:
        self.events.append("eof")

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


class Ears(Echo):
    """A client that only listens."""

    def data_received(self, data: bytes) -> None:
        self.chunks.append(data)


def remembering(kind: type[Echo] = Echo) -> tuple[Callable[[], Echo], list[Echo]]:
    """A protocol factory and the list of what it has made."""
    made: list[Echo] = []

    def factory() -> Echo:
        made.append(kind())
        return made[-1]

    return factory, made


async def openssl_client(port: int, *options: str, say: bytes = b"") -> str:
    """Run `openssl s_client` against a local port, say something, close, and return all that it prints."""
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(say)
    output = b""
    async with asyncio.timeout(60):
        while say.upper() not in output or b"Verify return code" not in output:
            part = await process.stdout.read(65536)
            if not part:
                break
            output += part
        process.stdin.close()
        output += await process.stdout.read()
        await process.wait()
    return output.decode(errors="replace")
