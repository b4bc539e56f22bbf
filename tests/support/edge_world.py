"""A hub and gateways as real processes on loopback, and the tools that look at them from outside."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust.cli.client import HubClient, find_hub
from support import forked
from support.forked import Forked
from support.pki import Holder, Pki, self_signed
from support.ports import free_port

HUB_NAME = "localhost"


def write_holder(folder: Path, name: str, holder: Holder, *, root: bool = False) -> tuple[Path, Path]:
    """The chain (with or without its root) and the key of a holder, as files."""
    certificate, key = folder / f"{name}.cert.pem", folder / f"{name}.key.pem"
    certificate.write_text((holder.full_chain if root else holder.chain).pem())
    key.write_bytes(holder.key_pem())
    key.chmod(0o600)
    return certificate, key


def edgetrust(*arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    done = forked.run(*arguments, timeout=60)
    assert not ok or done.returncode == 0, done.stderr
    return done


@dataclass
class Process:
    """A program that prints one JSON line when it is ready and serves until it is told to stop."""

    arguments: list[str]
    log: Path
    ready: dict[str, Any] = field(default_factory=dict)
    ready_after: float = 0.0
    running: subprocess.Popen[str] | Forked | None = None
    prefix: list[str] = field(default_factory=list)  # what the command is started with

    def start(self) -> dict[str, Any]:
        began = time.monotonic()
        self.launch()
        ready = self.read_ready()
        self.ready_after = time.monotonic() - began
        return ready

    def launch(self) -> None:
        """Start it, without waiting."""
        with self.log.open("a") as log:
            if not self.prefix:
                self.running = Forked(self.arguments, stderr=log)
                return
            self.running = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "edgetrust.cli", *self.arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def read_ready(self) -> dict[str, Any]:
        """Wait until it is ready."""
        assert self.running is not None
        assert self.running.stdout is not None
        line = self.running.stdout.readline()
        assert line, f"not ready: {self.log.read_text()[-3000:]}"
        self.ready = json.loads(line)
        return self.ready

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell it to stop (or kill it) and wait for it."""
        if self.running is None:
            return 0
        if self.running.poll() is None:
            self.running.send_signal(number)
        code = self.running.wait(60)
        assert self.running.stdout is not None
        self.running.stdout.close()
        self.running = None
        return code

    def text(self) -> str:
        return self.log.read_text()


