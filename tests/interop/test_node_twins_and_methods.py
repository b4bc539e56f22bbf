"""Twins and direct methods: azure-iot-device for Node on one side, azure-iothub for Node on the other."""

from __future__ import annotations

from typing import Any

import pytest

from support.azure import SdkError
from support.node import NodeContoso
from support.processes import Device, wait_for
from support.surface import NODE_DEVICE, NODE_SERVICE, surface
from support.wrong_credentials import key_of


def connected(node: NodeContoso, device: str, **options: Any) -> Device:
    client = node.with_key(device, key_of(node, device), **options)
    client.connect()
    return client


def change(node: NodeContoso, device: str, **patch: Any) -> dict[str, Any]:
    return dict(node.ask("registry", "updateTwin", device, patch, "*"))


def desire(node: NodeContoso, device: str, **desired: Any) -> None:
    change(node, device, properties={"desired": desired})


# Twins --------------------------------------------------------------------------------------------------------------


@surface(NODE_DEVICE, "twins", "sessions", "websocket")
@surface(NODE_SERVICE, "service-twins")
@pytest.mark.parametrize("transport", ["mqtt", "websocket"])
def test_a_twin_is_read_reported_and_told_of_changes(node: NodeContoso, transport: str) -> None:
    name = f"nt-{transport}"
    client = connected(node, name, transport=transport)
    desire(node, name, interval=5, modes={"day": "on"})
    first = client.twin()
    assert first["desired"] == {"interval": 5, "modes": {"day": "on"}, "$version": 2}
    assert first["reported"] == {"$version": 1}
    client.report({"interval": 5, "firmware": {"version": "1.0", "slot": "a"}})
    client.report({"firmware": {"slot": None}})
    assert client.twin()["reported"] == {"interval": 5, "firmware": {"version": "1.0"}, "$version": 3}
    seen = node.ask("registry", "getTwin", name)["properties"]["reported"]
    assert (seen["interval"], seen["firmware"]) == (5, {"version": "1.0"})

    client.watch()
    desire(node, name, interval=6, modes={"day": None, "night": "off"})
    assert hears(client, 3) == {"interval": 6, "modes": {"day": None, "night": "off"}, "$version": 3}
    assert node.proxy.cut() >= 1
    client.wait_for("connected", 2)
    desire(node, name, interval=7)
    assert hears(client, 4) == {"interval": 7, "$version": 4}
    client.shutdown()


def hears(client: Device, version: int) -> dict[str, Any]:
    """The change that led to this version of the desired properties."""

    def found() -> list[dict[str, Any]]:
        return [told["patch"] for told in client.news("desired") if told["patch"]["$version"] == version]

    wait_for(found, f"desired properties of version {version}")
    return found()[0]


@surface(NODE_DEVICE, "twins")
def test_what_is_no_twin_is_refused_with_a_text(node: NodeContoso) -> None:
    client = connected(node, "nt-bad")
    client.twin()
    with pytest.raises(SdkError, match=r"'a\.b' in the reported properties cannot name a member"):
        client.report({"a.b": 1})
    client.report({"a": 1})
    assert client.news("disconnected") == []
    client.shutdown()


@surface(NODE_SERVICE, "service-twins", "errors")
def test_a_twin_is_changed_with_its_etag(node: NodeContoso) -> None:
    node.register("nt-service")
    made = node.ask("registry", "getTwin", "nt-service")
    patch = {"tags": {"site": "Oslo"}, "properties": {"desired": {"interval": 5}}}
    changed = node.ask("registry", "updateTwin", "nt-service", patch, made["etag"])
    assert (changed["tags"], changed["properties"]["desired"]["interval"]) == ({"site": "Oslo"}, 5)
    with pytest.raises(SdkError) as raised:
        node.ask("registry", "updateTwin", "nt-service", patch, made["etag"])
    assert raised.value.kind == "InvalidEtagError"
    assert change(node, "nt-service", tags={"site": None})["tags"] == {}
    with pytest.raises(SdkError) as raised:
        node.ask("registry", "getTwin", "nt-nobody")
    assert raised.value.kind == "DeviceNotFoundError"


