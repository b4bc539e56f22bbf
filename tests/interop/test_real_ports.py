"""The ports that the device SDK cannot be talked out of, 8883 and 443, and no proxy: all in a network of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.azure import Sdk, SdkError
from support.processes import OwnNetwork
from support.surface import PYTHON_DEVICE, PYTHON_SERVICE, surface

EDGETRUST = [sys.executable, "-m", "edgetrust.cli"]


@pytest.fixture
def network() -> Iterator[OwnNetwork]:
    with OwnNetwork() as made:
        yield made


@pytest.fixture
def hub(network: OwnNetwork, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """`edgetrust up` with nothing but its directory; what it says when it is ready."""
    with (tmp_path / "hub.log").open("w") as log:
        running = subprocess.Popen(
            [*network.prefix, *EDGETRUST, "up", "--dir", str(tmp_path / "hub"), "--json"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert running.stdout is not None
    line = running.stdout.readline()
    try:
        assert line, (tmp_path / "hub.log").read_text()
        yield dict(json.loads(line))
    finally:
        running.terminate()
        running.wait(60)
        running.stdout.close()


@surface(PYTHON_SERVICE, "devices")
@surface(PYTHON_DEVICE, "tls", "connect-sas", "telemetry", "websocket", "refused")
def test_both_sdks_as_their_documentation_has_it(network: OwnNetwork, hub: dict[str, Any], tmp_path: Path) -> None:
    assert (hub["hub"]["mqtt_port"], hub["hub"]["https_port"]) == (8883, 443)
    trust = {"REQUESTS_CA_BUNDLE": hub["trust_bundle"], "SSL_CERT_FILE": hub["trust_bundle"]}
    own = {"log": tmp_path / "sdk.log", "prefix": network.prefix, "environment": trust}
    with (
        closing(Sdk("registry", hub["service_connection_string"], **own)) as registry,
        closing(Sdk("device", **own)) as devices,
    ):
        made = registry.call("create_device_with_sas", "d1", "", "", "enabled")
        key = made["authentication"]["symmetric_key"]["primary_key"]
        address = "HostName=localhost;DeviceId=d1;SharedAccessKey="
        for name, websockets in (("mqtt", False), ("websocket", True)):
            devices.do("create", client=name, connection_string=address + key, websockets=websockets)
            devices.do("connect", client=name)
            devices.do("send", client=name, body=f"over {name}")
            devices.do("shutdown", client=name)
        devices.do("create", client="wrong", connection_string=address + "AAAA")
        with pytest.raises(SdkError) as raised:
            devices.do("connect", client="wrong")
        assert raised.value.kind == "CredentialError"
        devices.do("shutdown", client="wrong")
    command = ["monitor", "--from", "start", "--no-follow", "--json", "--dir", hub["dir"]]
    shown = subprocess.run([*network.prefix, *EDGETRUST, *command], capture_output=True, text=True, check=True)
    assert [json.loads(line)["bodyText"] for line in shown.stdout.splitlines()] == ["over mqtt", "over websocket"]
