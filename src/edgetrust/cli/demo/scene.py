"""The scene of the story: ContosoIotHub, EdgeGateway and TempSensor with their certificates, on free ports of loopback.

It is set before the first line is told: certificates made, hub started, devices registered, gateway started. The roots
that the article finds in the operating system's store come from SSL_CERT_FILE here.
"""

from __future__ import annotations

import json
import re
import signal
import socket
from base64 import encodebytes
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from edgetrust.cli.demo.processes import NotShownError, Process, Processes, edgetrust, first_line, wait_for
from edgetrust.cli.demo_pki import (
    CA_SENSOR_ID,
    GATEWAY_ID,
    SENSOR_ID,
    DemoOptions,
    DemoPki,
    Material,
    Workshop,
    make_demo_pki,
)
from edgetrust.cli.demo_text import config_toml
from edgetrust.clock import SystemClock
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import DOWNSTREAM
from edgetrust.pki.softkeys import SoftKey, write_private, write_public

HUB_NAME, GATEWAY_NAME = "localhost", "edgegateway.local"
CONTROLLER_ID = "LineController"  # a device of the hub with two certificates that is no child of the gateway
CONTROLLER_SECONDS = 15  # life of its first certificate: long enough to connect once, short enough to wait for
ADDRESS = "127.0.0.1"
MQTT_PORT = 8883
WAIT_SECONDS = 30.0


