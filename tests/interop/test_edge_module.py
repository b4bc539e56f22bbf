"""azure-iot-device in a module: `create_from_edge_environment` finds all it needs in what the gateway tells it, has
its tokens signed by the workload API, and trusts the gateway by the bundle that it gets there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support.azure import CLIENTS, PYTHON, Sdk
from support.edge_world import Gateway
from support.processes import Contoso, wait_for
from support.surface import PYTHON_DEVICE, surface

DEVICE, MODULE, NAME = "EdgeModules", "reader", "edgemodules.local"


@pytest.fixture
def gateway_with_module(contoso: Contoso) -> Iterator[Gateway]:
    command = [str(PYTHON), str(CLIENTS / "edge_module.py"), str(contoso.proxy.port)]
    extra = f"[edgetrust.modules.{MODULE}]\ncommand = {json.dumps(command)}\n"
    started = contoso.start_gateway(DEVICE, NAME, extra=extra)
    yield started
    started.stop()


@surface(PYTHON_DEVICE, "telemetry", "outputs", "twins", "methods")
def test_telemetry_twin_and_method(contoso: Contoso, service: Sdk, gateway_with_module: Gateway) -> None:
    wait_for(lambda: contoso.bodies(DEVICE) == ['{"temperature": 21}'], "the module's message at the hub")

    def reported() -> dict[str, object]:
        return dict(service.call("get_module_twin", DEVICE, MODULE)["properties"]["reported"])

    wait_for(lambda: reported().get("started") == 1, "what the module reports")
    service.call("update_module_twin", DEVICE, MODULE, {"properties": {"desired": {"rate": 5}}}, "*")
    wait_for(lambda: reported().get("wanted") == 5, "what the module is told")
    call = {"method_name": "reboot", "payload": {"delay": 5}, "connect_timeout_in_seconds": 30}
    done = service.call("invoke_device_module_method", DEVICE, MODULE, {**call, "response_timeout_in_seconds": 30})
    assert done == {"status": 207, "payload": {"method": "reboot", "payload": {"delay": 5}}}
    registered = contoso.rest("GET", "devices", DEVICE, "modules", MODULE)
    key = registered["authentication"]["symmetricKey"]["primaryKey"]
    assert key not in gateway_with_module.text()
