"""Bodies of single packets: the examples of the standard, and each rule broken once."""

from __future__ import annotations

import pytest

from edgetrust.limits import FILTERS_PER_SUBSCRIBE
from edgetrust.protocol.mqtt.bodies import READERS, text_of
from edgetrust.protocol.mqtt.codec import Decoder, encode
from edgetrust.protocol.mqtt.faults import Fault, IdentifierRejected, MqttProtocolError, UnsupportedProtocolLevel
from edgetrust.protocol.mqtt.packets import Connack, Connect, Packet, Puback, Suback, Subscribe, Unsubscribe, Will


def packet(first: int, body: bytes) -> Packet:
    """The packet with these bytes as its body."""
    decoder = Decoder(16_383)
    (only,) = decoder.feed(bytes((first, len(body))) + body)
    return only


def fault(first: int, body: bytes) -> Fault:
    """What is wrong with it."""
    with pytest.raises(MqttProtocolError) as caught:
        packet(first, body)
    return caught.value.fault


MQTT = b"\0\4MQTT\4"


def connect(flags: int, rest: bytes = b"\0\1d", keep_alive: bytes = b"\0\x3c") -> bytes:
    return MQTT + bytes((flags,)) + keep_alive + rest


def test_connect_of_the_python_sdk() -> None:
    body = connect(0xC0, b"\0\2d1\0\x12localhost/d1/?api=\0\4pass")
    assert packet(0x10, body) == Connect("d1", "localhost/d1/?api=", b"pass", False, 60)


def test_connect_with_everything() -> None:
    body = connect(0xEE, b"\0\1d\0\1w\0\2hi\0\1u\0\1p")
    assert packet(0x10, body) == Connect("d", "u", b"p", True, 60, Will("w", b"hi", 1, True))


def test_connect_with_little() -> None:
    assert packet(0x10, connect(2, b"\0\0")) == Connect("")
    assert packet(0x10, connect(0x80, b"\0\1d\0\0")) == Connect("d", "", None, False)


@pytest.mark.parametrize(
    ("start", "name", "level"),
    [(b"\0\6MQIsdp\3", "MQIsdp", 3), (b"\0\4MQTT\5", "MQTT", 5), (b"\0\4mqtt\4", "mqtt", 4), (b"\0\0\4", "", 4)],
)
def test_other_protocols_are_answered(start: bytes, name: str, level: int) -> None:
    with pytest.raises(UnsupportedProtocolLevel, match=f"{name!r} level {level}") as caught:
        packet(0x10, start + b"anything")
    assert (caught.value.answer, caught.value.status) == (b"\x20\2\0\1", 1)


def test_empty_client_identifier_needs_a_clean_session() -> None:
    with pytest.raises(IdentifierRejected) as caught:
        packet(0x10, connect(0, b"\0\0"))
    assert (caught.value.answer, caught.value.status) == (b"\x20\2\0\2", 2)


@pytest.mark.parametrize(
    "flags",
    [0x03, 0x0A, 0x12, 0x22, 0x42, 0x1E],
    ids=["reserved", "will-qos-1", "will-qos-2", "will-retain", "password-alone", "will-qos-3"],
)
def test_connect_flags(flags: int) -> None:
    assert fault(0x10, connect(flags)) is Fault.CONNECT_FLAGS


def test_a_will_of_qos_2_is_not_offered() -> None:
    assert fault(0x10, connect(0x16)) is Fault.QOS_2


@pytest.mark.parametrize("topic", [b"", b"a/#", b"+"])
def test_a_will_needs_a_topic(topic: bytes) -> None:
    body = connect(6, b"\0\1d" + bytes((0, len(topic))) + topic + b"\0\0")
    assert fault(0x10, body) is Fault.TOPIC


@pytest.mark.parametrize("cut", range(1, 22))
def test_connect_cut_short(cut: int) -> None:
    body = connect(0xC2, b"\0\1d\0\1u\0\4pass")[:-cut]
    assert fault(0x10, body) is Fault.TRUNCATED


def test_connect_goes_on_too_long() -> None:
    assert fault(0x10, connect(2) + b"x") is Fault.TRAILING


@pytest.mark.parametrize("raw", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"a\0b", b"\xf4\x90\x80\x80"])
def test_texts(raw: bytes) -> None:
    assert fault(0x10, connect(2, bytes((0, len(raw))) + raw)) is Fault.TEXT
    with pytest.raises(MqttProtocolError):
        text_of(raw)