@dataclass(slots=True)
class Scene:
    """Everything the lines of the story look at. `told` gets progress for people."""

    directory: Path
    told: Callable[[str], None]
    processes: Processes
    pki: DemoPki
    forged_key: Path
    controller: tuple[Material, Material] | None = None
    controller_first: str = ""
    hub: Process | None = None
    hub_ready: dict[str, Any] = field(default_factory=dict)
    gateway: Process | None = None
    gateway_port: int = 0
    sensor: Process | None = None
    sent: int = 0

    # What runs where ------------------------------------------------------------------------------------------------

    @property
    def hub_directory(self) -> Path:
        return self.directory / "hub"

    @property
    def gateway_root(self) -> Path:
        return self.directory / "gateway"

    @property
    def hub_root(self) -> Path:
        """The file with the root that verifies the hub."""
        return Path(self.hub_ready["trust_bundle"])

    @property
    def root(self) -> Path:
        """my_private_root_CA, which the sensor was given."""
        return self.pki.root.certificate_file

    def start_hub(self) -> None:
        """Start the hub; on the ports it had, if it ran before."""
        ports = self.hub_ready.get("hub", {"mqtt_port": 0, "https_port": 0})
        self.hub = self.processes.start(
            *("hub", "up", "--dir", self.hub_directory, "--host", HUB_NAME, "--json"),
            *("--mqtt-port", str(ports["mqtt_port"]), "--https-port", str(ports["https_port"])),
        )
        self.hub_ready = first_line(self.hub)

    def start_gateway(self) -> None:
        """Start the gateway; on the port it had, if it ran before."""
        self.gateway = self.processes.start(
            *("gateway", "edge", "serve", "-c", self.directory / "config.toml", "--root", self.gateway_root),
            *("--mqtt-port", str(self.gateway_port), "--https-port", "0", "--json"),
            environment={"SSL_CERT_FILE": str(self.hub_root)},
        )
        self.gateway_port = int(first_line(self.gateway)["gateway"]["mqtt_port"])

    def at_hub(self, *arguments: str | Path) -> Any:
        """Run a registry command and return its JSON answer. Raises NotShownError when it fails."""
        return edgetrust(*arguments, "--dir", self.hub_directory, "--json").json()

    def at_hub_lines(self, *arguments: str) -> list[dict[str, Any]]:
        """Messages at the hub, from the first one on, as `edgetrust monitor` shows them."""
        asked = edgetrust(
            *("monitor", "--from", "start", "--timeout", str(WAIT_SECONDS), *arguments),
            *("--dir", self.hub_directory, "--json"),
        )
        if asked.code != 0:
            raise NotShownError(asked.error, reason="demo-command")
        return [json.loads(line) for line in asked.out.splitlines()]

    def status(self) -> dict[str, Any]:
        """What the gateway says of itself now."""
        state: dict[str, Any] = edgetrust("edge", "status", "--root", self.gateway_root, "--json").json()
        return state

    def kill_gateway(self) -> None:
        """End the gateway as a power failure does."""
        assert self.gateway is not None
        self.gateway.stop(signal.SIGKILL)

    # Devices --------------------------------------------------------------------------------------------------------

    def through_gateway(self, device: str, certificate: Path, key: Path, name: str = GATEWAY_NAME) -> list[str | Path]:
        """The options of a device that connects through the gateway."""
        return [
            *(device, "--hub", HUB_NAME, "--gateway", f"{name}:{self.gateway_port}", "--address", ADDRESS),
            *("--trust", self.root, "--cert", certificate, "--cert-key", key),
        ]

    def straight(self, device: str, material: Material) -> list[str | Path]:
        """The options of a device that connects to the hub."""
        return [
            *(device, "--dir", self.hub_directory, "--cert", material.certificate_file),
            *("--cert-key", material.key_file),
        ]

    def start_sensor(self) -> None:
        """Start TempSensor; it sends what it is told to and keeps its connection."""
        first = self.pki.sensor[0]
        way = self.through_gateway(SENSOR_ID, first.certificate_file, first.key_file)
        self.sensor = self.processes.start("sensor", "device", "send", *way, "--message", "-", "--json", talks=True)
        wait_for("connection", lambda: self._sensor_line("connected"), WAIT_SECONDS, self.sensor)

    def stop_sensor(self) -> None:
        """End TempSensor in order."""
        if self.sensor is not None and self.sensor.alive:
            self.sensor.finish()

    def send(self, count: int) -> float:
        """Have the sensor send numbered readings; when all are acknowledged, returns the longest time in seconds."""
        assert self.sensor is not None
        sensor, before = self.sensor, len(self.sensor.lines())
        for _ in range(count):
            self.sent += 1
            sensor.say(f'{{"temperature": {20 + self.sent % 10}, "sequence": {self.sent}}}')

        def acknowledged() -> list[dict[str, Any]] | None:
            lines = sensor.lines()[before:]
            return lines if len(lines) >= count else None

        lines = wait_for("acknowledgement", acknowledged, WAIT_SECONDS, sensor)
        return max(float(line["seconds"]) for line in lines)

    def _sensor_line(self, start: str) -> str | None:
        assert self.sensor is not None
        return next((line for line in self.sensor.messages().splitlines() if line.startswith(start)), None)

    # What the gateway recorded --------------------------------------------------------------------------------------

    def refusal(self, event: str, since: int, **wanted: str) -> dict[str, Any]:
        """The gateway's log entry of a refusal. Raises UnavailableError when there is none."""
        assert self.gateway is not None
        gateway = self.gateway

        def look() -> dict[str, Any] | None:
            entries = gateway.events(event, since)
            return next((one for one in entries if all(one.get(k) == v for k, v in wanted.items())), None)

        return wait_for(f"record of a refusal ({event})", look, WAIT_SECONDS, gateway)

    def refused(self, device: str, certificate: Path, key: Path, *reasons: str) -> str:
        """Have an intruder try the gateway; evidence that it was refused for one of `reasons`, and recorded so."""
        assert self.gateway is not None
        since = len(self.gateway.logged())
        tried = edgetrust("device", "send", *self.through_gateway(device, certificate, key))
        if tried.code == 0:
            raise NotShownError(f"{device} was accepted", reason="demo-accepted")
        entry = self.refusal("connection.refused", since, identity=device)
        if entry["reason"] not in reasons:
            raise NotShownError(f"refused for {entry['reason']}: {entry['detail']}", reason="demo-other-reason")
        told = re.search(r"CONNACK \d", tried.err)
        return f"{told[0] if told else tried.error}; recorded: {entry['reason']}: {entry['detail']}"


