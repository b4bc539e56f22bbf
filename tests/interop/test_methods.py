"""Direct methods: devices of both SDKs answer, services of both call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.azure import Sdk, SdkError, model
from support.node import NodeContoso
from support.processes import Contoso, Device
from support.surface import NODE_DEVICE, NODE_SERVICE, PYTHON_DEVICE, PYTHON_SERVICE, surface
from support.wrong_credentials import key_of

Call = Callable[..., Any]
SECONDS = {"responseTimeoutInSeconds": 5, "connectTimeoutInSeconds": 0}


def by_rest(contoso: Contoso, *path: str) -> Call:
    """Calls a method of the device or module at this path."""

    def call(method: str, payload: Any = None, **options: Any) -> Any:
        body = {"methodName": method, "payload": payload, **SECONDS, **options}
        return contoso.rest("POST", "twins", *path, "methods", body=body)

    return call


def answering(contoso: Contoso, device: str, call: Call, **options: Any) -> Device:
    """A connected device that answers `reboot`. It is called until it has subscribed, which no SDK tells."""
    client = contoso.with_key(device, key_of(contoso, device), **options)
    client.connect()
    client.sdk.do("answer", client=client.name, method="reboot", status=202, payload={"in": [1, None, "é"]})
    assert call("reboot", {"delay": 5}, connectTimeoutInSeconds=10) == {
        "status": 202,
        "payload": {"in": [1, None, "é"]},
    }
    assert client.news("method") == [
        {"client": client.name, "event": "method", "method": "reboot", "payload": {"delay": 5}}
    ]
    return client


def answers(contoso: Contoso, device: str, **options: Any) -> None:
    """It answers, with every kind of payload, and still does after a cut."""
    call = by_rest(contoso, device)
    client = answering(contoso, device, call, **options)
    payloads = [None, 0, "", [], {"a": {"b": None}}, "x" * 100_000]
    for payload in payloads:
        call("reboot", payload)
    assert [told["payload"] for told in client.wait_for("method", 7)[1:]] == payloads
    contoso.proxy.cut()
    client.wait_for("connected", 2)
    assert call("reboot", "after", connectTimeoutInSeconds=10)["status"] == 202
    client.shutdown()


@surface(PYTHON_DEVICE, "methods", "sessions")
def test_a_device_of_python(contoso: Contoso) -> None:
    answers(contoso, "m-python")


@surface(NODE_DEVICE, "methods", "sessions")
def test_a_device_of_node(node: NodeContoso) -> None:
    answers(node, "m-node")


@surface(NODE_DEVICE, "methods", "websocket")
def test_a_device_of_node_over_websocket(node: NodeContoso) -> None:
    answers(node, "m-node-ws", transport="websocket")


@surface(PYTHON_DEVICE, "methods")
def test_a_module(contoso: Contoso) -> None:
    contoso.register("m-module")
    client = contoso.with_key("m-module", key_of(contoso, "m-module", "m1"), module="m1")
    client.connect()
    client.sdk.do("answer", client=client.name, method="reboot")
    answer = by_rest(contoso, "m-module", "modules", "m1")("reboot", connectTimeoutInSeconds=10)
    assert answer == {"status": 200, "payload": None}
    client.shutdown()


# The service side ---------------------------------------------------------------------------------------------------


@surface(PYTHON_SERVICE, "service-methods")
def test_a_service_of_python(contoso: Contoso, manager: Sdk) -> None:
    def call(method: str, payload: Any, **options: Any) -> Any:
        words = {"methodName": method, "payload": payload, **SECONDS, **options}
        return manager.call("invoke_device_method", "ms-python", model("CloudToDeviceMethod", **words))

    client = answering(contoso, "ms-python", call)
    client.disconnect()
    with pytest.raises(SdkError, match="Not Found") as raised:
        call("reboot", 1)
    assert raised.value.status == 404
    client.shutdown()


@surface(NODE_SERVICE, "service-methods")
def test_a_service_of_node(node: NodeContoso) -> None:
    def call(method: str, payload: Any, **options: Any) -> Any:
        words = {"methodName": method, "payload": payload, **SECONDS, **options}
        return node.ask("service", "invokeDeviceMethod", "ms-node", words)

    client = answering(node, "ms-node", call)
    client.disconnect()
    with pytest.raises(SdkError) as raised:
        call("reboot", 1)
    assert raised.value.status == 404
    client.shutdown()


@surface(NODE_SERVICE, "service-methods", "errors")
def test_a_device_that_does_not_answer(node: NodeContoso) -> None:
    node.register("ms-silent")
    client = node.with_key(
        "ms-silent", node.rest("GET", "devices", "ms-silent")["authentication"]["symmetricKey"]["primaryKey"]
    )
    client.connect()
    client.sdk.do("answer", client=client.name, method="reboot", silent=True)
    words = {"methodName": "reboot", "payload": 1, "responseTimeoutInSeconds": 5, "connectTimeoutInSeconds": 5}
    with pytest.raises(SdkError) as raised:
        node.ask("service", "invokeDeviceMethod", "ms-silent", words)
    assert (raised.value.kind, raised.value.status) == ("GatewayTimeoutError", 504)
    assert len(client.news("method")) == 1
    client.shutdown()
