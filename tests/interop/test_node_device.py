"""azure-iot-device for Node, straight to the hub: every kind of credential and transport, and what is sent arrives."""

from __future__ import annotations

from typing import Any

import pytest

from support.node import ELSEWHERE, NodeContoso
from support.pki import Pki, self_signed
from support.processes import HTTPS, HUB, MQTT, Device, wait_for
from support.surface import MQTT_JS, NODE_DEVICE, surface


def key_of(node: NodeContoso, device: str, module: str | None = None) -> str:
    return str(node.register(device, module)["authentication"]["symmetricKey"]["primaryKey"])


def arrives(node: NodeContoso, device: Device, name: str, method: str, module: str | None = None) -> None:
    """Connect, send, and see it at the hub with who sent it and how it was authenticated."""
    device.connect()
    device.send("21.5")
    device.shutdown()
    event = node.events(name)[-1]
    assert (event["device"], event["module"], event["bodyText"]) == (name, module, "21.5")
    assert f'"type":"{method}"' in event["authMethod"]


@surface(NODE_DEVICE, "tls", "connect-sas", "telemetry", "websocket")
@pytest.mark.parametrize("transport", ["mqtt", "websocket"])
def test_device_with_a_key(node: NodeContoso, transport: str) -> None:
    name = f"n-key-{transport}"
    before = node.proxy.asked_for((HUB, HTTPS))
    arrives(node, node.with_key(name, key_of(node, name), transport=transport), name, "sas")
    assert (node.proxy.asked_for((HUB, HTTPS)) > before) is (transport == "websocket")


@surface(NODE_DEVICE, "connect-port")
def test_a_port_in_the_host_name(node: NodeContoso) -> None:
    """The port then also stands in the user name and in the token's resource."""
    client = node.with_key("n-port", key_of(node, "n-port"), host=f"localhost:{ELSEWHERE}")
    arrives(node, client, "n-port", "sas")


@surface(NODE_DEVICE, "connect-thumbprint", "websocket")
@pytest.mark.parametrize("transport", ["mqtt", "websocket"])
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_device_with_a_thumbprint(node: NodeContoso, algorithm: str, transport: str) -> None:
    name = f"n-{algorithm}-{transport}"
    own = self_signed(name, now=node.pki.now)
    node.register_thumbprints(name, None, own.chain.thumbprint(algorithm).hex())
    arrives(node, node.with_certificate(name, own, transport=transport), name, "x509Certificate")


@surface(NODE_DEVICE, "connect-ca")
@pytest.mark.parametrize("intermediates", [0, 2])
def test_device_of_a_ca(node: NodeContoso, intermediates: int) -> None:
    name = f"n-below-{intermediates}"
    pki = Pki(node.pki.now, intermediates, root_name=f"Node Root over {intermediates}")
    node.register_ca(f"node-root-{intermediates}", pki.root.certificate)
    node.register(name, authentication={"type": "certificateAuthority"})
    arrives(node, node.with_certificate(name, pki.device(name)), name, "x509Authority")


@surface(NODE_DEVICE, "connect-sas")
def test_module_with_a_key(node: NodeContoso) -> None:
    key_of(node, "n-module")
    key = key_of(node, "n-module", "m1")
    arrives(node, node.with_key("n-module", key, module="m1"), "n-module", "sas", "m1")


SYSTEM = {
    "message_id": "m 1/2",
    "correlation_id": "c&=",
    "user_id": "u%41",
    "content_type": "application/json",
    "content_encoding": "utf-8",
}
PROPERTIES = {"a b": "é&", "z": "1", "empty": "", "plus+": "a+b", "ünï/x": "#$%?", "it's (!*)": "it's (!*)", "=": "=="}


@surface(NODE_DEVICE, "telemetry")
def test_properties_arrive_exactly(node: NodeContoso) -> None:
    client = node.with_key("n-exact", key_of(node, "n-exact"))
    client.connect()
    client.send('{"temperature": 21.5, "unit": "°C"}', properties=PROPERTIES, system=SYSTEM)
    client.shutdown()
    (event,) = node.events("n-exact")
    assert event["bodyText"] == '{"temperature": 21.5, "unit": "°C"}'
    assert event["properties"] == PROPERTIES
    assert event["systemProperties"] == {
        "$.mid": "m 1/2",
        "$.cid": "c&=",
        "$.uid": "u%41",
        "$.ct": "application/json",
        "$.ce": "utf-8",
    }


@surface(NODE_DEVICE, "outputs")
def test_an_output_of_a_module_arrives(node: NodeContoso) -> None:
    """Its topic ends with one more slash, which is no part of the last property."""
    key_of(node, "n-output")
    client = node.with_key("n-output", key_of(node, "n-output", "m1"), module="m1")
    client.connect()
    client.send("1", output="out1", properties={"k": "v"})
    client.shutdown()
    (event,) = node.events("n-output")
    assert (event["systemProperties"], event["properties"]) == ({"$.on": "out1"}, {"k": "v"})


@surface(NODE_DEVICE, "websocket")
def test_a_large_message_in_many_frames(node: NodeContoso) -> None:
    client = node.with_key("n-large", key_of(node, "n-large"), transport="websocket")
    client.connect()
    client.send("x" * 200_000)
    client.shutdown()
    assert node.bodies("n-large") == ["x" * 200_000]


# Cloud to device ----------------------------------------------------------------------------------------------------