def set_scene(directory: Path, told: Callable[[str], None], processes: Processes) -> Scene:
    """Make the certificates. Nothing runs yet."""
    told("making certificates")
    now = SystemClock().now()
    options = DemoOptions(hub=HUB_NAME, gateway=GATEWAY_NAME, bad=True)
    pki = make_demo_pki(directory / "pki", now, options)
    forged = directory / "pki" / "private" / "forged.key.pem"
    write_private(forged, forged_key(pki.sensor[0]))
    return Scene(directory, told, processes, pki, forged)


def begin(scene: Scene, *, port: int = 0) -> None:
    """Start the hub, register everybody, start the gateway: on `port`, on any free one for 0."""
    scene.gateway_port = port
    scene.told("starting the hub")
    scene.start_hub()
    scene.told("registering EdgeGateway, TempSensor and the others")
    pki = scene.pki
    scene.at_hub("hub", "ca", "add", "demo-root", pki.root.certificate_file)
    scene.at_hub("hub", "ca", "verify", "demo-root", "--key", pki.root.key_file)
    scene.at_hub("device", "create", GATEWAY_ID, "--edge", *_thumbprints(pki.gateway))
    scene.at_hub("device", "create", SENSOR_ID, "--parent", GATEWAY_ID, *_thumbprints(pki.sensor))
    scene.at_hub("device", "create", CA_SENSOR_ID, "--parent", GATEWAY_ID, "--auth", "ca")
    _use_first_certificate(scene)
    scene.told("starting the gateway")
    write_public(scene.directory / "config.toml", _config(scene).encode())
    scene.start_gateway()


def is_free(port: int) -> bool:
    """Whether nobody listens there on loopback."""
    with socket.socket() as probe:
        return probe.connect_ex((ADDRESS, port)) != 0


def cut_off(scene: Scene) -> None:
    """The hub is gone, without a word: as a crash or a cut cable leaves it."""
    assert scene.hub is not None
    scene.hub.stop(signal.SIGKILL)


def forged_key(material: Material) -> bytes:
    """A key file whose public half is the certificate's and whose private half is not: all that a thief can make.

    TLS libraries load it, since they compare public halves; only the peer's check of the signature finds it out.
    """
    own = load_pem_private_key(SoftKey.generate("thief").private_pem().reveal(), None)
    der = own.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    point, stolen = (
        key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        for key in (own.public_key(), material.key.public_key())
    )
    assert der.count(point) == 1
    body = encodebytes(der.replace(point, stolen)).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{body}-----END EC PRIVATE KEY-----\n".encode()


def _controller(pki: DemoPki, now: datetime) -> tuple[Material, Material]:
    workshop = Workshop(pki.directory, now)
    first = timedelta(seconds=CONTROLLER_SECONDS)
    names = Names(CONTROLLER_ID)
    return (
        workshop.below(pki.issuing, DOWNSTREAM, names, f"{CONTROLLER_ID}-primary", validity=first),
        workshop.below(pki.issuing, DOWNSTREAM, names, f"{CONTROLLER_ID}-secondary"),
    )


def _use_first_certificate(scene: Scene) -> None:
    """LineController connects while its first certificate is valid, which is for seconds only."""
    now = SystemClock().now()
    scene.controller = _controller(scene.pki, now)
    scene.at_hub("device", "create", CONTROLLER_ID, *_thumbprints(scene.controller))
    sent = edgetrust("device", "send", *scene.straight(CONTROLLER_ID, scene.controller[0]))
    scene.controller_first = sent.error if sent.code else f"accepted at {SystemClock().now():%H:%M:%S}"


def _thumbprints(pair: tuple[Material, Material]) -> tuple[str | Path, ...]:
    return "--certificate", pair[0].certificate_file, "--secondary-certificate", pair[1].certificate_file


def _config(scene: Scene) -> str:
    ports = scene.hub_ready["hub"]
    return "\n".join(
        (
            config_toml(scene.pki),
            "",
            "[edgetrust.listen]",
            f'host = "{ADDRESS}"',
            "https_port = 0",
            "",
            "[edgetrust.upstream]",
            f"mqtt_port = {ports['mqtt_port']}",
            f"https_port = {ports['https_port']}",
            "",
        )
    )
