"""A hub of few words: real TLS and HTTP on loopback, answers as the test gives them, and a record of what was asked."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from support.pki import Pki

Answer = tuple[int, Any]


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    client: str


@dataclass
class FakeHub:
    """`answers` maps "METHOD last-part-of-path" to (status, body) or to a function of the request."""

    pki: Pki
    folder: Path
    hosts: tuple[str, ...] = ("hub.example",)
    server_fields: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Answer | Callable[[Asked], Answer]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    port: int = 0

    async def start(self) -> None:
        holder = self.pki.server(*self.hosts, **self.server_fields)
        certificate, key = self.folder / "hub.pem", self.folder / "hub.key"
        certificate.write_text(holder.chain.pem())
        key.write_bytes(holder.key_pem())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=self.pki.root.chain.pem())
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port, ssl_context=context)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        await self.runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        content = await request.read()
        shown = request.transport.get_extra_info("peercert") if request.transport is not None else None
        client = dict(pair[0] for pair in shown["subject"])["commonName"] if shown else ""
        body = json.loads(content) if content else None
        one = Asked(request.method, request.raw_path, dict(request.query), dict(request.headers), body, client)
        self.asked.append(one)
        key = f"{request.method} {request.path.rsplit('/', 1)[1]}"
        answer = self.answers.get(key, (404, {"Message": "ErrorCode:NotFound;nothing here"}))
        status, value = answer(one) if callable(answer) else answer
        text = value if isinstance(value, str) else json.dumps(value)
        return web.Response(status=status, text=text, content_type="application/json")
