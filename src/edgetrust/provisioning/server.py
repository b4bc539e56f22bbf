"""A provisioning service with listeners and a store of its own, linked to hubs elsewhere."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import structlog

from edgetrust.clock import Clock
from edgetrust.config import read_text
from edgetrust.errors import ConfigError, PeerError
from edgetrust.pki.chain import TrustBundle
from edgetrust.provisioning.allocation import Choice
from edgetrust.provisioning.remote import RemoteHub
from edgetrust.provisioning.rest import operations
from edgetrust.provisioning.service import Provisioning
from edgetrust.provisioning.settings import DpsSettings, HubLink
from edgetrust.store.audit import AuditTrail
from edgetrust.store.engine import Database
from edgetrust.telemetry import EVENT_READY, EVENT_STOPPED
from edgetrust.transport import http, listener
from edgetrust.transport.mqtt.server import MqttServerProtocol
from edgetrust.transport.tasks import LoopTasks
from edgetrust.transport.tls.served import ServedCertificate
from edgetrust.transport.websocket import WebSockets

_TICK_SECONDS = 1.0
_log = structlog.get_logger()


class DpsServer:
    """One running server. `await DpsServer.start(settings, clock)`, later `await server.stop()`."""

    def __init__(self, settings: DpsSettings, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self._certificate = ServedCertificate(settings.certificate, settings.key)
        self._tasks = LoopTasks()
        self._running = AsyncExitStack()  # what is open, closed in the opposite order
        self.mqtt_port = 0
        self.https_port = 0

    @classmethod
    async def start(cls, settings: DpsSettings, clock: Clock) -> DpsServer:
        """Open everything. Raises ConfigError, UnavailableError, IntegrityError; then nothing is left open."""
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        server = cls(settings, clock)
        try:
            await server._open()
        except BaseException:
            await server._running.aclose()
            raise
        server._tasks.start(server._tick())
        server._running.push_async_callback(server._tasks.close)
        _log.info(EVENT_READY, dps=settings.name, mqtt_port=server.mqtt_port, https_port=server.https_port)
        return server

    async def stop(self) -> None:
        """Close connections, give up what is in work, close the store."""
        await self._running.aclose()
        _log.info(EVENT_STOPPED, dps=self.settings.name)

    async def _open(self) -> None:
        settings = self.settings
        database = Database(settings.database)
        self._running.push_async_callback(database.close)
        await database.migrate()
        trail = AuditTrail(database)
        self._running.push_async_callback(trail.flush)
        hubs = {}
        for link in settings.hubs:
            hubs[link.name] = RemoteHub(link, self._bundle(link))
        service = await Provisioning.open(
            id_scope=settings.id_scope,
            hosts=settings.hosts,
            policies=settings.data / "dps-policies.json",
            database=database,
            trail=trail,
            clock=self._clock,
            hubs=hubs,
            choice=Choice(settings.weights, settings.allocation, settings.networks),
        )
        self._running.push_async_callback(service.close)
        await self._listen(service, trail)

    async def _listen(self, service: Provisioning, trail: AuditTrail) -> None:
        settings, guest = self.settings, service.guest()
        assert guest.app is not None
        assert guest.mqtt is not None
        handler = guest.mqtt

        def accept() -> MqttServerProtocol:
            return MqttServerProtocol(handler)

        websockets = WebSockets(accept)
        guest.app[operations.TRAIL], guest.app[operations.WEBSOCKETS] = trail, websockets
        guest.app.add_routes(operations.routes)
        guest.app.on_shutdown.append(websockets.close)
        mqtt = await listener.serve(accept, self._certificate.slot, settings.host, settings.mqtt_port, label="mqtt")
        try:
            https = await http.serve_http(guest.app, self._certificate.slot, settings.host, settings.https_port)
        except BaseException:
            await mqtt.close(0)
            raise
        self.mqtt_port, self.https_port = mqtt.port, https.port

        async def close() -> None:
            await asyncio.gather(mqtt.close(), https.close())

        self._running.push_async_callback(close)

    def _bundle(self, link: HubLink) -> TrustBundle | None:
        if link.trust_bundle is None:
            return None
        try:
            return TrustBundle.from_pem(read_text(link.trust_bundle), as_of=self._clock.now())
        except PeerError as problem:
            raise ConfigError(f"{link.trust_bundle}: {problem.message}", reason="trust-bundle-unreadable") from problem

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._certificate.refresh()
