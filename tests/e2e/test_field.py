"""Five gateways above each other, each in a network where only its neighbours are reached: hub, gateways and devices as
processes, links that are cut and restored. Without the right to make networks the same runs on loopback, and says so.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.edge_world import Process, free_port, wait_until
from support.networks import Row

DEPTH = 5
PLACE_OF_DEVICES = DEPTH + 1
# In the summary of the run, where somebody reads it.
pytestmark = pytest.mark.filterwarnings("default:on loopback:UserWarning")
WAIT = 40.0  # seconds for what happens by itself, on a machine that has much to do


class Field:
    """hub > G1 > ... > G5 > devices."""

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
        self._start(0, arguments, "hub")
        (self.folder / "field.yaml").write_text(json.dumps(self._topology()))  # which is YAML, too
        self.edgetrust(0, "fleet", "apply", str(self.folder / "field.yaml"), "--out", str(self.folder / "fleet"))
        for place in range(1, DEPTH + 1):
            root = str(self.folder / f"roots/G{place}")
            self._start(place, ["edge", "serve", "-c", str(self.folder / f"fleet/G{place}/config.toml"),
                                "--root", root, "--json"], f"G{place}")  # fmt: skip

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

    def _start(self, place: int, arguments: list[str], name: str) -> None:
        process = Process(arguments, self.folder / f"{name}.log", prefix=self.row.prefix(place))
        self.processes.append(process)
        process.start()

    def end(self) -> None:
        for process in self.processes:
            if process.running is not None:
                process.running.terminate()
        for process in self.processes:
            process.stop()
        self.row.close()

    # Asking ---------------------------------------------------------------------------------------------------------

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

    def bodies(self, device: str) -> list[str]:
        text = self.edgetrust(
            0, "monitor", "--from", "start", "--device", device, "--timeout", "1", "--count", "1000", "--json", ok=False
        )
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line.get("bodyText") or line.get("body") for line in lines]

    def arrive(self, device: str, wanted: list[str]) -> None:
        deadline = time.monotonic() + WAIT
        # At least once: what was on its way when a link was cut may come again, and changes no order.
        while (found := list(dict.fromkeys(self.bodies(device))))[-len(wanted) :] != wanted:
            assert time.monotonic() < deadline, found

    def state(self, place: int) -> dict[str, Any]:
        return dict(json.loads((self.folder / f"roots/G{place}/var/lib/edgetrust/status.json").read_text()))

    def refusals(self, place: int, identity: str) -> list[str]:
        said = self.edgetrust(
            place, "edge", "refusals", "--root", str(self.folder / f"roots/G{place}"), "--json", "--limit", "100"
        )
        found = json.loads(said)
        listed = found["refusals"] if isinstance(found, dict) else found
        return [one["reason"] for one in listed if one["identity"] == identity]

    def cut(self, link: int) -> None:
        process = self.processes[link].running
        assert process is not None
        self.row.cut(link, lambda: [process.pid])


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    made = Field(tmp_path_factory.mktemp("field"))
    try:
        made.begin()
        yield made
    finally:
        made.end()


def test_devices_of_every_level_are_devices_of_the_hub(field: Field) -> None:
    """Row 54, and the depth that a hub allows: each level by key and by certificate, the lowest five gateways down."""
    for place in (2, DEPTH):
        for device in (f"Sensor{place}", f"Meter{place}"):
            done = field.send(device, f"first of {device}")
            assert done.returncode == 0, done.stderr
            field.arrive(device, [f"first of {device}"])
    if field.row.isolated:  # nobody reaches further than his neighbour
        probe = f"import socket; socket.create_connection(({field.hub_name!r}, {field.hub_ports[0]}), 2)"
        assert field.run(PLACE_OF_DEVICES, sys.executable, "-c", probe).returncode != 0
        assert field.run(1, sys.executable, "-c", probe).returncode == 0


def test_what_is_sent_while_a_link_is_cut_arrives_in_order_and_none_is_missing(field: Field) -> None:
    """Rows 76, 91 to 94: for the link to the hub and for one between gateways; a stranger is refused meanwhile."""
    for link in (0, DEPTH - 1):
        assert field.send(f"Meter{DEPTH}", f"before {link}").returncode == 0
        field.cut(link)
        try:
            wanted = [f"{number} while {link}" for number in range(20)]
            for part in (wanted[:10], wanted[10:]):  # each a new connection, decided on by the copy
                done = field.send(f"Meter{DEPTH}", *part)
                assert done.returncode == 0, done.stderr
        finally:
            field.row.restore(link)
        field.arrive(f"Meter{DEPTH}", [f"before {link}", *wanted])


def test_who_is_disabled_while_a_gateway_is_away_is_shut_out_when_it_returns(field: Field) -> None:
    """Row 93: and what was accepted from him before is the hub's."""
    device = f"Sensor{DEPTH}"
    link = DEPTH - 1
    field.cut(link)
    try:
        assert field.send(device, "still accepted").returncode == 0  # by the copy, as it has to
        field.edgetrust(0, "device", "disable", device)
    finally:
        field.row.restore(link)
    wait_until(lambda: bool(field.state(DEPTH)["upstream"]["connected"]), WAIT)
    wait_until(lambda: field.send(device, "too late").returncode != 0, WAIT)
    assert "disabled" in field.refusals(DEPTH, device)
    field.edgetrust(0, "device", "enable", device)
    wait_until(lambda: field.send(device, "again").returncode == 0, WAIT)


