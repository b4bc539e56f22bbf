"""Dialogues of whole connections, both roles against each other, and bytes that other implementations made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion

from edgetrust.protocol.mqtt.connection import MqttConnection, State
from edgetrust.protocol.mqtt.faults import Fault, MqttProtocolError
from edgetrust.protocol.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)

CONNECT = Connect("d1", "localhost/d1/?api-version=2019-10-01", b"SharedAccessSignature sr=x", False, 60)


class Pair:
    """A client and a server; what one sends the other receives, in pieces of `size` bytes."""

    def __init__(self, size: int) -> None:
        self.client, self.server = MqttConnection("client"), MqttConnection("server")
        self._size = size

    def _deliver(self, data: bytes, to: MqttConnection) -> list[Packet]:
        pieces = [data[start : start + self._size] for start in range(0, len(data), self._size)]
        return [packet for piece in pieces for packet in to.receive(piece)]

    def says(self, packet: Packet) -> None:
        """The client sends `packet`, the server receives exactly it."""
        assert self._deliver(self.client.send(packet), self.server) == [packet]

    def hears(self, packet: Packet) -> None:
        """The server sends `packet`, the client receives exactly it."""
        assert self._deliver(self.server.send(packet), self.client) == [packet]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100_000])
def test_a_session_of_the_python_sdk(size: int) -> None:
    """In the order that was seen on the wire (hub specification 3.7)."""
    pair = Pair(size)
    pair.says(CONNECT)
    assert pair.server.accept() == []
    pair.hears(Connack(False, 0))
    for number, topic_filter in enumerate(
        ("devices/d1/messages/devicebound/#", "$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#"), 1
    ):
        pair.says(Subscribe(number, ((topic_filter, 1),)))
        pair.hears(Suback(number, (1,)))
    pair.says(Publish("devices/d1/messages/events/%24.mid=1", b'{"t":1}', 1, False, False, 4))
    pair.hears(Puback(4))
    pair.says(Publish("$iothub/twin/GET/?$rid=5", b" ", 1, False, False, 5))
    pair.hears(Publish("$iothub/twin/res/200/?$rid=5", b'{"desired":{"$version":1},"reported":{"$version":1}}'))
    pair.hears(Puback(5))
    pair.hears(Publish("devices/d1/messages/devicebound/", bytes(300), 1, False, False, 1))
    pair.says(Puback(1))
    pair.says(Unsubscribe(6, ("$iothub/methods/POST/#",)))
    pair.hears(Unsuback(6))
    pair.says(Pingreq())
    pair.hears(Pingresp())
    pair.says(Disconnect())
    assert pair.server.state is pair.client.state is State.OVER


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5])
def test_a_refusal(code: int) -> None:
    pair = Pair(1)
    pair.says(CONNECT)
    pair.hears(Connack(False, code))
    assert pair.server.state is pair.client.state is State.OVER


# What other implementations send ------------------------------------------------------------------------------------


class Wire:
    """What paho takes for its socket; keeps what is sent."""

    def __init__(self) -> None:
        self.sent = b""

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    def close(self) -> None:
        """Nothing is open."""


def paho(speak: Callable[[Client], Any], **options: Any) -> bytes:
    """The bytes that paho's client writes."""
    client, wire = Client(CallbackAPIVersion.VERSION2, **options), Wire()
    client._sock = wire  # type: ignore[assignment]
    speak(client)
    return wire.sent


def connect(client: Client) -> None:
    client._send_connect(60)


def test_connects_of_paho() -> None:
    def full(client: Client) -> None:
        client.username_pw_set("h/d/?api-version=2021-04-12", "SharedAccessSignature sr=x")
        client.will_set("devices/d/messages/events/", b"gone", 1, True)
        client._send_connect(30)

    will = Will("devices/d/messages/events/", b"gone", 1, True)
    expected = Connect("d", "h/d/?api-version=2021-04-12", b"SharedAccessSignature sr=x", False, 30, will)
    assert MqttConnection("server").receive(paho(full, client_id="d", clean_session=False)) == [expected]
    assert MqttConnection("server").receive(paho(connect, client_id="d", clean_session=True)) == [Connect("d")]


@pytest.mark.parametrize("protocol", [3, 5])
def test_other_protocol_levels_of_paho_are_answered(protocol: int) -> None:
    with pytest.raises(MqttProtocolError) as caught:
        MqttConnection("server").receive(paho(connect, client_id="d", protocol=protocol))
    assert (caught.value.fault, caught.value.answer) == (Fault.PROTOCOL_LEVEL, b"\x20\x02\x00\x01")


def test_packets_of_paho() -> None:
    def speak(client: Client) -> None:
        client._send_subscribe(False, [(b"a/#", 1), (b"b", 0)])
        client._send_publish(7, b"a/b", b"x" * 200, 1, retain=True, dup=True)
        client._send_publish(0, b"a/b", b"", 0, info=MQTTMessageInfo(0))
        client._send_puback(9)
        client._send_unsubscribe(False, [b"b"])
        client._send_pingreq()
        client._send_disconnect()

    server = MqttConnection("server")
    server.receive(server_connect())
    server.accept()
    assert server.receive(paho(speak, client_id="d")) == [
        Subscribe(1, (("a/#", 1), ("b", 0))),
        Publish("a/b", b"x" * 200, 1, True, True, 7),
        Publish("a/b", b""),
        Puback(9),
        Unsubscribe(2, ("b",)),
        Pingreq(),
        Disconnect(),
    ]


def server_connect() -> bytes:
    return MqttConnection("client").send(CONNECT)


# Doors that must stay shut ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\x30\x04\x00\x01ax",
        b"\x40\x02\x00\x01",
        b"\x62\x02\x00\x01",
        b"\x82\x06\x00\x01\x00\x01#\x00",
        b"\xc0\x00",
        b"\xe0\x00",
        b"\x00" * 64,
        b"\xff" * 64,
        b"GET /devices/d1 HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"\x10\xff\xff\xff\x7f",
        b"\x10\xff\xff\xff\xff\x7f",
    ],
    ids=lambda data: data[:5].hex(),
)
def test_bad_initial_packets(data: bytes) -> None:
    """None of them is collected, none of them is answered, and there is no second try."""
    server = MqttConnection("server")
    with pytest.raises(MqttProtocolError) as caught:
        for byte in data:
            assert server.receive(bytes((byte,))) == []
    assert (caught.value.before, caught.value.answer) == ((), b"")
    with pytest.raises(MqttProtocolError):
        server.receive(server_connect())


def test_a_flood_behind_a_connect_is_cut() -> None:
    server = MqttConnection("server")
    flood = b"\x30\x04\x00\x01ax" * 1000
    assert server.receive(server_connect()) == [CONNECT]
    with pytest.raises(MqttProtocolError) as caught:
        for _ in range(100):
            assert server.receive(flood) == []
    assert caught.value.fault is Fault.TOO_EARLY
