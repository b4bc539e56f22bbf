"""Checks of what a gateway stands on: the clock, files and who may read them, names, other services it needs.

Certificates are valid by the clock of whoever verifies them, so a wrong clock looks like a wrong certificate. Without
an NTP server the hub's own clock is compared, as it stands in the headers of its answers: a gateway need not reach
anything but its hub.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from edgetrust.clock import Clock
from edgetrust.config import read_text
from edgetrust.edge.apply import look_through
from edgetrust.edge.certclient import CertificateClient
from edgetrust.edge.checking import Bench, FoundError, IgnoredError, SkippedError
from edgetrust.edge.files import DEVICE_ID, EDGE_CA
from edgetrust.edge.hubapi import HubTrust
from edgetrust.edge.issuer import est_bundle
from edgetrust.edge.pairs import CertificateStore
from edgetrust.errors import Error, RefusedError
from edgetrust.limits import CHECK_CLOCK_SECONDS, CHECK_SECONDS
from edgetrust.pki.chain import TrustBundle
from edgetrust.transport.dial import dial
from edgetrust.transport.tls.contexts import ClientContext
from edgetrust.transport.tls.engine import TlsError

HTTPS_PORT = 443
_NTP_EPOCH = 2_208_988_800  # seconds from 1900, where NTP begins, to 1970 (RFC 5905, 6)
_NTP_PORT, _NTP_BYTES, _NTP_CLIENT = 123, 48, 0x23  # version 4, client (RFC 5905, 7.3)
_TRANSMIT_TIMESTAMP = struct.Struct(">II")


# The clock ----------------------------------------------------------------------------------------------------------


async def local_time(bench: Bench) -> None:
    """The clock against an NTP server, or against the hub's."""
    if bench.time_server is not None:
        server, there = bench.time_server, await asyncio.to_thread(_ntp_time, bench.time_server)
    else:
        server, there = "the hub", await _hub_time(bench)
    apart = (bench.clock.now() - there).total_seconds()
    if abs(apart) >= CHECK_CLOCK_SECONDS:
        ahead = "ahead of" if apart > 0 else "behind"
        raise FoundError(
            f"the clock of this machine is {abs(apart):.0f} s {ahead} {server}",
            "set the clock: certificates are judged by it",
            warning=True,
        )


def _ntp_time(server: str) -> datetime:
    host, _, port = server.partition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(CHECK_SECONDS)
        try:
            asking.connect((host, int(port or _NTP_PORT)))
            asking.send(bytes([_NTP_CLIENT]) + bytes(_NTP_BYTES - 1))
            answer = asking.recv(_NTP_BYTES)
        except (OSError, ValueError) as problem:
            raise FoundError(f"the time server {server} cannot be asked: {problem}", warning=True) from problem
    if len(answer) < _NTP_BYTES:
        raise FoundError(f"the time server {server} gives no time", warning=True)
    seconds, fraction = _TRANSMIT_TIMESTAMP.unpack_from(answer, 40)
    return datetime.fromtimestamp(seconds - _NTP_EPOCH + fraction / 2**32, UTC)


async def _hub_time(bench: Bench) -> datetime:
    upstream = bench.known.upstream
    try:
        bundle = await asyncio.to_thread(HubTrust(upstream, bench.clock).bundle)
        context = ClientContext(bundle, clock=bench.clock)
        head = f"GET / HTTP/1.1\r\nHost: {upstream.name}\r\nConnection: close\r\n\r\n".encode()
        made = await dial(
            upstream.host,
            upstream.https_port,
            context,
            lambda: _Asks(head),
            server_name=upstream.name,
            timeout=CHECK_SECONDS,
        )
        async with asyncio.timeout(CHECK_SECONDS):
            said = await made.answer
    except (Error, OSError, TimeoutError) as problem:
        raise SkippedError("the hub, whose clock would be compared, cannot be asked") from problem
    dates = [line.partition(":")[2].strip() for line in said.splitlines() if line.lower().startswith("date:")]
    if not dates:
        raise IgnoredError("the hub does not say what time it has; name a server with --ntp-server")
    return parsedate_to_datetime(dates[0])


class _Asks(asyncio.Protocol):
    """Sends a request and gives the header of the answer."""

    def __init__(self, request: bytes) -> None:
        self._request, self._got = request, b""
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if b"\r\n\r\n" in self._got:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._finish()

    def _finish(self) -> None:
        if not self.answer.done():
            self.answer.set_result(self._got.partition(b"\r\n\r\n")[0].decode("latin-1"))
        if self._transport is not None:
            self._transport.close()


# Files --------------------------------------------------------------------------------------------------------------


