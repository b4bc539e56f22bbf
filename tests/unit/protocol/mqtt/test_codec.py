"""The decoder: where packets end, what is refused at once, what is kept."""

from __future__ import annotations

import pytest

from edgetrust.protocol.mqtt.codec import ANY, NO_PUBLISHES, Decoder, Phase, encode
from edgetrust.protocol.mqtt.faults import Fault, MqttProtocolError
from edgetrust.protocol.mqtt.packets import Connect, Disconnect, Pingreq, Puback, Publish

MAX = 20_000


def fault(data: bytes, phase: Phase = ANY) -> MqttProtocolError:
    with pytest.raises(MqttProtocolError) as caught:
        Decoder(MAX, phase).feed(data)
    return caught.value


def publish(body: bytes, first: int = 0x32) -> bytes:
    return bytes((first, len(body))) + body


def test_a_batch() -> None:
    packets = [Publish("a", b"1", 1, False, False, 1), Publish("a", b"2"), Puback(3), Pingreq()]
    assert Decoder(MAX).feed(b"".join(map(encode, packets))) == packets


def test_any_buffer_is_accepted() -> None:
    data = encode(Publish("a", b"1"))
    for buffer in (data, bytearray(data), memoryview(data)):
        (packet,) = Decoder(MAX).feed(buffer)
        assert packet == Publish("a", b"1")
        assert isinstance(packet, Publish)
        assert type(packet.payload) is bytes


@pytest.mark.parametrize("size", [0, 100, 200, 16_000, 17_000])
def test_byte_by_byte(size: int) -> None:
    packet = Publish("devices/d/messages/events/", bytes(size), 1, False, False, 7)
    decoder = Decoder(MAX)
    found = [one for byte in encode(packet) for one in decoder.feed(bytes((byte,)))]
    assert found == [packet]
    assert decoder.buffered == 0


def test_padded_lengths_are_read() -> None:
    assert Decoder(MAX).feed(b"\xc0\x80\x00") == [Pingreq()]
    assert Decoder(MAX).feed(b"\x30\x83\x80\x00\0\1t") == [Publish("t", b"")]
    assert Decoder(MAX).feed(b"\x30\x83\x80\x80\x00\0\1t") == [Publish("t", b"")]


@pytest.mark.parametrize("split", [2, 3, 4])
def test_lengths_that_are_too_long(split: int) -> None:
    data = b"\x30\x80\x80\x80\x80"
    assert fault(data).fault is Fault.LENGTH
    decoder = Decoder(MAX)
    assert decoder.feed(data[:split]) == []
    with pytest.raises(MqttProtocolError) as caught:
        decoder.feed(data[split:])
    assert caught.value.fault is Fault.LENGTH


def test_a_packet_that_is_too_large_is_refused_by_its_length() -> None:
    header = encode(Publish("t", bytes(MAX - 2)))[:4]
    assert fault(header).fault is Fault.TOO_LARGE
    assert Decoder(MAX).feed(encode(Publish("t", bytes(MAX - 3))))


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (0x00, Fault.PACKET_TYPE),
        (0xF0, Fault.PACKET_TYPE),
        (0x36, Fault.QOS),
        (0x3F, Fault.QOS),
        (0x34, Fault.QOS_2),
        (0x3D, Fault.QOS_2),
        (0x38, Fault.FLAGS),
        (0x39, Fault.FLAGS),
        (0x50, Fault.QOS_2),
        (0x62, Fault.QOS_2),
        (0x70, Fault.QOS_2),
        (0x11, Fault.FLAGS),
        (0x80, Fault.FLAGS),
        (0xA0, Fault.FLAGS),
        (0xC1, Fault.FLAGS),
    ],
)
def test_first_bytes(first: int, expected: Fault) -> None:
    assert fault(bytes((first,))).fault is expected


