"""Passing connections on: a ClientHello is read, and the connection either gets TLS here or goes on, untouched, to
somebody else. TLS then runs from the client to that somebody, so that client certificates keep proving what they prove.

Rules:
1. Whether a name goes elsewhere, and to where, is the `Forwarder`'s decision, made before anything is dialled. What has
   no readable hello, or a name that nobody forwards, gets TLS here, with every byte that came.
2. A hello has a deadline and a size; the connection counts for its address from its first byte on.
3. Bytes go both ways as they come. A side that does not read stops the other one; the end of one direction is passed
   on and leaves the other open; a connection in which nothing moves for a while is cut.
4. A client that cannot be passed on gets a TLS alert, so that it need not guess.

It must not know names, nor what is inside.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

from edgetrust import limits
from edgetrust.errors import Error, PeerError, UnavailableError
from edgetrust.protocol.client_hello import HelloError, HelloReader
from edgetrust.transport.tls.engine import CUT, LATE, TlsError
from edgetrust.transport.tls.transport import LoopShare

_ALERT: Final = b"\x15\x03\x03\x00\x02\x02\x50"  # fatal, internal_error (RFC 8446, 6)


@dataclass(frozen=True, slots=True)
class Target:
    """Where connections for `name` go: `host` is dialled. `lookup` is held while its address is asked for, so that many
    connections do not take the threads that resolve names.
    """

    name: str
    host: str
    port: int
    lookup: asyncio.Lock = field(default_factory=asyncio.Lock, compare=False, repr=False)


class Forwarder(Protocol):
    """Who decides about names, and hears what became of it."""

    def target(self, name: str | None, peer: tuple[str, int]) -> Target | None:
        """Where a client that asks for `name` goes; None: it is served here. Raises PeerError when it is refused.

        `ended` follows for every target that was given.
        """
        ...

    def moved(self, target: Target, up: int, down: int) -> None:
        """So many bytes went to the target, so many came back."""
        ...

    def unreachable(self, target: Target, peer: tuple[str, int], problem: Error) -> None:
        """The target cannot be reached. `ended` follows."""
        ...

    def ended(self, target: Target, peer: tuple[str, int]) -> None:
        """The connection is over."""
        ...

    def left_at_once(self, name: str, peer: tuple[str, int]) -> None:
        """A client asked for `name`, was shown our certificate, and left without a word: it meant somebody else."""
        ...


class Host(Protocol):
    """The listener, as far as it concerns connections whose hello is being read."""

    forwarder: Forwarder | None

    def arrived(self, greeted: Greeted) -> bool:
        """TCP is there. Whether this address may have one connection more; `left` follows then."""
        ...

    def passes_on(self, greeted: Greeted) -> None:
        """The hello was read; the connection goes elsewhere."""
        ...

    def failed(self, connection: Greeted, error: Error) -> None:
        """There was no hello."""
        ...

    def left(self, greeted: Greeted) -> None:
        """TCP has ended, or somebody else has it now."""
        ...

    def speaks_tls(self, lower: asyncio.Transport, received: bytearray, name: str | None) -> None:
        """TLS begins here, with what was received; the client asks for `name`."""
        ...


class Greeted(asyncio.BufferedProtocol):
    """A connection of which nothing is known but what it says first."""

    __slots__ = ("_ended", "_host", "_lower", "_passed", "_reader", "_share", "passes_on", "peer", "tick")

    def __init__(self, host: Host, share: LoopShare) -> None:
        self._host = host
        self._share = share
        self._reader = HelloReader()
        self._lower: asyncio.Transport | None = None
        self._passed: _Passed | None = None
        self._ended = False
        self.passes_on = False  # its hello was read, and it goes elsewhere
        self.peer: tuple[str, int] = ("unknown", 0)
        self.tick = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._lower = cast("asyncio.Transport", transport)  # uvloop's transports are no subclass
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = (peer[0], peer[1])
        if not self._host.arrived(self):
            self._ended = True
            self._lower.abort()
            return
        self._share.wheel.arm(self, limits.CLIENT_HELLO_SECONDS)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._share.buffer[: limits.CLIENT_HELLO_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        if self._ended or self._lower is None:
            return
        try:
            self._reader.feed(self._share.buffer[:nbytes])
        except HelloError:
            self._serve_here(self._lower)  # TLS says what is wrong with it
            return
        if self._reader.complete:
            self._decide(self._lower)

    def eof_received(self) -> None:
        self._fail(TlsError("the connection was cut without the end of TLS", reason=CUT))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(TlsError("the connection was lost", reason=CUT))

    def deadline_passed(self) -> float | None:
        """The hello took too long."""
        self._fail(TlsError(f"no TLS hello in {limits.CLIENT_HELLO_SECONDS:g} seconds", reason=LATE))
        return None

    def stop(self, cause: Exception) -> None:
        """End the connection in order."""
        del cause
        self.abort()

    def abort(self) -> None:
        """Drop the connection."""
        if self._passed is not None:
            self._passed.cut()
        elif self._lower is not None:
            self._lower.abort()

    def _decide(self, lower: asyncio.Transport) -> None:
        forwarder = self._host.forwarder
        assert forwarder is not None, "without one nobody reads hellos"
        try:
            target = forwarder.target(self._reader.name, self.peer)
        except PeerError:
            self._refuse(lower)
            return
        if target is None:
            self._serve_here(lower)
            return
        self._share.wheel.disarm(self)
        self.passes_on = True
        self._host.passes_on(self)
        passed = _Passed(forwarder, target, self.peer, self._share, lambda: self._host.left(self))
        self._passed = passed
        self._ended = True
        passed.begin(lower, bytes(self._reader.received))

    def _serve_here(self, lower: asyncio.Transport) -> None:
        self._ended = True
        self._share.wheel.disarm(self)
        self._host.left(self)
        self._host.speaks_tls(lower, self._reader.received, self._reader.name)

    def _fail(self, error: Error) -> None:
        if self._ended:
            return
        self._host.failed(self, error)
        self._end()

    def _refuse(self, lower: asyncio.Transport) -> None:
        lower.write(_ALERT)
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._share.wheel.disarm(self)
        if self._lower is not None:
            self._lower.close()
        self._host.left(self)


class _Passed:
    """A connection that goes elsewhere: two halves, and the one way to end both."""

    __slots__ = (
        *("_closing", "_dialling", "_done", "_far", "_forwarder", "_moved", "_near", "_over", "_share"),
        *("peer", "target", "tick"),
    )

    def __init__(
        self,
        forwarder: Forwarder,
        target: Target,
        peer: tuple[str, int],
        share: LoopShare,
        done: Callable[[], None],
    ) -> None:
        self._forwarder = forwarder
        self._share = share
        self._done = done
        self._near = _Half(self, share, up=True)
        self._far = _Half(self, share, up=False)
        self._near.other, self._far.other = self._far, self._near
        self._dialling: asyncio.Task[None] | None = None
        self._moved = False  # something, since the last look
        self._closing = self._over = False
        self.target = target
        self.peer = peer
        self.tick = 0

    def begin(self, near: asyncio.Transport, first: bytes) -> None:
        """Dial the target, and give it what the client has said so far."""
        near.pause_reading()
        near.set_protocol(self._near)
        self._near.connection_made(near)
        self._dialling = asyncio.get_running_loop().create_task(self._dial(first, near.get_extra_info("sockname")))

    async def _dial(self, first: bytes, here: object) -> None:
        target = self.target
        try:
            async with asyncio.timeout(limits.FORWARD_CONNECT_SECONDS):
                await self._connect(here)
        except (OSError, TimeoutError) as error:
            why = str(error) or f"no connection within {limits.FORWARD_CONNECT_SECONDS:g} seconds"
            problem = UnavailableError(
                f"{target.name} cannot be reached at {target.host}, port {target.port}: {why}",
                reason="forward-unreachable",
                fix="look whether it listens there, and at names and firewalls in between",
            )
            self._forwarder.unreachable(target, self.peer, problem)
            self._near.write(_ALERT)
            self.end()
            return
        self._far.write(first)
        self.count(len(first), up=True)
        self._share.wheel.arm(self, limits.FORWARD_IDLE_SECONDS)
        self._near.resume()

    async def _connect(self, here: object) -> None:
        """Try the target's addresses in their order. Raises OSError."""
        loop, target = asyncio.get_running_loop(), self.target
        async with target.lookup:
            found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        problem = OSError("it has no address")
        for *_, address in found:
            if address == here:
                problem = OSError("its name leads back to this listener")
                continue
            try:
                await loop.create_connection(lambda: self._far, str(address[0]), int(address[1]))
            except OSError as error:
                problem = error
            else:
                return
        raise problem

    def count(self, size: int, *, up: bool) -> None:
        """Bytes that were passed on."""
        self._moved = True
        self._forwarder.moved(self.target, size if up else 0, 0 if up else size)

    def deadline_passed(self) -> float | None:
        """Time to look whether anything has moved, or whether a peer has taken the last of it."""
        if self._moved and not self._closing:
            self._moved = False
            return limits.FORWARD_IDLE_SECONDS
        self.cut()
        return None

    def end(self) -> None:
        """End both sides when what was written has gone, or after a moment."""
        if not self._closing:
            self._closing = True
            self._stop_dialling()
            self._share.wheel.arm(self, limits.CLOSE_SECONDS)
            self._near.close()
            self._far.close()

    def cut(self) -> None:
        """End both sides at once."""
        self._closing = True
        self._stop_dialling()
        self._share.wheel.disarm(self)
        self._near.abort()
        self._far.abort()

    def _stop_dialling(self) -> None:
        if self._dialling is not None and self._dialling is not asyncio.current_task():
            self._dialling.cancel()

    def lost(self, *, cut: bool) -> None:
        """One side is gone: the other one follows."""
        if cut:
            self.cut()
        else:
            self.end()
        if self._near.gone and self._far.gone and not self._over:
            self._over = True
            self._share.wheel.disarm(self)
            self._forwarder.ended(self.target, self.peer)
            self._done()