async def up_to_date(bench: Bench) -> None:
    """Whether the configuration that is looked at is the one that was applied."""
    applied = bench.layout.config
    if bench.config.absolute() == applied.absolute():
        raise IgnoredError("it is the one that was applied")
    if not applied.exists():
        raise IgnoredError("none was applied: the gateway is started with this one")
    if await asyncio.to_thread(read_text, bench.config) != await asyncio.to_thread(read_text, applied):
        raise FoundError(
            f"{applied} is another one",
            f"edgetrust edge apply -c {bench.config}, and restart the gateway",
            warning=True,
        )


async def files_readable(bench: Bench) -> None:
    """Every file that the configuration names, with certificates that belong to their keys."""
    await asyncio.to_thread(look_through, bench.known)


async def keys_closed(bench: Bench) -> None:
    """Files with keys that others can read."""
    places = [path for path in bench.known.key_places(files=True).values() if isinstance(path, Path)]
    stored = list(bench.layout.keys.glob("*.key")) if bench.layout.keys.is_dir() else []
    opened = [path for path in (*places, *stored) if path.exists() and path.stat().st_mode & 0o077]
    if opened:
        listed = " ".join(str(path) for path in opened)
        raise FoundError(f"others than their owner may read {listed}", f"chmod 600 {listed}", warning=True)


async def certificates_read(bench: Bench) -> None:
    """Whether the certificate service gives out what it has stored."""
    path = bench.layout.socket("certd")
    if not path.exists():
        raise SkippedError("the certificate service does not run")
    client, store = CertificateClient(path, bench.layout.certificates), CertificateStore(bench.layout.certificates)
    for identifier in (DEVICE_ID, EDGE_CA):
        if store.path(identifier).exists() and await asyncio.to_thread(client.load, identifier) is None:
            raise FoundError(f"the certificate service does not give out {identifier}", "restart the gateway")


# Others -------------------------------------------------------------------------------------------------------------


async def parent(bench: Bench) -> None:
    """Whether the name of the gateway above can be resolved."""
    upstream = bench.known.upstream
    if upstream.name == bench.known.hub:
        raise IgnoredError("there is no gateway above")
    await resolved(upstream.host)


async def dps_endpoint(bench: Bench) -> None:
    """Whether the provisioning service is there, and is verified."""
    dps = bench.known.dps
    if dps is None:
        raise IgnoredError("no provisioning service is used")
    trust = HubTrust(replace(bench.known.upstream, ca=dps.ca), bench.clock)
    await _service(dps.endpoint, await asyncio.to_thread(trust.bundle), bench)


async def est_endpoints(bench: Bench) -> None:
    """Whether every EST server is there, and is verified."""
    issuing = bench.known.issuing
    urls = dict.fromkeys(order.est.url for order in issuing.orders.values() if order.est is not None)
    if not urls:
        raise IgnoredError("nothing is issued by EST")
    bundle = await asyncio.to_thread(est_bundle, issuing, bench.clock)
    for url in urls:
        await _service(url, bundle, bench)


async def _service(url: str, bundle: TrustBundle, bench: Bench) -> None:
    """Shake hands with a service, where it is or through the gateway above. Raises FoundError, UnavailableError."""
    address, instead = urlsplit(url), bench.known.upstream.instead_of(url)
    assert address.hostname is not None, "the configuration was read"
    host, port = instead or (address.hostname, address.port or HTTPS_PORT)
    try:
        await shake(host, port, bundle, address.hostname, bench.clock)
    except RefusedError as problem:
        if instead is None:
            raise
        raise FoundError(
            f"through the gateway above: {problem.message}",
            f"let {host} pass {address.hostname} on ([edgetrust.forward] there), or trust the CA of the service",
        ) from problem
    except TlsError as problem:
        if instead is None:
            raise
        raise FoundError(
            f"{host} cannot pass {address.hostname} on: {problem.message}",
            "see forward.unreachable in the log of that gateway, and of the one above it",
        ) from problem


async def proxy(bench: Bench) -> None:
    """Whether somebody expects a proxy to be used."""
    del bench
    named = [name for name in ("HTTPS_PROXY", "https_proxy") if os.environ.get(name)]
    if named:
        raise FoundError(
            f"{named[0]} is set and this gateway does not use a proxy",
            "let it reach its hub directly, or name the place to dial in [edgetrust.upstream] host",
            warning=True,
        )


async def resolved(host: str) -> None:
    """Whether a name has an address. Raises FoundError."""
    try:
        await asyncio.get_running_loop().getaddrinfo(host, None)
    except OSError as problem:
        raise FoundError(
            f"{host} cannot be resolved: {problem}", f"add {host} to the DNS or to /etc/hosts"
        ) from problem


async def shake(host: str, port: int, bundle: TrustBundle, name: str, clock: Clock) -> None:
    """A TLS handshake with verification of chain and name. Raises UnavailableError, ConfigError."""
    context = ClientContext(bundle, clock=clock)
    made = await dial(host, port, context, _Ends, server_name=name, timeout=CHECK_SECONDS)
    if made.transport is not None:
        made.transport.close()


class _Ends(asyncio.Protocol):
    transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
