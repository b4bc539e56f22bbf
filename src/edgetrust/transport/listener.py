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

It must not know the protocol above or who a peer is.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from edgetrust import limits
from edgetrust.errors import ConfigError, Error
from edgetrust.telemetry import CONNECTIONS, EVENT_HANDSHAKE_FAILED, HANDSHAKES_FAILED
from edgetrust.transport.addresses import counted_as, peer_address
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


class ListenerClosedError(ConnectionError):
    """The connection was ended because its listener closes."""


class Listener:
    """An open port. Made by `serve`."""

    __slots__ = ("_connections", "_factory", "_from", "_idle", "_label", "_servers", "_share", "_slot", "port")

    def __init__(
        self,
        factory: ProtocolFactory,
        slot: ContextSlot[ServerContext],
        label: str,
        share: LoopShare,
    ) -> None:
        self._factory = factory
        self._slot = slot
        self._label = label
        self._servers: list[asyncio.Server] = []
        self._share = share
        self._from: dict[str, _FromAddress] = {}
        self._connections: set[TlsTransport] = set()
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

    def _accept(self) -> TlsTransport:
        return TlsTransport(self, self._share)

    def admit(self, transport: TlsTransport) -> TlsEngine | None:
        """Whether this address may have one connection more."""
        address = counted_as(transport.peer[0])
        held = self._from.get(address)
        if held is None:
            held = self._from[address] = _FromAddress()
        if held.pending >= limits.PENDING_PER_ADDRESS or held.open >= limits.CONNECTIONS_PER_ADDRESS:
            HANDSHAKES_FAILED.labels(TOO_MANY).inc()
            return None
        held.pending += 1
        held.open += 1
        self._connections.add(transport)
        self._idle.clear()
        return self._slot.current.engine()

    def shaken(self, transport: TlsTransport) -> asyncio.Protocol:
        """The handshake is done."""
        self._from[counted_as(transport.peer[0])].pending -= 1
        CONNECTIONS.labels(self._label).inc()
        return self._factory()

    def failed(self, transport: TlsTransport, error: Error) -> None:
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
        address = counted_as(transport.peer[0])
        held = self._from[address]
        if transport.is_shaken:
            CONNECTIONS.labels(self._label).dec()
        else:
            held.pending -= 1
        held.open -= 1
        if not held.open:
            del self._from[address]
        self._connections.discard(transport)
        if not self._connections:
            self._idle.set()


async def serve(
    factory: ProtocolFactory,
    slot: ContextSlot[ServerContext],
    host: str,
    port: int,
    *,
    label: str,
    reuse_port: bool = False,
) -> Listener:
    """Listen on `host` (a name or address, "" for all addresses) and `port` (0 for any free one).

    `factory` makes the protocol of each connection, after its handshake; `label` names the protocol in metrics and
    logs. `reuse_port` lets another process of this machine listen on the same port. Raises ConfigError
    (`listen-failed`).
    """
    listener = Listener(factory, slot, label, LoopShare.of(asyncio.get_running_loop()))
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
