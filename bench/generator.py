"""The load: MQTT clients over TLS in one epoll loop, lean enough that the server is what is measured.

Publishes are encrypted before a measurement, PUBACKs counted by the length of their records and checked after it (see
`records`). Server CPU is read around the load alone. Closing is what device SDKs do: DISCONNECT, then the end of TCP.
"""

from __future__ import annotations

import gc
import select
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle, islice
from struct import pack
from time import perf_counter, process_time, sleep

from material import Device
from records import HEADER_BYTES, OVERHEAD_BYTES, Direction, directions

PAYLOAD = b'{"temperature": 21.5, "humidity": 48.25, "padding": "'.ljust(198, b"x") + b'"}'
AT_ONCE = 8  # handshakes in flight
DEADLINE = 120.0  # seconds for any one measurement
_ACCEPTED = (b"\x20\x02\x00\x00", b"\x20\x02\x01\x00")  # without and with a kept session
_DISCONNECT = b"\xe0\x00"
_IDS = 1000
_PUBACKS = [pack("!BBH", 0x40, 2, number) for number in range(1, _IDS + 1)]
SETTLE = 0.2  # seconds: the server finishes what follows its last answer
_READ = select.EPOLLIN


class LoadError(Exception):
    """The server did not do what the load needs: the figures would mean nothing."""


@dataclass(frozen=True)
class Load:
    """What was done: operations, seconds, and the share of its core that the generator used."""

    operations: int
    seconds: float
    generator_share: float
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.operations / self.seconds


class _Meter:
    """Seconds and generator CPU since it was made."""

    def __init__(self) -> None:
        self._start, self._cpu = perf_counter(), process_time()
        self._deadline = self._start + DEADLINE

    def check(self) -> None:
        if perf_counter() > self._deadline:
            raise LoadError(f"not done after {DEADLINE:.0f} seconds")

    def load(self, operations: int, latencies: list[float] | None = None) -> Load:
        seconds = perf_counter() - self._start
        return Load(operations, seconds, (process_time() - self._cpu) / seconds, latencies or [])


class Connection:
    """One client: TLS, CONNECT and CONNACK without blocking, then records that were made beforehand."""

    __slots__ = (
        "_device",
        "_from_server",
        "_handshaken",
        "_queue",
        "_ready",
        "_record",
        "_rest",
        "_seen",
        "_tls",
        "_to_server",
        "fd",
        "sent_at",
        "socket",
    )

    def __init__(self, port: int, device: Device, host_name: str) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setblocking(False)
        self._tls = device.context.wrap_socket(raw, server_hostname=host_name, do_handshake_on_connect=False)
        self.socket: socket.socket = self._tls
        self.fd = self._tls.fileno()
        self._device = device
        self._handshaken = False
        self._to_server: Direction | None = None
        self._from_server: Direction | None = None
        self._ready = memoryview(b"")
        self._record = 0
        self._queue = 0
        self._rest = b""
        self._seen: list[bytes] = []
        self.sent_at = 0.0

    def advance(self, connect: bytes) -> bool:
        """Go on with the handshake; whether the server has accepted."""
        try:
            if not self._handshaken:
                self._tls.do_handshake()
                self._handshaken = True
                self._tls.send(connect)
            answer = self._tls.recv(4)
        except ssl.SSLWantReadError:
            return False
        if answer not in _ACCEPTED:
            raise LoadError(f"{self._device.name}: CONNECT was answered with {answer.hex() or 'the end'}")
        return True

    def take_keys(self) -> None:
        """From here on records are made and read by us; while the key log's last entry is this connection's."""
        cipher = self._tls.cipher()
        if cipher is None:
            raise LoadError("there is no TLS on this connection")
        self._to_server, self._from_server = directions(self._device.key_log, cipher[0])
        self.socket = socket.socket(fileno=self._tls.detach())

    def prepare(self, count: int) -> None:
        """Seal `count` publishes, each in a record of its own as the device SDKs send them."""
        if self._to_server is None:
            raise LoadError("prepare comes after take_keys")
        messages = [_publish(self._device.name, number) for number in range(1, _IDS + 1)]
        self._record = HEADER_BYTES + len(messages[0]) + OVERHEAD_BYTES
        self._ready = memoryview(self._to_server.seal(islice(cycle(messages), count)))
        self._queue = 0
        self._seen = []

    def publish(self, count: int) -> int:
        """Send the next `count` of the prepared publishes, as many as there are; how many."""
        start = self._queue
        self._queue = min(start + count * self._record, len(self._ready))
        size = self._queue - start
        if size and self.socket.send(self._ready[start : self._queue]) != size:
            raise LoadError(f"{self._device.name}: the server does not read")
        return size // self._record

    def acknowledged(self) -> int:
        """How many PUBACKs have come, by the length of the records that brought them."""
        data = self.socket.recv(65536)
        if not data:
            raise LoadError(f"{self._device.name}: the server closed the connection")
        self._seen.append(data)
        if self._rest:
            data = self._rest + data
        at, end, count = 0, len(data), 0
        while at + HEADER_BYTES <= end:
            length = data[at + 3] << 8 | data[at + 4]
            if at + HEADER_BYTES + length > end:
                break
            count += (length - OVERHEAD_BYTES) >> 2
            at += HEADER_BYTES + length
        self._rest = data[at:]
        return count

    def check(self) -> int:
        """Open what came since `prepare`; the number of PUBACKs. Raises LoadError unless they are the right ones."""
        assert self._from_server is not None
        plain = b"".join(self._from_server.open(b"".join(self._seen)))
        count = len(plain) // 4
        if plain != b"".join(islice(cycle(_PUBACKS), count)):
            raise LoadError(f"{self._device.name}: something else than the PUBACKs, in order, came back")
        return count

    def close(self) -> None:
        """Leave."""
        with suppress(OSError):
            data = _DISCONNECT if self._to_server is None else self._to_server.seal([_DISCONNECT])
            self.socket.send(data)
        self.socket.close()


