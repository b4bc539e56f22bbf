"""Hub > G1 > ... > G5 > devices, each a process in a network where only its neighbours are reached, and clients at any
place that write their bytes by hand: a device, or somebody who has stolen a gateway's key.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shlex
import signal
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from edgetrust.cli.client import HubClient, find_hub
from edgetrust.protocol.sas import resource_text, sign
from support.edge_world import Process, wait_until
from support.networks import Row
from support.ports import free_port
from support.raw_mqtt import CONNACK, PUBACK, Raw, connect, publish

T = TypeVar("T")
DEPTH = 5
PLACE_OF_DEVICES = DEPTH + 1
WAIT = 60.0  # seconds for what happens by itself, on a machine that has much to do
API = "?api-version=2021-04-12"
Pair = tuple[Path, Path]


class Field:
    """The processes. `place` 0 is the hub's, 1 to 5 are the gateways', 6 is below the last of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.row = Row(PLACE_OF_DEVICES + 1)
        self.row.make()
        if not self.row.isolated:
            warnings.warn(UserWarning(f"on loopback, without networks of its own: {self.row.why_not}"), stacklevel=1)
        self.hub_ports, self.ports = (free_port(), free_port()), [(free_port(), free_port()) for _ in range(DEPTH)]
        self.hub_name = self.row.address(0)
        self.processes: list[Process] = []

    def begin(self) -> None:
        arguments = [
            "up",
            "--dir",
            str(self.folder / "hub"),
            "--host",
            self.hub_name,
            "--bind",
            self.hub_name,
            "--json",
        ]
        arguments += ["--mqtt-port", str(self.hub_ports[0]), "--https-port", str(self.hub_ports[1])]
        self._launch(0, arguments, "hub").read_ready()
        (self.folder / "field.yaml").write_text(json.dumps(self._topology()))  # which is YAML, too
        self.edgetrust(0, "fleet", "apply", str(self.folder / "field.yaml"), "--out", str(self.folder / "fleet"))
        for place in range(1, DEPTH + 1):
            root = str(self.folder / f"roots/G{place}")
            config = str(self.folder / f"fleet/G{place}/config.toml")
            self._launch(place, ["edge", "serve", "-c", config, "--root", root, "--json"], f"G{place}")
        for process in self.processes[1:]:
            process.read_ready()
        for place in range(1, DEPTH + 1):  # each has been told who is below it
            wait_until(lambda at=place: self.state(at)["scope"]["identities"] >= 5, WAIT)  # type: ignore[misc]

    def _topology(self) -> dict[str, Any]:
        below: dict[str, Any] = {}
        for place in range(DEPTH, 0, -1):
            mqtt, https = self.ports[place - 1]
            gateway = {
                "id": f"G{place}",
                "hostname": self.row.address(place),
                "listen": self.row.address(place),
                "auth": "sas" if place % 2 else "thumbprint",
                "mqtt_port": mqtt,
                "https_port": https,
                "devices": [{"id": f"Sensor{place}", "auth": "sas", "modules": ["probe"]}, f"Meter{place}"],
                **({"gateways": [below]} if below else {}),
            }
            below = gateway
        return {"name": "field", "install_dir": str(self.folder / "fleet"), "gateways": [below]}

    def _launch(self, place: int, arguments: list[str], name: str) -> Process:
        process = Process(arguments, self.folder / f"{name}.log", prefix=self.row.prefix(place))
        self.processes.append(process)
        process.launch()
        return process

    def end(self) -> None:
        for process in reversed(self.processes):  # how each ends when it is told to is seen elsewhere
            process.stop(signal.SIGKILL)
        self.row.close()

    def cut(self, link: int) -> None:
        process = self.processes[link].running
        assert process is not None
        self.row.cut(link, lambda: [process.pid])

    # Programs at a place --------------------------------------------------------------------------------------------

    def run(self, place: int, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.row.prefix(place), *words], input=stdin, capture_output=True, text=True, timeout=90, check=False,
            env={**os.environ, "EDGETRUST_DIR": str(self.folder / "hub") if place == 0 else ""},
        )  # fmt: skip

    def edgetrust(self, place: int, *arguments: str, ok: bool = True) -> str:
        done = self.run(place, sys.executable, "-m", "edgetrust.cli", *arguments)
        assert not ok or done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def send(self, device: str, *messages: str) -> subprocess.CompletedProcess[str]:
        """Send as the README of a device says, from where the devices of its gateway are."""
        place = int(device[-1]) + 1
        text = (self.folder / "fleet" / device / "README.txt").read_text()
        line = next(line for line in text.splitlines() if "edgetrust device send" in line)
        words = shlex.split(line)[1:]
        at = words.index("--message")
        words[at + 1] = "-"
        return self.run(place, sys.executable, "-m", "edgetrust.cli", *words, stdin="\n".join(messages) + "\n")

    def openssl(self, place: int, *options: str) -> str:
        """What `openssl s_client` shows of the gateway at a place to who is right below it."""
        at = f"{self.row.address(place)}:{self.ports[place - 1][0]}"
        words = ("openssl", "s_client", "-connect", at, "-CAfile", str(self.trust(place)), *options)
        done = self.run(place + 1, *words)
        return done.stdout + done.stderr

    # The hub --------------------------------------------------------------------------------------------------------

    def hub(self, work: Callable[[HubClient], Awaitable[T]]) -> T:
        """What a service says to the hub."""

        async def say() -> T:
            async with HubClient(find_hub(self.folder / "hub", None, None, None)) as client:
                return await work(client)

        return self.row.at(0, lambda: asyncio.run(say()))

    def create(self, device: str, **body: Any) -> dict[str, Any]:
        made: dict[str, Any] = self.hub(lambda hub: hub.put("devices", device, body={"deviceId": device, **body}))
        return made

    def scope(self, gateway: str) -> str:
        return str(self.hub(lambda hub: hub.get("devices", gateway))["deviceScope"])

    def enable(self, device: str, enabled: bool) -> None:
        async def change(hub: HubClient) -> None:
            found = await hub.get("devices", device)
            await hub.put("devices", device, body={**found, "status": "enabled" if enabled else "disabled"}, etag="*")

        self.hub(change)

    def bodies(self, device: str) -> list[str]:
        """What the hub has of a device, in order, duplicates too."""
        found = self.hub(lambda hub: hub.get("edgetrust", "events", after="0", limit="1000", device=device))
        return [event["bodyText"] for event in found["events"]]

    def arrive(self, device: str, wanted: list[str]) -> None:
        """Wait until these are the last at the hub. At least once: what was on its way when a connection ended is sent
        again, from there on in order. So a repetition is a step back to what had come, and everything after it follows.
        """
        deadline = time.monotonic() + WAIT
        while (found := first_times(self.bodies(device)))[-len(wanted) :] != wanted:
            assert time.monotonic() < deadline, found

    # A gateway ------------------------------------------------------------------------------------------------------

    def trust(self, place: int) -> Path:
        return self.folder / f"fleet/Meter{place}/trust.pem"

    def state(self, place: int) -> dict[str, Any]:
        return dict(json.loads((self.folder / f"roots/G{place}/var/lib/edgetrust/status.json").read_text()))

    def log(self, place: int, after: int = 0) -> list[dict[str, Any]]:
        """What the process at a place has logged, from line `after` on."""
        lines = self.processes[place].log.read_text().splitlines()[after:]
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def refused(self, place: int, after: int = 0) -> list[tuple[str, str]]:
        """Whom it has refused and why, in order."""
        found = self.log(place, after)
        return [(one["identity"], one["reason"]) for one in found if one["event"] == "connection.refused"]

    # Clients that write their bytes by hand ------------------------------------------------------------------------

    def key(self, who: str) -> str:
        """The primary key of a device or module, as whoever has stolen it has it."""
        device, _, module = who.partition("/")
        path = ("devices", device, *(("modules", module) if module else ()))
        return str(self.hub(lambda hub: hub.get(*path))["authentication"]["symmetricKey"]["primaryKey"])

    def token(self, who: str, key: str) -> str:
        device, _, module = who.partition("/")
        resource = resource_text(self.hub_name, device, module or None)
        return sign(base64.b64decode(key), resource, int(time.time()) + 3600)

    def pair(self, device: str) -> Pair:
        folder = self.folder / "fleet" / device
        return folder / "identity.cert.pem", folder / "identity.key.pem"

    def as_client(
        self,
        place: int,
        who: str,
        work: Callable[[Raw], Awaitable[T]],
        *,
        password: str | None = None,
        pair: Pair | None = None,
        said: str = "",
    ) -> T:
        """Connect to the gateway at `place`, from below it, and work. Raises ConnectionError when not accepted;
        `said` are further parameters of the user name.
        """

        async def begin() -> T:
            raw = await self.dial(place, pair)
            raw.writer.write(connect(who, f"{self.hub_name}/{who}/{API}{said}", password, clean=True))
            kind, body = await raw.read()
            try:
                if kind != CONNACK or body[1] != 0:
                    raise ConnectionError(f"CONNACK {body[1]}")
                return await work(raw)
            finally:
                raw.abort()

        return self.row.at(place + 1, lambda: asyncio.run(_bounded(begin())))

    async def dial(self, place: int, pair: Pair | None = None) -> Raw:
        """A TLS connection to the gateway at a place, for whoever is in the network below."""
        context = ssl.create_default_context(cafile=str(self.trust(place)))
        if pair is not None:
            context.load_cert_chain(*pair)
        host = self.row.address(place)
        reader, writer = await asyncio.open_connection(
            host, self.ports[place - 1][0], ssl=context, server_hostname=host
        )
        return Raw(reader, writer)

    def credentials(self, device: str) -> dict[str, Any]:
        """Those in the folder of a device of the fleet."""
        if device.startswith("Meter"):
            return {"pair": self.pair(device)}
        key = (self.folder / "fleet" / device / "symmetric.key").read_text().strip()
        return {"password": self.token(device, key)}

    def says(self, device: str, *messages: str, place: int | None = None, **credentials: Any) -> None:
        """A device sends, each acknowledged."""
        at = int(device[-1]) if place is None else place
        self.as_client(at, device, lambda raw: sends(raw, device, *messages), **credentials or self.credentials(device))

    def https(
        self, place: int, method: str, path: str, token: str, body: Any = None
    ) -> tuple[int, dict[str, Any] | list[Any]]:
        """Status and JSON of a request to the gateway at `place`, from below it."""

        async def ask() -> tuple[int, Any]:
            context = ssl.create_default_context(cafile=str(self.trust(place)))
            url = URL(f"https://{self.row.address(place)}:{self.ports[place - 1][1]}{path}", encoded=True)
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
                session.request(method, url, json=body, headers={"Authorization": token}) as answer,
            ):
                return answer.status, await answer.json() if await answer.read() else {}

        return self.row.at(place + 1, lambda: asyncio.run(_bounded(ask())))


async def sends(raw: Raw, sender: str, *messages: str) -> None:
    """Publish, each acknowledged before the next."""
    for number, message in enumerate(messages, 1):
        raw.writer.write(publish(f"devices/{sender}/messages/events/", message.encode(), number))
        kind, body = await raw.read()
        assert (kind, body) == (PUBACK, number.to_bytes(2, "big"))


def first_times(bodies: list[str]) -> list[str]:
    """Without repetitions; what is repeated must follow on what came right before it the first time."""
    order = list(dict.fromkeys(bodies))
    at = {body: place for place, body in enumerate(order)}
    for one, following in pairwise(bodies):
        assert at[following] <= at[one] + 1, f"{following!r} after {one!r}"
    return order


async def _bounded(work: Awaitable[T]) -> T:
    async with asyncio.timeout(WAIT):
        return await work
