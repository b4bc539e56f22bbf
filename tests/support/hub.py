"""A hub that runs in this process, on loopback, and independent clients that talk to it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from edgetrust.clock import ManualClock
from edgetrust.hub.pki import HubPki, ensure_pki
from edgetrust.hub.policies import load_policies
from edgetrust.hub.service import Hub, Invite
from edgetrust.hub.settings import HubSettings, sqlite_url
from edgetrust.pki.chain import TrustBundle
from edgetrust.protocol.sas import resource_text, sign
from edgetrust.transport.http import https_context
from support.pki import Holder, Pki

NAME = "localhost"
VERSION = "api-version=2021-04-12"
OWNER = "iothubowner"


@cache
def devices_pki() -> Pki:
    """The hierarchy of devices, valid today."""
    return Pki(datetime.now(UTC), intermediates=1)


def new_settings(directory: Path, pki: HubPki, database: str | None = None, **more: Any) -> HubSettings:
    values: dict[str, Any] = {
        "name": NAME,
        "aliases": ("127.0.0.1", "::1"),
        "data": directory,
        "database": database or sqlite_url(directory),
        "certificate": pki.certificate,
        "key": pki.key,
        "trust_bundle": pki.trust_bundle,
        "host": "127.0.0.1",
        "mqtt_port": 0,
        "https_port": 0,
    }
    return HubSettings(**{**values, **more})


def new_pki(directory: Path) -> HubPki:
    return ensure_pki(directory, (NAME, "127.0.0.1", "::1"), datetime.now(UTC))


@dataclass
class Answer:
    """What came back over HTTPS."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"].startswith("application/json"), self
        return json.loads(self.body)

    @property
    def etag(self) -> str:
        return self.headers["ETag"]

    @property
    def error(self) -> str:
        """The name of the error, from the header; the body must be of shape A and say the same."""
        said = self.json
        assert set(said) == {"Message", "ExceptionMessage"}, said
        name = self.headers["iothub-errorcode"]
        assert said["Message"].startswith(f"ErrorCode:{name};"), said
        assert said["ExceptionMessage"].startswith("Tracking ID:")
        return name


