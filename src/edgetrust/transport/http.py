"""HTTPS: aiohttp's server over our TLS, so that requests carry the peer's chain; and a client that verifies.

Rules: the server has the listener's bounds and limits on bodies and headers of its own. The client verifies name
and chain with the bundle given or, without one, with the machine's store; there is no way to switch that off.

It must not know routes or what a certificate means.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
from pathlib import Path

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from edgetrust import limits
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.keys import ClientKey, TlsKey
from edgetrust.pki.softkeys import write_private
from edgetrust.transport.forward import Forwarder
from edgetrust.transport.listener import Listener, serve
from edgetrust.transport.tls import held
from edgetrust.transport.tls.contexts import ContextSlot, ServerContext


def peer_chain(request: web.BaseRequest) -> tuple[bytes, ...]:
    """The certificates that the peer of this request has shown, DER, the end entity first; empty if none.

    Also empty when the connection has gone meanwhile.
    """
    chain: tuple[bytes, ...] = request.get_extra_info("peer_chain", ())
    return chain


def tls_unique(request: web.BaseRequest) -> bytes | None:
    """What ties a request to its connection (RFC 5929, 3); None with TLS 1.3, or when the connection has gone."""
    binding: bytes | None = request.get_extra_info("tls_unique")
    return binding


def application(*, body_bytes: int = limits.HTTP_BODY_BYTES) -> web.Application:
    """An application with our limit on bodies; routes are added by whoever owns them."""
    return web.Application(client_max_size=body_bytes)


class HttpServer:
    """An application that is being served. Made by `serve_http`."""

    __slots__ = ("_listener", "_runner")

    def __init__(self, runner: web.AppRunner, listener: Listener) -> None:
        self._runner = runner
        self._listener = listener

    @property
    def port(self) -> int:
        return self._listener.port

    @property
    def connections(self) -> int:
        """Open connections, those in their handshake included."""
        return self._listener.connections

    async def close(self) -> None:
        """Stop accepting, let requests in progress finish within the grace period, close the application."""
        self._listener.stop_accepting()
        await self._runner.cleanup()
        await self._listener.close()


async def serve_http(
    app: web.Application,
    slot: ContextSlot[ServerContext],
    host: str,
    port: int,
    *,
    label: str = "https",
    grace: float = limits.CLOSE_SECONDS,
    reuse_port: bool = False,
    forwarder: Forwarder | None = None,
) -> HttpServer:
    """Serve `app` by HTTPS. Arguments and errors as `listener.serve`; `grace` is what requests get when it closes."""
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=limits.HTTP_KEEP_ALIVE_SECONDS,
        max_line_size=limits.HTTP_HEADER_BYTES,
        max_field_size=limits.HTTP_HEADER_BYTES,
        shutdown_timeout=grace,
    )
    await runner.setup()
    server = runner.server
    assert server is not None  # set up in the line above
    try:
        listener = await serve(server, slot, host, port, label=label, reuse_port=reuse_port, forwarder=forwarder)
    except BaseException:
        await runner.cleanup()
        raise
    return HttpServer(runner, listener)


def https_context(
    bundle: TrustBundle | None, *, chain: Chain | None = None, key: ClientKey | None = None
) -> ssl.SSLContext:
    """A client's context of the standard library: any anchor of `bundle` may end the path; None means the machine's
    store.

    `chain` and `key` are shown when the server asks for a certificate.
    """
    if bundle is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies name and chain, and trusts nobody yet
        if bundle.anchors:
            context.load_verify_locations(cadata=bundle.pem())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT  # real gateways' certificates lack what it asks for
    if chain is not None and key is not None:
        present(context, chain, key)
    return context


def present(context: ssl.SSLContext, chain: Chain, key: ClientKey) -> None:
    """Show a certificate when the server asks for one.

    The standard library reads keys from files only: one that nobody else can read, for the moment. A key that is
    elsewhere stays there.
    """
    if not isinstance(key, TlsKey):
        held.present(context, chain, key)
        return
    with tempfile.TemporaryDirectory(prefix="edgetrust-") as directory:
        file = Path(directory) / "identity.pem"
        write_private(file, key.private_pem().reveal() + chain.pem().encode())
        context.load_cert_chain(file)


class Instead(AbstractResolver):
    """Resolves every name to `host`, and every port to `port` unless that is None; TLS still verifies the name in the
    URL.
    """

    def __init__(self, host: str, port: int | None = None) -> None:
        self._host = host
        self._port = port

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port or port, family=family, type=socket.SOCK_STREAM)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Nothing is held."""


def https_session(
    bundle: TrustBundle | None,
    *,
    chain: Chain | None = None,
    key: ClientKey | None = None,
    instead: tuple[str, int] | None = None,
    timeout: float = limits.CLIENT_TIMEOUT_SECONDS,
) -> aiohttp.ClientSession:
    """A session whose connections verify their server as `https_context` says. To be closed by the caller.

    `instead` is the host and port that are dialled for every name; TLS asks for and verifies the name in the URL.
    """
    context = https_context(bundle, chain=chain, key=key)
    if instead is None:
        connector = aiohttp.TCPConnector(ssl=context)
    else:
        connector = aiohttp.TCPConnector(ssl=context, resolver=Instead(*instead), use_dns_cache=False)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=timeout), trust_env=False)
