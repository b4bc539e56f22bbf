"""The hub and a gateway as the bench runs them: real `edgetrust` processes, filled through the hub's REST interface.

The client side is written out here, as little as it is, so that it does not share faults with what it measures.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from material import Device, Material
from servers import Server, free_port

HUB = "localhost"
GATEWAY = "localhost"
_API = {"api-version": "2021-04-12"}
_REQUESTS = 16  # at the same time
_BULK = 100
_COMMAND = ("-m", "edgetrust.cli")


@dataclass
class Hub:
    """`edgetrust up` in a directory; what it has stored is still there when it is started again."""

    directory: Path
    log: Path
    pinned: bool = True
    server: Server | None = None
    ready_after: float = 0.0
    mqtt_port: int = 0
    https_port: int = 0
    profile: Path | None = None
    _secret: str = ""
    _policy: str = ""
    _trust: str = ""

    def start(self) -> Server:
        """Start it, and wait for the line that says it is ready."""
        self.mqtt_port, self.https_port = free_port(), free_port()
        ports = ["--mqtt-port", str(self.mqtt_port), "--https-port", str(self.https_port)]
        profiling = () if self.profile is None else ("-m", "cProfile", "-o", str(self.profile))
        arguments = ["up", "--dir", str(self.directory), "--host", HUB, *ports, "--json"]
        command = [sys.executable, *profiling, *_COMMAND, *arguments]
        self.server = Server("edgetrust up", command, self.log, pinned=self.pinned)
        said = json.loads(self.server.first_line())
        self.ready_after = time.perf_counter() - self.server.started
        parts = dict(part.split("=", 1) for part in said["service_connection_string"].split(";"))
        self._policy, self._secret = parts["SharedAccessKeyName"], parts["SharedAccessKey"]
        self._trust = said["trust_bundle"]
        return self.server

    @property
    def trust_bundle(self) -> Path:
        return Path(self._trust)

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()

    def fill(self, material: Material) -> None:
        """Register all devices, and the CA that the others come from."""
        asyncio.run(self._fill(material))

    def newest_event(self) -> int:
        """The offset of the newest event in the log."""
        answer = asyncio.run(self._single("GET", "/edgetrust/events", after="latest", limit="1"))
        return int(answer["next"])

    def create_edge_device(self, name: str) -> str:
        """Register a gateway; its primary key."""
        body = {"deviceId": name, "authentication": {"type": "sas"}, "capabilities": {"iotEdge": True}}
        answer = asyncio.run(self._single("PUT", f"/devices/{name}", body))
        return str(answer["authentication"]["symmetricKey"]["primaryKey"])

    def fill_below(self, gateway: str, material: Material) -> None:
        """Register the devices that have a CA's certificate below a gateway, and the CA."""
        asyncio.run(self._fill_below(gateway, material))

    async def _fill_below(self, gateway: str, material: Material) -> None:
        certificate = base64.b64encode(material.root.read_bytes()).decode()
        async with self._session() as session:
            upload = {"properties": {"certificate": certificate, "isVerified": True}}
            await self._request(session, "PUT", "/certificates/bench", upload)
            scope = (await self._request(session, "GET", f"/devices/{gateway}", None))["deviceScope"]
            entries = [
                {
                    "id": device.name,
                    "importMode": "create",
                    "authentication": {"type": "certificateAuthority"},
                    "deviceScope": scope,
                }
                for device in material.by_ca
            ]
            for start in range(0, len(entries), _BULK):
                await self._request(session, "POST", "/devices", entries[start : start + _BULK])

    async def _single(self, method: str, path: str, body: object = None, **query: str) -> Any:
        async with self._session() as session:
            return await self._request(session, method, path, body, **query)

    async def _fill(self, material: Material) -> None:
        certificate = base64.b64encode(material.root.read_bytes()).decode()
        upload = {"properties": {"certificate": certificate, "isVerified": True}}
        async with self._session() as session:
            await self._request(session, "PUT", "/certificates/bench", upload)
            gate = asyncio.Semaphore(_REQUESTS)
            await asyncio.gather(
                self._register(session, gate, material.by_thumbprint, by_ca=False),
                self._register(session, gate, material.by_ca, by_ca=True),
            )

    async def _register(
        self, session: aiohttp.ClientSession, gate: asyncio.Semaphore, devices: Iterable[Device], *, by_ca: bool
    ) -> None:
        async def one(device: Device) -> None:
            authentication: dict[str, Any] = {"type": "certificateAuthority"}
            if not by_ca:
                prints = {"primaryThumbprint": device.thumbprint, "secondaryThumbprint": None}
                authentication = {"type": "selfSigned", "x509Thumbprint": prints}
            async with gate:
                body = {"deviceId": device.name, "authentication": authentication}
                await self._request(session, "PUT", f"/devices/{device.name}", body)

        await asyncio.gather(*(one(device) for device in devices))

    def _session(self) -> aiohttp.ClientSession:
        context = ssl.create_default_context(cafile=str(self.trust_bundle))
        connector = aiohttp.TCPConnector(ssl=context, limit=_REQUESTS)
        return aiohttp.ClientSession(f"https://{HUB}:{self.https_port}", connector=connector)

    async def _request(self, session: aiohttp.ClientSession, method: str, path: str, body: object, **query: str) -> Any:
        headers = {"Authorization": self._token()}
        async with session.request(method, path, params={**_API, **query}, json=body, headers=headers) as answer:
            text = await answer.text()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]}")
            return json.loads(text)

    def _token(self) -> str:
        """A service's SAS token (hub specification 4.1)."""
        until = int(time.time()) + 3600
        signed = hmac.digest(base64.b64decode(self._secret), f"{HUB}\n{until}".encode(), hashlib.sha256)
        signature = quote(base64.b64encode(signed), safe="")
        return f"SharedAccessSignature sr={HUB}&sig={signature}&se={until}&skn={self._policy}"


def start_gateway(
    hub: Hub, device: str, key: str, directory: Path, *, pinned: bool = False, profile: Path | None = None
) -> tuple[Server, float]:
    """`edgetrust edge serve` below `directory`, a quickstart gateway of `hub`; and the seconds until it was ready."""
    directory.mkdir(exist_ok=True)
    file = directory / "config.toml"
    connection = f"HostName={HUB};DeviceId={device};SharedAccessKey={key}"
    upstream = (
        f"mqtt_port = {hub.mqtt_port}\nhttps_port = {hub.https_port}\nca = {json.dumps(hub.trust_bundle.as_uri())}\n"
    )
    file.write_text(
        f'hostname = "{GATEWAY}"\n'
        f'[provisioning]\nsource = "manual"\nconnection_string = {json.dumps(connection)}\n'
        f'[edgetrust.listen]\nhost = "127.0.0.1"\nmqtt_port = {free_port()}\nhttps_port = {free_port()}\n'
        f"[edgetrust.upstream]\n{upstream}"
    )
    profiling = () if profile is None else ("-m", "cProfile", "-o", str(profile))
    command: list[str | Path] = [
        sys.executable,
        *profiling,
        *_COMMAND,
        "edge",
        "serve",
        "-c",
        file,
        "--root",
        directory / "root",
        "--json",
    ]
    server = Server("edgetrust edge serve", command, directory / "gateway.log", pinned=pinned)
    try:
        server.said = server.first_line()
    except BaseException:
        server.stop()
        raise
    return server, time.perf_counter() - server.started
