"""`edgetrust up` as a process of its own, to be asked, and to be killed."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from edgetrust.pki.chain import TrustBundle
from edgetrust.protocol.iothub import parse_connection_string
from edgetrust.protocol.sas import resource_text, sign
from edgetrust.transport.http import https_context

FAR = 4_000_000_000


class UpProcess:
    """A hub of its own."""

    def __init__(self, process: asyncio.subprocess.Process, ready: dict[str, Any]) -> None:
        self.process = process
        self.ready = ready
        self.mqtt_port: int = ready["hub"]["mqtt_port"]
        parsed = parse_connection_string(ready["service_connection_string"])
        assert parsed.key is not None
        assert parsed.policy is not None
        self._token = sign(base64.b64decode(parsed.key), resource_text("localhost"), FAR, parsed.policy)
        self._base = f"https://{parsed.host_name}"

    @property
    def root(self) -> Path:
        return Path(self.ready["trust_bundle"])

    def token(self, device: str, key: str) -> str:
        return sign(base64.b64decode(key), resource_text("localhost", device), FAR)

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        root = TrustBundle.from_pem(Path(self.ready["trust_bundle"]).read_bytes(), as_of=datetime.now(UTC))
        connector = aiohttp.TCPConnector(ssl=https_context(root))
        headers = {"Authorization": self._token}
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, self._base + path, json=body, headers=headers) as answer,
        ):
            assert answer.status < 300, await answer.text()
            return await answer.json()

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def up(directory: Path) -> AsyncIterator[UpProcess]:
    arguments = ["up", "--dir", str(directory), "--mqtt-port", "0", "--https-port", "0", "--json"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgetrust.cli", *arguments,
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        yield UpProcess(process, json.loads(line))
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), 60)
