"""The hub of the Contoso company and its gateways as processes, under the names that its devices know.

Nothing resolves those names here: tests ask the hub's REST interface on loopback, devices come through a proxy. And a
network of one's own, where the ports that cannot be moved are free.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust.cli.client import HubClient, find_hub
from support.azure import Sdk
from support.edge_world import Gateway, World, write_holder
from support.pki import Holder, Pki
from support.proxy import Proxy

HUB = "contosoiothub.azure-devices.net"
GATEWAY = "edgegateway.local"
MQTT, HTTPS = 8883, 443
SECONDS = 60.0


@dataclass
class Device:
    """A client of the SDK. Its errors are SdkErrors."""

    sdk: Sdk
    name: str
    identity: str
    ended: bool = False

    def connect(self) -> None:
        self.sdk.do("connect", client=self.name)

    def send(self, body: str, **words: Any) -> None:
        """Send a message and wait until it is acknowledged."""
        self.sdk.do("send", client=self.name, body=body, **words)

    def begin(self, do: str, **words: Any) -> Future[Any]:
        """Give a command without waiting for its end."""
        return self.sdk.begin(do, client=self.name, **words)

    def listen(self) -> None:
        self.sdk.do("listen", client=self.name)

    def twin(self) -> dict[str, Any]:
        return dict(self.sdk.do("twin", client=self.name))

    def report(self, patch: dict[str, Any]) -> None:
        self.sdk.do("report", client=self.name, patch=patch)

    def watch(self) -> None:
        self.sdk.do("watch", client=self.name)

    def answer(self, **words: Any) -> None:
        """Answer direct methods."""
        self.sdk.do("answer", client=self.name, **words)

    def news(self, event: str) -> list[dict[str, Any]]:
        return self.sdk.news(self.name, event)

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        return self.sdk.wait_for(self.name, event, count)

    def disconnect(self) -> None:
        self.sdk.do("disconnect", client=self.name)

    def shutdown(self) -> None:
        self.ended = True
        self.sdk.do("shutdown", client=self.name)


class Contoso:
    """The hub as a process, the proxy that leads to it, and the SDK that plays its devices."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = World(folder, HUB)
        self.sdk = Sdk("device", log=folder / "sdk.log")
        self.proxy = Proxy({})
        self.devices: list[Device] = []
        self._made = 0

    def __enter__(self) -> Self:
        self.proxy.__enter__()
        try:
            self.start_hub()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.sdk.close()
        self.proxy.__exit__(None, None, None)
        self.world.close()

    # The hub --------------------------------------------------------------------------------------------------------

    def start_hub(self) -> None:
        """Start it; on the ports it had, if it ran before."""
        ready = self.world.hub.start()
        self.proxy.routes[HUB, MQTT] = ready["hub"]["mqtt_port"]
        self.proxy.routes[HUB, HTTPS] = ready["hub"]["https_port"]
        secret = self.folder / "service.txt"
        secret.write_text(ready["service_connection_string"])
        here = f"https://localhost:{ready['hub']['https_port']}"
        self._hub = find_hub(None, here, secret, Path(ready["trust_bundle"]))

    @contextmanager
    def registry_away(self) -> Iterator[None]:
        """The hub runs, and cannot read its registry; whom it has seen before it remembers."""
        with closing(sqlite3.connect(self.world.hub_folder / "hub.sqlite", isolation_level=None)) as database:
            database.execute("ALTER TABLE devices RENAME TO devices_away")
            try:
                yield
            finally:
                database.execute("ALTER TABLE devices_away RENAME TO devices")

    @property
    def pki(self) -> Pki:
        return self.world.pki

    @property
    def hub_root(self) -> str:
        """The root that verifies the hub, PEM."""
        return Path(self.world.hub.ready["trust_bundle"]).read_text()

    def age(self) -> timedelta:
        """How long ago `pki.now` was."""
        return datetime.now(UTC) - self.pki.now

    def local_connection_string(self) -> str:
        """The owner's connection string, for who asks on localhost."""
        return str(self.world.hub.ready["service_connection_string"]).replace(HUB, "localhost", 1)

    def rest(self, method: str, *path: str, **options: Any) -> Any:
        """One request to the hub, with its owner's policy."""

        async def ask() -> Any:
            async with HubClient(self._hub) as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def register(self, device: str, module: str | None = None, **body: Any) -> dict[str, Any]:
        """Register a device or module; keys are made by the hub. `body`: what the registry's JSON has."""
        path = ["devices", device, *(["modules", module] if module else [])]
        names = {"deviceId": device, **({"moduleId": module} if module else {})}
        return dict(self.rest("PUT", *path, body={**names, **body}))

    def register_thumbprints(
        self, device: str, primary: str | None = None, secondary: str | None = None, **more: Any
    ) -> dict[str, Any]:
        """Register a device or module that shows one of these certificates."""
        slots = {"primaryThumbprint": primary, "secondaryThumbprint": secondary}
        return self.register(device, authentication={"type": "selfSigned", "x509Thumbprint": slots}, **more)

    def register_ca(self, name: str, certificate: x509.Certificate, *, verified: bool = True) -> None:
        """Register a CA whose certificates devices may show."""
        text = certificate.public_bytes(Encoding.PEM).decode()
        self.rest("PUT", "certificates", name, body={"properties": {"certificate": text, "isVerified": verified}})

    def change(self, device: str, **body: Any) -> None:
        """Update a registered device."""
        kept = self.rest("GET", "devices", device)
        self.rest("PUT", "devices", device, body={**kept, **body}, headers={"If-Match": "*"})

    def command(self, device: str, body: str, headers: Mapping[str, str] | None = None) -> None:
        """Send a message to a device, as a service does."""
        path = ("devices", device, "messages", "devicebound")
        self.rest("POST", *path, raw=body.encode(), headers=headers)

    def events(self, device: str) -> list[dict[str, Any]]:
        """What has arrived from a device, in order."""
        return list(
            self.rest("GET", "edgetrust", "events", query={"after": "0", "limit": "1000", "device": device})["events"]
        )

    def bodies(self, device: str) -> list[str]:
        """The bodies of what has arrived."""
        return [event["bodyText"] for event in self.events(device)]

    def refusals(self, identity: str) -> list[str]:
        """Why an identity was refused, the first refusal first."""
        found = self.rest("GET", "edgetrust", "refusals", query={"limit": "1000"})["refusals"]
        return [one["reason"] for one in reversed(found) if one["identity"] == identity]

    # Devices --------------------------------------------------------------------------------------------------------

    def with_key(
        self, device: str, key: str, *, module: str | None = None, gateway: str = "", **options: Any
    ) -> Device:
        """A client that signs tokens with a key."""
        words = [f"HostName={HUB}", f"DeviceId={device}", *([f"ModuleId={module}"] if module else [])]
        words += [f"SharedAccessKey={key}", *([f"GatewayHostName={gateway}"] if gateway else [])]
        return self._create(device, module, gateway, {"connection_string": ";".join(words), **options})

    def with_certificate(
        self,
        device: str,
        holder: Holder,
        *,
        module: str | None = None,
        gateway: str = "",
        root: bool = False,
        **options: Any,
    ) -> Device:
        """A client that shows a certificate, with the intermediates above it and, if asked for, the root."""
        certificate, key = write_holder(self.folder, f"device-{self._made}", holder, root=root)
        files = {"certificate": str(certificate), "key": str(key), "hostname": HUB, "device": device}
        through = {"gateway_hostname": gateway} if gateway else {}
        return self._create(device, module, gateway, {"x509": files, **through, **options})

    def end_devices(self) -> None:
        """End the clients that a test has left, which would go on trying to connect. Nobody waits for them."""
        for device in self.devices:
            if not device.ended:
                device.begin("shutdown")
        self.devices.clear()

    def _create(self, device: str, module: str | None, gateway: str, options: dict[str, Any]) -> Device:
        self._made += 1
        identity = f"{device}/{module}" if module else device
        made = Device(self.sdk, f"{identity} ({self._made})", identity)
        self._create_client(made, module, gateway, options)
        self.devices.append(made)
        return made

    def _create_client(self, made: Device, module: str | None, gateway: str, options: dict[str, Any]) -> None:
        root = self.pki.root.certificate.public_bytes(Encoding.PEM).decode() if gateway else self.hub_root
        wanted = {
            "proxy": {"kind": "SOCKS5", "port": self.proxy.port},
            "server_verification_cert": root,
            "connection_retry_interval": 1,  # instead of ten seconds: tests do not wait
            **options,
        }
        self.sdk.do("create", client=made.name, module=module, **wanted)

    # The gateway ----------------------------------------------------------------------------------------------------

    def start_gateway(self, device: str = "EdgeGateway", name: str = GATEWAY, *, extra: str = "") -> Gateway:
        """Register an edge device, start its gateway, and lead the proxy to it under its name."""
        identity = Pki(now=self.pki.now, intermediates=0, root_name=f"{device} issuer").device(device)
        shown = identity.chain.thumbprint().hex()
        self.register_thumbprints(device, shown, shown, capabilities={"iotEdge": True})
        gateway = self.world.gateway(identity, device, hostname=name, name=device, extra=extra)
        gateway.start()
        self.proxy.routes[name, MQTT] = gateway.port
        self.proxy.routes[name, HTTPS] = int(gateway.ready["gateway"]["https_port"])
        return gateway

    def scope(self, gateway: str = "EdgeGateway") -> dict[str, Any]:
        """What makes a device a child of a gateway, to be registered with it."""
        return {"deviceScope": self.rest("GET", "devices", gateway)["deviceScope"]}


