"""Packets to bytes. What MQTT cannot say is the caller's mistake: UsageError, never half a packet."""

# ruff: noqa: PLR2004 - the numbers are the wire format

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct, pack
from typing import assert_never

from edgetrust.errors import UsageError
from edgetrust.limits import FILTERS_PER_SUBSCRIBE
from edgetrust.protocol.mqtt import bodies
from edgetrust.protocol.mqtt.filters import TEXT_BYTES, valid_filter, valid_topic
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

REMAINING_LENGTH_MAX = 268_435_455  # four bytes of seven bits (MQTT 3.1.1, 2.2.3)
_PUBACK_WORD = 0x4002_0000  # PUBACK, remaining length 2, and room for the packet identifier
_PACKET_IDS = 0x1_0000
_pack_word = Struct(">I").pack
_pack_number = Struct(">H").pack
_PUBLISH_QOS1 = bodies.PUBLISH | 1 << 1
_THREE_DIGITS = 1 << 14  # the first length that two bytes of seven bits cannot say
_pack_head = Struct(">BBBH").pack
_pack_two_bytes = Struct(">BB").pack


def encode_puback(packet_id: int) -> bytes:
    """PUBACK for a packet identifier as it was received. Raises UsageError outside 1 to 65535."""
    if not 0 < packet_id < _PACKET_IDS:
        raise UsageError(f"packet identifier {packet_id}")
    return _pack_word(_PUBACK_WORD + packet_id)


def encode_pubacks(packet_ids: Sequence[int]) -> bytes:
    """The PUBACKs of a batch, in order, as one piece of bytes. Raises UsageError when one is outside 1 to 65535."""
    if len(packet_ids) == 1:
        return encode_puback(packet_ids[0])
    if not packet_ids:
        return b""
    if min(packet_ids) < 1 or max(packet_ids) >= _PACKET_IDS:
        raise UsageError("a packet identifier outside 1 to 65535")
    return pack(f">{len(packet_ids)}I", *[_PUBACK_WORD + packet_id for packet_id in packet_ids])


def encode(packet: Packet) -> bytes:  # noqa: PLR0911 - one line per packet type
    """The bytes of `packet`. Raises UsageError for values that MQTT 3.1.1, or this service, cannot carry."""
    match packet:
        case Publish():
            return _publish(packet)
        case Puback():
            return encode_puback(packet.packet_id)
        case Connect():
            return _framed(bodies.CONNECT, _connect(packet))
        case Connack():
            return _framed(bodies.CONNACK, _connack(packet))
        case Subscribe():
            return _framed(bodies.SUBSCRIBE, _packet_id(packet.packet_id) + _subscriptions(packet))
        case Suback():
            return _framed(bodies.SUBACK, _packet_id(packet.packet_id) + _codes(packet.codes))
        case Unsubscribe():
            return _framed(bodies.UNSUBSCRIBE, _packet_id(packet.packet_id) + _filters(packet.filters))
        case Unsuback():
            return _framed(bodies.UNSUBACK, _packet_id(packet.packet_id))
        case Pingreq():
            return b"\xc0\x00"
        case Pingresp():
            return b"\xd0\x00"
        case Disconnect():
            return b"\xe0\x00"
        case _:
            assert_never(packet)


def encode_publish(topic: str, payload: bytes, packet_id: int, *, dup: bool = False) -> bytes:
    """A PUBLISH at QoS 1, as `encode` makes it, for who sends one after the other. Raises UsageError as that does."""
    if not valid_topic(topic):
        raise UsageError(f"{topic[:80]!r} is no topic name")
    raw = topic.encode()
    size = 4 + len(raw) + len(payload)
    if 127 < size < _THREE_DIGITS and 0 < packet_id < _PACKET_IDS:  # nearly all messages
        head = _pack_head(_PUBLISH_QOS1 | dup << 3, size & 127 | 128, size >> 7, len(raw))
        return b"".join((head, raw, _pack_number(packet_id), payload))
    return _publish(Publish(topic, payload, 1, dup=dup, packet_id=packet_id))


