"""A fleet from one file: applied to a hub that runs, started from its bundles by the commands of their READMEs, and a
device three levels down that reaches the hub under its own name.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.edge_world import Gateway, World, edgetrust, wait_until
from support.ports import free_port

TOPOLOGY = """\
name: plant
install_dir: {folder}/installed
gateways:
  - id: Upper
    hostname: localhost
    listen: 127.0.0.1
    mqtt_port: {ports[0]}
    https_port: {ports[1]}
    root: {folder}/roots/Upper
    devices:
      - id: Meter
        auth: sas
        modules: [cleaner]
    gateways:
      - id: Lower
        hostname: 127.0.0.1
        auth: sas
        listen: 127.0.0.1
        mqtt_port: {ports[2]}
        https_port: {ports[3]}
        root: {folder}/roots/Lower
        devices: [DeepSensor, Spare]
devices:
  - id: Lonely
    auth: ca
"""


class Fleet:
    def __init__(self, folder: Path) -> None:
        self.folder, self.world, self.gateways = folder, World(folder), list[Gateway]()
        self.file = folder / "plant.yaml"
        self.text = TOPOLOGY.format(folder=folder, ports=[free_port() for _ in range(4)])
        self.file.write_text(self.text)

    def apply(self, *options: str, ok: bool = True) -> Any:
        place = ("--out", str(self.folder / "bundles"), "--dir", str(self.world.hub_folder))
        done = edgetrust("fleet", "apply", str(self.file), *place, "--json", *options, ok=ok)
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr

    def commands(self, device: str) -> list[str]:
        text = (self.folder / "bundles" / device / "README.txt").read_text()
        return [line.strip() for line in text.splitlines() if line.startswith("    ")]

    def do(self, command: str) -> str:
        """What a README tells, by a shell, in the folder of the archives."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.folder / "bundles", capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "PATH": path},
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done.stdout + done.stderr

    def serve(self, device: str) -> Gateway:
        """Everything that the README says, up to the gateway that serves."""
        *before, serving, status, _check = self.commands(device)
        for command in before:
            self.do(command)
        words = shlex.split(serving)
        assert words[:3] == ["edgetrust", "edge", "serve"]
        gateway = Gateway([*words[1:], "--json"], self.folder / f"{device}.log", root=Path(words[-1]))
        self.gateways.append(gateway)
        gateway.start()
        wait_until(lambda: "connected" in self.do(status).split())
        return gateway

    def map(self, *options: str) -> str:
        bundles = ("--bundles", str(self.folder / "bundles"), "--dir", str(self.world.hub_folder))
        return edgetrust("fleet", "map", *bundles, *options).stdout

    def close(self) -> None:
        for gateway in reversed(self.gateways):
            gateway.stop()
        self.world.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        made.world.hub.start()
        planned = made.apply("--dry-run")
        assert not (made.folder / "bundles").exists()
        applied = made.apply()
        assert applied["changes"] == planned["changes"]
        assert applied["certificates"] == planned["certificates"]
        yield made
    finally:
        made.close()


def test_from_one_file_to_a_message_three_levels_up(fleet: Fleet) -> None:
    fleet.serve("Upper")
    fleet.serve("Lower")
    for device in ("DeepSensor", "Meter", "Lonely"):
        *before, send = [one for one in fleet.commands(device) if not one.startswith("mosquitto_pub")]
        for command in before:
            fleet.do(command)
        assert "sent 1 message" in fleet.do(send)
        fleet.world.wait_for_events(['{"temperature": 21.5}'], device)
    fleet.do(next(one for one in fleet.commands("DeepSensor") if one.startswith("mosquitto_pub")))
    fleet.world.wait_for_events(['{"temperature": 21.5}'] * 2, "DeepSensor")
    wait_until(lambda: "Lower  gateway, sas, connected" in fleet.map())
    drawn = fleet.map()
    for words in ("Upper  gateway, thumbprint, connected, certificate: 89 days", "Lower  gateway, sas, connected"):
        assert words in drawn
    assert "│   ├── Lower" in drawn
    assert any(line.startswith("│   │   ") and "DeepSensor" in line for line in drawn.splitlines()), drawn
    assert "flowchart TD" in fleet.map("--format", "mermaid")
    assert fleet.map("--format", "svg").startswith("<svg ")
    upper = next(one for one in json.loads(fleet.map("--json"))["devices"] if one["device"] == "Upper")
    assert {one["device"]: one["connected"] for one in upper["children"]}["Lower"] is True


def test_what_is_a_secret_is_closed(fleet: Fleet) -> None:
    secrets = [*fleet.folder.glob("bundles/*/*.key*"), *fleet.folder.glob("bundles/**/*connection-string")]
    secrets += fleet.folder.glob("bundles/*.tar.gz")
    assert len(secrets) >= 12
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}


def test_again_changes_nothing_and_a_lost_bundle_is_made_anew(fleet: Fleet) -> None:
    fleet.apply()
    again = fleet.apply()
    assert (again["changes"], again["certificates"], again["bundles"]) == ([], [], {})
    (fleet.folder / "bundles/Spare/identity.key.pem").unlink()
    mended = fleet.apply()
    assert mended["certificates"] == ["Spare: identity certificate (missing)"]
    assert mended["changes"] == [{"what": "update", "identity": "Spare", "facts": ["new certificate"]}]
    assert list(mended["bundles"]) == ["Spare"]


def test_who_moves_moves_and_who_leaves_is_pruned(fleet: Fleet) -> None:
    fleet.apply()
    fleet.file.write_text(fleet.text.replace("[DeepSensor, Spare]", "[DeepSensor]") + "  - Spare\n")
    assert fleet.apply()["changes"] == [
        {"what": "update", "identity": "Spare", "facts": ["parent Lower -> the hub"]}
    ]  # fmt: skip
    fleet.file.write_text(fleet.text.replace("[DeepSensor, Spare]", "[DeepSensor]"))
    kept = fleet.apply()
    assert (kept["changes"], kept["notInTheFile"]) == ([], ["Spare"])
    gone = fleet.apply("--prune")
    assert gone["changes"] == [{"what": "delete", "identity": "Spare", "facts": []}]
    assert not (fleet.folder / "bundles/Spare").exists()
    assert "Spare" not in fleet.map()
    fleet.file.write_text(fleet.text)


def test_somebody_else_of_that_name_stays_as_he_is(fleet: Fleet) -> None:
    fleet.world.device("Stranger")
    fleet.file.write_text(fleet.text + "  - Stranger\n")
    refused = fleet.apply(ok=False)
    assert "Stranger (line" in refused
    assert "--adopt" in refused
    adopted = fleet.apply("--adopt")
    assert {"tag fleet = plant", "authentication sas -> thumbprint"} <= set(
        next(one for one in adopted["changes"] if one["identity"] == "Stranger")["facts"]
    )
    fleet.world.device_command("delete", "Stranger")
    fleet.file.write_text(fleet.text)
