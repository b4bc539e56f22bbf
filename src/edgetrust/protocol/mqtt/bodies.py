"""The bodies of all packets but PUBLISH: bytes of one complete packet to a value, or the fault that is in them.

Every reader gets the bytes, where the body starts and where it stops, and accounts for all of them: a field that
crosses the end is TRUNCATED, what is left over is TRAILING. Nothing is repaired.
"""

# ruff: noqa: PLR2004 - the numbers are the wire format

from __future__ import annotations

from collections.abc import Callable

from edgetrust.limits import FILTERS_PER_SUBSCRIBE
from edgetrust.protocol.mqtt.faults import Fault, IdentifierRejected, MqttProtocolError, UnsupportedProtocolLevel
from edgetrust.protocol.mqtt.filters import valid_filter, valid_topic
from edgetrust.protocol.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)

CONNECT, CONNACK, PUBLISH, PUBACK = 0x10, 0x20, 0x30, 0x40
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 0x82, 0x90, 0xA2, 0xB0
PINGREQ, PINGRESP, DISCONNECT = 0xC0, 0xD0, 0xE0

PROTOCOL_NAME, PROTOCOL_LEVEL = "MQTT", 4
SUBACK_FAILURE = 0x80
_CODES = frozenset({0, 1, 2, SUBACK_FAILURE})
_new_puback = tuple.__new__
_CONNACK_CODES = 5  # the highest that MQTT 3.1.1 defines

# CONNECT flags (MQTT 3.1.1, 3.1.2.3)
RESERVED_FLAG, CLEAN_SESSION_FLAG, WILL_FLAG, WILL_QOS_SHIFT = 0x01, 0x02, 0x04, 3
WILL_RETAIN_FLAG, PASSWORD_FLAG, USER_NAME_FLAG = 0x20, 0x40, 0x80
_QOS_2, _QOS_3 = 2, 3


def _number(data: bytes, at: int, stop: int) -> int:
    if stop - at < 2:
        raise MqttProtocolError(Fault.TRUNCATED, "a number crosses the end of its packet")
    return data[at] << 8 | data[at + 1]


def _binary(data: bytes, at: int, stop: int) -> tuple[bytes, int]:
    end = at + 2 + _number(data, at, stop)
    if end > stop:
        raise MqttProtocolError(Fault.TRUNCATED, "a field crosses the end of its packet")
    return data[at + 2 : end], end