def test_what_may_not_come_now() -> None:
    nothing = Phase(frozenset(), NO_PUBLISHES)
    assert fault(b"\x10", nothing).fault is Fault.SECOND_CONNECT
    assert fault(b"\x20", nothing).fault is Fault.SECOND_CONNACK
    assert fault(b"\x30", nothing).fault is Fault.WRONG_DIRECTION
    assert fault(b"\x90", nothing).fault is Fault.WRONG_DIRECTION
    waiting = Phase(frozenset({0x10}), NO_PUBLISHES, Fault.CONNECT_EXPECTED)
    assert fault(b"G", waiting).fault is Fault.CONNECT_EXPECTED
    assert fault(b"\x11", waiting).fault is Fault.CONNECT_EXPECTED


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (publish(b""), Fault.TRUNCATED),
        (publish(b"\0"), Fault.TRUNCATED),
        (publish(b"\0\2t"), Fault.TRUNCATED),
        (publish(b"\0\1t"), Fault.TRUNCATED),
        (publish(b"\0\1t\1"), Fault.TRUNCATED),
        (publish(b"\0\1t\0\0"), Fault.PACKET_ID),
        (publish(b"\0\0\0\1"), Fault.TOPIC),
        (publish(b"\0\1+\0\1"), Fault.TOPIC),
        (publish(b"\0\1#\0\1"), Fault.TOPIC),
        (publish(b"\0\1\0\0\1"), Fault.TEXT),
        (publish(b"\0\1\xff\0\1"), Fault.TEXT),
        (publish(b"\0\3\xed\xa0\x80", 0x30), Fault.TEXT),
    ],
)
def test_publishes(data: bytes, expected: Fault) -> None:
    assert fault(data).fault is expected


def test_a_field_does_not_read_into_the_next_packet() -> None:
    assert fault(b"\x30\1\0\1\1ttt").fault is Fault.TRUNCATED
    assert fault(publish(b"\0\1t") + encode(Pingreq())).fault is Fault.TRUNCATED


def test_what_came_before_a_fault_is_handed_over_once() -> None:
    decoder = Decoder(MAX)
    good = Publish("t", b"x")
    with pytest.raises(MqttProtocolError) as caught:
        decoder.feed(encode(good) + b"\xf0")
    assert caught.value.before == (good,)
    with pytest.raises(MqttProtocolError) as again:
        decoder.feed(encode(good))
    assert (again.value.fault, again.value.before) == (Fault.PACKET_TYPE, ())
    with pytest.raises(MqttProtocolError):
        decoder.resume(MAX, ANY)
    assert decoder.buffered == 0


def test_many_topics_and_long_ones() -> None:
    decoder = Decoder(MAX)
    packets = [Publish(f"t/{number % 40}", b"") for number in range(120)]
    packets += [Publish("x" * 600, b"")] * 2
    assert decoder.feed(b"".join(map(encode, packets))) == packets


def test_repeated_topics_are_the_same_text() -> None:
    first, second = Decoder(MAX).feed(encode(Publish("a/b", b"")) * 2)
    assert isinstance(first, Publish)
    assert isinstance(second, Publish)
    assert first.topic is second.topic


@pytest.mark.parametrize("packet", [Connect("d"), Disconnect()])
def test_a_pause_keeps_what_follows(packet: Connect | Disconnect) -> None:
    decoder = Decoder(MAX)
    assert decoder.feed(encode(packet) + b"\xc0") == [packet]
    assert decoder.paused
    assert decoder.feed(b"\0\xc0\0") == []
    assert decoder.buffered == 4
    assert decoder.resume(MAX, ANY) == [Pingreq(), Pingreq()]
    assert not decoder.paused


def test_memory_is_one_incomplete_packet() -> None:
    decoder = Decoder(MAX)
    data = encode(Publish("t", bytes(MAX - 3)))
    for _ in range(3):
        for start in range(0, len(data), 1000):
            decoder.feed(data[start : start + 1000])
            assert decoder.buffered < len(data)
    assert decoder.buffered == 0
