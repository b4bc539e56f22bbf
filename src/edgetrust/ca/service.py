"""A running certificate authority: its store, its EST server, and who it asks about registrations.

The same application serves by itself (`CaService`) or as a guest on a hub's listeners (`open_guest`). By itself it
issues the certificate of its own listener and renews it while serving. What `edgetrust ca` changes in the store is seen
within seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import structlog
from aiohttp import web
from cryptography import x509
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from edgetrust import limits
from edgetrust.ca import est, status, upkeep
from edgetrust.ca.authority import OWN_LISTENER, CertificateAuthority, Order
from edgetrust.ca.enroll import Enroller, Registry, no_registry
from edgetrust.ca.forecast import in_use, measure
from edgetrust.ca.notices import Notices
from edgetrust.ca.policy import Registered
from edgetrust.ca.settings import CaSettings
from edgetrust.clock import Clock
from edgetrust.errors import ConfigError, Error, IntegrityError, UnavailableError
from edgetrust.pki.chain import Chain, key_matches
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import EST_SERVER
from edgetrust.pki.softkeys import SoftKey, load_key_file, write_private, write_public
from edgetrust.protocol.est import PREFIX
from edgetrust.store.engine import Database
from edgetrust.store.identities import Identities
from edgetrust.store.records import RegistryError
from edgetrust.telemetry import (
    EVENT_CERTIFICATE_EXPIRING,
    EVENT_CERTIFICATE_NOT_RENEWED,
    EVENT_CERTIFICATE_RENEWED,
    EVENT_READY,
    EVENT_STOPPED,
    EVENT_STORE_UNAVAILABLE,
    METRICS,
)
from edgetrust.transport.guests import Guest
from edgetrust.transport.http import HttpServer, serve_http
from edgetrust.transport.tasks import LoopTasks
from edgetrust.transport.tls.contexts import ContextSlot, ServerContext

Follow = Callable[[CertificateAuthority], Awaitable[None]]  # called with the authorities as they are, again and again
RENEW_AFTER = 2 / 3  # of the life of a listener's certificate
_log = structlog.get_logger()


def registry_of(identities: Identities) -> Registry:
    """What a hub's registry says of a device."""

    async def ask(device: str) -> Registered:
        try:
            record = await identities.device(device)
        except RegistryError:
            return Registered.UNKNOWN
        if not record.enabled:
            return Registered.DISABLED
        return Registered.GATEWAY if record.edge else Registered.DEVICE

    return ask


@dataclass(frozen=True, slots=True)
class Opened:
    """A certificate authority that can answer, without listeners."""

    authority: CertificateAuthority
    enroller: Enroller
    app: web.Application
    tasks: LoopTasks


async def nothing(_authority: CertificateAuthority) -> None:
    """Nobody follows."""


async def open_authority(
    settings: CaSettings, clock: Clock, database: Database, registry: Registry, follow: Follow = nothing
) -> Opened:
    """An authority over a migrated database, with its application. Raises ConfigError, IntegrityError.

    `follow` takes over what others trust and serve: at once, and whenever the authorities were read again.
    """
    authority = await CertificateAuthority.open(settings, database, clock)
    await follow(authority)
    enroller = Enroller(authority, registry, _bootstrap(settings.bootstrap_authorities))
    app = web.Application(middlewares=[est.errors_answered], client_max_size=limits.EST_BODY_BYTES)
    app.router.add_route("*", PREFIX + "{tail:.*}", est.EstServer(enroller, clock).answer)
    app.add_routes(status.StatusServer(authority).routes())
    opened = Opened(authority, enroller, app, LoopTasks())
    opened.tasks.start(_reread(authority, follow))
    opened.tasks.start(_keep_up(authority))
    opened.tasks.start(_measure(authority))
    return opened


async def open_guest(
    settings: CaSettings, clock: Clock, database: Database, registry: Registry, follow: Follow = nothing
) -> Guest:
    """The same as a guest of a hub."""
    opened = await open_authority(settings, clock, database, registry, follow)
    return Guest("ca", opened.app, _claims, close=opened.tasks.close)