@surface(NODE_DEVICE, "c2d", "websocket")
@pytest.mark.parametrize("transport", ["mqtt", "websocket"])
def test_a_command_is_received_with_its_properties(node: NodeContoso, transport: str) -> None:
    name = f"n-commanded-{transport}"
    key = key_of(node, name)
    node.command(name, "waiting since before")
    client = node.with_key(name, key, transport=transport)
    client.connect()
    client.listen()
    client.wait_for("message")
    headers = {"iothub-app-colour": "red", "iothub-messageid": "m/1", "iothub-contenttype": "text/plain"}
    node.command(name, "blink", headers)
    first, second = client.wait_for("message", 2)
    assert first["body"] == "waiting since before"
    assert (second["body"], second["properties"]["colour"]) == ("blink", "red")
    assert (second["system"]["message_id"], second["system"]["content_type"]) == ("m/1", "text/plain")
    wait_for(lambda: node.rest("GET", "devices", name)["cloudToDeviceMessageCount"] == 0, "both are acknowledged")
    client.shutdown()


# Connections that end -----------------------------------------------------------------------------------------------


@surface(NODE_DEVICE, "sessions", "websocket")
@pytest.mark.parametrize("transport", ["mqtt", "websocket"])
def test_a_cut_connection_is_made_again(node: NodeContoso, transport: str) -> None:
    name = f"n-cut-{transport}"
    client = node.with_key(name, key_of(node, name), transport=transport)
    client.connect()
    client.listen()
    client.send("1")
    port = MQTT if transport == "mqtt" else HTTPS
    before = node.proxy.asked_for((HUB, port))
    assert node.proxy.cut() >= 1
    wait_for(lambda: node.proxy.asked_for((HUB, port)) > before, "it dials again")
    client.send("2")
    node.command(name, "after")
    assert client.wait_for("message")[-1]["body"] == "after"
    client.shutdown()
    assert node.bodies(name) == ["1", "2"]


@surface(NODE_DEVICE, "sessions")
def test_a_stream_survives_cuts(node: NodeContoso) -> None:
    client = node.with_key("n-stream", key_of(node, "n-stream"))
    client.connect()
    stream = client.begin("stream", count=60, pause=0.01)
    for sent in (10, 30, 50):
        client.wait_for("sent", sent)
        node.proxy.cut()
    stream.result(60)
    client.shutdown()
    assert list(dict.fromkeys(node.bodies("n-stream"))) == [str(number) for number in range(60)]


@surface(NODE_DEVICE, "sessions")
def test_a_token_is_renewed_by_connecting_again(node: NodeContoso) -> None:
    client = node.with_key("n-renewing", key_of(node, "n-renewing"), token={"seconds": 4, "margin": 3})
    client.connect()
    client.listen()
    dialled = node.proxy.asked_for((HUB, MQTT))
    stream = client.begin("stream", count=30, pause=0.1)
    stream.result(60)
    wait_for(lambda: node.proxy.asked_for((HUB, MQTT)) >= dialled + 2, "it has connected again twice")
    node.command("n-renewing", "still there")
    assert client.wait_for("message")[0]["body"] == "still there"
    client.shutdown()
    assert list(dict.fromkeys(node.bodies("n-renewing"))) == [str(number) for number in range(30)]
    assert node.refusals("n-renewing") == []


@surface(NODE_DEVICE, "take-over")
def test_the_second_client_of_a_device_takes_the_connection(node: NodeContoso) -> None:
    key = key_of(node, "n-twice")
    first = node.with_key("n-twice", key, retry=False)
    second = node.with_key("n-twice", key)
    first.connect()
    second.connect()
    first.wait_for("disconnected")
    second.send("from the second")
    assert second.news("disconnected") == []
    assert node.bodies("n-twice") == ["from the second"]
    for client in (first, second):
        client.shutdown()


@surface(NODE_DEVICE, "retry")
def test_a_hub_that_cannot_decide_now_is_asked_again(node: NodeContoso) -> None:
    client = node.with_key("n-undecided", key_of(node, "n-undecided"))
    with node.registry_away():
        connecting = client.begin("connect")
        wait_for(lambda: len(node.refusals("n-undecided")) >= 2, "it comes again")
    connecting.result(60)
    client.send("1")
    client.shutdown()
    assert set(node.refusals("n-undecided")) == {"registry-unavailable"}
    assert node.bodies("n-undecided") == ["1"]


# MQTT.js without an SDK ---------------------------------------------------------------------------------------------


@surface(MQTT_JS, "connect-thumbprint", "telemetry", "c2d", "sessions")
def test_mqtt_js_keeps_its_subscription(node: NodeContoso) -> None:
    """A persistent session: subscribed once, and served after coming back without subscribing again."""
    own = self_signed("n-plain", now=node.pki.now)
    node.register_thumbprints("n-plain", own.chain.thumbprint().hex())
    options: dict[str, Any] = {
        "clientId": "n-plain",
        "username": "localhost/n-plain/?api-version=2021-04-12",
        "clean": False,
        "cert": own.chain.pem(),
        "key": own.key_pem().decode(),
    }
    words = {"client": "n-plain", "url": "mqtts://localhost:8883", "options": options}
    assert node.sdk.do("mqtt_connect", **words) == {"session_present": False}
    granted = node.sdk.do("mqtt_subscribe", client="n-plain", filter="devices/n-plain/messages/devicebound/#", qos=2)
    assert granted == [1]
    node.sdk.do("mqtt_publish", client="n-plain", topic="devices/n-plain/messages/events/a=b", body="1")
    node.sdk.do("mqtt_end", client="n-plain")
    node.command("n-plain", "meanwhile")
    assert node.sdk.do("mqtt_connect", **words) == {"session_present": True}
    (told,) = node.sdk.wait_for("n-plain", "message")
    assert told["body"] == "meanwhile"
    node.sdk.do("mqtt_end", client="n-plain")
    assert [(event["bodyText"], event["properties"]) for event in node.events("n-plain")] == [("1", {"a": "b"})]
