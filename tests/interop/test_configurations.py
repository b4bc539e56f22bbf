"""Configurations of edge devices, by azure-iot-hub for Python and azure-iothub for Node."""

from __future__ import annotations

from typing import Any

import pytest

from support.azure import Sdk, SdkError
from support.node import NodeContoso
from support.processes import Contoso, wait_for
from support.surface import NODE_SERVICE, PYTHON_SERVICE, surface

AGENT: dict[str, Any] = {"schemaVersion": "1.1", "modules": {"sensor": {"settings": {"image": "sensor:1"}}}}
MODULES = {"$edgeAgent": {"properties.desired": AGENT}, "sensor": {"properties.desired": {"interval": 5}}}


def edge_device(contoso: Contoso, device: str, site: str) -> None:
    contoso.register(device, capabilities={"iotEdge": True})
    contoso.rest("PATCH", "twins", device, body={"tags": {"site": site}})


def sensor(contoso: Contoso, device: str) -> dict[str, Any]:
    """The desired properties of the module `sensor`, which a configuration makes."""
    modules = [module["moduleId"] for module in contoso.rest("GET", "devices", device, "modules")]
    if "sensor" not in modules:
        return {}
    return dict(contoso.rest("GET", "twins", device, "modules", "sensor")["properties"]["desired"])


@surface(PYTHON_SERVICE, "configurations")
def test_by_python(contoso: Contoso, service: Sdk) -> None:
    edge_device(contoso, "c-python", "Oslo")
    wanted = {
        "id": "c-base",
        "schema_version": "1.0",
        "content": {"modules_content": MODULES},
        "target_condition": "tags.site='Oslo'",
        "priority": 3,
        "labels": {"a": "b"},
    }
    made = service.call("configurations.create_configuration", wanted)
    assert (made["id"], made["priority"], made["labels"]) == ("c-base", 3, {"a": "b"})
    wait_for(lambda: sensor(contoso, "c-python").get("interval") == 5, "it reaches its device")
    assert service.call("configurations.get_configuration", "c-base")["target_condition"] == "tags.site='Oslo'"
    assert "c-base" in [one["id"] for one in service.call("configurations.get_configurations", 20)]
    changed = service.call("configurations.update_configuration", {**made, "priority": 7}, made["etag"])
    assert changed["priority"] == 7
    with pytest.raises(SdkError, match="Precondition Failed"):
        service.call("configurations.update_configuration", {**made, "priority": 8}, made["etag"])
    service.call("configurations.delete_configuration", "c-base")
    with pytest.raises(SdkError, match="Not Found"):
        service.call("configurations.get_configuration", "c-base")


@surface(PYTHON_SERVICE, "configurations")
def test_content_for_one_device_by_python(contoso: Contoso, service: Sdk) -> None:
    edge_device(contoso, "c-one", "nowhere")
    service.call("configurations.apply_configuration_on_edge_device", "c-one", {"modules_content": MODULES})
    assert sensor(contoso, "c-one")["interval"] == 5


@surface(NODE_SERVICE, "configurations")
def test_by_node(node: NodeContoso) -> None:
    edge_device(node, "c-node", "Rome")
    wanted = {
        "id": "c-layer",
        "schemaVersion": "1.0",
        "content": {"modulesContent": MODULES},
        "targetCondition": "tags.site='Rome'",
        "priority": 3,
    }
    node.ask("registry", "addConfiguration", wanted)
    made = node.ask("registry", "getConfiguration", "c-layer")
    assert (made["priority"], made["content"]["modulesContent"]) == (3, MODULES)
    wait_for(lambda: sensor(node, "c-node").get("interval") == 5, "it reaches its device")
    assert "c-layer" in [one["id"] for one in node.ask("registry", "getConfigurations")]
    node.ask("registry", "updateConfiguration", {**made, "priority": 7}, False)
    assert node.ask("registry", "getConfiguration", "c-layer")["priority"] == 7
    with pytest.raises(SdkError) as raised:
        node.ask("registry", "updateConfiguration", {**made, "priority": 8}, False)
    assert raised.value.kind == "InvalidEtagError"
    node.ask("registry", "removeConfiguration", "c-layer")
    with pytest.raises(SdkError) as raised:
        node.ask("registry", "getConfiguration", "c-layer")
    assert raised.value.status == 404


@surface(NODE_SERVICE, "configurations")
def test_content_for_one_device_by_node(node: NodeContoso) -> None:
    edge_device(node, "c-node-one", "nowhere")
    node.ask("registry", "applyConfigurationContentOnDevice", "c-node-one", {"modulesContent": MODULES})
    assert sensor(node, "c-node-one")["interval"] == 5
