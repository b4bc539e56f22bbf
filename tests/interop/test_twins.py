"""Twins: devices of both SDKs read and report over MQTT, services of both read and change over HTTPS."""

from __future__ import annotations

from typing import Any

import pytest

from support.azure import Sdk, SdkError, model
from support.node import NodeContoso
from support.processes import Contoso, Device, wait_for
from support.surface import NODE_DEVICE, NODE_SERVICE, PYTHON_DEVICE, PYTHON_SERVICE, surface
from support.wrong_credentials import key_of


def desire(contoso: Contoso, device: str, **desired: Any) -> None:
    contoso.rest("PATCH", "twins", device, body={"properties": {"desired": desired}})


def connected(contoso: Contoso, device: str, **options: Any) -> Device:
    client = contoso.with_key(device, key_of(contoso, device), **options)
    client.connect()
    return client


def lives(contoso: Contoso, name: str, **options: Any) -> None:
    """Get, report, hear of changes, before and after a cut."""
    client = connected(contoso, name, **options)
    desire(contoso, name, interval=5, modes={"day": "on"})

    def twin() -> Any:
        return client.sdk.do("twin", client=client.name)

    first = twin()
    assert first["desired"] == {"interval": 5, "modes": {"day": "on"}, "$version": 2}
    assert first["reported"] == {"$version": 1}
    client.sdk.do("report", client=client.name, patch={"interval": 5, "firmware": {"version": "1.0", "slot": "a"}})
    client.sdk.do("report", client=client.name, patch={"firmware": {"slot": None}})
    assert twin()["reported"] == {"interval": 5, "firmware": {"version": "1.0"}, "$version": 3}

    client.sdk.do("listen_desired", client=client.name)
    desire(contoso, name, interval=6, modes={"day": None, "night": "off"})
    assert hears(client, 3) == {"interval": 6, "modes": {"day": None, "night": "off"}, "$version": 3}
    assert contoso.proxy.cut() >= 1
    client.wait_for("connected", 2)
    desire(contoso, name, interval=7)
    assert hears(client, 4)["interval"] == 7
    client.shutdown()


def hears(client: Device, version: int) -> dict[str, Any]:
    """The change that led to this version of the desired properties."""

    def found() -> list[dict[str, Any]]:
        return [told["patch"] for told in client.news("desired") if told["patch"]["$version"] == version]

    wait_for(found, f"desired properties of version {version}")
    return found()[0]


@surface(PYTHON_DEVICE, "twins")
def test_a_device_of_python(contoso: Contoso) -> None:
    lives(contoso, "t-python")


@surface(NODE_DEVICE, "twins")
def test_a_device_of_node(node: NodeContoso) -> None:
    lives(node, "t-node")


def test_a_module(contoso: Contoso) -> None:
    contoso.register("t-module")
    client = contoso.with_key("t-module", key_of(contoso, "t-module", "m1"), module="m1")
    client.connect()
    client.sdk.do("report", client=client.name, patch={"ready": True})
    assert contoso.rest("GET", "twins", "t-module", "modules", "m1")["properties"]["reported"]["ready"] is True
    assert "ready" not in contoso.rest("GET", "twins", "t-module")["properties"]["reported"]
    client.shutdown()


@surface(PYTHON_DEVICE, "twins")
def test_what_is_no_twin_is_refused(contoso: Contoso) -> None:
    """And the connection stays."""
    client = connected(contoso, "t-bad")
    with pytest.raises(SdkError, match="ServiceError"):
        client.sdk.do("report", client=client.name, patch={"a.b": 1})
    client.sdk.do("report", client=client.name, patch={"a": 1})
    assert client.news("disconnected") == []
    client.shutdown()


@surface(NODE_DEVICE, "twins")
def test_what_is_no_twin_is_refused_with_a_text(node: NodeContoso) -> None:
    client = connected(node, "tn-bad")
    client.sdk.do("twin", client=client.name)
    with pytest.raises(SdkError, match=r"'a\.b' in the reported properties cannot name a member"):
        client.sdk.do("report", client=client.name, patch={"a.b": 1})
    client.sdk.do("report", client=client.name, patch={"a": 1})
    client.shutdown()


# The service side ---------------------------------------------------------------------------------------------------


@surface(PYTHON_SERVICE, "service-twins")
def test_a_service_of_python(manager: Sdk) -> None:
    manager.call("create_device_with_sas", "ts-python", "", "", "enabled")
    made = manager.call("get_twin", "ts-python")
    assert (made["device_id"], made["properties"]["desired"]["$version"], made["tags"]) == ("ts-python", 1, {})
    wanted = {"tags": {"site": "Oslo"}, "properties": {"desired": {"interval": 5}}}
    changed = manager.call("update_twin", "ts-python", model("Twin", **wanted), made["etag"])
    assert (changed["tags"], changed["properties"]["desired"]["interval"]) == ({"site": "Oslo"}, 5)
    with pytest.raises(SdkError, match="Precondition Failed") as raised:
        manager.call("update_twin", "ts-python", model("Twin", tags={"site": "Rome"}), made["etag"])
    assert raised.value.status == 412
    whole = model("Twin", tags={"line": 2}, properties={"desired": {"mode": "on"}})
    replaced = manager.call("replace_twin", "ts-python", whole, changed["etag"])
    assert replaced["tags"] == {"line": 2}
    assert "interval" not in replaced["properties"]["desired"]
    assert manager.call("get_twin", "ts-python") == replaced
    with pytest.raises(SdkError, match="Not Found"):
        manager.call("get_twin", "ts-nobody")


@surface(PYTHON_SERVICE, "service-twins")
def test_a_modules_twin_of_python(manager: Sdk) -> None:
    manager.call("create_device_with_sas", "ts-module", "", "", "enabled")
    manager.call("create_module_with_sas", "ts-module", "m1", "me", "", "")
    wanted = model("Twin", properties={"desired": {"interval": 5}})
    manager.call("update_module_twin", "ts-module", "m1", wanted)
    twin = manager.call("get_module_twin", "ts-module", "m1")
    assert (twin["module_id"], twin["properties"]["desired"]["interval"]) == ("m1", 5)


@surface(NODE_SERVICE, "service-twins")
def test_a_service_of_node(node: NodeContoso) -> None:
    node.register("ts-node")
    made = node.ask("registry", "getTwin", "ts-node")
    patch = {"tags": {"site": "Oslo"}, "properties": {"desired": {"interval": 5}}}
    changed = node.ask("registry", "updateTwin", "ts-node", patch, made["etag"])
    assert (changed["tags"], changed["properties"]["desired"]["interval"]) == ({"site": "Oslo"}, 5)
    with pytest.raises(SdkError) as raised:
        node.ask("registry", "updateTwin", "ts-node", patch, made["etag"])
    assert raised.value.kind == "InvalidEtagError"
    assert node.ask("registry", "updateTwin", "ts-node", {"tags": {"site": None}}, "*")["tags"] == {}
    with pytest.raises(SdkError) as raised:
        node.ask("registry", "getTwin", "ts-nobody")
    assert raised.value.kind == "DeviceNotFoundError"


@surface(NODE_SERVICE, "service-twins")
def test_a_modules_twin_of_node(node: NodeContoso) -> None:
    node.register("tm-node")
    node.register("tm-node", "m1")
    patch = {"properties": {"desired": {"interval": 5}}}
    node.ask("registry", "updateModuleTwin", "tm-node", "m1", patch, "*")
    twin = node.ask("registry", "getModuleTwin", "tm-node", "m1")
    assert (twin["moduleId"], twin["properties"]["desired"]["interval"]) == ("m1", 5)
