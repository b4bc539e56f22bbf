"""One MQTT connection of a server: bytes to packets, deadlines, and a handler that decides what the packets mean.

Rules:
1. A CONNECT must be complete within its deadline. The handler's `connect` answers it; what the client sends
   meanwhile waits in the bounds of the protocol and is handed over when `connect` returns.
2. After that the handler gets all packets of one wake-up in one call, and what it sends meanwhile leaves in one send.
3. Silence longer than the keep alive allows ends the connection; while the handler has paused reading, silence is
   ours.
4. A client that does not read is not read from either, and is cut off when too much waits for it.
5. A protocol error, a handler's exception and the end of TCP end this connection and no other. `lost` is called once.

It must not know devices, credentials or topics.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import structlog

from edgetrust import limits
from edgetrust.protocol.mqtt.connection import MqttConnection, State
from edgetrust.protocol.mqtt.faults import MqttProtocolError
from edgetrust.protocol.mqtt.packets import Connect, Disconnect, Packet
from edgetrust.telemetry import EVENT_CLOSED, EVENT_CONNECTION_FAULT
from edgetrust.transport.addresses import peer_address
from edgetrust.transport.tls.transport import LoopShare

_log = structlog.get_logger()


class MqttStream(Protocol):
    """A connection, as handlers see it. `peer_chain` is DER, the end entity first; `peer_address` is for people."""

    @property
    def peer_chain(self) -> tuple[bytes, ...]: ...

    @property
    def peer_address(self) -> str: ...

    @property
    def is_closing(self) -> bool: ...

    def send(self, data: bytes) -> None:
        """Send encoded packets. After `close` they go nowhere."""
        ...

    def close(self, cause: str) -> None:
        """Send what was given to `send`, then close. The first cause is the one that `lost` gets."""
        ...

    def set_keep_alive(self, seconds: float) -> None:
        """From now on, end the connection after `seconds` of silence: the keep alive with its grace."""
        ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class MqttHandler(Protocol):
    """What a connection's packets are given to."""

    async def connect(self, packet: Connect, stream: MqttStream) -> None:
        """Answer the CONNECT: CONNACK 0, or another one and `close`."""
        ...

    def packets(self, packets: list[Packet]) -> None:
        """Everything after the CONNECT, in order; all packets of one wake-up."""
        ...

    def lost(self, cause: str, clean: bool) -> None:
        """The connection is gone. `clean`: the client had said DISCONNECT. Called once, also without a CONNECT."""
        ...


class MqttServerProtocol(asyncio.Protocol):
    """The asyncio protocol of one accepted connection, and its handler's stream."""

    __slots__ = (
        *("_cause", "_clean", "_client_slow", "_connection", "_handler", "_loop", "_paused", "_seen_at", "_share"),
        *("_silence", "_task", "_transport", "peer_address", "peer_chain", "tick"),
    )

    def __init__(self, handler: Callable[[], MqttHandler]) -> None:
        self._handler = handler()
        self._connection = MqttConnection("server")
        self._loop = asyncio.get_running_loop()
        self._share = LoopShare.of(self._loop)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._cause = ""
        self._clean = False
        self._paused = False  # by the handler
        self._client_slow = False  # by the transport: too much waits to be sent
        self._silence = 0.0  # how long silence is allowed; 0 before the CONNECT was accepted
        self._seen_at = 0.0
        self.peer_chain: tuple[bytes, ...] = ()
        self.peer_address = ""
        self.tick = 0

    # From the transport ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.peer_chain = transport.get_extra_info("peer_chain", ())
        self.peer_address = peer_address(transport.get_extra_info("peername"))
        self._share.wheel.arm(self, limits.CONNECT_SECONDS)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._seen_at = self._loop.time()
        try:
            packets = self._connection.receive(data)
        except MqttProtocolError as fault:
            self._broken(fault)
            return
        if packets:
            self._handle(packets)

    def eof_received(self) -> None:
        self._cause = self._cause or "the client closed the connection without DISCONNECT"

    def pause_writing(self) -> None:
        self._client_slow = True
        self._read_or_not()

    def resume_writing(self) -> None:
        self._client_slow = False
        self._read_or_not()

    def connection_lost(self, exc: Exception | None) -> None:
        self._share.wheel.disarm(self)
        self._transport = None
        cause = self._cause or (str(exc) if exc is not None else "the connection was closed")
        _log.debug(EVENT_CLOSED, peer=self.peer_address, cause=cause)
        try:
            self._handler.lost(cause, self._clean)
        except Exception as error:  # noqa: BLE001 - one connection's fault must not reach another
            self._fault(error)

    def deadline_passed(self) -> float | None:
        """No CONNECT in time, or too long a silence."""
        if not self._silence:
            self.close(f"no CONNECT in {limits.CONNECT_SECONDS:g} seconds")
            return None
        if self._paused or self._client_slow:
            return self._silence
        left = self._seen_at + self._silence - self._loop.time()
        if left > 0:
            return left
        self.close(f"nothing came for {self._silence:g} seconds, longer than the keep alive allows")
        return None

    # Inside ---------------------------------------------------------------------------------------------------------

    def _handle(self, packets: list[Packet]) -> None:
        first = packets[0]
        if type(first) is Connect:
            self._share.wheel.disarm(self)
            self._task = self._loop.create_task(self._admit(first))
            return
        self._clean = self._connection.state is State.OVER and isinstance(packets[-1], Disconnect)
        try:
            self._handler.packets(packets)
        except Exception as error:  # noqa: BLE001 - one connection's fault must not reach another
            self._fault(error)
        if self._clean:
            self.close("the client disconnected")

    async def _admit(self, packet: Connect) -> None:
        try:
            await self._handler.connect(packet, self)
        except Exception as error:  # noqa: BLE001 - one connection's fault must not reach another
            self._fault(error)
        self._task = None
        if self.is_closing:
            return
        try:
            packets = self._connection.accept()
        except MqttProtocolError as fault:
            self._broken(fault)
            return
        if packets:
            self._handle(packets)

    def _broken(self, fault: MqttProtocolError) -> None:
        """The client broke the protocol. What came before the fault counts, except a CONNECT."""
        if fault.before and not isinstance(fault.before[0], Connect):
            self._handle(list(fault.before))
        if fault.answer:
            self.send(fault.answer)
        self.close(f"{fault.reason}: {fault.message}")

    def _fault(self, error: Exception) -> None:
        _log.error(EVENT_CONNECTION_FAULT, peer=self.peer_address, detail=repr(error), exc_info=error)
        self.close("an error on our side")

    def _read_or_not(self) -> None:
        transport = self._transport
        if transport is None:
            return
        if self._paused or self._client_slow:
            transport.pause_reading()
        else:
            self._seen_at = self._loop.time()
            transport.resume_reading()

    # The stream -----------------------------------------------------------------------------------------------------

    @property
    def is_closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def send(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        transport.write(data)
        if self._client_slow and transport.get_write_buffer_size() > limits.WRITE_LIMIT_BYTES:
            self._cause = self._cause or f"{limits.WRITE_LIMIT_BYTES} bytes wait for a client that does not read"
            transport.abort()

    def close(self, cause: str) -> None:
        self._cause = self._cause or cause
        if self._transport is not None:
            self._transport.close()

    def set_keep_alive(self, seconds: float) -> None:
        self._silence = seconds
        self._seen_at = self._loop.time()
        if not self.is_closing:
            self._share.wheel.arm(self, seconds)

    def pause_reading(self) -> None:
        self._paused = True
        self._read_or_not()

    def resume_reading(self) -> None:
        self._paused = False
        self._read_or_not()
