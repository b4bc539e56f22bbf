"""Our MQTT codec against paho's packet handling, on the load of a server: batches of small QoS 1 publishes.

Prints `name ours reference ratio min/median/max`, microseconds per message; the ratio is that of the medians, the
reference stands in brackets.

Usage: python bench/codec.py
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from itertools import count, cycle, repeat
from statistics import median
from time import perf_counter

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, _ConnectionState

from edgetrust.protocol.mqtt.codec import Decoder, encode, encode_puback, encode_pubacks
from edgetrust.protocol.mqtt.packets import Publish

ROUNDS, BATCHES, WINDOW, VARIED, PAYLOAD = 15, 600, 16, 8, b"x" * 200


class _Memory(socket.socket):
    """What paho reads from and writes to: memory, so that neither side pays for system calls."""

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0

    def load(self, data: bytes) -> None:
        self._bytes, self._at = data, 0

    def recv(self, size: int, flags: int = 0) -> bytes:
        if self._at == len(self._bytes):
            raise BlockingIOError
        start, self._at = self._at, min(self._at + size, len(self._bytes))
        return self._bytes[start : self._at]

    def send(self, data: bytes, flags: int = 0) -> int:  # type: ignore[override]
        return len(data)

    def close(self) -> None:
        """Nothing is open."""

    def __del__(self) -> None:
        """Nothing is open."""


def _batches(topics: Iterator[str]) -> list[bytes]:
    return [
        b"".join(encode(Publish(next(topics), PAYLOAD, 1, False, False, number + 1)) for number in range(WINDOW))
        for _ in range(VARIED)
    ]


def _ours(batches: list[bytes]) -> Callable[[], None]:
    decoder = Decoder(320 * 1024)
    data = cycle(batches)

    def run() -> None:
        packets = decoder.feed(next(data))
        encode_pubacks([packet.packet_id for packet in packets if type(packet) is Publish and packet.packet_id])

    return run


def _paho(batches: list[bytes]) -> Callable[[], None]:
    """paho's client reading the same publishes; its QoS 1 handling writes the PUBACK."""
    client = Client(CallbackAPIVersion.VERSION2, "bench")
    memory = _Memory()
    client._sock = memory
    client._state = _ConnectionState.MQTT_CS_CONNECTED
    client.on_message = _ignore
    data = cycle(batches)

    def run() -> None:
        memory.load(next(data))
        for _ in range(WINDOW):
            client._packet_read()

    return run


def _ignore(client: Client, userdata: object, message: MQTTMessage) -> None:
    """The callback of the reference: a message was read."""


def _once(run: Callable[[], object]) -> float:
    start = perf_counter()
    for _ in range(BATCHES):
        run()
    return (perf_counter() - start) / (BATCHES * WINDOW) * 1e6


def _compare(name: str, ours: Callable[[], object], reference: Callable[[], object]) -> None:
    """Both in turns, so that a machine that changes its pace changes both."""
    mine, theirs = [], []
    for _ in range(ROUNDS):
        mine.append(_once(ours))
        theirs.append(_once(reference))
    one, other = median(mine), median(theirs)
    spread = f"{min(mine):.2f}/{one:.2f}/{max(mine):.2f}"
    print(f"{name:<44} {one:6.2f} {other:10.2f} {one / other:6.3f}  {spread} us, n={ROUNDS}")


def main() -> None:
    """Measure and print."""
    print(f"{'name':<44} {'ours':>6} {'reference':>10} {'ratio':>6}  min/median/max of ours")
    same = _batches(repeat("devices/d1/messages/events/"))
    _compare("PUBLISH read + PUBACK, one topic (paho)", _ours(same), _paho(same))
    other = _batches(f"devices/d1/messages/events/%24.mid={n}&%24.ct=application%2Fjson" for n in count())
    _compare("PUBLISH read + PUBACK, topics differ (paho)", _ours(other), _paho(other))
    decoder = Decoder(320 * 1024)
    _compare("PUBLISH read, one topic (paho, with PUBACK)", lambda: decoder.feed(same[0]), _paho(same))
    ids = list(range(1, WINDOW + 1))
    _compare("PUBACKs of a batch (one by one)", lambda: encode_pubacks(ids), lambda: b"".join(map(encode_puback, ids)))


if __name__ == "__main__":
    main()
