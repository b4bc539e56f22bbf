"""What routes deliver to: a web service over HTTPS, and a real NATS server with JetStream."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from support.pki import Holder


@dataclass
class Receiver:
    """A web service. `answer` decides the status of each event."""

    port: int = 0
    got: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)  # for the next requests; then 204

    async def handle(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        body = json.loads(await request.read())
        status = self.statuses.pop(0) if self.statuses else 204
        if status < 300:
            self.got.append(body)
        return web.Response(status=status, headers={"Location": "https://elsewhere.invalid/"} if status == 302 else {})

    @property
    def texts(self) -> list[str]:
        return [event["bodyText"] for event in self.got]


@asynccontextmanager
async def receiving(server: Holder, directory: Path) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    file = directory / "receiver.pem"
    file.write_bytes(server.key_pem() + server.chain.pem().encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    app = web.Application()
    app.router.add_post("/{tail:.*}", receiver.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    assert site._server is not None
    receiver.port = site._server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        await runner.cleanup()


@asynccontextmanager
async def nats_server(directory: Path, server: Holder | None = None, port: int = -1) -> AsyncIterator[int]:
    """A NATS server of its own with JetStream; with `server` over TLS. The port it listens on."""
    program = Path(sys.executable).with_name("nats-server")
    directory.mkdir(exist_ok=True)
    options = ["-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(directory / "streams")]
    if server is not None:
        certificate, key = directory / "nats.pem", directory / "nats.key"
        certificate.write_text(server.chain.pem())
        key.write_bytes(server.key_pem())
        options += ["--tls", f"--tlscert={certificate}", f"--tlskey={key}"]
    process = await asyncio.create_subprocess_exec(
        str(program), *options, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            bound = 0
            async for line in process.stderr:
                found = re.search(rb"client connections on [\d.]+:(\d+)", line)
                bound = int(found[1]) if found else bound
                if b"Server is ready" in line:
                    break
        assert bound, "nats-server did not start"
        draining = asyncio.create_task(_drain(process.stderr))
        yield bound
        draining.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(65_536):
        pass