def _publish(packet: Publish) -> bytes:
    topic, payload, qos, retain, dup, packet_id = packet
    if not valid_topic(topic):
        raise UsageError(f"{topic[:80]!r} is no topic name")
    if qos not in (0, 1) or (dup and not qos) or (packet_id is None) == bool(qos):
        raise UsageError(f"PUBLISH with QoS {qos}, DUP {dup}, packet identifier {packet_id}")
    first = bodies.PUBLISH | dup << 3 | qos << 1 | retain
    raw = topic.encode()
    number = b"" if packet_id is None else _packet_id(packet_id)
    length = _length(2 + len(raw) + len(number) + len(payload))
    return b"".join((bytes((first,)), length, _pack_number(len(raw)), raw, number, payload))


def _length(length: int) -> bytes:
    if length < 128:
        return bytes((length,))
    if length > REMAINING_LENGTH_MAX:
        raise UsageError(f"a packet of {length} bytes")
    digits = bytearray()
    while length > 127:
        digits.append(length & 127 | 128)
        length >>= 7
    digits.append(length)
    return bytes(digits)


def _framed(first: int, body: bytes) -> bytes:
    return bytes((first,)) + _length(len(body)) + body


def _packet_id(packet_id: int) -> bytes:
    if not 0 < packet_id < _PACKET_IDS:
        raise UsageError(f"packet identifier {packet_id}")
    return _pack_number(packet_id)


def _binary(value: bytes) -> bytes:
    if len(value) > TEXT_BYTES:
        raise UsageError(f"a field of {len(value)} bytes")
    return _pack_number(len(value)) + value


def _text(value: str) -> bytes:
    if "\0" in value:
        raise UsageError("MQTT texts cannot contain U+0000")
    try:
        return _binary(value.encode())
    except UnicodeEncodeError:
        raise UsageError("MQTT texts cannot contain surrogates") from None


def _connect(packet: Connect) -> bytes:
    if not packet.client_id and not packet.clean_session:
        raise UsageError("an empty client identifier needs clean_session")
    if packet.password is not None and packet.user_name is None:
        raise UsageError("a password needs a user name")
    if not 0 <= packet.keep_alive < _PACKET_IDS:
        raise UsageError(f"keep alive of {packet.keep_alive} seconds")
    flags = bodies.CLEAN_SESSION_FLAG if packet.clean_session else 0
    payload = [_text(packet.client_id)]
    if packet.will is not None:
        will = packet.will
        if not valid_topic(will.topic) or will.qos not in (0, 1):
            raise UsageError(f"a will for {will.topic[:80]!r} with QoS {will.qos}")
        flags |= bodies.WILL_FLAG | will.qos << bodies.WILL_QOS_SHIFT | will.retain * bodies.WILL_RETAIN_FLAG
        payload += [_text(will.topic), _binary(will.payload)]
    if packet.user_name is not None:
        flags |= bodies.USER_NAME_FLAG
        payload.append(_text(packet.user_name))
    if packet.password is not None:
        flags |= bodies.PASSWORD_FLAG
        payload.append(_binary(packet.password))
    start = _text(bodies.PROTOCOL_NAME) + bytes((bodies.PROTOCOL_LEVEL, flags)) + _pack_number(packet.keep_alive)
    return start + b"".join(payload)


def _connack(packet: Connack) -> bytes:
    if not 0 <= packet.code <= 5 or (packet.code and packet.session_present):
        raise UsageError(f"CONNACK {packet.code}, session present {packet.session_present}")
    return _pack_two_bytes(packet.session_present, packet.code)


def _filter(text: str) -> bytes:
    if not valid_filter(text):
        raise UsageError(f"{text[:80]!r} is no topic filter")
    return _text(text)


def _counted(count: int) -> None:
    if not 0 < count <= FILTERS_PER_SUBSCRIBE:
        raise UsageError(f"{count} filters in one packet")


def _subscriptions(packet: Subscribe) -> bytes:
    _counted(len(packet.filters))
    if any(qos not in (0, 1, 2) for _, qos in packet.filters):
        raise UsageError("a subscription of QoS other than 0, 1, 2")
    return b"".join(_filter(text) + bytes((qos,)) for text, qos in packet.filters)


def _filters(filters: tuple[str, ...]) -> bytes:
    _counted(len(filters))
    return b"".join(_filter(text) for text in filters)


def _codes(codes: tuple[int, ...]) -> bytes:
    _counted(len(codes))
    if any(code not in (0, 1, 2, bodies.SUBACK_FAILURE) for code in codes):
        raise UsageError(f"SUBACK codes {codes}")
    return bytes(codes)
