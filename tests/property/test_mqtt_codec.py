"""Laws of the MQTT codec: what is written is read, splits do not matter, garbage is one error in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgetrust.limits import CONNECT_PACKET_BYTES, PACKET_BYTES
from edgetrust.protocol.mqtt.codec import ANY, Decoder, encode, encode_puback, encode_pubacks
from edgetrust.protocol.mqtt.connection import MqttConnection, State
from edgetrust.protocol.mqtt.faults import MqttProtocolError
from edgetrust.protocol.mqtt.filters import matches, valid_filter, valid_topic
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

texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=40)
names = texts.filter(bool)
topics = names.filter(valid_topic)
levels = st.sampled_from(["a", "b", "", "$x", "+"])
filters = st.builds(
    lambda some, last: "/".join([*some, last]), st.lists(levels, max_size=3), levels | st.just("#")
).filter(valid_filter)
payloads = st.binary(max_size=300) | st.integers(16_000, 17_000).map(bytes)
packet_ids = st.integers(1, 65_535)
flags = st.booleans()
wills = st.builds(Will, topics, st.binary(max_size=20), st.integers(0, 1), flags)


@st.composite
def connects(draw: st.DrawFn) -> Connect:
    clean_session = draw(flags)
    user_name = draw(st.none() | texts)
    return Connect(
        draw(texts if clean_session else names),
        user_name,
        None if user_name is None else draw(st.none() | st.binary(max_size=40)),
        clean_session,
        draw(st.integers(0, 65_535)),
        draw(st.none() | wills),
    )


# Not st.builds(Publish, ...): it would make up the fields that are left out.
publishes = st.tuples(topics, payloads, st.just(0), flags).map(lambda fields: Publish(*fields)) | st.tuples(
    topics, payloads, st.just(1), flags, flags, packet_ids
).map(Publish._make)
from_client = (
    publishes
    | st.builds(Puback, packet_ids)
    | st.builds(
        Subscribe, packet_ids, st.lists(st.tuples(filters, st.integers(0, 2)), min_size=1, max_size=4).map(tuple)
    )
    | st.builds(Unsubscribe, packet_ids, st.lists(filters, min_size=1, max_size=4).map(tuple))
    | st.just(Pingreq())
)
packets: st.SearchStrategy[Packet] = (
    from_client
    | connects()
    | st.builds(Connack, st.just(False), st.integers(0, 5))
    | st.just(Connack(True, 0))
    | st.builds(Suback, packet_ids, st.lists(st.sampled_from([0, 1, 2, 128]), min_size=1, max_size=4).map(tuple))
    | st.builds(Unsuback, packet_ids)
    | st.sampled_from([Pingresp(), Disconnect()])
)

Outcome = tuple[list[Packet], str | None]


def outcome(pieces: list[bytes], receive: Callable[[bytes], list[Packet]]) -> Outcome:
    """All packets and the fault at the end, if there is one."""
    found: list[Packet] = []
    for piece in pieces:
        try:
            found += receive(piece)
        except MqttProtocolError as fault:
            return [*found, *fault.before], fault.reason
    return found, None


def decoded(pieces: list[bytes]) -> Outcome:
    """What a decoder makes of them that goes on after every pause."""
    decoder = Decoder(PACKET_BYTES)

    def receive(piece: bytes) -> list[Packet]:
        found = decoder.feed(piece)
        while decoder.paused:
            try:
                found += decoder.resume(PACKET_BYTES, ANY)
            except MqttProtocolError as fault:
                fault.before = (*found, *fault.before)
                raise
        return found

    return outcome(pieces, receive)


@st.composite
def split(draw: st.DrawFn, data: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(packets)
def test_what_is_written_is_read(packet: Packet) -> None:
    assert decoded([encode(packet)]) == ([packet], None)


@given(packets, st.data())
def test_a_proper_prefix_needs_more(packet: Packet, data: st.DataObject) -> None:
    raw = encode(packet)
    assert decoded([raw[: data.draw(st.integers(0, len(raw) - 1))]]) == ([], None)


@given(st.lists(packets, max_size=5), st.binary(max_size=12), st.data())
def test_splits_do_not_matter(sequence: list[Packet], junk: bytes, data: st.DataObject) -> None:
    raw = b"".join(map(encode, sequence)) + junk
    expected = decoded([raw])
    assert expected[0][: len(sequence)] == sequence
    assert decoded(data.draw(split(raw))) == expected
    if len(raw) < 2_000:
        assert decoded([bytes((byte,)) for byte in raw]) == expected


@given(packets, st.data())
def test_a_changed_byte_is_still_packets_or_a_fault(packet: Packet, data: st.DataObject) -> None:
    raw = bytearray(encode(packet))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    found, _ = decoded([bytes(raw)])
    assert all(decoded([encode(one)]) == ([one], None) for one in found)


@given(st.binary(max_size=200))
@example(b"\x30\xff\xff\xff\x7f")
@example(b"\x10\xff\xff\xff\xff\x7f")
def test_garbage_is_packets_or_a_fault_in_bounded_memory(data: bytes) -> None:
    decoder = Decoder(PACKET_BYTES)
    for start in range(0, len(data), 7):
        try:
            decoder.feed(data[start : start + 7])
        except MqttProtocolError:
            assert decoder.buffered == 0
            break
        if decoder.paused:
            break
        assert decoder.buffered <= len(data)


@given(st.binary(max_size=60))
def test_before_a_connect_only_a_connect(data: bytes) -> None:
    found, fault = outcome([data], MqttConnection("server").receive)
    assert all(isinstance(packet, Connect) for packet in found)
    assert len(found) <= 1
    assert fault is not None or not data or data[0] == 0x10


@given(connects(), st.lists(from_client, max_size=3), st.data())
def test_a_server_hears_the_same_however_it_is_said(
    connect: Connect, sequence: list[Packet], data: st.DataObject
) -> None:
    raw = encode(connect) + b"".join(map(encode, sequence)) + encode(Disconnect()) + b"unread"
    server = MqttConnection("server")

    def receive(piece: bytes) -> list[Packet]:
        found = server.receive(piece)
        if server.state is State.DECIDING:
            found += server.accept()
        return found

    pieces = [
        part[start : start + CONNECT_PACKET_BYTES]
        for part in data.draw(split(raw))
        for start in range(0, len(part), CONNECT_PACKET_BYTES)
    ]
    assert outcome(pieces, receive) == ([connect, *sequence, Disconnect()], None)
    assert server.state is State.OVER


@given(st.lists(packet_ids, max_size=40))
def test_a_batch_of_pubacks_is_the_pubacks(identifiers: list[int]) -> None:
    assert encode_pubacks(identifiers) == b"".join(map(encode_puback, identifiers))
    assert decoded([encode_pubacks(identifiers)]) == ([Puback(one) for one in identifiers], None)


def naive(wanted: list[str], topic: list[str]) -> bool:
    """The sentence of the standard, level by level."""
    if wanted == ["#"]:
        return True
    if not wanted or not topic:
        return wanted == topic
    return wanted[0] in ("+", topic[0]) and naive(wanted[1:], topic[1:])


@given(filters, st.lists(st.sampled_from(["a", "b", "", "$x"]), min_size=1, max_size=4).map("/".join).filter(bool))
def test_matching_equals_the_naive_matcher(topic_filter: str, topic: str) -> None:
    hidden = topic.startswith("$") and topic_filter[0] in "+#"
    assert matches(topic_filter, topic) == (not hidden and naive(topic_filter.split("/"), topic.split("/")))


@pytest.mark.parametrize("packet", [Connect("d"), Publish("t", b"x"), Subscribe(1, (("t", 1),))])
def test_the_same_packet_is_the_same_bytes(packet: Packet) -> None:
    assert encode(packet) == encode(packet)