@surface(NODE_DEVICE, "twins")
@surface(NODE_SERVICE, "service-twins")
def test_a_module_has_a_twin_of_its_own(node: NodeContoso) -> None:
    node.register("nt-module")
    client = node.with_key("nt-module", key_of(node, "nt-module", "m1"), module="m1")
    client.connect()
    patch = {"properties": {"desired": {"interval": 5}}}
    node.ask("registry", "updateModuleTwin", "nt-module", "m1", patch, "*")
    assert client.twin()["desired"]["interval"] == 5
    client.report({"ready": True})
    twin = node.ask("registry", "getModuleTwin", "nt-module", "m1")
    assert (twin["moduleId"], twin["properties"]["reported"]["ready"]) == ("m1", True)
    assert "interval" not in node.ask("registry", "getTwin", "nt-module")["properties"]["desired"]
    client.shutdown()


@surface(NODE_DEVICE, "twins")
def test_a_model_is_named_when_it_connects(node: NodeContoso) -> None:
    client = connected(node, "nt-model", modelId="dtmi:com:example:Thermostat;1")

    def twin() -> dict[str, Any]:
        return dict(node.rest("GET", "twins", "nt-model"))

    wait_for(lambda: twin()["modelId"], "the model is kept")
    assert twin()["modelId"] == "dtmi:com:example:Thermostat;1"
    assert twin()["productInfo"].startswith("azure-iot-device/1.18.4 (node v")
    client.shutdown()


# Methods ------------------------------------------------------------------------------------------------------------


def reboot(node: NodeContoso, *who: str, payload: Any = None, connect: int = 30, response: int = 30) -> Any:
    """Call a method of a device or module. It waits until it can be called, since no SDK tells when it is."""
    times = {"connectTimeoutInSeconds": connect, "responseTimeoutInSeconds": response}
    return node.ask("service", "invokeDeviceMethod", *who, {"methodName": "reboot", "payload": payload, **times})


@surface(NODE_DEVICE, "methods", "sessions", "websocket")
@surface(NODE_SERVICE, "service-methods")
@pytest.mark.parametrize("transport", ["mqtt", "websocket"])
def test_a_method_is_answered(node: NodeContoso, transport: str) -> None:
    name = f"nm-{transport}"
    client = connected(node, name, transport=transport)
    client.answer(method="reboot", status=207)
    payloads = [{"delay": 5}, 0, "", [], {"a": {"b": None}}, "x" * 100_000]
    for payload in payloads:
        answer = reboot(node, name, payload=payload)
        assert answer == {"status": 207, "payload": {"method": "reboot", "payload": payload}}
    assert [told["payload"] for told in client.wait_for("method", len(payloads))] == payloads
    node.proxy.cut()
    client.wait_for("connected", 2)
    assert reboot(node, name, payload="after")["status"] == 207
    client.shutdown()


@surface(NODE_DEVICE, "methods")
@surface(NODE_SERVICE, "service-methods")
def test_a_method_of_a_module(node: NodeContoso) -> None:
    node.register("nm-module")
    client = node.with_key("nm-module", key_of(node, "nm-module", "m1"), module="m1")
    client.connect()
    client.answer(method="reboot")
    assert reboot(node, "nm-module", "m1", payload=1) == {"status": 200, "payload": {"method": "reboot", "payload": 1}}
    client.shutdown()


@surface(NODE_SERVICE, "service-methods", "errors")
def test_who_is_away_and_who_does_not_answer(node: NodeContoso) -> None:
    client = connected(node, "nm-off")
    with pytest.raises(SdkError) as raised:
        reboot(node, "nm-off", connect=0)
    assert raised.value.status == 404
    client.answer(method="reboot", pause=7)
    with pytest.raises(SdkError) as raised:
        reboot(node, "nm-off", response=5)
    assert (raised.value.kind, raised.value.status) == ("GatewayTimeoutError", 504)
    client.send("still here")
    client.shutdown()
