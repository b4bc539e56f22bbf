"""The error of the protocol: its slug, what a server answers, and what comes again afterwards."""

from __future__ import annotations

from edgetrust.errors import PeerError
from edgetrust.protocol.mqtt.codec import encode
from edgetrust.protocol.mqtt.faults import Fault, IdentifierRejected, MqttProtocolError, UnsupportedProtocolLevel
from edgetrust.protocol.mqtt.packets import Connack, Pingreq


def test_slugs_are_unique_and_marked() -> None:
    assert all(fault.value.startswith("mqtt-") for fault in Fault)


def test_the_error_is_a_peer_error_with_the_slug() -> None:
    error = MqttProtocolError(Fault.TOPIC, "PUBLISH to ''")
    assert isinstance(error, PeerError)
    assert (error.reason, error.fault, error.answer, error.before) == ("mqtt-topic", Fault.TOPIC, b"", ())


def test_answers_are_the_connacks_of_the_standard() -> None:
    assert UnsupportedProtocolLevel("MQIsdp", 3).answer == encode(Connack(False, 1))
    assert IdentifierRejected().answer == encode(Connack(False, 2))


def test_again_has_nothing_left_to_answer() -> None:
    error = UnsupportedProtocolLevel("MQIsdp", 3)
    error.before = (Pingreq(),)
    again = error.again()
    assert (again.fault, again.message, again.answer, again.before) == (error.fault, error.message, b"", ())
