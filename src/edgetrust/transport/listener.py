"""Listening: accepts TLS connections on one port and bounds what peers can make us hold.

Rules:
1. From one address come at most so many connections, and so many that have not finished their handshake; what is
   more is dropped without a word. An IPv6 network of 64 bits counts as one address, since a single site has at
   least that many.
2. The handshake has a deadline. Failures are counted by cause and logged; none of them disturbs another connection.
3. New handshakes use what the slot holds at that moment; open connections keep what they began with.
4. `localhost` means both loopback addresses, IPv6 only where the machine has it.
5. Closing stops accepting at once, ends connections in order and cuts those that are left when the grace period is
   over.
6. With a forwarder, what a client asks for is read first, and the connection may go elsewhere (`forward`).

It must not know the protocol above or who a peer is.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from edgetrust import limits
from edgetrust.errors import ConfigError, Error
from edgetrust.telemetry import CONNECTIONS, EVENT_HANDSHAKE_FAILED, HANDSHAKES_FAILED
from edgetrust.transport.addresses import counted_as, peer_address
from edgetrust.transport.forward import Forwarder, Greeted
from edgetrust.transport.tls.contexts import ContextSlot, ServerContext
from edgetrust.transport.tls.engine import TlsEngine
from edgetrust.transport.tls.transport import LoopShare, TlsTransport

ProtocolFactory = Callable[[], asyncio.Protocol]
TOO_MANY: Final = "address-limit"
_SAME_PORT_TRIES: Final = 20
_BOTH_FAMILIES: Final = {"localhost": ("127.0.0.1", "::1"), "": ("0.0.0.0", "::")}  # noqa: S104  # the operator's choice
_NO_SUCH_ADDRESS: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_log = structlog.get_logger()


@dataclass(slots=True)
class _FromAddress:
    """What one address holds at the moment."""

    pending: int = 0
    open: int = 0


class _Connection(Protocol):
    """What is accepted here."""

    peer: tuple[str, int]

    def stop(self, cause: Exception) -> None: ...

    def abort(self) -> None: ...


class ListenerClosedError(ConnectionError):
    """The connection was ended because its listener closes."""


class Listener:
    """An open port. Made by `serve`."""

    __slots__ = (
        *("_connections", "_factory", "_from", "_idle", "_label", "_servers", "_share", "_slot"),
        *("forwarder", "port"),
    )

    def __init__(
        self,
        factory: ProtocolFactory,
        slot: ContextSlot[ServerContext],
        label: str,
        share: LoopShare,
        forwarder: Forwarder | None = None,
    ) -> None:
        self.forwarder = forwarder
        self._factory = factory
        self._slot = slot
        self._label = label
        self._servers: list[asyncio.Server] = []
        self._share = share
        self._from: dict[str, _FromAddress] = {}
        self._connections: set[_Connection] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.port = 0

    @property
    def connections(self) -> int:
        """Open connections, those in their handshake included."""
        return len(self._connections)

    async def open(self, host: str, port: int, *, reuse_port: bool) -> None:
        """Listen on every address of `host`. Raises OSError, and listens nowhere then."""
        loop = asyncio.get_running_loop()
        for address in _BOTH_FAMILIES.get(host.lower(), (host,)):
            wanted = port or self.port
            try:
                server = await loop.create_server(
                    self._accept,
                    address,
                    wanted,
                    backlog=limits.LISTEN_BACKLOG,
                    reuse_address=True,
                    reuse_port=reuse_port,
                )
            except OSError as error:
                if self._servers and error.errno in _NO_SUCH_ADDRESS:
                    continue  # a machine without IPv6
                self.stop_accepting()
                raise
            self._servers.append(server)
            self.port = server.sockets[0].getsockname()[1]

    async def close(self, grace: float = limits.CLOSE_SECONDS) -> None:
        """Stop accepting, end every connection, wait at most `grace` seconds for their peers, then cut the rest."""
        self.stop_accepting()
        for transport in list(self._connections):
            transport.stop(ListenerClosedError("the listener closes"))
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            for transport in list(self._connections):
                transport.abort()
            await self._idle.wait()

    def stop_accepting(self) -> None:
        """Close the port; open connections stay."""
        """Close the port; open connections stay."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        self.port = 0

    # Owner of its connections ---------------------------------------------------------------------------------------

    def _accept(self) -> asyncio.BaseProtocol:
        if self.forwarder is not None:
            return Greeted(self, self._share)
        return TlsTransport(self, self._share)

    def admit(self, transport: TlsTransport) -> TlsEngine | None:
        """Whether this address may have one connection more."""
        return self._slot.current.engine() if self._enter(transport) else None

    def shaken(self, transport: TlsTransport) -> asyncio.Protocol:
        """The handshake is done."""
        self._from[counted_as(transport.peer[0])].pending -= 1
        CONNECTIONS.labels(self._label).inc()
        return self._factory()

    def failed(self, transport: TlsTransport | Greeted, error: Error) -> None:
        """The handshake is not done and will not be."""
        HANDSHAKES_FAILED.labels(error.reason).inc()
        _log.info(
            EVENT_HANDSHAKE_FAILED,
            place=self._label,
            peer=peer_address(transport.peer),
            reason=error.reason,
            detail=error.message,
            fix=error.fix,
        )

    def gone(self, transport: TlsTransport) -> None:
        """The connection has ended."""
        if transport.is_shaken:
            CONNECTIONS.labels(self._label).dec()
        self._leave(transport, pending=not transport.is_shaken)
        if self.forwarder is not None and transport.asked_for is not None and not transport.has_spoken:
            self.forwarder.left_at_once(transport.asked_for, transport.peer)

    def _enter(self, connection: _Connection) -> bool:
        address = counted_as(connection.peer[0])
        held = self._from.get(address)
        if held is None:
            held = self._from[address] = _FromAddress()
        if held.pending >= limits.PENDING_PER_ADDRESS or held.open >= limits.CONNECTIONS_PER_ADDRESS:
            HANDSHAKES_FAILED.labels(TOO_MANY).inc()
            return False
        held.pending += 1
        held.open += 1
        self._connections.add(connection)
        self._idle.clear()
        return True

    def _leave(self, connection: _Connection, *, pending: bool) -> None:
        address = counted_as(connection.peer[0])
        held = self._from[address]
        if pending:
            held.pending -= 1
        held.open -= 1
        if not held.open:
            del self._from[address]
        self._connections.discard(connection)
        if not self._connections:
            self._idle.set()

    # Host of connections whose hello is read ------------------------------------------------------------------------

    def arrived(self, greeted: Greeted) -> bool:
        """TCP is there. Whether this address may have one connection more."""
        return self._enter(greeted)

    def passes_on(self, greeted: Greeted) -> None:
        """The connection goes elsewhere."""
        self._from[counted_as(greeted.peer[0])].pending -= 1

    def left(self, greeted: Greeted) -> None:
        """TCP has ended, or TLS begins here."""
        self._leave(greeted, pending=not greeted.passes_on)

    def speaks_tls(self, lower: asyncio.Transport, received: bytearray, name: str | None) -> None:
        """TLS begins here, with what was received; the client asks for `name`."""
        transport, buffer = TlsTransport(self, self._share), self._share.buffer
        transport.asked_for = name
        lower.set_protocol(transport)
        transport.connection_made(lower)
        for at in range(0, len(received), len(buffer)):
            piece = received[at : at + len(buffer)]
            buffer[: len(piece)] = piece
            transport.buffer_updated(len(piece))


