"""What a peer can do wrong in MQTT 3.1.1, as stable slugs, and the one error that says so.

Most faults are answered by closing the connection; only a CONNECT may be answered, so an error carries the bytes to
send first.
"""

from __future__ import annotations

from enum import StrEnum

from edgetrust.errors import PeerError
from edgetrust.protocol.mqtt.packets import Packet


class Fault(StrEnum):
    """The rule that was broken: log field, metric label, documentation anchor."""

    CONNECT_EXPECTED = "mqtt-connect-expected"
    CONNACK_EXPECTED = "mqtt-connack-expected"
    SECOND_CONNECT = "mqtt-second-connect"
    SECOND_CONNACK = "mqtt-second-connack"
    WRONG_DIRECTION = "mqtt-wrong-direction"
    PACKET_TYPE = "mqtt-packet-type"
    FLAGS = "mqtt-flags"
    QOS = "mqtt-qos"
    QOS_2 = "mqtt-qos-2"
    LENGTH = "mqtt-length"
    TOO_LARGE = "mqtt-too-large"
    TOO_EARLY = "mqtt-too-much-before-accepted"
    TRUNCATED = "mqtt-truncated"
    TRAILING = "mqtt-trailing-bytes"
    TEXT = "mqtt-text"
    TOPIC = "mqtt-topic"
    FILTER = "mqtt-filter"
    PACKET_ID = "mqtt-packet-id"
    NO_FILTERS = "mqtt-no-filters"
    TOO_MANY_FILTERS = "mqtt-too-many-filters"
    RETURN_CODE = "mqtt-return-code"
    CONNECT_FLAGS = "mqtt-connect-flags"
    PROTOCOL_LEVEL = "mqtt-protocol-level"
    IDENTIFIER = "mqtt-identifier"


class MqttProtocolError(PeerError):
    """The peer broke MQTT. The connection is dead: whatever is received next raises the same fault again.

    `before`: the packets of the same bytes that came before the fault, in order; a CONNECT among them must not be
    admitted.
    `answer`: the bytes that a server sends before it closes; empty when MQTT allows none.
    """

    def __init__(self, fault: Fault, message: str, *, answer: bytes = b"", status: int = 400) -> None:
        super().__init__(message, reason=fault.value, status=status)
        self.fault = fault
        self.answer = answer
        self.before: tuple[Packet, ...] = ()

    def again(self) -> MqttProtocolError:
        """The same fault for the next call: nothing before it, nothing left to answer."""
        return MqttProtocolError(self.fault, self.message)


class UnsupportedProtocolLevel(MqttProtocolError):  # noqa: N818 - the name MQTT 3.1.1 gives to return code 1
    """A CONNECT of another protocol than MQTT 3.1.1: answered with CONNACK 1 (MQTT 3.1.1, 3.1.2.2)."""

    def __init__(self, name: str, level: int) -> None:
        message = f"protocol {name[:20]!r} level {level} is not offered, only 'MQTT' level 4"
        super().__init__(Fault.PROTOCOL_LEVEL, message, answer=b"\x20\x02\x00\x01", status=1)


class IdentifierRejected(MqttProtocolError):  # noqa: N818 - the name MQTT 3.1.1 gives to return code 2
    """No client identifier, but a session to keep under it: answered with CONNACK 2 (MQTT 3.1.1, 3.1.3.1)."""

    def __init__(self) -> None:
        message = "an empty client identifier needs CleanSession 1"
        super().__init__(Fault.IDENTIFIER, message, answer=b"\x20\x02\x00\x02", status=2)
