"""Our MQTT codec against paho's packet handling, on the load of a server: batches of small QoS 1 publishes.

Prints `name ours reference ratio min/median/max`, microseconds per message; the ratio is ours / reference of the
medians. Usage: python bench/codec.py
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


def _measure(run: Callable[[], None], per_call: int) -> list[float]:
    run()
    figures: list[float] = []
    for _ in range(ROUNDS):
        start = perf_counter()
        for _ in range(BATCHES):
            run()
        figures.append((perf_counter() - start) / (BATCHES * per_call) * 1e6)
    return figures


def _compare(name: str, ours: list[float], reference: list[float]) -> None:
    mine, theirs = median(ours), median(reference)
    spread = f"{min(ours):.2f}/{mine:.2f}/{max(ours):.2f}"
    print(f"{name:<44} {mine:6.2f} {theirs:8.2f} {mine / theirs:6.3f}  {spread} us, n={ROUNDS}")


def main() -> None:
    """Measure and print."""
    print(f"{'name':<44} {'ours':>6} {'paho':>8} {'ratio':>6}  min/median/max of ours")
    same = _batches(repeat("devices/d1/messages/events/"))
    _compare("decode PUBLISH + PUBACK, one topic", _measure(_ours(same), WINDOW), _measure(_paho(same), WINDOW))
    other = _batches(f"devices/d1/messages/events/%24.mid={n}&%24.ct=application%2Fjson" for n in count())
    _compare(
        "decode PUBLISH + PUBACK, all topics differ", _measure(_ours(other), WINDOW), _measure(_paho(other), WINDOW)
    )
    ids = list(range(1, WINDOW + 1))
    batch = _measure(lambda: encode_pubacks(ids) and None, WINDOW)
    single = _measure(lambda: [encode_puback(number) for number in ids] and None, WINDOW)
    _compare("encode PUBACK, batch against one by one", batch, single)


if __name__ == "__main__":
    main()