async def serve(
    factory: ProtocolFactory,
    slot: ContextSlot[ServerContext],
    host: str,
    port: int,
    *,
    label: str,
    reuse_port: bool = False,
    forwarder: Forwarder | None = None,
) -> Listener:
    """Listen on `host` (a name or address, "" for all addresses) and `port` (0 for any free one).

    `factory` makes the protocol of each connection, after its handshake; `label` names the protocol in metrics and
    logs. `reuse_port` lets another process of this machine listen on the same port; `forwarder` has connections go
    elsewhere by the name that is asked for. Raises ConfigError (`listen-failed`).
    """
    listener = Listener(factory, slot, label, LoopShare.of(asyncio.get_running_loop()), forwarder)
    for attempt in range(_SAME_PORT_TRIES):
        try:
            await listener.open(host, port, reuse_port=reuse_port)
        except OSError as error:
            taken_there = not port and error.errno == errno.EADDRINUSE  # free on one address, not on the other
            if not taken_there or attempt == _SAME_PORT_TRIES - 1:
                raise _listen_failed(host, port, error) from error
        else:
            break
    return listener


def _listen_failed(host: str, port: int, error: OSError) -> ConfigError:
    fixes = {
        errno.EADDRINUSE: "stop what listens there, or choose another port",
        errno.EACCES: "choose a port above 1023, or give the process the capability CAP_NET_BIND_SERVICE",
        errno.EADDRNOTAVAIL: "listen on an address that this machine has",
    }
    why = error.strerror or str(error)
    return ConfigError(
        f"cannot listen on {host or 'all addresses'}, port {port}: {why}",
        reason="listen-failed",
        fix=fixes.get(error.errno or 0, ""),
    )