@dataclass
class Gateway(Process):
    """A gateway process; files as its config.toml names them."""

    root: Path = Path()
    hostname: str = ""
    trust: Path = Path()

    @property
    def port(self) -> int:
        return int(self.ready["gateway"]["mqtt_port"])

    @property
    def certificates(self) -> Path:
        return self.root / "var/lib/aziot/certd/certs"

    @property
    def keys(self) -> Path:
        return self.root / "var/lib/aziot/keyd/keys"

    def file(self, prefix: str) -> Path:
        found = list(self.certificates.glob(f"{prefix}*.cer"))
        assert len(found) == 1, found
        return found[0]

    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.root / "var/lib/edgetrust/status.json").read_text()))

    def publish(
        self, device: str, message: str = "21", *, holder: Holder | None = None, **options: str
    ) -> subprocess.CompletedProcess[str]:
        """Be a device, with mosquitto_pub. `options`: user, password, client_id, topic, cert, key, host."""
        folder = self.root.parent
        cert: list[str] = []
        if holder is not None:
            files = write_holder(folder, f"client-{device.replace('/', '-')}", holder)
            cert = ["--cert", str(files[0]), "--key", str(files[1])]
        if "cert" in options:
            cert = ["--cert", options["cert"], "--key", options["key"]]
        password = ["-P", options["password"]] if "password" in options else []
        return subprocess.run(
            [
                "mosquitto_pub", "-d", "-V", "mqttv311", "-q", "1",
                "-h", options.get("host", self.hostname), "-p", str(self.port), "--cafile", str(self.trust),
                "-i", options.get("client_id", device),
                "-u", options.get("user", f"{HUB_NAME}/{device}/?api-version=2021-04-12"),
                "-t", options.get("topic", f"devices/{device}/messages/events/"),
                "-m", message, *cert, *password,
            ],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def curl(self, path: str, *options: str) -> tuple[int, str]:
        """Status and body of a request to the HTTPS port, with curl."""
        address = f"https://{self.hostname}:{self.ready['gateway']['https_port']}{path}"
        done = subprocess.run(
            ["curl", "-sS", "--cacert", str(self.trust), "-w", "\n%{http_code}", *options, address],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def subscribe(self, device: str, holder: Holder) -> subprocess.Popen[str]:
        """A device that stays connected, with mosquitto_sub."""
        certificate, key = write_holder(self.root.parent, f"client-{device}", holder)
        return subprocess.Popen(
            [
                "mosquitto_sub", "-d", "-V", "mqttv311", "-q", "1", "-h", self.hostname, "-p", str(self.port),
                "--cafile", str(self.trust), "-i", device, "-u", f"{HUB_NAME}/{device}/?api-version=2021-04-12",
                "-t", f"devices/{device}/messages/devicebound/#", "--cert", str(certificate), "--key", str(key),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def s_client(self, *options: str) -> str:
        """What `openssl s_client` prints when it connects here."""
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{self.port}", "-CAfile", str(self.trust), *options],
            input="", capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr


class World:
    """One hub, its PKI, and whatever gateways a test wants."""

    def __init__(self, folder: Path, hub_name: str = HUB_NAME) -> None:
        self.folder = folder
        self.hub_name = hub_name
        self.hub_folder = folder / "hub"
        self.hub = Process(
            [
                "up", "--dir", str(self.hub_folder), "--host", hub_name, "--bind", "127.0.0.1", "--json",
                "--mqtt-port", str(free_port()), "--https-port", str(free_port()),
            ],
            folder / "hub.log",
        )  # fmt: skip
        self.pki = Pki(now=datetime.now(UTC), intermediates=1, root_name="my private root")
        self.gateways: list[Gateway] = []
        self.children: list[subprocess.Popen[str]] = []

    # The hub --------------------------------------------------------------------------------------------------------

    def device(self, name: str, *options: str) -> dict[str, Any]:
        """Register a device at the hub."""
        done = edgetrust("device", "create", name, *options, "--keys", "--json", "--dir", str(self.hub_folder))
        return dict(json.loads(done.stdout))

    def device_command(self, *arguments: str) -> None:
        edgetrust("device", *arguments, "--dir", str(self.hub_folder))

    def thumbprint_device(self, name: str, holder: Holder, *options: str) -> None:
        self.device(name, "--thumbprint", holder.chain.thumbprint().hex(), *options)

    def edge_device(self, name: str = "EdgeGateway", holder: Holder | None = None) -> Holder:
        """Register the gateway by thumbprint; the holder of its identity."""
        identity = holder or self_signed(name, now=self.pki.now)
        shown = identity.chain.thumbprint().hex()
        self.device(name, "--edge", "--thumbprint", shown, "--secondary-thumbprint", shown)
        return identity

    def events(self, device: str | None = None) -> list[str]:
        """The bodies of the messages at the hub, in order."""
        query = {} if device is None else {"device": device}

        async def ask() -> Any:
            async with HubClient(find_hub(self.hub_folder, None, None, None)) as client:
                return await client.get("edgetrust", "events", after="0", limit="1000", **query)

        return [event["bodyText"] for event in asyncio.run(ask())["events"]]

    def wait_for_events(self, wanted: list[str], device: str | None = None) -> None:
        wait_until(lambda: self.events(device)[-len(wanted) :] == wanted)

    # Gateways -------------------------------------------------------------------------------------------------------

    def gateway(
        self,
        identity: Holder,
        device: str = "EdgeGateway",
        *,
        hostname: str = "localhost",
        edge_ca: Holder | None = None,
        quickstart: bool = False,
        extra: str = "",
        name: str = "gateway",
        above: Gateway | None = None,
    ) -> Gateway:
        """Write a config.toml and make (not start) its gateway; `above` is the gateway that it stands below."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        identity_files = write_holder(folder, "identity", identity)
        trust = folder / "root.pem"
        trust.write_bytes(self.pki.root.certificate.public_bytes(Encoding.PEM))
        table = ""
        if not quickstart:
            ca = edge_ca or self.edge_ca()
            ca_files = write_holder(folder, "edge-ca", ca, root=True)
            table = f'[edge_ca]\ncert = "file://{ca_files[0]}"\npk = "file://{ca_files[1]}"\n'
        ready = self.hub.ready
        ports, parent, authority = ready["hub"], "", f'ca = "file://{ready["trust_bundle"]}"'
        if above is not None:
            ports, parent, authority = above.ready["gateway"], f'parent_hostname = "{above.hostname}"', ""
        config = folder / "config.toml"
        config.write_text(
            f"""
hostname = "{hostname}"
trust_bundle_cert = "file://{trust}"
{parent}

[provisioning]
source = "manual"
iothub_hostname = "{self.hub_name}"
device_id = "{device}"

[provisioning.authentication]
method = "x509"
identity_cert = "file://{identity_files[0]}"
identity_pk = "file://{identity_files[1]}"

{table}
[edgetrust.listen]
host = "127.0.0.1"
mqtt_port = 0
https_port = 0

[edgetrust.metrics]
port = 0

[edgetrust.upstream]
host = "127.0.0.1"
mqtt_port = {ports["mqtt_port"]}
https_port = {ports["https_port"]}
{authority}
{extra}
"""
        )
        root = folder / "root"
        arguments = ["edge", "serve", "-c", str(config), "--root", str(root), "--json"]
        made = Gateway(arguments, folder / "gateway.log", root=root, hostname=hostname, trust=trust)
        self.gateways.append(made)
        return made

    def edge_ca(self, name: str = "iotedged workload ca edgegateway", **fields: Any) -> Holder:
        return self.pki.issuing.authority(name, **{"now": self.pki.now, "path_length": 0, **fields})

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
        for process in (*self.gateways, self.hub):
            process.stop()


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that happens by itself."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@dataclass
class Story:
    """A hub, a gateway and a sensor that trust each other."""

    world: World
    gateway: Gateway
    identity: Holder
    sensor: Holder


def begin_story(folder: Path, **options: Any) -> Story:
    """Start a hub, register gateway and sensor, start the gateway."""
    made = World(folder)
    try:
        made.hub.start()
        identity = made.edge_device()
        sensor = self_signed("TempSensor", now=made.pki.now)
        made.thumbprint_device("TempSensor", sensor, "--parent", "EdgeGateway")
        gateway = made.gateway(identity, **options)
        gateway.start()
    except BaseException:
        made.close()
        raise
    return Story(made, gateway, identity, sensor)