_LISTEN = """
import socket, sys
made = [socket.create_server((host, int(port)), family=family)
        for port in sys.argv[2:]
        for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6))]
socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b"x"], [one.fileno() for one in made])
"""


class OwnNetwork:
    """A network namespace with nothing but its loopback, where every port is free. Works without root where the
    kernel lets users make namespaces.
    """

    def __init__(self) -> None:
        self._root = os.geteuid() == 0

    def __enter__(self) -> Self:
        own = [] if self._root else ["--user", "--map-root-user"]
        waits = ["sh", "-c", "ip link set lo up && echo up && exec sleep infinity"]
        self._held = subprocess.Popen(
            ["unshare", *own, "--net", *waits], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._held.stdout is not None
        assert self._held.stderr is not None
        if self._held.stdout.readline() != "up\n":
            problem = self._held.stderr.read()
            self._end()
            raise AssertionError(
                f"no network namespace: run the tests as root, or let users make them (iproute2 is needed): {problem}"
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end()

    @property
    def prefix(self) -> list[str]:
        """What starts a program in here."""
        own = [] if self._root else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(self._held.pid), *own, "--net"]

    def listen(self, *ports: int) -> list[socket.socket]:
        """Sockets that listen on the loopback in here, IPv4 and IPv6, and are served from outside."""
        ours, theirs = socket.socketpair()
        asked = [*self.prefix, sys.executable, "-c", _LISTEN, str(theirs.fileno()), *map(str, ports)]
        with ours, theirs:
            subprocess.run(asked, pass_fds=[theirs.fileno()], check=True)
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 2 * len(ports))
        return [socket.socket(fileno=one) for one in descriptors]

    def _end(self) -> None:
        self._held.kill()
        self._held.wait()
        for pipe in (self._held.stdout, self._held.stderr):
            assert pipe is not None
            pipe.close()


def wait_for(true: Any, wanted: str, seconds: float = SECONDS) -> None:
    """Wait for something that happens by itself; `wanted` says what."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {wanted}"
        time.sleep(0.05)