@dataclass
class World:
    """A running hub and what its clients need."""

    hub: Hub
    settings: HubSettings
    clock: ManualClock
    directory: Path
    session: aiohttp.ClientSession
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def mqtt_port(self) -> int:
        return self.hub.mqtt_port

    @property
    def base(self) -> str:
        return f"https://{NAME}:{self.hub.https_port}"

    @property
    def root(self) -> Path:
        return self.settings.trust_bundle

    def _expiry(self, seconds: float) -> int:
        return int(self.clock.now().timestamp() + seconds)

    def service_token(self, policy: str = OWNER, seconds: float = 3600, *, secondary: bool = False) -> str:
        keys = load_policies(self.settings.data / "policies.json")[policy].keys
        key = keys.secondary if secondary else keys.primary
        return sign(key.reveal(), resource_text(NAME), self._expiry(seconds), policy)

    def token(self, who: str, seconds: float = 3600, key: str | None = None) -> str:
        device, _, module = who.partition("/")
        secret = base64.b64decode(self.keys[who] if key is None else key)
        return sign(secret, resource_text(NAME, device, module or None), self._expiry(seconds))

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = "",
        version: str | None = VERSION,
        **headers: str,
    ) -> Answer:
        """One request; `token` "" stands for the owner's. Header names with `_` for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        secret = self.service_token() if token == "" else token
        if secret is not None:
            sent["Authorization"] = secret
        url = self.base + path
        if version is not None:
            url += ("&" if "?" in path else "?") + version
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sends = None if data is None else io.BytesIO(data)
        async with self.session.request(method, URL(url, encoded=True), data=sends, headers=sent) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def create(self, device: str, **fields: Any) -> dict[str, Any]:
        """A device; its primary key is kept for `token`."""
        answer = await self.ask("PUT", f"/devices/{quote(device, safe='')}", {"deviceId": device, **fields})
        assert answer.status == 200, answer
        made: dict[str, Any] = answer.json
        self.keys[device] = made["authentication"]["symmetricKey"]["primaryKey"]
        return made

    async def create_module(self, device: str, module: str, **fields: Any) -> dict[str, Any]:
        body = {"deviceId": device, "moduleId": module, **fields}
        answer = await self.ask("PUT", f"/devices/{device}/modules/{quote(module, safe='')}", body)
        assert answer.status == 200, answer
        made: dict[str, Any] = answer.json
        self.keys[f"{device}/{module}"] = made["authentication"]["symmetricKey"]["primaryKey"]
        return made

    async def gateway(self, device: str, parent: str | None = None) -> dict[str, Any]:
        """An edge device; the key of its $edgeHub is kept."""
        above = {} if parent is None else {"parentScopes": [await self.scope_of(parent)]}
        made = await self.create(device, capabilities={"iotEdge": True}, **above)
        module = await self.ask("GET", f"/devices/{device}/modules/%24edgeHub")
        self.keys[f"{device}/$edgeHub"] = module.json["authentication"]["symmetricKey"]["primaryKey"]
        return made

    async def scope_of(self, device: str) -> str:
        scope: str = (await self.ask("GET", f"/devices/{device}")).json["deviceScope"]
        return scope

    async def by_thumbprint(self, device: str, *holders: Holder) -> None:
        prints = [holder.chain.thumbprint("sha256").hex() for holder in holders]
        slots = {"primaryThumbprint": prints[0], "secondaryThumbprint": (*prints, None)[1]}
        await self.create(device, authentication={"type": "selfSigned", "x509Thumbprint": slots})

    async def trust(self, holder: Holder, name: str = "ca") -> str:
        """Register a CA as verified; its ETag."""
        pem = base64.b64encode(holder.chain.pem().encode()).decode()
        body = {"properties": {"certificate": pem, "isVerified": True}}
        answer = await self.ask("PUT", f"/certificates/{name}", body)
        assert answer.status == 201, answer
        return answer.etag

    async def refusals(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.ask("GET", "/edgetrust/refusals", version=None)).json["refusals"]
        return found

    async def events(self, query: str = "after=0") -> list[dict[str, Any]]:
        answer = await self.ask("GET", f"/edgetrust/events?{query}", version=None)
        assert answer.status == 200, answer
        found: list[dict[str, Any]] = answer.json["events"]
        return found

    async def curl(self, *arguments: str, show: Path | None = None) -> Answer:
        """curl, as a client that shares no code with us. `show`: a file with certificate and key."""
        options = ["--silent", "--show-error", "--include", "--http1.1", "--cacert", str(self.root), "--max-time", "60"]
        if show is not None:
            options += ["--cert", str(show)]
        code, output = await run("curl", *options, *arguments)
        assert code == 0, output
        head, _, body = output.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return Answer(int(first.split()[1]), headers, body)


@asynccontextmanager
async def running(
    directory: Path,
    pki: HubPki,
    database: str | None = None,
    clock: ManualClock | None = None,
    invite: Invite | None = None,
    **more: Any,
) -> AsyncIterator[World]:
    """A hub with an empty store, unless `database` holds something."""
    settings = new_settings(directory, pki, database, **more)
    clock = clock or ManualClock(datetime.now(UTC))
    hub = await Hub.start(settings, clock, invite)
    context: ssl.SSLContext = https_context(
        TrustBundle.from_pem(pki.trust_bundle.read_bytes(), as_of=datetime.now(UTC))
    )
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), trust_env=False) as session:
            yield World(hub, settings, clock, directory, session)
    finally:
        await hub.stop()


async def run(*arguments: str, say: bytes | None = None, seconds: float = 60) -> tuple[int, bytes]:
    """A program's exit code and what it printed on both streams."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.PIPE if say is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(seconds):
            output, _ = await process.communicate(say)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, output


def identity_file(holder: Holder, directory: Path, name: str = "identity") -> Path:
    """Certificate chain and key in one file, as curl takes it."""
    file = directory / f"{name}.pem"
    file.write_bytes(holder.chain.pem().encode() + holder.key_pem())
    return file


async def until(condition: Any, seconds: float = 60.0) -> None:
    """Wait until a (maybe asynchronous) condition holds."""
    deadline = time.monotonic() + seconds
    while True:
        outcome = condition()
        if asyncio.iscoroutine(outcome):
            outcome = await outcome
        if outcome:
            return
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        await asyncio.sleep(0.02)
