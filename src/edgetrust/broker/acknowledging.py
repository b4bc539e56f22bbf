"""Acknowledging: the PUBACKs of one connection, in the order in which its PUBLISHes came (MQTT 3.1.1, 4.6), although
telemetry, twin requests and answers to methods are done at different times.

Whoever takes a PUBLISH says so at once (`expect`) and later that it is done (`ready`). What never becomes ready holds
back all that came behind it: then the connection must end.
"""

from __future__ import annotations

from collections import deque

from edgetrust.broker.ports import Stream
from edgetrust.protocol.mqtt.codec import encode_pubacks


class Expected:
    """PUBLISHes that are acknowledged together."""

    __slots__ = ("is_ready", "packet_ids")

    def __init__(self, packet_ids: list[int]) -> None:
        self.packet_ids = packet_ids
        self.is_ready = False


class Acknowledgements:
    """What one connection still waits for."""

    __slots__ = ("_stream", "_waiting")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._waiting: deque[Expected] = deque()

    def expect(self, packet_ids: list[int]) -> Expected:
        """PUBLISHes at QoS 1 that have come just now."""
        expected = Expected(packet_ids)
        self._waiting.append(expected)
        return expected

    def ready(self, expected: Expected) -> None:
        """They are done: acknowledge them, as soon as everything before them is."""
        expected.is_ready = True
        waiting, packet_ids = self._waiting, []
        while waiting and waiting[0].is_ready:
            packet_ids += waiting.popleft().packet_ids
        if packet_ids and not self._stream.is_closing:
            self._stream.send(encode_pubacks(packet_ids))