def _claims(path: str) -> bool:
    return est.claims(path) or status.claims(path)


async def _reread(authority: CertificateAuthority, follow: Follow) -> None:
    while True:
        await asyncio.sleep(limits.AUTHORITIES_REREAD_SECONDS)
        try:
            await authority.refresh()
            await follow(authority)
        except Error as problem:  # the next time is another attempt
            _log.warning(EVENT_STORE_UNAVAILABLE, reason=problem.reason, detail=problem.message)


async def _keep_up(authority: CertificateAuthority) -> None:
    """Renew CAs that are due; say once for each certificate what a person has to do instead."""
    told: set[tuple[str, x509.Certificate]] = set()
    while True:
        try:
            for name, to_do in await upkeep.keep_up(authority):
                certificate = authority.named(name).row.certificate
                until = f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%MZ}"
                if not to_do:
                    _log.info(EVENT_CERTIFICATE_RENEWED, certificate=f"<{name}>", until=until)
                elif (name, certificate) not in told:
                    told.add((name, certificate))
                    _log.warning(EVENT_CERTIFICATE_EXPIRING, certificate=f"<{name}>", until=until, fix=to_do)
        except Error as problem:  # the next time is another attempt
            _log.warning(EVENT_CERTIFICATE_NOT_RENEWED, reason=problem.reason, detail=problem.message)
        await asyncio.sleep(limits.CERTIFICATE_CHECK_SECONDS)


async def _measure(authority: CertificateAuthority) -> None:
    """Keep the gauges of certificates that end, and tell who wants to be told."""
    notices = None if authority.settings.webhook is None else Notices(authority.settings.webhook)
    while True:
        try:
            endings, now = await in_use(authority), authority.clock.now()
            measure(endings, now)
            if notices is not None:
                await notices.tell(endings, now)
        except Error as problem:  # the next time is another attempt
            _log.warning(EVENT_STORE_UNAVAILABLE, reason=problem.reason, detail=problem.message)
        await asyncio.sleep(limits.CERTIFICATES_MEASURE_SECONDS)


def _bootstrap(files: Sequence[Path]) -> tuple[x509.Certificate, ...]:
    found: list[x509.Certificate] = []
    for file in files:
        try:
            found += Chain.from_pem(file.read_bytes()).certificates
        except OSError as problem:
            raise ConfigError(f"{file} cannot be read: {problem.strerror}", reason="config-unreadable") from problem
    return tuple(found)


async def _write_bundle(file: Path, authority: CertificateAuthority) -> None:
    """The file that `edgetrust ca init` made for clients holds the roots that are in circulation now."""
    await asyncio.to_thread(_rewrite, file, authority.bundle().pem().encode())


def _rewrite(file: Path, content: bytes) -> None:
    if file.exists() and file.read_bytes() != content:
        write_public(file, content)