class _Half(asyncio.BufferedProtocol):
    """One side of a connection that goes elsewhere. `up`: what comes in here goes to the target."""

    __slots__ = ("_at_end", "_lower", "_passed", "_share", "_up", "other")

    other: _Half

    def __init__(self, passed: _Passed, share: LoopShare, *, up: bool) -> None:
        self._passed = passed
        self._share = share
        self._up = up
        self._lower: asyncio.Transport | None = None
        self._at_end = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._lower = cast("asyncio.Transport", transport)
        self._lower.set_write_buffer_limits(limits.FORWARD_BUFFER_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._share.buffer[: limits.FORWARD_BUFFER_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        self.other.write(bytes(self._share.buffer[:nbytes]))
        self._passed.count(nbytes, up=self._up)

    def eof_received(self) -> bool:
        self._at_end = True
        if self.other._at_end:
            self._passed.end()
        self.other.write_eof()
        return True  # what comes the other way still has its way

    def pause_writing(self) -> None:
        if self.other._lower is not None:
            self.other._lower.pause_reading()

    def resume_writing(self) -> None:
        self.other.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lower = None
        self._passed.lost(cut=exc is not None)

    # For the other half ---------------------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """There is no connection on this side, or none yet."""
        return self._lower is None

    def write(self, data: bytes) -> None:
        """Send."""
        if self._lower is not None:
            self._lower.write(data)

    def write_eof(self) -> None:
        """Send nothing more."""
        if self._lower is not None and not self._lower.is_closing():
            self._lower.write_eof()

    def resume(self) -> None:
        """Read on."""
        if self._lower is not None and not self._lower.is_closing():
            self._lower.resume_reading()

    def close(self) -> None:
        """Close when everything is sent."""
        if self._lower is not None:
            self._lower.close()

    def abort(self) -> None:
        """Close now."""
        if self._lower is not None:
            self._lower.abort()