def _text(text: str) -> bytes:
    return pack("!H", len(text)) + text.encode()


def _packet(first: int, body: bytes) -> bytes:
    length = len(body)
    digits = bytearray()
    while length > 127:
        digits.append(length & 127 | 128)
        length >>= 7
    digits.append(length)
    return bytes([first]) + bytes(digits) + body


def _connect(device: str, host_name: str) -> bytes:
    """CONNECT as an X.509 device SDK sends it (hub specification 3.1): a user name, no password, a kept session."""
    user = f"{host_name}/{device}/?api-version=2021-04-12&DeviceClientType=bench%2F1.0"
    return _packet(0x10, _text("MQTT") + bytes([4, 0x80]) + pack("!H", 60) + _text(device) + _text(user))


def _publish(device: str, packet_id: int) -> bytes:
    return _packet(0x32, _text(f"devices/{device}/messages/events/") + pack("!H", packet_id) + PAYLOAD)


def _opened(port: int, devices: Iterable[Device], host_name: str, at_once: int = AT_ONCE) -> Iterator[Connection]:
    """Connections as the server accepts them, `at_once` in progress."""
    waiting = iter(devices)
    pending: dict[int, tuple[Connection, bytes]] = {}
    meter = _Meter()
    with select.epoll() as epoll:
        while True:
            for device in islice(waiting, at_once - len(pending)):
                connection = Connection(port, device, host_name)
                pending[connection.fd] = connection, _connect(device.name, host_name)
                connection.advance(pending[connection.fd][1])
                epoll.register(connection.fd, _READ)
            if not pending:
                return
            meter.check()
            for fd, _ in epoll.poll(1.0):
                connection, connect = pending[fd]
                if connection.advance(connect):
                    del pending[fd]
                    epoll.unregister(fd)
                    yield connection


def handshakes(
    port: int, devices: Sequence[Device], count: int, host_name: str, cpu: Callable[[], float]
) -> tuple[Load, float]:
    """`count` times: TCP, full mutual TLS handshake, CONNECT, CONNACK, DISCONNECT; a device after the other."""
    for device in islice(devices, count):
        _ = device.context
    before = cpu()
    meter = _Meter()
    for connection in _opened(port, islice(cycle(devices), count), host_name):
        connection.close()
    load = meter.load(count)
    sleep(SETTLE)
    return load, cpu() - before


def connect(port: int, devices: Sequence[Device], host_name: str, at_once: int = AT_ONCE) -> list[Connection]:
    """All of `devices` connected."""
    connections: list[Connection] = []
    for connection in _opened(port, devices, host_name, at_once):
        connection.take_keys()
        connections.append(connection)
    return connections


def close(connections: Iterable[Connection]) -> None:
    """End them all."""
    for connection in connections:
        connection.close()


def publish(connections: Sequence[Connection], window: int, count: int, cpu: Callable[[], float]) -> tuple[Load, float]:
    """`count` QoS 1 publishes in all, `window` unacknowledged on each connection; `cpu` reads the server's."""
    each = count // len(connections)
    buffers = _prepared(connections, each)
    with select.epoll() as epoll:
        for fd in buffers:
            epoll.register(fd, _READ)
        before = cpu()
        meter = _Meter()
        waiting = each * len(connections)
        for connection in connections:
            connection.publish(window)
        while waiting:
            events = epoll.poll(5.0)
            if not events:
                raise LoadError(f"no PUBACK within 5 seconds, {waiting} are missing")
            for fd, _ in events:
                connection = buffers[fd]
                acked = connection.acknowledged()
                if acked:
                    waiting -= acked
                    connection.publish(acked)
            meter.check()
        load = meter.load(each * len(connections))
    sleep(SETTLE)
    used = cpu() - before
    _check(connections, each)
    return load, used


def paced(connections: Sequence[Connection], rate: int, seconds: float, cpu: Callable[[], float]) -> tuple[Load, float]:
    """`rate` QoS 1 publishes a second in even steps, a connection after the other, with the time to each PUBACK."""
    each = int(rate * seconds) // len(connections)
    total = each * len(connections)
    buffers = _prepared(connections, each)
    latencies: list[float] = []
    with select.epoll() as epoll:
        for fd in buffers:
            epoll.register(fd, _READ)
        turns = cycle(connections)
        before = cpu()
        meter = _Meter()
        start = perf_counter()
        sent = acked = 0
        while acked < total:
            now = perf_counter()
            due = min(int((now - start) * rate) + 1, total)
            for connection in islice(turns, due - sent):
                connection.sent_at = now
                connection.publish(1)
            sent = due
            for fd, _ in epoll.poll(0):
                connection = buffers[fd]
                count = connection.acknowledged()
                if count:
                    latencies.append(perf_counter() - connection.sent_at)
                    acked += count
            meter.check()
        load = meter.load(total, latencies)
    sleep(SETTLE)
    used = cpu() - before
    _check(connections, each)
    return load, used


def _prepared(connections: Sequence[Connection], each: int) -> dict[int, Connection]:
    for connection in connections:
        connection.prepare(each)
    gc.collect()
    return {connection.fd: connection for connection in connections}


def _check(connections: Sequence[Connection], each: int) -> None:
    for connection in connections:
        count = connection.check()
        if count != each:
            raise LoadError(f"{count} PUBACKs for {each} publishes")
