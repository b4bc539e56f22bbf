"""Connecting: TCP and TLS to a server that is verified before anything is said to it.

What can go wrong is told apart: the server is away (UnavailableError), it does not speak TLS with us (TlsError), or
it is not the one we trust (ServerRefusedError, raised before a byte of the application has left).

It must not know the protocol above.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from edgetrust import limits
from edgetrust.errors import Error, UnavailableError
from edgetrust.transport.tls.contexts import ClientContext
from edgetrust.transport.tls.engine import TlsEngine
from edgetrust.transport.tls.transport import LoopShare, TlsTransport

P = TypeVar("P", bound=asyncio.Protocol)


class _Attempt(Generic[P]):
    """The owner of one connection that is being made."""

    __slots__ = ("_engine", "_factory", "protocol")

    def __init__(self, engine: TlsEngine, factory: Callable[[], P], loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._factory = factory
        self.protocol: asyncio.Future[P] = loop.create_future()

    def admit(self, transport: TlsTransport) -> TlsEngine | None:
        """We asked for it."""
        return self._engine

    def shaken(self, transport: TlsTransport) -> asyncio.Protocol:
        """TLS stands, and the server is the one we trust."""
        protocol = self._factory()
        if not self.protocol.done():
            self.protocol.set_result(protocol)
        return protocol

    def failed(self, transport: TlsTransport, error: Error) -> None:
        """TLS does not stand."""
        if not self.protocol.done():
            self.protocol.set_exception(error)

    def gone(self, transport: TlsTransport) -> None:
        """The protocol has been told."""


async def dial(
    host: str,
    port: int,
    context: ClientContext,
    factory: Callable[[], P],
    *,
    server_name: str | None = None,
    timeout: float = limits.CLIENT_TIMEOUT_SECONDS,
) -> P:
    """The protocol that `factory` makes, over TLS to `host`:`port`, in at most `timeout` seconds.

    `server_name` is the name or address that the server's certificate must cover, `host` unless given.
    Raises UnavailableError (`connect-failed`), TlsError, ServerRefusedError, ConfigError (no host name).
    """
    loop = asyncio.get_running_loop()
    attempt = _Attempt(context.engine(server_name or host), factory, loop)
    transport: TlsTransport | None = None
    try:
        async with asyncio.timeout(timeout):
            share = LoopShare.of(loop)
            _, transport = await loop.create_connection(lambda: TlsTransport(attempt, share), host, port)
            return await attempt.protocol
    except TimeoutError as error:
        raise _unavailable(host, port, f"no connection within {timeout:g} seconds") from error
    except OSError as error:
        raise _unavailable(host, port, error.strerror or str(error)) from error
    finally:
        if transport is not None and not _succeeded(attempt.protocol):
            attempt.protocol.cancel()
            transport.abort()


def _succeeded(future: asyncio.Future[P]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _unavailable(host: str, port: int, why: str) -> UnavailableError:
    return UnavailableError(f"cannot connect to {host}, port {port}: {why}", reason="connect-failed")
