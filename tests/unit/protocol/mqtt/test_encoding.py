"""Packets to bytes: known bytes, and UsageError for what cannot be said."""

from __future__ import annotations

import pytest

from edgetrust.errors import UsageError
from edgetrust.limits import FILTERS_PER_SUBSCRIBE
from edgetrust.protocol.mqtt import encoding
from edgetrust.protocol.mqtt.encoding import encode, encode_puback, encode_pubacks, encode_publish
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

KNOWN: list[tuple[Packet, bytes]] = [
    (Connect("d", keep_alive=10), b"\x10\x0d\0\4MQTT\4\x02\0\x0a\0\1d"),
    (
        Connect("d", "u", b"p", False, 60, Will("w", b"x", 1, True)),
        b"\x10\x19\0\4MQTT\4\xec\0\x3c\0\1d\0\1w\0\1x\0\1u\0\1p",
    ),
    (Connack(False, 5), b"\x20\2\0\5"),
    (Connack(True, 0), b"\x20\2\1\0"),
    (Publish("a/b", b"hi"), b"\x30\x07\0\3a/bhi"),
    (Publish("a/b", b"hi", 1, True, True, 258), b"\x3b\x09\0\3a/b\1\2hi"),
    (Publish("t", b""), b"\x30\3\0\1t"),
    (Puback(258), b"\x40\2\1\2"),
    (Subscribe(1, (("#", 1),)), b"\x82\6\0\1\0\1#\1"),
    (Suback(1, (1, 128)), b"\x90\4\0\1\1\x80"),
    (Unsubscribe(1, ("#",)), b"\xa2\5\0\1\0\1#"),
    (Unsuback(1), b"\xb0\2\0\1"),
    (Pingreq(), b"\xc0\0"),
    (Pingresp(), b"\xd0\0"),
    (Disconnect(), b"\xe0\0"),
]


@pytest.mark.parametrize(("packet", "data"), KNOWN, ids=lambda value: type(value).__name__)
def test_known_bytes(packet: Packet, data: bytes) -> None:
    assert encode(packet) == data


@pytest.mark.parametrize("size", [0, 10, 115, 122, 123, 124, 200, 16_371, 16_372, 16_373, 16_374, 20_000])
@pytest.mark.parametrize("topic", ["a/b", "ä"])
def test_many_publishes_are_the_same_bytes(topic: str, size: int) -> None:
    packet = Publish(topic, bytes(size), 1, packet_id=65_535)
    assert encode_publish(topic, bytes(size), 65_535) == encode(packet)


@pytest.mark.parametrize(
    ("topic", "packet_id"), [("a/#", 1), ("", 1), ("a\0", 1), ("x" * 65_536, 1), ("\ud800", 1), ("t", 0), ("t", 65_536)]
)
def test_many_publishes_are_refused_as_one(topic: str, packet_id: int) -> None:
    with pytest.raises(UsageError):
        encode_publish(topic, bytes(200), packet_id)


@pytest.mark.parametrize(
    ("payload", "length"), [(124, b"\x7f"), (125, b"\x80\1"), (16_380, b"\xff\x7f"), (16_381, b"\x80\x80\1")]
)
def test_remaining_length(payload: int, length: bytes) -> None:
    assert encode(Publish("t", bytes(payload)))[1 : 1 + len(length)] == length


def test_puback_batches() -> None:
    assert encode_puback(65_535) == b"\x40\2\xff\xff"
    assert encode_pubacks([1, 2, 65_535]) == encode_puback(1) + encode_puback(2) + encode_puback(65_535)
    assert encode_pubacks([]) == b""


@pytest.mark.parametrize("packet_id", [0, -1, 65_536])
def test_packet_identifiers(packet_id: int) -> None:
    for attempt in (
        lambda: encode_puback(packet_id),
        lambda: encode_pubacks([1, packet_id]),
        lambda: encode(Unsuback(packet_id)),
        lambda: encode(Publish("t", b"", 1, False, False, packet_id)),
    ):
        with pytest.raises(UsageError):
            attempt()


@pytest.mark.parametrize(
    "packet",
    [
        Publish("", b""),
        Publish("a/#", b""),
        Publish("x" * 65_536, b""),
        Publish("\ud800", b""),
        Publish("t", b"", 2, False, False, 1),
        Publish("t", b"", 1),
        Publish("t", b"", 0, False, False, 1),
        Publish("t", b"", 0, False, True),
        Connect("", clean_session=False),
        Connect("d", None, b"p"),
        Connect("d", keep_alive=-1),
        Connect("d", keep_alive=65_536),
        Connect("a\0b"),
        Connect("\ud800"),
        Connect("x" * 65_536),
        Connect("d", will=Will("#", b"")),
        Connect("d", will=Will("t", b"", 2)),
        Connect("d", will=Will("t", bytes(65_536))),
        Connack(False, 6),
        Connack(False, -1),
        Connack(True, 5),
        Subscribe(1, ()),
        Subscribe(1, (("a", 3),)),
        Subscribe(1, (("a+", 0),)),
        Subscribe(1, (("a", 0),) * (FILTERS_PER_SUBSCRIBE + 1)),
        Unsubscribe(1, ()),
        Unsubscribe(1, ("",)),
        Suback(1, ()),
        Suback(1, (3,)),
    ],
    ids=lambda packet: repr(packet)[:60],
)
def test_what_cannot_be_said(packet: Packet) -> None:
    with pytest.raises(UsageError):
        encode(packet)


def test_the_longest_packet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "REMAINING_LENGTH_MAX", 1000)
    with pytest.raises(UsageError, match="1003 bytes"):
        encode(Publish("t", bytes(1000)))


def test_only_packets_are_encoded() -> None:
    with pytest.raises(AssertionError):
        encode(b"\xc0\0")  # type: ignore[arg-type]
