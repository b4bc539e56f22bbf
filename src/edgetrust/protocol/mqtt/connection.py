"""One connection: which packet may come when, for both roles (MQTT 3.1.1, 3.1 and 4.8).

    server:  AWAITING --CONNECT--> DECIDING --accept()--> OPEN --DISCONNECT--> OVER
    client:  AWAITING --CONNACK 0----------------------> OPEN
             AWAITING --CONNACK 1..5-------------------> OVER

Rules:
1. The first packet is CONNECT (towards a server) or CONNACK (towards a client), and there is no second one.
2. Before a CONNECT is accepted at most CONNECT_PACKET_BYTES are kept. What a client sends behind its CONNECT is kept,
   unread, until
   `accept()`; more than that ends the connection.
3. Each side receives only what the other may send. After DISCONNECT nothing is read.
4. A fault is final: every later `receive` raises it again.

It reads no clock: keep alive and deadlines belong to the transport.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from edgetrust.errors import UsageError
from edgetrust.limits import CONNECT_PACKET_BYTES, PACKET_BYTES
from edgetrust.protocol.mqtt import bodies
from edgetrust.protocol.mqtt.codec import NO_PUBLISHES, PUBLISHES, Decoder, Phase, encode
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

Role = Literal["server", "client"]


class State(StrEnum):
    """Where a connection is."""

    AWAITING = "awaiting"
    DECIDING = "deciding"
    OPEN = "open"
    OVER = "over"


_AWAIT_CONNECT = Phase(frozenset({bodies.CONNECT}), NO_PUBLISHES, Fault.CONNECT_EXPECTED)
_AWAIT_CONNACK = Phase(frozenset({bodies.CONNACK}), NO_PUBLISHES, Fault.CONNACK_EXPECTED)
_FROM_CLIENT = Phase(
    frozenset({bodies.PUBACK, bodies.SUBSCRIBE, bodies.UNSUBSCRIBE, bodies.PINGREQ, bodies.DISCONNECT}), PUBLISHES
)
_FROM_SERVER = Phase(frozenset({bodies.PUBACK, bodies.SUBACK, bodies.UNSUBACK, bodies.PINGRESP}), PUBLISHES)

_MAY_SEND: dict[tuple[Role, State], frozenset[type]] = {
    ("server", State.DECIDING): frozenset({Connack}),
    ("server", State.OPEN): frozenset({Connack, Publish, Puback, Suback, Unsuback, Pingresp}),
    ("client", State.AWAITING): frozenset({Connect, Disconnect}),
    ("client", State.OPEN): frozenset({Publish, Puback, Subscribe, Unsubscribe, Pingreq, Disconnect}),
}


class MqttConnection:
    """The protocol state of one connection. `role` is the side we play."""

    __slots__ = ("_decoder", "_role", "_state")

    def __init__(self, role: Role) -> None:
        self._role: Role = role
        self._state = State.AWAITING
        phase = _AWAIT_CONNECT if role == "server" else _AWAIT_CONNACK
        self._decoder = Decoder(CONNECT_PACKET_BYTES, phase)

    @property
    def state(self) -> State:
        """Where the connection is. After a fault it stays where the fault came."""
        return self._state

    def receive(self, data: bytes) -> list[Packet]:
        """The packets that `data` completes, in order; a CONNECT comes alone. Raises MqttProtocolError."""
        if self._state is State.OVER:
            return []
        packets = self._decoder.feed(data)
        if self._decoder.paused:
            return self._turn(packets)
        return packets

    def accept(self) -> list[Packet]:
        """The server accepts the CONNECT: the packets that came behind it. Raises MqttProtocolError, UsageError."""
        if self._state is not State.DECIDING:
            raise UsageError("there is no CONNECT to accept")
        return self._open(_FROM_CLIENT, [])

    def send(self, packet: Packet) -> bytes:
        """The bytes of `packet`. Raises UsageError when this side may not send it now, or it cannot be encoded."""
        if type(packet) not in _MAY_SEND.get((self._role, self._state), ()):
            raise UsageError(f"a {self._role} may not send {type(packet).__name__} while {self._state}")
        data = encode(packet)
        if isinstance(packet, Disconnect) or (isinstance(packet, Connack) and packet.code):
            self._state = State.OVER
        return data

    def _turn(self, packets: list[Packet]) -> list[Packet]:
        """The decoder has paused: after the last of `packets`, or because the decision on a CONNECT is still open."""
        last = packets[-1] if packets else None
        if isinstance(last, Disconnect) or (isinstance(last, Connack) and last.code):
            self._state = State.OVER
        elif isinstance(last, Connack):
            return self._open(_FROM_SERVER, packets)
        else:
            self._state = State.DECIDING
            self._bound(packets)
        return packets

    def _bound(self, packets: list[Packet]) -> None:
        if self._decoder.buffered > CONNECT_PACKET_BYTES:
            message = f"more than {CONNECT_PACKET_BYTES} bytes before the CONNECT was accepted"
            fault = MqttProtocolError(Fault.TOO_EARLY, message)
            fault.before = tuple(packets)
            self._decoder.fail(fault)
            raise fault

    def _open(self, phase: Phase, packets: list[Packet]) -> list[Packet]:
        self._state = State.OPEN
        try:
            packets += self._decoder.resume(PACKET_BYTES, phase)
        except MqttProtocolError as fault:
            fault.before = (*packets, *fault.before)
            raise
        if self._decoder.paused:
            self._state = State.OVER
        return packets
