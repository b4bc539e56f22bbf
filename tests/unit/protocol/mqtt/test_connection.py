"""Which packet may come when, for both roles."""

from __future__ import annotations

import pytest

from edgetrust.errors import UsageError
from edgetrust.limits import CONNECT_PACKET_BYTES, PACKET_BYTES
from edgetrust.protocol.mqtt.codec import encode
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
)

CONNECT = Connect("d", "hub/d/?api-version=2021-04-12", b"SharedAccessSignature sr=x", False)
TO_SERVER: list[Packet] = [
    Publish("t", b"x", 1, False, False, 1),
    Puback(1),
    Subscribe(1, (("t", 1),)),
    Unsubscribe(2, ("t",)),
    Pingreq(),
]
TO_CLIENT: list[Packet] = [Publish("t", b"x"), Puback(1), Suback(1, (1,)), Unsuback(2), Pingresp()]


def open_server() -> MqttConnection:
    server = MqttConnection("server")
    assert server.receive(encode(CONNECT)) == [CONNECT]
    assert server.accept() == []
    return server


def open_client() -> MqttConnection:
    client = MqttConnection("client")
    assert client.send(CONNECT) == encode(CONNECT)
    assert client.receive(encode(Connack(False, 0))) == [Connack(False, 0)]
    return client


def fault(connection: MqttConnection, data: bytes) -> MqttProtocolError:
    with pytest.raises(MqttProtocolError) as caught:
        connection.receive(data)
    return caught.value


def test_server_side() -> None:
    server = open_server()
    assert server.state is State.OPEN
    assert server.receive(b"".join(map(encode, TO_SERVER))) == TO_SERVER
    assert server.receive(encode(Disconnect()) + b"what comes now is not read") == [Disconnect()]
    assert server.state is State.OVER
    assert server.receive(b"\xff") == []


def test_client_side() -> None:
    client = open_client()
    assert client.state is State.OPEN
    assert client.receive(b"".join(map(encode, TO_CLIENT))) == TO_CLIENT


def test_packets_behind_the_connack() -> None:
    client = MqttConnection("client")
    data = encode(Connack(True, 0)) + encode(Publish("t", b"x"))
    assert client.receive(data) == [Connack(True, 0), Publish("t", b"x")]


def test_a_fault_behind_the_connack() -> None:
    error = fault(MqttConnection("client"), encode(Connack(True, 0)) + encode(Publish("t", b"x")) + b"\x82")
    assert (error.fault, error.before) == (Fault.WRONG_DIRECTION, (Connack(True, 0), Publish("t", b"x")))


def test_a_refused_client_is_over() -> None:
    client = MqttConnection("client")
    assert client.receive(encode(Connack(False, 5)) + b"junk") == [Connack(False, 5)]
    assert client.state is State.OVER


@pytest.mark.parametrize("packet", [*TO_SERVER, *TO_CLIENT, Connack(False, 0), Disconnect()], ids=repr)
def test_the_first_packet_to_a_server_is_connect(packet: Packet) -> None:
    server = MqttConnection("server")
    assert fault(server, encode(packet)).fault is Fault.CONNECT_EXPECTED
    assert fault(server, encode(CONNECT)).fault is Fault.CONNECT_EXPECTED


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"\x00", b"\xff" * 5], ids=repr)
def test_other_protocols_are_seen_in_their_first_byte(data: bytes) -> None:
    assert fault(MqttConnection("server"), data[:1]).fault is Fault.CONNECT_EXPECTED


def test_the_first_packet_to_a_client_is_connack() -> None:
    assert fault(MqttConnection("client"), encode(Pingresp())).fault is Fault.CONNACK_EXPECTED


def test_there_is_no_second_one() -> None:
    assert fault(open_server(), encode(CONNECT)).fault is Fault.SECOND_CONNECT
    assert fault(open_client(), encode(Connack(False, 0))).fault is Fault.SECOND_CONNACK


@pytest.mark.parametrize("packet", [Connack(False, 0), Suback(1, (0,)), Unsuback(1), Pingresp()], ids=repr)
def test_a_client_does_not_send_what_servers_send(packet: Packet) -> None:
    assert fault(open_server(), encode(packet)).fault in (Fault.WRONG_DIRECTION, Fault.SECOND_CONNACK)