def text_of(raw: bytes) -> str:
    """An MQTT text: well-formed UTF-8 without surrogates and U+0000 (MQTT 3.1.1, 1.5.3).

    Raises MqttProtocolError TEXT.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise MqttProtocolError(Fault.TEXT, "a text is not UTF-8") from None
    if "\0" in text:
        raise MqttProtocolError(Fault.TEXT, "a text contains U+0000")
    return text


def _text(data: bytes, at: int, stop: int) -> tuple[str, int]:
    raw, end = _binary(data, at, stop)
    return text_of(raw), end


def _packet_id(data: bytes, at: int, stop: int) -> int:
    packet_id = _number(data, at, stop)
    if not packet_id:
        raise MqttProtocolError(Fault.PACKET_ID, "packet identifier 0")
    return packet_id


def _only_packet_id(data: bytes, at: int, stop: int) -> int:
    packet_id = _packet_id(data, at, stop)
    _complete(at + 2, stop)
    return packet_id


def _complete(at: int, stop: int) -> None:
    if at != stop:
        raise MqttProtocolError(Fault.TRAILING, f"{stop - at} bytes after the end of the packet's content")


# CONNECT ------------------------------------------------------------------------------------------------------------


def _connect(data: bytes, at: int, stop: int) -> Connect:
    name, at = _text(data, at, stop)
    if at >= stop:
        raise MqttProtocolError(Fault.TRUNCATED, "CONNECT ends before its protocol level")
    level = data[at]
    if name != PROTOCOL_NAME or level != PROTOCOL_LEVEL:
        raise UnsupportedProtocolLevel(name, level)
    if stop - at < 4:
        raise MqttProtocolError(Fault.TRUNCATED, "CONNECT ends before its keep alive")
    flags = _connect_flags(data[at + 1])
    keep_alive = _number(data, at + 2, stop)
    client_id, at = _text(data, at + 4, stop)
    will: Will | None = None
    if flags & WILL_FLAG:
        will, at = _will(data, at, stop, flags)
    user_name: str | None = None
    if flags & USER_NAME_FLAG:
        user_name, at = _text(data, at, stop)
    password: bytes | None = None
    if flags & PASSWORD_FLAG:
        password, at = _binary(data, at, stop)
    _complete(at, stop)
    clean_session = bool(flags & CLEAN_SESSION_FLAG)
    if not client_id and not clean_session:
        raise IdentifierRejected
    return Connect(client_id, user_name, password, clean_session, keep_alive, will)


def _connect_flags(flags: int) -> int:
    will_qos = flags >> WILL_QOS_SHIFT & 3
    if flags & RESERVED_FLAG:
        problem = "the reserved flag is set"
    elif not flags & WILL_FLAG and (will_qos or flags & WILL_RETAIN_FLAG):
        problem = "properties of a will without a will"
    elif will_qos == _QOS_3:
        problem = "a will of QoS 3"
    elif flags & PASSWORD_FLAG and not flags & USER_NAME_FLAG:
        problem = "a password without a user name"
    elif will_qos == _QOS_2:
        raise MqttProtocolError(Fault.QOS_2, "a will of QoS 2; QoS 2 is not offered")
    else:
        return flags
    raise MqttProtocolError(Fault.CONNECT_FLAGS, f"CONNECT flags 0x{flags:02x}: {problem}")


def _will(data: bytes, at: int, stop: int, flags: int) -> tuple[Will, int]:
    topic, at = _text(data, at, stop)
    if not valid_topic(topic):
        raise MqttProtocolError(Fault.TOPIC, "the will's topic is empty or has wildcards")
    payload, at = _binary(data, at, stop)
    return Will(topic, payload, flags >> WILL_QOS_SHIFT & 3, bool(flags & WILL_RETAIN_FLAG)), at


# The others ---------------------------------------------------------------------------------------------------------


def _connack(data: bytes, at: int, stop: int) -> Connack:
    acknowledge_flags, code = divmod(_number(data, at, stop), 256)
    _complete(at + 2, stop)
    if acknowledge_flags > 1:
        raise MqttProtocolError(Fault.FLAGS, "CONNACK with reserved flags")
    if code > _CONNACK_CODES or (code and acknowledge_flags):
        raise MqttProtocolError(Fault.RETURN_CODE, f"CONNACK {code}, session present {acknowledge_flags}")
    return Connack(bool(acknowledge_flags), code)


def _puback(data: bytes, at: int, stop: int) -> Puback:
    if stop - at == 2 and (packet_id := data[at] << 8 | data[at + 1]):  # as it always is; one comes for each message
        return _new_puback(Puback, (packet_id,))
    return Puback(_only_packet_id(data, at, stop))


def _unsuback(data: bytes, at: int, stop: int) -> Unsuback:
    return Unsuback(_only_packet_id(data, at, stop))


def _topic_filter(data: bytes, at: int, stop: int) -> tuple[str, int]:
    text, at = _text(data, at, stop)
    if not valid_filter(text):
        raise MqttProtocolError(Fault.FILTER, f"{text[:80]!r} is no topic filter")
    return text, at


def _bounded(count: int) -> None:
    if count > FILTERS_PER_SUBSCRIBE:
        raise MqttProtocolError(Fault.TOO_MANY_FILTERS, f"more than {FILTERS_PER_SUBSCRIBE} filters in one packet")


def _subscribe(data: bytes, at: int, stop: int) -> Subscribe:
    packet_id = _packet_id(data, at, stop)
    at += 2
    filters: list[tuple[str, int]] = []
    while at < stop:
        text, at = _topic_filter(data, at, stop)
        if at >= stop:
            raise MqttProtocolError(Fault.TRUNCATED, "a topic filter without its QoS")
        if data[at] >= _QOS_3:
            raise MqttProtocolError(Fault.QOS, f"requested QoS {data[at]}")
        filters.append((text, data[at]))
        _bounded(len(filters))
        at += 1
    if not filters:
        raise MqttProtocolError(Fault.NO_FILTERS, "SUBSCRIBE without a topic filter")
    return Subscribe(packet_id, tuple(filters))


def _unsubscribe(data: bytes, at: int, stop: int) -> Unsubscribe:
    packet_id = _packet_id(data, at, stop)
    at += 2
    filters: list[str] = []
    while at < stop:
        text, at = _topic_filter(data, at, stop)
        filters.append(text)
        _bounded(len(filters))
    if not filters:
        raise MqttProtocolError(Fault.NO_FILTERS, "UNSUBSCRIBE without a topic filter")
    return Unsubscribe(packet_id, tuple(filters))


def _suback(data: bytes, at: int, stop: int) -> Suback:
    packet_id = _packet_id(data, at, stop)
    codes = tuple(data[at + 2 : stop])
    _bounded(len(codes))
    if not codes or not _CODES.issuperset(codes):
        raise MqttProtocolError(Fault.RETURN_CODE, "SUBACK without codes or with unknown ones")
    return Suback(packet_id, codes)


def _pingreq(data: bytes, at: int, stop: int) -> Pingreq:
    _complete(at, stop)
    return Pingreq()


def _pingresp(data: bytes, at: int, stop: int) -> Pingresp:
    _complete(at, stop)
    return Pingresp()


def _disconnect(data: bytes, at: int, stop: int) -> Disconnect:
    _complete(at, stop)
    return Disconnect()


Reader = Callable[[bytes, int, int], Packet]

READERS: dict[int, Reader] = {
    CONNECT: _connect,
    CONNACK: _connack,
    PUBACK: _puback,
    SUBSCRIBE: _subscribe,
    SUBACK: _suback,
    UNSUBSCRIBE: _unsubscribe,
    UNSUBACK: _unsuback,
    PINGREQ: _pingreq,
    PINGRESP: _pingresp,
    DISCONNECT: _disconnect,
}
