"""Calling services on unix sockets: as a client in the loop, and with curl."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from edgetrust.transport.unix import Caller, serve_unix


@dataclass
class As:
    """The caller that a service is told of; a test sets it."""

    uid: int = 0
    pid: int = 1

    def __call__(self, _request: web.BaseRequest) -> Caller:
        return Caller(self.pid, self.uid, 0)


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any


class Client:
    """Calls one service."""

    def __init__(self, session: aiohttp.ClientSession, version: str, path: Path) -> None:
        self._session, self._version, self.path = session, version, path

    async def call(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        query = options.pop("query", f"api-version={self._version}")
        from yarl import URL

        url = URL(f"http://localhost{path}{'&' if '?' in path else '?'}{query}", encoded=True)
        if body is not None and "data" not in options:
            options["json"] = body
        async with self._session.request(method, url, **options) as response:
            text = await response.text()
            return Answer(response.status, json.loads(text) if text else None)

    async def text(self, path: str) -> str:
        """What is answered as it is."""
        query = f"{'&' if '?' in path else '?'}api-version={self._version}"
        async with self._session.get(f"http://localhost{path}{query}") as response:
            assert response.status == 200
            return await response.text()

    async def ok(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        answer = await self.call(method, path, body)
        assert answer.status == status, answer
        return answer.body


async def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that happens by itself."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def served(app: web.Application, path: Path, version: str) -> AsyncIterator[Client]:
    """A service on a socket, and its client."""
    server = await serve_unix(app, path)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            yield Client(session, version, path)
    finally:
        await server.close()


def curl(path: Path, method: str, route: str, body: Any = None, *, version: str) -> tuple[int, Any]:
    """The status and the JSON of an answer, asked with curl."""
    data = [] if body is None else ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    done = subprocess.run(
        [
            "curl", "-s", "--unix-socket", str(path), "-X", method, "-w", "\n%{http_code}", *data,
            f"http://localhost{route}{'&' if '?' in route else '?'}api-version={version}",
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    text, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(text) if text else None