@pytest.mark.parametrize("packet", [CONNECT, Subscribe(1, (("t", 0),)), Pingreq(), Disconnect()], ids=repr)
def test_a_server_does_not_send_what_clients_send(packet: Packet) -> None:
    assert fault(open_client(), encode(packet)).fault in (Fault.WRONG_DIRECTION, Fault.SECOND_CONNECT)


def test_what_is_pipelined_waits_for_the_decision() -> None:
    server = MqttConnection("server")
    data = encode(Publish("t", b"1"))
    assert server.receive(encode(CONNECT) + data[:2]) == [CONNECT]
    assert server.state is State.DECIDING
    assert server.receive(data[2:] + data) == []
    assert server.accept() == [Publish("t", b"1")] * 2


def test_a_disconnect_may_be_pipelined() -> None:
    server = MqttConnection("server")
    server.receive(encode(CONNECT) + encode(Disconnect()))
    assert server.accept() == [Disconnect()]
    assert server.state is State.OVER


def test_a_fault_may_be_pipelined() -> None:
    server = MqttConnection("server")
    server.receive(encode(CONNECT) + encode(Pingreq()) + b"\xf0")
    with pytest.raises(MqttProtocolError) as caught:
        server.accept()
    assert (caught.value.fault, caught.value.before) == (Fault.PACKET_TYPE, (Pingreq(),))
    assert fault(server, b"").fault is Fault.PACKET_TYPE


def test_what_is_pipelined_is_bounded() -> None:
    server = MqttConnection("server")
    assert server.receive(encode(CONNECT) + bytes(CONNECT_PACKET_BYTES)) == [CONNECT]
    error = fault(server, b"\0")
    assert (error.fault, error.before) == (Fault.TOO_EARLY, ())
    with pytest.raises(MqttProtocolError):
        server.accept()


def test_too_much_in_one_piece_with_the_connect() -> None:
    error = fault(MqttConnection("server"), encode(CONNECT) + bytes(CONNECT_PACKET_BYTES + 1))
    assert (error.fault, error.before) == (Fault.TOO_EARLY, (CONNECT,))


def test_sizes_before_and_after_the_decision() -> None:
    huge = Connect("d", "u", bytes(CONNECT_PACKET_BYTES))
    assert fault(MqttConnection("server"), encode(huge)[:4]).fault is Fault.TOO_LARGE
    server = open_server()
    largest = Publish("t", bytes(PACKET_BYTES - 3))
    assert server.receive(encode(largest)) == [largest]
    assert fault(server, encode(Publish("t", bytes(PACKET_BYTES)))[:5]).fault is Fault.TOO_LARGE


def test_accepting_needs_a_connect() -> None:
    for connection in (MqttConnection("server"), MqttConnection("client"), open_server()):
        with pytest.raises(UsageError):
            connection.accept()


def test_a_server_answers_a_connect_first() -> None:
    server = MqttConnection("server")
    with pytest.raises(UsageError):
        server.send(Connack(False, 0))
    server.receive(encode(CONNECT))
    with pytest.raises(UsageError):
        server.send(Pingresp())
    assert server.send(Connack(False, 0)) == encode(Connack(False, 0))
    server.accept()
    for packet in TO_CLIENT:
        assert server.send(packet) == encode(packet)
    with pytest.raises(UsageError):
        server.send(Pingreq())


def test_a_refusal_ends_the_connection() -> None:
    server = MqttConnection("server")
    server.receive(encode(CONNECT))
    server.send(Connack(False, 5))
    assert server.state is State.OVER
    with pytest.raises(UsageError):
        server.send(Connack(False, 5))


def test_a_client_sends_what_clients_send() -> None:
    client = MqttConnection("client")
    with pytest.raises(UsageError):
        client.send(Pingreq())
    client = open_client()
    for packet in TO_SERVER:
        assert client.send(packet) == encode(packet)
    with pytest.raises(UsageError):
        client.send(CONNECT)
    assert client.send(Disconnect()) == encode(Disconnect())
    assert client.state is State.OVER