def test_one_certificate_for_its_name_whatever_is_asked_for(field: Field) -> None:
    """Rows 60 to 69, 80, 90: the chain, the address it is for, the request for a client's certificate."""
    place, at = 2, f"{field.row.address(2)}:{field.ports[1][0]}"
    trust = str(field.folder / "fleet/Meter2/trust.pem")

    def look(*options: str) -> str:
        done = field.run(place + 1, "openssl", "s_client", "-connect", at, "-CAfile", trust, *options)
        return done.stdout + done.stderr

    shown = look("-verify_ip", field.row.address(2), "-showcerts")
    assert "Verify return code: 0 (ok)" in shown
    assert "aziot-edge CA G2" in shown
    assert "mismatch" in look("-verify_ip", "192.0.2.1").lower()
    assert "mismatch" in look("-verify_hostname", "other.example").lower()
    first, second = look("-servername", "x.example"), look("-servername", "y.example")
    assert [text.split("-----BEGIN")[1].split("-----END")[0] for text in (first, second)].count(
        first.split("-----BEGIN")[1].split("-----END")[0]
    ) == 2
    assert "client certificate" in shown.lower()
    other = field.folder / "fleet/Meter3"
    pair = ("-cert", str(other / "identity.cert.pem"), "-key", str(other / "identity.key.pem"))
    assert "Verify return code: 0 (ok)" in look("-verify_ip", field.row.address(2), *pair)


def test_a_sixth_gateway_and_a_stranger_are_refused(field: Field) -> None:
    """With a reason each: too deep, and not below this gateway."""
    text = (field.folder / "field.yaml").read_text()
    deep = json.loads(text)
    lowest = deep
    while lowest.get("gateways"):
        lowest = lowest["gateways"][0]
    lowest["gateways"] = [{"id": "G6", "hostname": "g6.example"}]
    (field.folder / "deep.yaml").write_text(json.dumps(deep))
    said = field.edgetrust(0, "fleet", "apply", str(field.folder / "deep.yaml"), "--dry-run", ok=False)
    assert "G6 would be gateway 6" in said
    field.edgetrust(0, "device", "create", "Stranger")
    words = ["device", "send", "Stranger", "--hub", field.hub_name, "--message", "x", "--give-up", "0"]
    key = field.folder / "stranger.key"
    key.write_text("MDEyMzQ1Njc4OWFiY2RlZg==\n")
    words += ["--gateway", f"{field.row.address(DEPTH)}:{field.ports[-1][0]}", "--key-file", str(key)]
    words += ["--trust", str(field.folder / f"fleet/Meter{DEPTH}/trust.pem")]
    assert field.run(PLACE_OF_DEVICES, sys.executable, "-m", "edgetrust.cli", *words).returncode != 0
    wait_until(lambda: "not-a-child" in field.refusals(DEPTH, "Stranger"), WAIT)
