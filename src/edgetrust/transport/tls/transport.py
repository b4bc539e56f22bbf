"""TLS as an asyncio transport: a protocol runs over it as it would over TCP. One object per connection does both jobs.

Rules:
1. The protocol exists from the end of the handshake on, sees each wake-up's plaintext in one piece, and
   `connection_lost` once.
2. All connections of a loop share one read buffer, one cork and one wheel of deadlines (`LoopShare`). What a
   protocol writes while it is being called goes out in one send when it returns; at other times in one send at the
   end of the loop's turn.
3. A peer that does not read pauses the protocol at the high-water mark and is cut off when it takes nothing for a
   while.
4. `close` sends what was written and close_notify, then gives the peer a moment to take it. The end of TCP without
   close_notify is a cut: it reaches the protocol as an error, so that nobody takes half a message for a whole one.

It must not know who listens or connects beyond `Owner`, nor what the protocol speaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

from edgetrust import limits
from edgetrust.errors import Error
from edgetrust.transport.tls.engine import CUT, LATE, NOT_TLS, Buffer, TlsEngine, TlsError
from edgetrust.transport.wheel import Wheel

_shares: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopShare] = WeakKeyDictionary()


class LoopShare:
    """What the connections of one event loop share."""

    __slots__ = ("__weakref__", "_corked", "_loop", "buffer", "wheel")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._corked: list[TlsTransport] = []
        self.buffer = memoryview(bytearray(limits.READ_CHUNK_BYTES))
        self.wheel = Wheel(loop)

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> LoopShare:
        """The share of `loop`, the same one every time."""
        share = _shares.get(loop)
        if share is None:
            share = _shares[loop] = cls(loop)
        return share

    def cork(self, transport: TlsTransport) -> None:
        """Flush `transport` at the end of this turn of the loop."""
        if not self._corked:
            self._loop.call_soon(self._flush)
        self._corked.append(transport)

    def _flush(self) -> None:
        corked, self._corked = self._corked, []
        for transport in corked:
            transport.flush()


class Owner(Protocol):
    """Who accepted or opened the connection."""

    def admit(self, transport: TlsTransport) -> TlsEngine | None:
        """TCP is there. The engine to use, or None to drop the connection without a word."""
        ...

    def shaken(self, transport: TlsTransport) -> asyncio.Protocol:
        """The handshake is done: the protocol that runs over it."""
        ...

    def failed(self, transport: TlsTransport, error: Error) -> None:
        """There will be no handshake. `gone` follows."""
        ...

    def gone(self, transport: TlsTransport) -> None:
        """TCP has ended; called once for every connection that was admitted."""
        ...


class ConnectionCutError(ConnectionError):
    """The connection ended without the end of TLS: by a reset, a broken record, or TCP's end without close_notify."""


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """One TLS connection: a protocol to the event loop below, a transport to the protocol above."""

    __slots__ = (
        *("_calling", "_cause", "_closing", "_engine", "_held", "_inner", "_lower", "_out", "_out_bytes", "_owner"),
        *("_paused", "_peer_chain", "_share", "_stuck_at", "asked_for", "has_spoken", "is_shaken", "peer", "tick"),
    )

    def __init__(self, owner: Owner, share: LoopShare) -> None:
        self._owner = owner
        self._share = share
        self._lower: asyncio.Transport | None = None
        self._engine: TlsEngine | None = None
        self._inner: asyncio.BaseProtocol | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._held = b""  # plaintext that came while reading was paused
        self._peer_chain: tuple[bytes, ...] = ()
        self._cause: Exception | None = None
        self._calling = False  # the protocol above is being called
        self._closing = False
        self._paused = False
        self._stuck_at: int | None = None  # bytes unsent when writing was paused, or at the last look
        self.asked_for: str | None = None  # the name in the hello, where somebody has read it
        self.has_spoken = False  # the peer, to the protocol above
        self.is_shaken = False  # the handshake was done, whatever came after it
        self.peer: tuple[str, int] = ("unknown", 0)  # address and port
        self.tick = 0

    # From the event loop --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        lower = self._lower = cast("asyncio.Transport", transport)  # uvloop's transports are no subclass
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):  # a peer that is gone already has none
            self.peer = (peer[0], peer[1])
        engine = self._owner.admit(self)
        if engine is None:
            self._closing = True
            lower.abort()
            return
        self._engine = engine
        lower.set_write_buffer_limits(limits.WRITE_HIGH_WATER_BYTES, limits.WRITE_LOW_WATER_BYTES)
        self._share.wheel.arm(self, limits.HANDSHAKE_SECONDS)
        engine.start()
        self._send(engine)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._share.buffer

    def buffer_updated(self, nbytes: int) -> None:
        engine = self._engine
        if engine is None or self._closing:
            return
        try:
            engine.feed(self._share.buffer[:nbytes])
            if self._inner is None:
                self._shake(engine)
                return
        except Error as error:
            self._broken(engine, error)
            return
        self._deliver(engine.read())
        if engine.closed:
            self._ended(None)

    def eof_received(self) -> None:
        cut = "the connection was cut without the end of TLS"
        if self._inner is None:
            self._fail(TlsError(cut, reason=CUT))
        elif not self._closing:
            self._ended(ConnectionCutError(cut))

    def pause_writing(self) -> None:
        self._stuck_at = self.get_write_buffer_size()
        if not self._closing:
            self._share.wheel.arm(self, limits.SLOW_READER_SECONDS)
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._stuck_at = None
        if not self._closing:
            self._share.wheel.disarm(self)
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._share.wheel.disarm(self)
        admitted = self._engine is not None
        if admitted and self._inner is None and not self._closing:
            self._owner.failed(self, TlsError("the connection was lost", reason=CUT))
        self._closing = True
        inner, self._inner, self._engine = (
            self._inner,
            None,
            None,
        )  # the SSL object goes now, not when somebody collects
        self._out.clear()
        if inner is not None:
            inner.connection_lost(self._cause or exc)
        if admitted:
            self._owner.gone(self)

    def deadline_passed(self) -> float | None:
        """Handshake, slow reader and linger: a connection is in one of these states at a time."""
        if self._inner is None and not self._closing:
            self._fail(TlsError(f"no TLS handshake in {limits.HANDSHAKE_SECONDS:g} seconds", reason=LATE))
            return None
        left = self.get_write_buffer_size()
        if not self._closing and (self._stuck_at is None or left < self._stuck_at):
            self._stuck_at = left
            return limits.SLOW_READER_SECONDS
        self._cause = self._cause or ConnectionCutError("the peer does not read")
        self.abort()
        return None

    # Inside ---------------------------------------------------------------------------------------------------------

    def _shake(self, engine: TlsEngine) -> None:
        if not engine.handshake_done:
            self._send(engine)
            return
        self._peer_chain = engine.peer_chain()
        self._share.wheel.disarm(self)
        self._calling = self.is_shaken = True
        inner = self._inner = self._owner.shaken(self)
        inner.connection_made(self)
        self._calling = False
        self.flush()  # the end of the handshake goes out whatever the protocol has to say
        self._deliver(engine.read())
        if engine.closed:
            self._ended(None)

    def _deliver(self, plain: bytes) -> None:
        """Hand up one wake-up's plaintext, and send what that made the protocol write. TLS itself may have something to
        say when no plaintext came; beside plaintext it has time until the next write.
        """
        if plain and not self._closing:
            self.has_spoken = True
            if self._paused:
                self._held += plain
            else:
                self._calling = True
                try:
                    self._inner.data_received(plain)  # type: ignore[union-attr]  # the protocol above is a streaming one
                finally:
                    self._calling = False
        if self._out or not plain:
            self.flush()

    def _ended(self, cause: Exception | None) -> None:
        """The peer sends no more: by close_notify, or else by `cause`."""
        if self._closing:
            return
        if cause is None and isinstance(self._inner, asyncio.Protocol):
            self._inner.eof_received()
        self._cause = self._cause or cause
        self.close()

    def _broken(self, engine: TlsEngine, error: Error) -> None:
        if self._inner is None:
            self._fail(error)
            return
        self._cause = ConnectionCutError(error.message)
        self._deliver(engine.read())
        self.flush()  # the alert
        self._close_lower()

    def _fail(self, error: Error) -> None:
        """No handshake. What does not speak TLS gets no answer, everybody else the alert."""
        if self._closing:
            return
        self._closing = True
        self._owner.failed(self, error)
        if self._engine is not None and error.reason != NOT_TLS:
            self._send(self._engine)
        self._close_lower()

    def _send(self, engine: TlsEngine) -> None:
        ciphertext = engine.take()
        if ciphertext and self._lower is not None:
            self._lower.write(ciphertext)

    def _close_lower(self) -> None:
        self._closing = True
        if self._lower is not None:
            self._share.wheel.arm(self, limits.CLOSE_SECONDS)
            self._lower.close()

    # For the protocol above -----------------------------------------------------------------------------------------

    @property
    def peer_chain(self) -> tuple[bytes, ...]:
        """The peer's certificates in DER, the end entity first; empty if it has shown none."""
        return self._peer_chain

    @property
    def share(self) -> LoopShare:
        """What the connections of this loop share."""
        return self._share

    def write(self, data: Buffer) -> None:
        """Take in bytes to send. After `close` they go nowhere."""
        if self._closing or not data:
            return
        self._out.append(data if isinstance(data, bytes) else bytes(data))
        self._out_bytes += len(data)
        if self._out_bytes > limits.CORK_BYTES:
            self.flush()
        elif len(self._out) == 1 and not self._calling:
            self._share.cork(self)

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        self.write(b"".join(list_of_data))

    def flush(self) -> None:
        """Send what was written, in one send."""
        engine, out = self._engine, self._out
        if engine is None:
            return
        if out:
            self._out, self._out_bytes = [], 0
            try:
                engine.write(out[0] if len(out) == 1 else b"".join(out))
            except TlsError as error:
                self._cause = self._cause or ConnectionCutError(error.message)
                self.abort()
                return
        ciphertext = engine.take()
        if ciphertext and self._lower is not None:
            self._lower.write(ciphertext)

    def close(self) -> None:
        """Send what was written and close_notify, then close."""
        if self._closing:
            return
        self._closing = True
        self.flush()
        engine = self._engine
        if engine is not None and self._lower is not None and not self._lower.is_closing():
            with suppress(TlsError):  # after a fatal alert there is nothing to say
                engine.close()
            self._send(engine)
        self._close_lower()

    def stop(self, cause: Exception) -> None:
        """Close, and say why to the protocol above."""
        self._cause = self._cause or cause
        self.close()

    def abort(self) -> None:
        """Drop the connection, unsent bytes included."""
        self._closing = True
        if self._lower is not None:
            self._lower.abort()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        if not self._paused and not self._closing and self._lower is not None:
            self._paused = True
            self._lower.pause_reading()

    def resume_reading(self) -> None:
        if not self._paused:
            return
        self._paused = False
        if self._closing or self._lower is None:
            return
        held, self._held = self._held, b""
        if held:
            self._deliver(held)
        if not self._paused and not self._closing:
            self._lower.resume_reading()

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def get_write_buffer_size(self) -> int:
        """Bytes that have not reached the kernel."""
        return self._out_bytes + (0 if self._lower is None else self._lower.get_write_buffer_size())

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return (limits.WRITE_LOW_WATER_BYTES, limits.WRITE_HIGH_WATER_BYTES)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self._lower is not None:
            self._lower.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._inner is not None
        return self._inner

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`peer_chain`, `tls_version`, `tls_unique`, `cipher`, `server_name`, `tls_engine`; else what TCP knows.

        `sslcontext` is there for protocols that ask it in order to know whether they run over TLS.
        """
        if name == "peer_chain":
            return self._peer_chain
        engine = self._engine
        ask = _OF_ENGINE.get(name)
        if ask is not None:
            return default if engine is None else ask(engine)
        return default if self._lower is None else self._lower.get_extra_info(name, default)


_OF_ENGINE: dict[str, Callable[[TlsEngine], Any]] = {
    "tls_engine": lambda engine: engine,
    "sslcontext": lambda engine: engine,
    "tls_version": lambda engine: engine.version,
    "tls_unique": lambda engine: engine.tls_unique,
    "cipher": lambda engine: engine.cipher,
    "server_name": lambda engine: engine.server_name,
}
