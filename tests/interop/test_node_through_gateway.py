"""azure-iot-device for Node through a gateway, which it knows by name and port."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.azure import SdkError
from support.edge_world import Gateway
from support.node import GATEWAY_PORT, NodeContoso
from support.processes import HUB, MQTT, Device, wait_for
from support.surface import NODE_DEVICE, surface
from support.wrong_credentials import WRONG_KEY

THROUGH = {"gateway": f"localhost:{GATEWAY_PORT}"}


@pytest.fixture(scope="module")
def node_gateway(node: NodeContoso) -> Iterator[Gateway]:
    started = node.start_gateway("NodeGateway", "localhost")
    yield started
    started.stop()


def child(node: NodeContoso, device: str) -> Device:
    key = node.register(device, **node.scope("NodeGateway"))["authentication"]["symmetricKey"]["primaryKey"]
    return node.with_key(device, str(key), **THROUGH)


def arrives(node: NodeContoso, client: Device) -> None:
    """It sends through the gateway and not past it."""
    dialled = node.proxy.asked_for((HUB, MQTT))
    client.connect()
    client.send("21.5", properties={"a b": "é&"})
    client.shutdown()
    wait_for(lambda: node.bodies(client.identity) == ["21.5"], "the gateway forwards it")
    assert node.events(client.identity)[0]["properties"] == {"a b": "é&"}
    assert node.proxy.asked_for((HUB, MQTT)) == dialled


@surface(NODE_DEVICE, "scope")
def test_a_child_with_a_key(node: NodeContoso, node_gateway: Gateway) -> None:
    arrives(node, child(node, "ng-key"))


@surface(NODE_DEVICE, "scope")
def test_twin_method_and_command(node: NodeContoso, node_gateway: Gateway) -> None:
    client = child(node, "ng-all")
    client.connect()
    node.ask("registry", "updateTwin", "ng-all", {"properties": {"desired": {"rate": 5}}}, "*")
    wait_for(lambda: client.twin()["desired"].get("rate") == 5, "the twin comes through the gateway")
    client.report({"rate": 5})

    def reported() -> bool:
        twin = node.ask("registry", "getTwin", "ng-all")
        return bool(twin["properties"]["reported"].get("rate") == 5)

    wait_for(reported, "so does the report")
    client.answer(method="reboot", status=207)
    times = {"connectTimeoutInSeconds": 30, "responseTimeoutInSeconds": 30}
    call = {"methodName": "reboot", "payload": 1, **times}
    assert node.ask("service", "invokeDeviceMethod", "ng-all", call)["status"] == 207
    client.listen()
    node.command("ng-all", "blink")
    assert client.wait_for("message")[0]["body"] == "blink"
    client.shutdown()


def test_a_wrong_key(node: NodeContoso, node_gateway: Gateway) -> None:
    child(node, "ng-wrong").shutdown()
    client = node.with_key("ng-wrong", WRONG_KEY, **THROUGH)

    def recorded() -> list[str]:
        return [line for line in node_gateway.text().splitlines() if '"ng-wrong"' in line and "refused" in line]

    def refused() -> list[str]:
        """The SDK has one error for a refusal and for a connection that was lost before: what counts is the record."""
        with pytest.raises(SdkError) as raised:
            client.connect()
        assert raised.value.kind == "UnauthorizedError"
        return recorded()

    wait_for(refused, "the gateway says why")
    assert "sas-signature-mismatch" in recorded()[0]
    client.shutdown()
