"""The story itself, as its reader runs it; and a hub of `edgetrust up` through the commands of its page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import forked

EDGETRUST = (sys.executable, "-m", "edgetrust.cli")


def edgetrust(*arguments: str | Path, directory: Path | None = None, **environment: str) -> Any:
    place = {} if directory is None else {"EDGETRUST_DIR": str(directory)}
    return forked.run(*map(str, arguments), env={**os.environ, **place, **environment}, timeout=240)


@pytest.mark.timeout(300)
def test_the_story_holds_and_leaves_nothing(tmp_path: Path) -> None:
    told = subprocess.run(
        [*EDGETRUST, "demo", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        timeout=240,
    )
    story = json.loads(told.stdout)
    assert [(line["name"], line["evidence"]) for line in story["lines"] if not line["holds"]] == []
    assert (told.returncode, story["holds"], story["running"]) == (0, True, {})
    assert all(line["evidence"] for line in story["lines"])
    assert list(tmp_path.iterdir()) == []
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in running


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("hub")
    up = subprocess.Popen(
        [*EDGETRUST, "up", "--dir", str(directory), "--mqtt-port", "0", "--https-port", "0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert up.stdout is not None
    assert json.loads(up.stdout.readline())["dir"] == str(directory)
    yield directory
    up.send_signal(signal.SIGTERM)
    assert up.wait(60) == 0
    up.stdout.close()


def test_a_device_from_creation_to_deletion(hub: Path) -> None:
    def ask(*arguments: str) -> Any:
        done = edgetrust(*arguments, "--json", directory=hub)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert ask("device", "create", "d1")["status"] == "enabled"
    sent = edgetrust("device", "send", "d1", "--message", "first", "--property", "unit=C", directory=hub)
    assert sent.returncode == 0, sent.stderr
    (event,) = [
        json.loads(
            edgetrust("monitor", "--device", "d1", "--from", "start", "--count", "1", "--json", directory=hub).stdout
        )
    ]
    assert (event["device"], event["bodyText"], event["properties"]["unit"]) == ("d1", "first", "C")

    edgetrust("device", "c2d", "d1", "hello", "--property", "a=b", directory=hub)
    heard = edgetrust("device", "listen", "d1", "--count", "1", "--timeout", "60", "--json", directory=hub)
    assert json.loads(heard.stdout)["body"] == "hello", heard.stderr

    assert ask("device", "disable", "d1", "--why", "stolen")["statusReason"] == "stolen"
    refused = edgetrust("device", "send", "d1", directory=hub)
    assert refused.returncode == 1
    assert "error: the hub refused d1: disabled: " in refused.stderr
    assert ask("refusals", "--limit", "1")[0]["reason"] == "disabled"

    assert edgetrust("device", "delete", "d1", directory=hub).returncode == 0
    assert edgetrust("device", "show", "d1", directory=hub).returncode == 1


def test_two_creations_of_one_device(hub: Path) -> None:
    assert edgetrust("device", "create", "twin", directory=hub).returncode == 0
    again = edgetrust("device", "create", "twin", directory=hub)
    assert again.returncode == 1
    assert "fix: change it with edgetrust device update" in again.stderr


def test_a_ca_is_proven(hub: Path, tmp_path: Path) -> None:
    edgetrust("cert", "demo", tmp_path)
    root, key = tmp_path / "certs/my_private_root_CA.pem", tmp_path / "private/my_private_root_CA.key.pem"
    added = edgetrust("hub", "ca", "add", "root", root, directory=hub)
    assert "NOT VERIFIED" in added.stdout, added.stderr
    assert "status   verified" in edgetrust("hub", "ca", "verify", "root", "--key", key, directory=hub).stdout
    by_ca = ("--cert", tmp_path / "certs/HumiditySensor.pem", "--cert-key", tmp_path / "private/HumiditySensor.key.pem")
    edgetrust("device", "create", "HumiditySensor", "--auth", "ca", directory=hub)
    assert edgetrust("device", "send", "HumiditySensor", *by_ca, directory=hub).returncode == 0
    assert edgetrust("hub", "ca", "remove", "root", directory=hub).returncode == 0
    refused = edgetrust("device", "send", "HumiditySensor", *by_ca, directory=hub)
    assert "the hub refused HumiditySensor: chain-" in refused.stderr


def test_a_thumbprint_is_updated_while_the_other_serves(hub: Path, tmp_path: Path) -> None:
    edgetrust("cert", "demo", tmp_path)

    def send(which: str) -> int:
        file, key = tmp_path / f"certs/TempSensor-{which}.pem", tmp_path / f"private/TempSensor-{which}.key.pem"
        done = edgetrust("device", "send", "TempSensor", "--cert", file, "--cert-key", key, directory=hub)
        return int(done.returncode)

    first, second = tmp_path / "certs/TempSensor-primary.pem", tmp_path / "certs/TempSensor-secondary.pem"
    edgetrust("device", "create", "TempSensor", "--certificate", first, directory=hub)
    assert (send("primary"), send("secondary")) == (0, 1)
    edgetrust("device", "update", "TempSensor", "--secondary-certificate", second, directory=hub)
    assert (send("primary"), send("secondary")) == (0, 0)
