"""Rows 49 to 53: TempSensor below EdgeGateway."""

from __future__ import annotations

import socket

from support.story import GATEWAY, HUB, Story, eventually, look, tool


def test_row_049_devices_and_edge_devices_below_a_gateway(story: Story) -> None:
    """A gateway serves downstream devices and downstream edge devices that are its children."""
    assert story.publish("TempSensor", story.sensor, at=story.gateway, message="row 49").code == 0
    child = story.device_holder("ChildEdge")
    story.register("ChildEdge", child, child, parent="EdgeGateway", edge=True)
    eventually(lambda: story.publish("ChildEdge", child, at=story.gateway, message="from a child").code == 0)
    eventually(lambda: "from a child" in story.messages("ChildEdge"))
    assert "row 49" in story.messages("TempSensor")


def test_row_050_nothing_without_tls(story: Story) -> None:
    """A CONNECT without TLS gets no CONNACK, and mosquitto without TLS gets nowhere; no other port is open."""
    connect = bytes.fromhex("101a00044d51545404020e10000e54656d7053656e736f7220726177")
    with socket.create_connection(("127.0.0.1", story.gateway.port), timeout=60) as plain:
        plain.sendall(connect)
        answer = b""
        try:
            while block := plain.recv(100):
                answer += block
        except ConnectionResetError:
            pass
    assert not answer.startswith(b"\x20\x02")
    assert answer[:1] in (b"", b"\x15")  # nothing, or an alert of TLS
    done = tool(
        *("mosquitto_pub", "-d", "-h", "127.0.0.1", "-p", str(story.gateway.port), "-i", "TempSensor"),
        *("-u", f"{HUB}/TempSensor/?api-version=2021-04-12", "-t", "devices/TempSensor/messages/events/", "-m", "x"),
    )
    assert done.code != 0
    assert "CONNACK" not in done.text


def test_row_051_the_parent_decides(story: Story) -> None:
    """The right certificate is not enough: without the parent relation the gateway refuses; with it, it accepts."""
    holder = story.device_holder("Foundling")
    story.register("Foundling", holder)
    refused = story.publish("Foundling", holder, at=story.gateway)
    assert refused.code != 0
    assert "CONNACK (5)" in refused.text
    eventually(lambda: "not-a-child" in story.gateway.refusals("Foundling"))
    scope = story.get("/devices/EdgeGateway")["deviceScope"]
    story.change("Foundling", deviceScope=scope, parentScopes=[scope])
    eventually(lambda: story.publish("Foundling", holder, at=story.gateway).code == 0)


def test_row_052_all_of_it_is_x509(story: Story) -> None:
    """Hub, gateway and sensor authenticate with certificates; there is no symmetric key to steal."""
    for device in ("EdgeGateway", "TempSensor"):
        shown = story.get(f"/devices/{device}")["authentication"]
        assert shown["type"] == "selfSigned"
        assert not (shown.get("symmetricKey") or {}).get("primaryKey")
    without = story.publish("TempSensor", at=story.gateway)
    assert "CONNACK (5)" in without.text


def test_row_053_four_questions(story: Story) -> None:
    """Hub and gateway are each asked whether they are who they say, and ask it themselves."""
    hub = look(story.mqtt_port, "-CAfile", story.os_store, "-verify_hostname", HUB)
    gateway = story.gateway.look("-verify_hostname", GATEWAY)
    assert (hub.verified, gateway.verified) == (True, True)
    eventually(lambda: story.gateway.state()["upstream"]["connected"])  # the hub knows EdgeGateway
    assert story.publish("TempSensor", story.sensor, at=story.gateway).code == 0
    stranger = story.device_holder("TempSensor", label="stranger")
    assert "CONNACK (5)" in story.publish("TempSensor", stranger, at=story.gateway).text