def test_a_byte_order_mark_is_kept() -> None:
    assert text_of(b"\xef\xbb\xbfa") == "\ufeffa"


def test_connack() -> None:
    assert packet(0x20, b"\1\0") == Connack(True, 0)
    assert packet(0x20, b"\0\5") == Connack(False, 5)
    assert fault(0x20, b"\2\0") is Fault.FLAGS
    assert fault(0x20, b"\0\6") is Fault.RETURN_CODE
    assert fault(0x20, b"\1\5") is Fault.RETURN_CODE
    assert fault(0x20, b"\0") is Fault.TRUNCATED
    assert fault(0x20, b"\0\0\0") is Fault.TRAILING


@pytest.mark.parametrize("first", [0x40, 0xB0])
def test_packets_that_are_only_an_identifier(first: int) -> None:
    body = b"\x12\x34"
    assert encode(packet(first, body)) == bytes((first, 2)) + body
    assert fault(first, b"\0\0") is Fault.PACKET_ID
    assert fault(first, b"\1") is Fault.TRUNCATED
    assert fault(first, b"\0\1\0") is Fault.TRAILING
    assert packet(0x40, b"\xff\xff") == Puback(65_535)


def test_subscribe() -> None:
    assert packet(0x82, b"\0\1\0\3a/b\1\0\1#\2") == Subscribe(1, (("a/b", 1), ("#", 2)))
    assert fault(0x82, b"\0\1") is Fault.NO_FILTERS
    assert fault(0x82, b"\0\0\0\1a\0") is Fault.PACKET_ID
    assert fault(0x82, b"\0\1\0\1a") is Fault.TRUNCATED
    assert fault(0x82, b"\0\1\0\2a") is Fault.TRUNCATED
    assert fault(0x82, b"\0\1\0") is Fault.TRUNCATED
    assert fault(0x82, b"\0\1\0\1a\3") is Fault.QOS
    assert fault(0x82, b"\0\1\0\1a\x80") is Fault.QOS
    assert fault(0x82, b"\0\1\0\2#a\0") is Fault.FILTER
    assert fault(0x82, b"\0\1\0\0\0") is Fault.FILTER


def test_unsubscribe() -> None:
    assert packet(0xA2, b"\0\1\0\3a/b\0\1#") == Unsubscribe(1, ("a/b", "#"))
    assert fault(0xA2, b"\0\1") is Fault.NO_FILTERS
    assert fault(0xA2, b"\0\0\0\1a") is Fault.PACKET_ID
    assert fault(0xA2, b"\0\1\0\2a") is Fault.TRUNCATED
    assert fault(0xA2, b"\0\1\0\2a+") is Fault.FILTER


def many(item: bytes, count: int) -> bytes:
    body = b"\0\1" + item * count
    return bytes((len(body) & 127 | 128, len(body) >> 7)) + body


@pytest.mark.parametrize(("first", "item"), [(b"\x82", b"\0\1a\0"), (b"\xa2", b"\0\1a"), (b"\x90", b"\0")])
def test_filters_per_packet_are_bounded(first: bytes, item: bytes) -> None:
    assert Decoder(16_383).feed(first + many(item, FILTERS_PER_SUBSCRIBE))
    with pytest.raises(MqttProtocolError) as caught:
        Decoder(16_383).feed(first + many(item, FILTERS_PER_SUBSCRIBE + 100))
    assert caught.value.fault is Fault.TOO_MANY_FILTERS


def test_suback() -> None:
    assert packet(0x90, b"\0\1\0\1\2\x80") == Suback(1, (0, 1, 2, 128))
    assert fault(0x90, b"\0\1\3") is Fault.RETURN_CODE
    assert fault(0x90, b"\0\1") is Fault.RETURN_CODE
    assert fault(0x90, b"\0\0\0") is Fault.PACKET_ID


@pytest.mark.parametrize("first", [0xC0, 0xD0, 0xE0])
def test_packets_without_a_body(first: int) -> None:
    assert encode(packet(first, b"")) == bytes((first, 0))
    assert fault(first, b"\0") is Fault.TRAILING


def test_every_reader_refuses_nothing_but_with_the_documented_error() -> None:
    for first in READERS:
        if first not in (0xC0, 0xD0, 0xE0):
            assert fault(first, b"") in (Fault.TRUNCATED, Fault.RETURN_CODE)