class CaService:
    """One running certificate authority with a listener of its own."""

    def __init__(self, settings: CaSettings, clock: Clock) -> None:
        self.settings, self._clock = settings, clock
        self._running = AsyncExitStack()
        self._tasks = LoopTasks()

    @classmethod
    async def start(cls, settings: CaSettings, clock: Clock) -> CaService:
        """Open everything. Raises ConfigError, UnavailableError, IntegrityError; then nothing is left open."""
        service = cls(settings, clock)
        try:
            await service._open()
        except BaseException:
            await service._running.aclose()
            raise
        _log.info(EVENT_READY, https_port=service.https_port, authorities=list(service.authority.authorities))
        return service

    async def stop(self) -> None:
        """Close the listener, then the store."""
        await self._running.aclose()
        _log.info(EVENT_STOPPED)

    @property
    def https_port(self) -> int:
        """The port that is really open."""
        return self._server.port

    @property
    def authority(self) -> CertificateAuthority:
        return self._opened.authority

    async def _open(self) -> None:
        settings = self.settings
        database = Database(settings.database)
        self._running.push_async_callback(database.close)
        await database.migrate()
        registry, follow = await self._registry(), partial(_write_bundle, settings.data / "root.cert.pem")
        self._opened = await open_authority(settings, self._clock, database, registry, follow)
        self._running.push_async_callback(self._opened.tasks.close)
        if not self.authority.authorities:
            raise ConfigError(f"there is no CA in {settings.data}", reason="no-issuer", fix="edgetrust ca init")
        slot = ContextSlot(await self._context())
        self._server: HttpServer = await serve_http(self._opened.app, slot, settings.host, settings.https_port)
        self._running.push_async_callback(self._server.close)
        if settings.http_port is not None:
            await self._serve_status(settings.host, settings.http_port)
        self._running.push_async_callback(self._tasks.close)
        if settings.certificate is None:
            self._tasks.start(self._renew(slot))

    async def _serve_status(self, host: str, port: int) -> None:
        """CRLs and OCSP without TLS: verifiers ask for them while they make up their mind about a TLS certificate."""
        app = web.Application(middlewares=[est.errors_answered], client_max_size=limits.OCSP_REQUEST_BYTES)
        app.add_routes(status.StatusServer(self.authority).routes())
        app.router.add_get("/metrics", _metrics)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        self._running.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as problem:
            raise UnavailableError(f"port {port} cannot be used: {problem.strerror}", reason="port-taken") from problem
        self.http_port: int = runner.addresses[0][1]

    async def _registry(self) -> Registry:
        if self.settings.registry is None:
            return no_registry
        database = Database(self.settings.registry)
        self._running.push_async_callback(database.close)
        await database.migrate()
        return registry_of(Identities(database, self._clock, ""))

    async def _context(self) -> ServerContext:
        settings = self.settings
        if settings.certificate is not None and settings.key is not None:
            return ServerContext(Chain.from_pem(settings.certificate.read_bytes()), load_key_file(settings.key))
        certificate, key_file = settings.data / "est-server.cert.pem", settings.data / "est-server.key.pem"
        issuer = self.authority.issuer_for(EST_SERVER.name).row.certificate
        if not _serves(certificate, key_file, settings.names, issuer, self._clock.now()):
            key = SoftKey.generate("est-server", KeyAlgorithm.P256)
            names = Names.for_hosts(*settings.names)
            order = Order(key.public_key(), EST_SERVER, names, settings.names[0], OWN_LISTENER, "operator")
            issued = await self.authority.issue(order)
            write_private(key_file, key.private_pem().reveal())
            write_public(certificate, issued.chain.pem().encode())
        return ServerContext(Chain.from_pem(certificate.read_bytes()), load_key_file(key_file))

    async def _renew(self, slot: ContextSlot[ServerContext]) -> None:
        """Also when another CA issues from now on: those who trust a new root only must get in before the old one is
        retired.
        """
        while True:
            await asyncio.sleep(limits.AUTHORITIES_REREAD_SECONDS)
            try:
                slot.current = await self._context()
            except Error as problem:  # there is always another attempt, and the old certificate has a third to live
                _log.warning(EVENT_STORE_UNAVAILABLE, reason=problem.reason, detail=problem.message)


async def _metrics(_request: web.Request) -> web.Response:
    return web.Response(body=generate_latest(METRICS), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _serves(certificate: Path, key: Path, names: Sequence[str], issuer: x509.Certificate, now: datetime) -> bool:
    """Whether the files hold a certificate of this issuer for these names that is not due for renewal."""
    if not (certificate.exists() and key.exists()):
        return False
    chain = Chain.from_pem(certificate.read_bytes())
    try:
        key_matches(chain, load_key_file(key))
    except IntegrityError:  # the process ended between writing the one and the other
        return False
    held = chain.end_entity
    begin, end = held.not_valid_before_utc, held.not_valid_after_utc
    alternative = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    good_for = {
        *alternative.get_values_for_type(x509.DNSName),
        *map(str, alternative.get_values_for_type(x509.IPAddress)),
    }
    same = issuer in chain.intermediates[:1]
    return same and set(names) <= good_for and now < begin + (end - begin) * RENEW_AFTER
