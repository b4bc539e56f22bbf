"""Twins, direct methods and cloud-to-device messages through the gateway, also while the hub is away."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.azure import Sdk
from support.processes import GATEWAY, Contoso, Device, wait_for
from support.surface import PYTHON_DEVICE, surface


def child(contoso: Contoso, name: str, module: str | None = None) -> Device:
    made = contoso.register(name, **contoso.scope())
    if module is not None:
        made = contoso.register(name, module)
    key = made["authentication"]["symmetricKey"]["primaryKey"]
    more = {} if module is None else {"module": module}
    client = contoso.with_key(name, key, gateway=GATEWAY, **more)
    client.connect()
    return client


@surface(PYTHON_DEVICE, "scope")
@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize("module", [None, "m1"])
def test_a_twin(contoso: Contoso, service: Sdk, module: str | None) -> None:
    name = f"gt-twin-{module}"
    client = child(contoso, name, module)
    which = (name,) if module is None else (name, module)
    get, update = ("get_twin", "update_twin") if module is None else ("get_module_twin", "update_module_twin")
    assert client.twin() == {"desired": {"$version": 1}, "reported": {"$version": 1}}
    client.watch()
    client.report({"temperature": 21.5, "gone": None})
    assert service.call(get, *which)["properties"]["reported"]["temperature"] == 21.5
    service.call(update, *which, {"properties": {"desired": {"rate": 5}}}, "*")
    assert client.wait_for("desired")[0]["patch"] == {"rate": 5, "$version": 2}
    twin = client.twin()
    assert twin == {"desired": {"rate": 5, "$version": 2}, "reported": {"temperature": 21.5, "$version": 2}}
    client.shutdown()


@surface(PYTHON_DEVICE, "scope")
@pytest.mark.usefixtures("gateway")
def test_a_method(contoso: Contoso, service: Sdk) -> None:
    client = child(contoso, "gt-method")
    client.answer(status=207)
    call = {"method_name": "reboot", "payload": {"delay": 5}, "connect_timeout_in_seconds": 30}
    done = service.call("invoke_device_method", "gt-method", {**call, "response_timeout_in_seconds": 30})
    assert done == {"status": 207, "payload": {"method": "reboot", "payload": {"delay": 5}}}
    client.shutdown()


@surface(PYTHON_DEVICE, "scope")
@pytest.mark.usefixtures("gateway")
def test_a_cloud_to_device_message(contoso: Contoso) -> None:
    client = child(contoso, "gt-c2d")
    client.listen()
    contoso.command("gt-c2d", "open", {"iothub-app-site": "north"})
    (message,) = client.wait_for("message")
    assert (message["body"], message["properties"]["site"]) == ("open", "north")
    client.shutdown()
    wait_for(lambda: contoso.rest("GET", "devices", "gt-c2d")["cloudToDeviceMessageCount"] == 0, "the hub has heard")


@pytest.fixture
def own_service(own_contoso: Contoso, tmp_path: Path) -> Iterator[Sdk]:
    """azure-iot-hub for the hub of one's own."""
    made = Sdk(
        "registry",
        own_contoso.local_connection_string(),
        log=tmp_path / "registry.log",
        environment={"REQUESTS_CA_BUNDLE": own_contoso.world.hub.ready["trust_bundle"]},
    )
    yield made
    made.close()


def test_while_the_hub_is_away(own_contoso: Contoso, own_service: Sdk) -> None:
    """The twin is read and reported to; when the hub is back it has every report, and the device its new wishes."""
    contoso, service = own_contoso, own_service
    gateway = contoso.start_gateway()
    client = child(contoso, "gt-offline")
    client.watch()
    client.report({"a": 1})
    service.call("update_twin", "gt-offline", {"properties": {"desired": {"rate": 1}}}, "*")
    client.wait_for("desired")
    contoso.world.hub.stop(signal.SIGKILL)
    wait_for(lambda: not gateway.state()["upstream"]["connected"], "the gateway has noticed")
    assert client.twin()["desired"] == {"rate": 1, "$version": 2}
    client.report({"a": 2, "b": {"c": 1}})
    client.report({"b": {"d": 2}, "a": None})
    assert client.twin()["reported"] == {"b": {"c": 1, "d": 2}, "$version": client.twin()["reported"]["$version"]}
    contoso.world.hub.start()
    service.call("update_twin", "gt-offline", {"properties": {"desired": {"rate": 2}}}, "*")
    wait_for(
        lambda: service.call("get_twin", "gt-offline")["properties"]["reported"].get("b") == {"c": 1, "d": 2},
        "the reports are at the hub",
    )
    assert "a" not in service.call("get_twin", "gt-offline")["properties"]["reported"]
    assert client.wait_for("desired", 2)[1]["patch"] == {"rate": 2, "$version": 3}
    client.shutdown()
