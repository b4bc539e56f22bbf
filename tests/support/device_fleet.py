"""Many devices in one process: each publishes at quality 1 and remembers what was acknowledged, and what went wrong.

Python's TLS and packets by hand, so nothing of what is tested is trusted here. The devices run on a loop of their own,
in a thread; the rest of a test may block. Each device behaves as the device SDKs do: a connection that ends is made
anew after a moment, and what was not acknowledged is sent again, in order, before anything new.

A message is the number of its turn, from 1 on. `Tally` is what happened; a hub's log has to say the same.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

from support.raw_mqtt import CONNACK, PUBACK, packet, publish, text

KEEP_ALIVE = 120
HANDSHAKES_AT_ONCE = 16
RETRY_SECONDS, RETRY_MAX_SECONDS = 0.3, 3.0
WINDOW = 20  # unacknowledged messages of one device; it waits when there are more
IN_TIME = 30.0  # from the dial to the answer: longer is a refusal
_DISCONNECT = b"\xe0\x00"
T = TypeVar("T")


@dataclass(frozen=True)
class Credentials:
    """How one device proves who it is: a token as its password, or a certificate in its TLS context."""

    device: str
    hub: str
    password: str | None = None
    certificate: tuple[str, str] | None = None  # files: the chain, the key

    def connect(self) -> bytes:
        flags = 0x80 if self.password is None else 0xC0
        user = f"{self.hub}/{self.device}/?api-version=2021-04-12"
        body = text("MQTT") + bytes((4, flags)) + KEEP_ALIVE.to_bytes(2, "big") + text(self.device) + text(user)
        return packet(0x10, body if self.password is None else body + text(self.password))


@dataclass(frozen=True)
class Trouble:
    """Something that a device noticed. `at` is monotonic."""

    at: float
    device: str
    what: str


@dataclass
class Tally:
    """What happened to all devices. `dropped`: connections that ended without our doing. `refused`: handshakes and
    CONNECTs that were answered, but not with yes. `unreachable`: nobody was there to answer.
    """

    dropped: list[Trouble] = field(default_factory=list)
    refused: list[Trouble] = field(default_factory=list)
    unreachable: list[Trouble] = field(default_factory=list)
    handshakes: int = 0
    latencies: list[float] = field(default_factory=list)


class Device(asyncio.Protocol):
    """One device and its connection."""

    def __init__(self, credentials: Credentials, address: tuple[str, int, str], tally: Tally) -> None:
        self.credentials = credentials
        self.name = credentials.device
        self.address = address  # host to dial, port, name to verify
        self.acknowledged = 0  # messages 1 to this one, or those in `early`
        self.early: set[int] = set()
        self.sent = 0
        self.wanted = True
        self.connected = False
        self.connections = 0
        self._tally = tally
        self._topic = f"devices/{self.name}/messages/events/"
        self._waiting: dict[int, float] = {}  # message: when it was sent
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[int] | None = None
        self._over: asyncio.Future[None] | None = None
        self._leaving = False

    # Connection -----------------------------------------------------------------------------------------------------

    async def keep(self, context: Callable[[Device], ssl.SSLContext], gate: asyncio.Semaphore) -> None:
        """Be connected as long as that is `wanted`; try again after a while that grows."""
        pause = RETRY_SECONDS
        while self.wanted:
            async with gate:
                there = await self._open(context(self))
            if there:
                self._again()
                assert self._over is not None
                await self._over
            pause = RETRY_SECONDS if there else min(2 * pause, RETRY_MAX_SECONDS)
            if self.wanted:
                await asyncio.sleep(pause * (0.5 + random.random()))

    async def _open(self, context: ssl.SSLContext) -> bool:
        loop = asyncio.get_running_loop()
        host, port, name = self.address
        self._answer, self._over, self._buffer, self._leaving = loop.create_future(), loop.create_future(), b"", False
        try:
            async with asyncio.timeout(IN_TIME):
                await loop.create_connection(lambda: self, host, port, ssl=context, server_hostname=name)
                assert self._transport is not None
                self._transport.write(self.credentials.connect())
                code = await self._answer
        except ConnectionRefusedError as problem:
            self._note(self._tally.unreachable, repr(problem))
            return False
        except (ssl.SSLError, TimeoutError, OSError) as problem:
            if not self._leaving:  # else it was told to come again while it came
                self._note(self._tally.refused, repr(problem))
            self.abort()
            return False
        if code != 0:
            self._note(self._tally.refused, f"CONNACK {code}")
            self.abort()
            return False
        self._tally.handshakes += 1
        self.connections += 1
        self.connected = True
        return True

    def _again(self) -> None:
        """What was not acknowledged goes first, in order."""
        for number in sorted(self._waiting):
            self._write(number, again=True)

    def abort(self) -> None:
        """End TCP without a word."""
        self._leaving = True
        if self._transport is not None:
            self._transport.abort()

    def leave(self) -> None:
        """DISCONNECT, then the end; `keep` connects anew if that is still wanted."""
        self._leaving, self.connected = True, False
        if self._transport is not None:
            self._transport.write(_DISCONNECT)
            self._transport.close()

    def _note(self, where: list[Trouble], what: str) -> None:
        where.append(Trouble(time.monotonic(), self.name, what))

    # asyncio.Protocol -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.connected and not self._leaving:
            self._note(self._tally.dropped, repr(exc))
        self.connected = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError(f"closed before CONNACK: {exc!r}"))
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2 and len(self._buffer) >= 2 + self._buffer[1]:  # answers are under 128 bytes
            kind, body = self._buffer[0] >> 4, self._buffer[2 : 2 + self._buffer[1]]
            self._buffer = self._buffer[2 + len(body) :]
            if kind == PUBACK:
                self._acknowledge(int.from_bytes(body, "big"))
            elif kind == CONNACK and self._answer is not None and not self._answer.done():
                self._answer.set_result(body[1])

    # Messages -------------------------------------------------------------------------------------------------------

    def send(self) -> bool:
        """Publish the next message, if there is a connection that takes it; whether it was."""
        if not self.connected or len(self._waiting) >= WINDOW:
            return False
        self.sent += 1
        self._waiting[self.sent] = time.monotonic()
        self._write(self.sent)
        return True

    def _write(self, number: int, *, again: bool = False) -> None:
        if self._transport is not None:
            body = b"%d" % number
            self._transport.write(publish(self._topic, body, (number - 1) % 65535 + 1, dup=again))

    def _acknowledge(self, packet_id: int) -> None:
        number = next((one for one in self._waiting if (one - 1) % 65535 + 1 == packet_id), None)
        if number is None:  # acknowledged before, on another connection
            return
        self._tally.latencies.append(time.monotonic() - self._waiting.pop(number))
        self.early.add(number)
        while self.acknowledged + 1 in self.early:
            self.acknowledged += 1
            self.early.discard(self.acknowledged)

    @property
    def unacknowledged(self) -> int:
        return len(self._waiting)

    @property
    def all_acknowledged(self) -> set[int]:
        """Every message that the device believes to be safe."""
        return {*range(1, self.acknowledged + 1), *self.early}


class Fleet:
    """Devices in a thread of their own. `trust` is the PEM text of the roots that they believe in now."""

    def __init__(self, trust: str) -> None:
        self.devices: list[Device] = []
        self.tally = Tally()
        self._trust = trust
        self._shared: ssl.SSLContext | None = None
        self._own: dict[str, ssl.SSLContext] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fleet")
        self._keeping: set[asyncio.Task[None]] = set()
        self._publishing: asyncio.Task[None] | None = None
        self._gate: asyncio.Semaphore | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._do(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    async def _finish(self) -> None:
        await self._stop()
        for device in self.devices:
            device.wanted = False
            device.leave()
        await asyncio.wait(self._keeping, timeout=2)
        for device in self.devices:
            device.abort()
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        await asyncio.sleep(0.1)  # transports close their sockets in the next turns of the loop

    # Trust and credentials ------------------------------------------------------------------------------------------

    def believe(self, trust: str) -> None:
        """From the next connection on, these roots."""
        self._trust, self._shared = trust, None
        self._own.clear()

    def equip(self, device: Device, credentials: Credentials) -> None:
        """From its next connection on, the device shows this."""
        device.credentials = credentials
        self._own.pop(device.name, None)

    def _context(self, device: Device) -> ssl.SSLContext:
        files = device.credentials.certificate
        if files is None:
            if self._shared is None:
                self._shared = ssl.create_default_context(cadata=self._trust)
            return self._shared
        if device.name not in self._own:
            context = ssl.create_default_context(cadata=self._trust)
            context.load_cert_chain(*files)
            self._own[device.name] = context
        return self._own[device.name]

    # Connections ----------------------------------------------------------------------------------------------------

    def add(self, credentials: Iterable[Credentials], address: tuple[str, int, str]) -> list[Device]:
        """New devices that connect to an address: host, port, name to verify."""
        made = [Device(one, address, self.tally) for one in credentials]
        self.devices += made

        async def start() -> None:
            if self._gate is None:
                self._gate = asyncio.Semaphore(HANDSHAKES_AT_ONCE)
            for device in made:
                self._keeping.add(asyncio.create_task(device.keep(self._context, self._gate)))

        self._do(start())
        return made

    def reconnect(self, devices: Sequence[Device]) -> None:
        """These devices leave and come again."""

        async def leave() -> None:
            for device in devices:
                device.leave()

        self._do(leave())

    def wait_connected(self, seconds: float = 60) -> None:
        """Until everybody is there."""
        deadline = time.monotonic() + seconds
        while away := [device.name for device in self.devices if not device.connected]:
            assert time.monotonic() < deadline, f"{len(away)} are not connected: {away[:5]}, {self.tally.refused[-5:]}"
            time.sleep(0.05)

    # Messages -------------------------------------------------------------------------------------------------------

    def publish(self, rate: float) -> None:
        """Publish from now on, `rate` messages a second in all, each device in its turn."""

        async def start() -> None:
            self._publishing = asyncio.create_task(self._publish(rate))

        self._do(start())

    async def _publish(self, rate: float) -> None:
        start, done, turn = time.monotonic(), 0, 0
        while True:
            due = int((time.monotonic() - start) * rate)
            for _ in range(min(due - done, len(self.devices))):  # what could not be sent in time is not made up for
                self.devices[turn % len(self.devices)].send()
                turn += 1
            done = due
            await asyncio.sleep(0.02)

    async def _stop(self) -> None:
        if self._publishing is not None:
            self._publishing.cancel()
            with suppress(asyncio.CancelledError):
                await self._publishing
            self._publishing = None

    def settle(self, seconds: float = 60) -> None:
        """Publish nothing more, and wait until everything is acknowledged."""
        self._do(self._stop())
        deadline = time.monotonic() + seconds
        while waiting := sum(device.unacknowledged for device in self.devices):
            assert time.monotonic() < deadline, f"{waiting} messages are not acknowledged: {self}"
            time.sleep(0.05)

    def __str__(self) -> str:
        here = sum(device.connected for device in self.devices)
        tally = self.tally
        return (
            f"{here} of {len(self.devices)} connected; dropped: {summary(tally.dropped)}; refused: "
            f"{summary(tally.refused)}; unreachable: {summary(tally.unreachable)}"
        )

    # What to believe of a log ---------------------------------------------------------------------------------------

    @property
    def acknowledged(self) -> int:
        """How many messages are safe, as the devices see it."""
        return sum(device.acknowledged + len(device.early) for device in self.devices)

    def missing_from(self, log: dict[str, list[int]]) -> list[str]:
        """What the devices were told is safe and the log, messages by device in its order, does not have."""
        return [
            f"{device.name}: {sorted(gone)[:5]}"
            for device in self.devices
            if (gone := device.all_acknowledged - set(log.get(device.name, ())))
        ]

    def out_of_order(self, log: dict[str, list[int]]) -> list[str]:
        """Whose messages came in another order. One may come again; its first arrival counts (MQTT 3.1.1, 4.6)."""
        return [name for name, numbers in log.items() if (first := list(dict.fromkeys(numbers))) != sorted(first)]

    def outside(self, troubles: Iterable[Trouble], allowed: Sequence[tuple[float, float]]) -> list[Trouble]:
        """Troubles at a time when nothing was to happen."""
        return [one for one in troubles if not any(begin <= one.at <= end for begin, end in allowed)]


def summary(troubles: Iterable[Trouble]) -> str:
    """The commonest first."""
    return ", ".join(f"{count} x {what}" for what, count in Counter(one.what for one in troubles).most_common(4))
