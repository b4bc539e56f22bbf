"""The gateway as a whole: a device's session here is the hub's own session code over a copied registry and a queue.

Order of the start: configuration, keys, Edge CA (without one nothing is served); the store; who we are at the hub, if
it answers at once; the server certificate; the listener. Then, beside the connections:

    every second        sessions whose credential has run out end; the state file is written when something changed
    every five minutes  open sessions are decided again by the copy
    on every change     of the copy: the sessions it concerns are decided again at once
    when told to        hostname and names are read again, and a certificate for them swapped in
    in time             Edge CA and server certificate are renewed and swapped in; nothing restarts

The hub may be away at any time (`hubside`).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import fields, replace
from datetime import datetime
from functools import partial
from typing import IO, Any

import structlog

from edgetrust.broker.claim import House
from edgetrust.broker.client import Client
from edgetrust.broker.methods import Methods
from edgetrust.broker.session import Session, Surroundings
from edgetrust.broker.sessions import Sessions
from edgetrust.clock import Clock
from edgetrust.edge.callers import Callers
from edgetrust.edge.certd import GatewayCertificates
from edgetrust.edge.children import Children
from edgetrust.edge.commands import PassedCommands
from edgetrust.edge.door import GatewayDoor
from edgetrust.edge.downstream import Downstream
from edgetrust.edge.elsewhere import Elsewhere
from edgetrust.edge.files import DEVICE_ID, EDGE_CA, MASTER_ENCRYPTION_KEY, Layout, make_private_directory
from edgetrust.edge.forwarding import Forwarding
from edgetrust.edge.health import Health, Watched
from edgetrust.edge.housekeeping import keep_house
from edgetrust.edge.https import build_app
from edgetrust.edge.hubside import HubSide
from edgetrust.edge.identityclient import IdentityClient
from edgetrust.edge.identityd import Identities
from edgetrust.edge.inputs import ModuleInputs
from edgetrust.edge.issuer import ConfiguredIssuer, tls_key
from edgetrust.edge.keyd import derived, open_keys
from edgetrust.edge.metrics import GatewayMetrics
from edgetrust.edge.nested import Nested
from edgetrust.edge.observing import CountingAuditor, TwinObserver, UpstreamObserver
from edgetrust.edge.owntwin import OwnTwin
from edgetrust.edge.pairs import CertificateStore
from edgetrust.edge.provisioning import Provisioning
from edgetrust.edge.routing import Router
from edgetrust.edge.scope import ScopeRegistry
from edgetrust.edge.services import InProcess, Services
from edgetrust.edge.settings import Settings
from edgetrust.edge.status import StateFile, describe_certificate
from edgetrust.edge.upkeep import Renewing, Upkeep
from edgetrust.errors import ConfigError, Error, RefusedError
from edgetrust.limits import CERTIFICATE_CHECK_SECONDS, REAUTHENTICATE_SECONDS, UPSTREAM_STOP_SECONDS
from edgetrust.pki.chain import Chain
from edgetrust.pki.keys import KeyHandle, KeyStore
from edgetrust.pki.remember import VerifiedChains
from edgetrust.pki.renewal import AutoRenew, RenewalState
from edgetrust.pki.softkeys import SoftKey
from edgetrust.protocol.edge_routes import UPSTREAM, EdgeHubConfig
from edgetrust.store.audit import AuditTrail
from edgetrust.store.auditing import Auditor
from edgetrust.store.engine import Database
from edgetrust.store.queues import ForwardQueue
from edgetrust.store.sessions import Sessions as StoredSessions
from edgetrust.store.snapshot import ScopeSnapshot
from edgetrust.store.twin_copies import TwinCopies
from edgetrust.telemetry import (
    EVENT_CERTIFICATE_EXPIRING,
    EVENT_CONFIG_WARNING,
    EVENT_NAMES_CHANGED,
    EVENT_READY,
    EVENT_STATE_NOT_WRITTEN,
    EVENT_STOPPED,
)
from edgetrust.transport import listener, mqtt
from edgetrust.transport.http import serve_http
from edgetrust.transport.tasks import LoopTasks
from edgetrust.transport.tls.contexts import ContextSlot, ServerContext
from edgetrust.transport.websocket import WebSockets
from edgetrust.trust.authenticate import Policy
from edgetrust.trust.authorize import EDGE_HUB
from edgetrust.trust.identity import Identity

HTTPS_PORT = 443
_LIVE = frozenset({"hostname", "names", "source", "warnings"})  # what may change while serving, or means nothing
_TICK_SECONDS = 1.0
_COPIES = b"edgetrust copies"  # what is derived for them seals the copies of scope and twins
LEAST_CHECK_SECONDS = 1.0  # however short a certificate lives
_log = structlog.get_logger()


class Gateway:
    """One running gateway. `await Gateway.start(settings, layout, clock)`, later `await gateway.stop()`."""

    def __init__(self, settings: Settings, layout: Layout, clock: Clock, elsewhere: Elsewhere | None) -> None:
        self.settings = settings
        self._elsewhere = elsewhere
        self.layout = layout
        self._clock = clock
        self._open = AsyncExitStack()
        self._tasks = LoopTasks()
        self._look_now = asyncio.Event()  # at what is due, and at replaced files
        self._sessions = Sessions(self._seen)
        self._keys: KeyStore
        if elsewhere is None:
            self._keys, store = open_keys(layout, settings.token, settings.key_places()), None
        else:
            self._keys, store = elsewhere.keys, elsewhere.certificates
        self._certificates = GatewayCertificates(layout, self._keys, settings, clock, store)
        self._provisioning: Provisioning | None = None
        self.metrics_port: int | None = None
        self._state = StateFile(layout.status)
        self._started_at = clock.now()

    @classmethod
    async def start(
        cls, settings: Settings, layout: Layout, clock: Clock, elsewhere: Elsewhere | None = None
    ) -> Gateway:
        """Open everything; keys, certificates and identities are `elsewhere` when those services are processes of
        their own. Raises ConfigError, EdgeCaError, UnavailableError, IntegrityError, RefusedError; then
        nothing stays open.
        """
        gateway = cls(settings, layout, clock, elsewhere)
        try:
            await gateway._begin()
        except BaseException as problem:
            await gateway._open.aclose()
            if elsewhere is None and gateway.moved() and isinstance(problem, RefusedError):
                return await cls.start(settings, layout, clock)  # as what it was assigned meanwhile
            raise
        settings = gateway.settings
        _log.info(EVENT_READY, gateway=settings.hostname, device=settings.device, mqtt_port=gateway.mqtt_port)
        return gateway

    async def stop(self) -> None:
        """Close connections, let what is under way reach the hub, store what waits, close the store."""
        await self._open.aclose()
        _log.info(EVENT_STOPPED, gateway=self.settings.hostname)

    @property
    def mqtt_port(self) -> int:
        """The port that is really open."""
        return self._listener.port

    @property
    def https_port(self) -> int:
        """The port that is really open."""
        return self._https.port

    # Start ----------------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        for warning in self.settings.warnings:
            _log.warning(EVENT_CONFIG_WARNING, detail=warning)
        if self._elsewhere is None:
            self.layout.make()
        else:
            make_private_directory(self.layout.own)
        self._open.callback(self._locked().close)
        await self._be_assigned()
        key = asyncio.create_task(asyncio.to_thread(self._certificates.new_server_key))
        self._open.callback(key.cancel)
        others = self._elsewhere
        identities, issuer = (None, None) if others is None else (others.identities, others.issuer)
        self._hub_side = HubSide(
            self.settings, self.layout, self._keys, self._clock, self._refused_by_hub(), identities=identities
        )
        self._open.push_async_callback(self._hub_side.close)
        self._upkeep = Upkeep(self.settings, self._keys, self._certificates, self._clock, self._try_identity, issuer)
        await self._upkeep.begin()
        await asyncio.to_thread(self._certificates.prepare)
        await self._open_store()
        await self._hub_side.begin()
        await self._serve(await key)
        await self._open_services()
        self._open.callback(self._state.remove)
        self._start_tasks()
        self._state.write(await self.state())

    async def _be_assigned(self) -> None:
        """With a provisioning service: learn what this gateway is."""
        dps = self.settings.dps
        if dps is None or self._elsewhere is not None:
            return
        upkeep = Upkeep(self.settings, self._keys, self._certificates, self._clock, self._try_identity)
        await upkeep.have_identity()
        await asyncio.to_thread(self._certificates.take_device_identity)
        self._provisioning = Provisioning(self.settings, dps, self.layout, self._keys, self._clock)
        self.settings = self.settings.assigned_to(await self._provisioning.begin())
        self._certificates = GatewayCertificates(self.layout, self._keys, self.settings, self._clock)

    def _refused_by_hub(self) -> Callable[[], Awaitable[bool]] | None:
        return None if self._provisioning is None else self._provisioning.refused

    def moved(self) -> bool:
        """Whether a provisioning service has assigned this gateway elsewhere, so that it has to start anew."""
        return self._moved().is_set()

    async def wait_moved(self) -> None:
        """Wait until it has to start anew; for ever without a provisioning service."""
        await self._moved().wait()

    def _moved(self) -> asyncio.Event:
        if self._elsewhere is not None:
            return self._elsewhere.identities.moved
        return asyncio.Event() if self._provisioning is None else self._provisioning.moved

    def _locked(self) -> IO[str]:
        """One process per root: two would take each other's messages and keys."""
        lock = (self.layout.own / "lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            lock.close()
            message = f"another gateway runs below {self.layout.root}"
            raise ConfigError(message, reason="root-in-use", fix="give each gateway its own --root") from problem
        lock.truncate(0)
        lock.write(str(os.getpid()))  # for `edge apply`, which tells who runs here
        lock.flush()
        return lock

    async def _open_store(self) -> None:
        settings, clock = self.settings, self._clock
        self._database = Database(f"sqlite:///{self.layout.database.absolute()}")
        self._open.push_async_callback(self._database.close)
        await self._database.migrate()
        self._queue = await ForwardQueue.open(self._database, clock=clock)
        self._queue.recognise(settings.recognition)
        self._open.push_async_callback(self._queue.close)
        self._trail = AuditTrail(self._database)
        self._open.push_async_callback(self._trail.flush)
        self._stored_sessions = StoredSessions(self._database, self._clock)
        await self._stored_sessions.preload()
        key = await asyncio.to_thread(derived, self._keys, MASTER_ENCRYPTION_KEY, _COPIES)
        self._registry = ScopeRegistry(
            self._hub_side.source,
            ScopeSnapshot(self._database, key, settings.hub, settings.device),
            hub=settings.hub,
            local=lambda: self._certificates.trust_bundle,
            authorities_file=self.layout.verified_cas if settings.hub_verified_anchors else None,
            clock=clock,
            trust=settings.trust,
        )
        await self._registry.load()
        self._registry.listen(self._changed)
        copies = TwinCopies(self._database, key)
        await self._open_routes(copies)
        observer = UpstreamObserver(settings.device, self.metrics, clock)
        up = self._queue.lane(UPSTREAM)
        self._hub_side.attach(self._registry, up, self.own_twin, observer, self._generation_changed)
        self._commands = PassedCommands()
        dial = self._hub_side.connect_as
        self._children = Children(settings.hub, dial, copies, self._commands, self._sessions, self._tasks)
        self._children.observer = TwinObserver(self.metrics, self._router, clock)
        self._children.methods = Methods(self._sessions, clock.milliseconds())

    async def _open_routes(self, copies: TwinCopies) -> None:
        settings, queue = self.settings, self._queue
        gateway = Identity(settings.hub, settings.device)
        self.metrics = GatewayMetrics(settings.hub, settings.device)
        self._router = Router(gateway, queue, self._sessions, self._tasks, self._clock, self.metrics)
        self._inputs = ModuleInputs(gateway, queue, self._tasks, self._clock, self.metrics)
        own = Identity(settings.hub, settings.device, EDGE_HUB)
        self.own_twin = OwnTwin(own, copies, self._tasks, self._use, self._registry.synchronise)
        self._use(EdgeHubConfig())
        await self.own_twin.load()
        self._auditor = CountingAuditor(Auditor(self._trail), self.metrics, self._registry.knows)

    def _use(self, config: EdgeHubConfig) -> None:
        """What the deployment wants is in force from now on."""
        self._router.use(config)
        limit = config.max_bytes or self.settings.queue_bytes
        self._queue.limit(limit, drop_oldest=self.settings.queue_drops_oldest)

    async def _serve(self, key: SoftKey) -> None:
        settings = self.settings
        self._server = await asyncio.to_thread(self._certificates.issue_server, self._hub_side.generation, key)
        self._slot = ContextSlot(ServerContext(self._server.chain, self._server.key))
        self._policy = Policy(
            hosts=_hosts(settings),
            module_certificates=False,
            thumbprint_needs_common_name=settings.thumbprint_needs_common_name,
            verify=VerifiedChains().verify,
        )
        self._door = self._make_door()
        self._callers = Callers(self._registry, self._policy, self._auditor, self._clock)
        self._forwarding = self._make_forwarding()
        self._listener = await listener.serve(
            self._accept,
            self._slot,
            settings.listen.host,
            settings.listen.mqtt_port,
            label="mqtt",
            forwarder=self._forwarding.on_mqtt(),
        )
        try:
            health = Health(self._watched(), self.metrics, self._clock)
            app = build_app(WebSockets(self._accept), health, self._nested(), self._make_downstream())
            port = settings.listen.https_port
            port, passing = HTTPS_PORT if port is None else port, self._forwarding.on_https()
            self._https = await serve_http(app, self._slot, settings.listen.host, port, forwarder=passing)
        except BaseException:
            await self._listener.close(0)
            raise
        await self._serve_metrics(health)

    def _make_forwarding(self) -> Forwarding:
        return Forwarding(
            self.settings, lambda: _known_as(self.settings), Auditor(self._trail), self.metrics, self._clock
        )

    async def _serve_metrics(self, health: Health) -> None:
        try:
            served = await health.serve(self.settings.metrics)
        except BaseException:
            await self._close_listeners()
            raise
        if served is not None:
            self.metrics_port, close = served
            self._open.push_async_callback(close)

    def _watched(self) -> Watched:
        return Watched(
            self.settings.device,
            self._queue,
            self._router.holding,
            self._registry,
            lambda: dict(reversed(self._held())),
            lambda: self._hub_side.upstream is not None and self._hub_side.upstream.is_connected,
            lambda: len(self._sessions),
        )

    async def _open_services(self) -> None:
        self.services = Services(
            self.settings,
            self.layout,
            self._keys,
            self._certificates.store,
            self._behind(),
            lambda: self._certificates.issuer,
            self._clock,
        )
        await self.services.open()
        self._open.push_async_callback(self.services.close)

    def _behind(self) -> InProcess | IdentityClient:
        identities, issuer, store = self._hub_side.identities, self._upkeep.issuer, self._certificates.store
        if isinstance(identities, IdentityClient):
            return identities
        assert isinstance(issuer, ConfiguredIssuer), "one process issues by itself"
        assert isinstance(store, CertificateStore), "one process keeps its certificates itself"
        return InProcess(store, issuer, identities.api, self._provisioning)

    def _accept(self) -> mqtt.MqttServerProtocol:
        client = Client(self._door)
        protocol = mqtt.MqttServerProtocol(lambda: client)
        client.attach(protocol)
        return protocol

    def _make_door(self) -> GatewayDoor:
        settings = self.settings
        around = Surroundings(
            registry=self._registry,
            endpoint=self._router,
            subscriptions=self._stored_sessions,
            commands=self._commands,
            sessions=self._sessions,
            tasks=self._tasks,
            clock=self._clock,
            twins=self._children,
            methods=self._children.methods,
            inputs=self._inputs,
            interested=self._children.interested,
        )
        house = House(settings.hub, "gateway-mqtt", any_host=True)
        return GatewayDoor(house, around, self._policy, self._auditor, self._registry)

    def _make_downstream(self) -> Downstream:
        methods = self._children.methods
        assert methods is not None, "the store is opened first"
        return Downstream(
            Identity(self.settings.hub, self.settings.device),
            self._router,
            methods,
            self._callers,
            self.metrics,
            self._clock,
        )

    def _nested(self) -> Nested:
        settings, registry, api = self.settings, self._registry, self._hub_side.api
        auditor = self._auditor
        return Nested(settings.hub, settings.device, registry, api, self._callers, auditor, self._clock)

    def _start_tasks(self) -> None:
        upstream = self._hub_side.upstream
        assert upstream is not None
        draining = asyncio.create_task(upstream.run())
        self._open.push_async_callback(self._end_upstream, draining)
        self._open.push_async_callback(self._tasks.close)
        self._open.callback(self._children.close)
        self._open.push_async_callback(self._close_listeners)
        for work in (
            self._hub_side.keep_synchronised(),
            self._hub_side.watch_scope(),
            self._children.resume(self._left),
            self._keep_certificates(),
            self._decide_again_periodically(),
            self._tick(),
            keep_house(self._queue, self.settings.queue_age, self._clock, partial(self._router.given_up, "ttl_expiry")),
        ):
            self._tasks.start(work)

    async def _end_upstream(self, draining: asyncio.Task[None]) -> None:
        assert self._hub_side.upstream is not None
        self._hub_side.upstream.close()
        _, late = await asyncio.wait((draining,), timeout=UPSTREAM_STOP_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(draining, return_exceptions=True)

    async def _close_listeners(self) -> None:
        await asyncio.gather(self._listener.close(), self._https.close())

    def _seen(self, identity: Identity, here: bool) -> None:
        self._children.seen(identity, here)
        self.own_twin.seen(identity, here, self._clock.now())
        if not here:
            self.metrics.disconnected.add(str(identity))

    # Open sessions --------------------------------------------------------------------------------------------------

    def _changed(self, identities: frozenset[Identity] | None) -> None:
        self._sessions.forget_scopes()
        if identities is None:
            sessions = list(self._sessions)
        else:
            sessions = [session for identity in identities for session in self._sessions.concerned(identity)]
            self._tasks.start(self._children.forget([one for one in identities if self._left(one)]))
        if sessions:
            self._tasks.start(self._decide_again(sessions))

    def _left(self, identity: Identity) -> bool:
        """Whether the hub has said that this is not below the gateway; itself always is."""
        if identity.device == self.settings.device and identity.module in (None, EDGE_HUB):
            return False
        return self._registry.as_of is not None and not self._registry.has(identity)

    async def _decide_again(self, sessions: list[Session]) -> None:
        for session in sessions:
            await self._door.decide_again(session)

    async def _decide_again_periodically(self) -> None:
        while True:
            await asyncio.sleep(REAUTHENTICATE_SECONDS)
            await self._decide_again(list(self._sessions))

    # Certificates ---------------------------------------------------------------------------------------------------

    async def _keep_certificates(self) -> None:
        steps = (
            self._upkeep.renew_due,
            self._take_up_identity,
            self._take_up_edge_ca,
            self._take_up_trust_bundle,
            self._renew_server,
            self._look_who_we_are,
        )
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._check_after()):
                    await self._look_now.wait()
            self._look_now.clear()
            for step in steps:  # what is wrong with one of them is no reason to leave out another
                try:
                    await step()
                except (Error, OSError) as problem:  # what is in use stays in use; there is always another attempt
                    self._not_taken_up(problem)

    def _not_taken_up(self, problem: Error | OSError) -> None:
        reason, fix = (problem.reason, problem.fix) if isinstance(problem, Error) else ("disk", "")
        _log.error(EVENT_CERTIFICATE_EXPIRING, reason=reason, detail=str(problem), fix=fix)

    def _check_after(self) -> float:
        """A hundredth of the shortest life, at most a minute: short-lived certificates are renewed in time too."""
        lives = [
            (certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds()
            for certificate in (chain.end_entity for _, chain in self._held())
        ]
        return max(LEAST_CHECK_SECONDS, min(CERTIFICATE_CHECK_SECONDS, *(life / 100 for life in lives)))

    async def _try_identity(self, chain: Chain, key: KeyHandle) -> None:
        if self._provisioning is not None:  # which makes it known to the hub
            await self._provisioning.register_identity(chain, key)
        identities = self._hub_side.identities
        assert isinstance(identities, Identities), "who renews the device's identity asks the hub itself"
        await identities.try_certificate(chain, tls_key(key))

    async def _take_up_identity(self) -> None:
        """A renewed identity, or replaced files; a provisioning service tells the hub of it."""
        if await asyncio.to_thread(self._certificates.refresh_device_identity):
            self._hub_side.identities.forget_certificate()
        if self._provisioning is not None:
            await self._provisioning.make_known()

    async def _take_up_edge_ca(self) -> None:
        if await asyncio.to_thread(self._certificates.refresh_edge_ca):
            self._changed(None)

    async def _take_up_trust_bundle(self) -> None:
        if await asyncio.to_thread(self._certificates.refresh_trust_bundle):
            self._changed(None)

    async def _renew_server(self) -> None:
        if self._certificates.server_is_due(self._server):
            await self._swap_server()

    async def _look_who_we_are(self) -> None:
        """A provisioning service may have moved this gateway, and the identity service knows."""
        if self._elsewhere is not None and self.settings.dps is not None:
            await self._elsewhere.identities.look()

    async def _swap_server(self) -> None:
        key = await asyncio.to_thread(self._certificates.new_server_key)
        server = await asyncio.to_thread(self._certificates.issue_server, self._hub_side.generation, key)
        self._slot.current = ServerContext(server.chain, server.key)
        self._server = server

    async def reread(self, settings: Settings) -> None:
        """Take up the hostname and the names of `settings`, and replaced files, while serving; what else is another is
        said to wait for the next start. Raises EdgeCaError; then nothing has changed.
        """
        self._look_now.set()
        waits = sorted(
            one.name
            for one in fields(settings)
            if one.compare and one.name not in _LIVE and getattr(settings, one.name) != getattr(self.settings, one.name)
        )
        if waits and self.settings.dps is None:  # with DPS hub and device were assigned
            _log.warning(EVENT_CONFIG_WARNING, detail=f"changed, from the next start on: {', '.join(waits)}")
        if (settings.hostname, settings.names) == (self.settings.hostname, self.settings.names):
            return
        wanted = replace(self.settings, hostname=settings.hostname, names=settings.names)
        self._certificates.known_as(wanted)
        self._policy = replace(self._policy, hosts=_hosts(wanted) | {self.settings.hostname.lower()})
        self._door.decide_by(self._policy)
        self._callers.decide_by(self._policy)
        self.settings = wanted
        await self._swap_server()
        _log.info(EVENT_NAMES_CHANGED, gateway=wanted.hostname, names=list(wanted.names))

    def _generation_changed(self) -> None:
        self._tasks.start(self._swap_server())

    # State ----------------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            self._sessions.expire(self._clock.now())
            try:
                state = await self.state()
                await asyncio.to_thread(self._state.write, state)
            except Error as problem:
                _log.warning(EVENT_STATE_NOT_WRITTEN, reason=problem.reason, detail=problem.message)
            await asyncio.sleep(_TICK_SECONDS)

    async def state(self) -> dict[str, Any]:
        """What `edgetrust edge status` shows."""
        settings, upstream, queue = self.settings, self._hub_side.upstream, await self._queue.status()
        assert upstream is not None
        return {
            "identity": {"hub": settings.hub, "device": settings.device, "generation": self._hub_side.generation},
            "gateway": {
                "hostname": settings.hostname,
                "names": list(settings.names),
                "mqtt_port": self.mqtt_port,
                "https_port": self.https_port,
                "metrics_port": self.metrics_port,
            },
            "pid": os.getpid(),
            "started_at": self._started_at,
            "upstream": {
                "connected": upstream.is_connected,
                "connected_at": upstream.connected_at if upstream.is_connected else None,
                "problem": upstream.problem,
                "degraded": self._hub_side.degraded,
            },
            "scope": {
                "identities": len(self._registry),
                "as_of": self._registry.as_of,
                "trusted_until": self._registry.trusted_until,
            },
            "routing": self.own_twin.state(),
            "queue": {"messages": queue.messages, "bytes": queue.bytes, "oldest_at": queue.oldest_at},
            "sessions": len(self._sessions),
            "forward": self._forwarding.state(),
            "certificates": self._described(self._clock.now()),
            "warnings": list(settings.warnings),
        }

    def _held(self) -> list[tuple[str, Chain]]:
        """The certificates in use; that of the server comes last."""
        held = [
            *self._upkeep.chains(),
            (EDGE_CA, self._certificates.issuer.chain),
            (self._server.certificate_id, self._server.chain),
        ]
        if self._certificates.device_identity is not None:
            held.insert(0, (DEVICE_ID, self._certificates.device_identity))
        return held

    def _described(self, now: datetime) -> list[dict[str, Any]]:
        store, renewing = self._certificates.store, self._upkeep.renewing()
        held = self._held()
        renewing[self._server.certificate_id] = Renewing(AutoRenew(), RenewalState())
        return [describe_certificate(name, store.path(name), chain, now, renewing.get(name)) for name, chain in held]


def _known_as(settings: Settings) -> frozenset[str]:
    """What the certificate is for, and what clients call the gateway."""
    return frozenset({settings.hostname.lower(), *(name.lower() for name in settings.names), "edgehub", "localhost"})


def _hosts(settings: Settings) -> frozenset[str]:
    """What a token may be made out to: the hub, or any name of this gateway."""
    return frozenset({settings.hub, settings.hostname.lower(), *(name.lower() for name in settings.names)})
