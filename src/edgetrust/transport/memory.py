"""A network in memory: two protocols connected without sockets, for tests and demonstrations of failure.

It behaves as TCP on the event loop does: bytes arrive in a later turn of the loop, a reader that pauses makes its
writer pause, close delivers what was written, abort does not. On request it is a bad network: it cuts a stream into
small pieces, or breaks it after a number of bytes.

It must not know TLS or MQTT.
"""

from __future__ import annotations

import asyncio
from typing import Any

from edgetrust import limits
from edgetrust.transport.tls.engine import Buffer

_LEFT = ("192.0.2.1", 50_000)
_RIGHT = ("192.0.2.2", 8883)


class MemoryTransport(asyncio.Transport):
    """One end of a stream. The other gets at most `piece_bytes` at once; after `cut_after` bytes both are reset."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.BaseProtocol, peer: tuple[str, int]) -> None:
        super().__init__({"peername": peer})
        self.other: MemoryTransport | None = None
        self.piece_bytes = limits.READ_CHUNK_BYTES
        self.cut_after: int | None = None
        self._loop = loop
        self._protocol = protocol
        self._unread = bytearray()  # written by this end, not yet taken by the other
        self._reading = True
        self._closing = False
        self._lost = False
        self._scheduled = False
        self._writer_paused = False
        self._high, self._low = limits.WRITE_HIGH_WATER_BYTES, limits.WRITE_LOW_WATER_BYTES

    def write(self, data: Buffer) -> None:
        """Send. After `close` the bytes go nowhere."""
        if self._closing:
            return
        self._unread += data
        self._schedule()
        if len(self._unread) > self._high and not self._writer_paused:
            self._writer_paused = True
            self._protocol.pause_writing()

    def close(self) -> None:
        """Let the other end take what was written, then end both."""
        if not self._closing:
            self._closing = True
            self._schedule()

    def abort(self) -> None:
        """End both at once; the other end sees a reset."""
        self._closing = True
        self._loop.call_soon(self._lose, None)
        if self.other is not None:
            self._loop.call_soon(self.other._lose, ConnectionResetError("reset by the other end"))

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        if self.other is not None:
            self.other._schedule()

    def is_reading(self) -> bool:
        return self._reading

    def get_write_buffer_size(self) -> int:
        return len(self._unread)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = limits.WRITE_HIGH_WATER_BYTES if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return (self._low, self._high)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._move)

    def _move(self) -> None:
        """One piece to the other end, or the end of the stream."""
        self._scheduled = False
        other = self.other
        if other is None or other._lost:
            if self._closing:
                self._lose(None)  # nobody takes the rest
            return
        if not other._reading:
            return
        if not self._unread:
            if self._closing:
                self._finish(other)
            return
        size = min(len(self._unread), self.piece_bytes)
        if self.cut_after is not None:
            if size >= self.cut_after:
                self.abort()
                return
            self.cut_after -= size
        piece = bytes(self._unread[:size])
        del self._unread[:size]
        if self._writer_paused and len(self._unread) <= self._low:
            self._writer_paused = False
            self._protocol.resume_writing()
        self._schedule()
        _hand_over(other._protocol, piece)

    def _finish(self, other: MemoryTransport) -> None:
        self._lose(None)
        if not other._closing and not _eof(other._protocol):
            other.close()

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._protocol.connection_lost(error)


def _hand_over(protocol: asyncio.BaseProtocol, piece: bytes) -> None:
    if isinstance(protocol, asyncio.BufferedProtocol):
        buffer: Any = protocol.get_buffer(len(piece))
        buffer[: len(piece)] = piece
        protocol.buffer_updated(len(piece))
    elif isinstance(protocol, asyncio.Protocol):
        protocol.data_received(piece)


def _eof(protocol: asyncio.BaseProtocol) -> bool:
    """The other end says no more; whether this end wants to go on."""
    if isinstance(protocol, asyncio.Protocol | asyncio.BufferedProtocol):
        return bool(protocol.eof_received())
    return False


def memory_pair(
    left: asyncio.BaseProtocol, right: asyncio.BaseProtocol, *, piece_bytes: int = limits.READ_CHUNK_BYTES
) -> tuple[MemoryTransport, MemoryTransport]:
    """Connect two protocols; both have had `connection_made` when this returns, the right one (a server) first."""
    loop = asyncio.get_running_loop()
    ends = MemoryTransport(loop, left, _RIGHT), MemoryTransport(loop, right, _LEFT)
    ends[0].other, ends[1].other = ends[1], ends[0]
    for end in ends:
        end.piece_bytes = piece_bytes
    right.connection_made(ends[1])
    left.connection_made(ends[0])
    return ends
