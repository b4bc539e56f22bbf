"""A stream of bytes to packets: the hot path. It decides where a packet ends and whether its type may come now.

Rules:
1. The first byte of a packet is judged as soon as it is there, its length as soon as it is known: nothing is collected
   for a packet that will be refused.
2. At most one incomplete packet is kept, of at most `max_bytes`; it is looked at again only when it can be complete, so
   a peer that sends single bytes costs no more than one that sends all at once.
3. However the bytes are split, the packets and the fault are the same. Packets before a fault are in the error's
   `before`.
4. After a fault every call raises it again.
5. The decoder pauses after CONNECT, CONNACK and DISCONNECT, which change what may come next; its owner says how to go
   on.

It is written so that mypyc can compile it. It must not know roles (`connection` does) nor what topics mean. A server
receives batches of small publishes of few topics: their bytes-to-text conversions, with the checks of the topic, are
kept in a small table.
"""

# ruff: noqa: PLR2004 - the numbers are the wire format

from __future__ import annotations

from dataclasses import dataclass

from edgetrust.protocol.mqtt import bodies
from edgetrust.protocol.mqtt.encoding import encode, encode_puback, encode_pubacks
from edgetrust.protocol.mqtt.faults import Fault, MqttProtocolError
from edgetrust.protocol.mqtt.packets import Packet, Publish

__all__ = ["ANY", "NO_PUBLISHES", "PUBLISHES", "Decoder", "Phase", "encode", "encode_puback", "encode_pubacks"]

_TOPICS_KEPT = (
    16  # a client publishes to one telemetry topic and a few of its twin; varying property bags push them out
)
_TOPIC_KEPT_BYTES = 512  # longer ones are not worth 16 of them in memory per connection
_PAUSING = frozenset({bodies.CONNECT, bodies.CONNACK, bodies.DISCONNECT})
_new_publish = tuple.__new__

_Flags = tuple[int, bool, bool]
# By first byte, the (QoS, RETAIN, DUP) of every PUBLISH that may come. DUP at QoS 0 is illegal (MQTT 3.1.1, 3.3.1.1).
_LEGAL: dict[int, _Flags] = {
    bodies.PUBLISH | dup << 3 | qos << 1 | retain: (qos, bool(retain), bool(dup))
    for dup, qos, retain in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 1, 0), (1, 1, 1))
}
PUBLISHES: tuple[_Flags | None, ...] = tuple(_LEGAL.get(first) for first in range(256))
NO_PUBLISHES: tuple[_Flags | None, ...] = (None,) * 256


@dataclass(frozen=True, slots=True)
class Phase:
    """What may come now: packets by their first byte, and publishes or none.

    `awaited`: the fault of everything else while one packet is awaited; None to judge by what came.
    """

    packets: frozenset[int]
    publishes: tuple[_Flags | None, ...]
    awaited: Fault | None = None


ANY = Phase(frozenset(bodies.READERS), PUBLISHES)


class Decoder:
    """Bytes to packets. Remaining lengths over `max_bytes` are refused; it must be at least 16,383 (two bytes)."""

    __slots__ = ("_buffer", "_fault", "_max_bytes", "_needed", "_packets", "_publishes", "_topics", "paused", "phase")

    def __init__(self, max_bytes: int, phase: Phase = ANY) -> None:
        self._buffer = bytearray()
        self._needed = 0
        self._topics: dict[bytes, str] = {}
        self._fault: MqttProtocolError | None = None
        self.paused = False
        self._go(max_bytes, phase)

    @property
    def buffered(self) -> int:
        """Bytes that are kept for later."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Packet]:
        """The packets that `data` completes, in order.

        While paused: none, and all is kept. Raises MqttProtocolError.
        """
        if self._fault is not None:
            raise self._fault.again()
        buffer = self._buffer
        if buffer or self.paused:
            buffer += data
            if self.paused or len(buffer) < self._needed:
                return []
            return self._take()
        return self._decode(bytes(data))

    def resume(self, max_bytes: int, phase: Phase) -> list[Packet]:
        """Go on after a pause with new rules; the packets among what was kept. Raises MqttProtocolError."""
        if self._fault is not None:
            raise self._fault.again()
        self.paused = False
        self._go(max_bytes, phase)
        return self._take()

    def fail(self, fault: MqttProtocolError) -> None:
        """Make `fault` the end of this stream, and forget what is kept."""
        self._fault = fault
        self._buffer.clear()
        self._topics.clear()

    def _go(self, max_bytes: int, phase: Phase) -> None:
        self._max_bytes = max_bytes
        self.phase = phase
        self._packets = phase.packets
        self._publishes = phase.publishes

    def _take(self) -> list[Packet]:
        data = bytes(self._buffer)
        self._buffer.clear()
        return self._decode(data)

    def _decode(self, data: bytes) -> list[Packet]:
        packets: list[Packet] = []
        try:
            at = self._all(data, packets)
        except MqttProtocolError as fault:
            self.fail(fault)
            fault.before = tuple(packets)
            raise
        if at < len(data):
            self._buffer += memoryview(data)[at:]
        return packets

    def _all(self, data: bytes, packets: list[Packet]) -> int:  # noqa: PLR0912 - the hot path calls nothing
        """Append the complete packets of `data`; the position of the first byte that is not used up."""
        publishes, others, topics = self._publishes, self._packets, self._topics
        append = packets.append
        at, end = 0, len(data)
        while at < end:
            first = data[at]
            flags = publishes[first]
            if flags is None and first not in others:
                raise self._refused(first)
            if end - at < 3:
                # Two bytes are a packet when they say that nothing follows; else the third is needed for any of them.
                if end - at < 2 or data[at + 1]:
                    self._needed = end - at + 1
                    return at
                length, body = 0, end
            else:
                length, body = data[at + 1], at + 2
                if length > 127:
                    if data[body] < 128:
                        length += (data[body] << 7) - 128
                        body += 1
                    else:
                        length, body = self._long_length(data, at + 1, end)
                        if not body:
                            self._needed = end - at + 1
                            return at
            stop = body + length
            if stop > end:
                self._needed = stop - at
                return at
            if flags is not None:
                if length < 2:
                    raise MqttProtocolError(Fault.TRUNCATED, "PUBLISH without a topic")
                qos, retain, dup = flags
                topic_end = body + 2 + (data[body] << 8 | data[body + 1])
                payload_at = topic_end + 2 if qos else topic_end
                if payload_at > stop:
                    raise MqttProtocolError(Fault.TRUNCATED, "PUBLISH ends before its payload")
                raw = data[body + 2 : topic_end]
                topic = topics.get(raw) or self._topic(raw)
                packet_id = None
                if qos:
                    packet_id = data[topic_end] << 8 | data[topic_end + 1]
                    if not packet_id:
                        raise MqttProtocolError(Fault.PACKET_ID, "PUBLISH with packet identifier 0")
                append(_new_publish(Publish, (topic, data[payload_at:stop], qos, retain, dup, packet_id)))
            else:
                append(bodies.READERS[first](data, body, stop))
                if first in _PAUSING:
                    self.paused = True
                    return stop
            at = stop
        return at

    def _long_length(self, data: bytes, at: int, end: int) -> tuple[int, int]:
        """A remaining length of three or four bytes at `at`, and where the body starts; 0, 0 when bytes are missing."""
        length = 0
        for position in range(at, min(end, at + 4)):
            digit = data[position]
            length |= (digit & 127) << 7 * (position - at)
            if digit < 128:
                if length > self._max_bytes:
                    message = f"a packet of {length} bytes, at most {self._max_bytes} are accepted"
                    raise MqttProtocolError(Fault.TOO_LARGE, message)
                return length, position + 1
        if end - at >= 4:
            raise MqttProtocolError(Fault.LENGTH, "a remaining length of more than four bytes")
        return 0, 0

    def _topic(self, raw: bytes) -> str:
        """A topic that is not in the table: checked, and kept for the next time."""
        topic = bodies.text_of(raw)
        if not topic or "+" in topic or "#" in topic:
            raise MqttProtocolError(Fault.TOPIC, f"PUBLISH to {topic[:80]!r}")
        if len(raw) <= _TOPIC_KEPT_BYTES:
            if len(self._topics) >= _TOPICS_KEPT:
                self._topics.clear()
            self._topics[raw] = topic
        return topic

    def _refused(self, first: int) -> MqttProtocolError:
        kind = first >> 4
        if self.phase.awaited is not None:
            return MqttProtocolError(self.phase.awaited, f"first byte 0x{first:02x}")
        if kind in (0, 15):
            return MqttProtocolError(Fault.PACKET_TYPE, f"packet type {kind}")
        if first & 0xF6 == 0x36:
            return MqttProtocolError(Fault.QOS, "PUBLISH with QoS 3")
        if kind in (5, 6, 7) or first & 0xF6 == 0x34:
            return MqttProtocolError(Fault.QOS_2, "QoS 2 is not offered")
        if first not in bodies.READERS and first not in _LEGAL:
            return MqttProtocolError(Fault.FLAGS, f"packet type {kind} with flags 0x{first & 15:x}")
        fault = {bodies.CONNECT: Fault.SECOND_CONNECT, bodies.CONNACK: Fault.SECOND_CONNACK}.get(first)
        return MqttProtocolError(fault or Fault.WRONG_DIRECTION, f"packet type {kind} must not come here")
