"""The gateway as a whole: a device's session here is the hub's own session code over a copied registry and a queue.

Order of the start: configuration, keys, Edge CA (without one nothing is served); the store; who we are at the hub, if
it answers at once; the server certificate; the listener. Then, beside the connections:

    every second        sessions whose credential has run out end; the state file is written when something changed
    on every change     of the copy: the sessions it concerns are decided again (`opensessions`)
    when told to        hostname and names are read again, and a certificate for them swapped in
    in time             Edge CA and server certificate are renewed and swapped in; nothing restarts (`inuse`)

The hub may be away at any time (`hubside`).
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import fields, replace
from functools import partial
from typing import Any

import structlog

from edgetrust.broker.claim import House
from edgetrust.broker.client import Client
from edgetrust.broker.methods import Methods
from edgetrust.broker.session import Surroundings
from edgetrust.broker.sessions import Sessions
from edgetrust.clock import Clock
from edgetrust.edge.callers import Callers
from edgetrust.edge.certd import GatewayCertificates
from edgetrust.edge.children import Children
from edgetrust.edge.commands import PassedCommands
from edgetrust.edge.door import GatewayDoor
from edgetrust.edge.downstream import Downstream
from edgetrust.edge.elsewhere import Elsewhere
from edgetrust.edge.files import Layout, make_private_directory
from edgetrust.edge.forwarding import Forwarding
from edgetrust.edge.health import Health, Watched
from edgetrust.edge.housekeeping import keep_house
from edgetrust.edge.https import build_app
from edgetrust.edge.hubside import HubSide
from edgetrust.edge.identityclient import IdentityClient
from edgetrust.edge.inputs import ModuleInputs
from edgetrust.edge.inuse import CertificatesInUse
from edgetrust.edge.issuer import ConfiguredIssuer
from edgetrust.edge.keyd import open_keys
from edgetrust.edge.listeners import Listeners
from edgetrust.edge.metrics import GatewayMetrics
from edgetrust.edge.nested import Nested
from edgetrust.edge.observing import CountingAuditor, TwinObserver, UpstreamObserver
from edgetrust.edge.opensessions import OpenSessions
from edgetrust.edge.owndevice import OwnDevice
from edgetrust.edge.owntwin import OwnTwin
from edgetrust.edge.pairs import CertificateStore
from edgetrust.edge.rootlock import lock_root
from edgetrust.edge.routing import Router
from edgetrust.edge.scope import ScopeRegistry
from edgetrust.edge.services import InProcess, Services
from edgetrust.edge.settings import Settings
from edgetrust.edge.status import StateFile
from edgetrust.edge.stored import Stored
from edgetrust.edge.upkeep import Upkeep
from edgetrust.errors import Error, RefusedError
from edgetrust.limits import UPSTREAM_STOP_SECONDS
from edgetrust.pki.keys import KeyStore
from edgetrust.pki.remember import VerifiedChains
from edgetrust.pki.softkeys import SoftKey
from edgetrust.protocol.edge_routes import UPSTREAM, EdgeHubConfig
from edgetrust.store.auditing import Auditor
from edgetrust.telemetry import (
    EVENT_CONFIG_WARNING,
    EVENT_NAMES_CHANGED,
    EVENT_READY,
    EVENT_STATE_NOT_WRITTEN,
    EVENT_STOPPED,
)
from edgetrust.transport import mqtt
from edgetrust.transport.tasks import LoopTasks
from edgetrust.transport.websocket import WebSockets
from edgetrust.trust.authenticate import Policy
from edgetrust.trust.authorize import EDGE_HUB
from edgetrust.trust.identity import Identity

_LIVE = frozenset({"hostname", "names", "source", "warnings"})  # what may change while serving, or means nothing
_TICK_SECONDS = 1.0
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
        self._sessions = Sessions(self._seen)
        self._keys: KeyStore
        if elsewhere is None:
            self._keys, store = open_keys(layout, settings.token, settings.key_places()), None
        else:
            self._keys, store = elsewhere.keys, elsewhere.certificates
        self._certificates = GatewayCertificates(layout, self._keys, settings, clock, store)
        self._device = OwnDevice(None if elsewhere is None else elsewhere.identities)
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
            if elsewhere is None and gateway._device.moved.is_set() and isinstance(problem, RefusedError):
                return await cls.start(settings, layout, clock)  # as what it was assigned meanwhile
            raise
        settings = gateway.settings
        _log.info(EVENT_READY, gateway=settings.hostname, device=settings.device, mqtt_port=gateway.mqtt_port)
        return gateway

    async def stop(self) -> None:
        """Close connections, let what is under way reach the hub, store what waits, close the store."""
        await self._open.aclose()
        _log.info(EVENT_STOPPED, gateway=self.settings.hostname)

    async def wait_moved(self) -> None:
        """Wait until it has to start anew, since the device is another one; for ever without a provisioning service."""
        await self._device.moved.wait()

    @property
    def mqtt_port(self) -> int:
        """The port that is really open."""
        return self._listeners.mqtt.port

    @property
    def https_port(self) -> int:
        """The port that is really open."""
        return self._listeners.https.port

    # Start ----------------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        for warning in self.settings.warnings:
            _log.warning(EVENT_CONFIG_WARNING, detail=warning)
        if self._elsewhere is None:
            self.layout.make()
        else:
            make_private_directory(self.layout.own)
        self._open.callback(lock_root(self.layout).close)
        if self._elsewhere is None and self.settings.dps is not None:
            await self._be_assigned()
        key = asyncio.create_task(asyncio.to_thread(self._certificates.new_server_key))
        self._open.callback(key.cancel)
        others = self._elsewhere
        identities, issuer = (None, None) if others is None else (others.identities, others.issuer)
        self._hub_side = HubSide(
            self.settings, self.layout, self._keys, self._clock, self._device.refused, identities=identities
        )
        self._open.push_async_callback(self._hub_side.close)
        self._device.identities = self._hub_side.identities
        self._upkeep = Upkeep(self.settings, self._keys, self._certificates, self._clock, self._device.prove, issuer)
        await self._upkeep.begin()
        await asyncio.to_thread(self._certificates.prepare)
        self._stored = await Stored.open(self.settings, self.layout, self._keys, self._clock, self._open)
        await self._have_copy()
        await self._have_routes()
        self._have_children()
        self._have_door()
        self._tell_of_changes()
        await self._hub_side.begin()
        await self._serve(await key)
        await self._open_services()
        self._open.callback(self._state.remove)
        self._start_tasks()
        self._state.write(await self.state())

    async def _be_assigned(self) -> None:
        """A provisioning service says what this gateway is, once it has seen the identity certificate."""
        upkeep = Upkeep(self.settings, self._keys, self._certificates, self._clock, self._device.prove)
        await upkeep.have_identity()
        await asyncio.to_thread(self._certificates.take_device_identity)
        self.settings = await self._device.assigned(self.settings, self.layout, self._keys, self._clock)
        self._certificates = GatewayCertificates(self.layout, self._keys, self.settings, self._clock)

    # Parts, in the order in which they need each other --------------------------------------------------------------

    async def _have_copy(self) -> None:
        settings = self.settings
        self._registry = ScopeRegistry(
            self._hub_side.source,
            self._stored.scope,
            hub=settings.hub,
            local=lambda: self._certificates.trust_bundle,
            authorities_file=self.layout.verified_cas if settings.hub_verified_anchors else None,
            clock=self._clock,
            trust=settings.trust,
        )
        await self._registry.load()

    async def _have_routes(self) -> None:
        settings, queue = self.settings, self._stored.queue
        gateway = Identity(settings.hub, settings.device)
        self.metrics = GatewayMetrics(settings.hub, settings.device)
        self._router = Router(gateway, queue, self._sessions, self._tasks, self._clock, self.metrics)
        self._inputs = ModuleInputs(gateway, queue, self._tasks, self._clock, self.metrics)
        own = Identity(settings.hub, settings.device, EDGE_HUB)
        self.own_twin = OwnTwin(own, self._stored.twins, self._tasks, self._use, self._registry.synchronise)
        self._use(EdgeHubConfig())
        await self.own_twin.load()

    def _use(self, config: EdgeHubConfig) -> None:
        """What the deployment wants is in force from now on."""
        self._router.use(config)
        limit = config.max_bytes or self.settings.queue_bytes
        self._stored.queue.limit(limit, drop_oldest=self.settings.queue_drops_oldest)

    def _have_children(self) -> None:
        hub, dial, copies = self.settings.hub, self._hub_side.connect_as, self._stored.twins
        self._commands = PassedCommands()
        self._children = Children(hub, dial, copies, self._commands, self._sessions, self._tasks)
        self._children.observer = TwinObserver(self.metrics, self._router, self._clock)
        self._methods = self._children.methods = Methods(self._sessions, self._clock.milliseconds())

    def _have_door(self) -> None:
        settings, registry = self.settings, self._registry
        self._auditor = CountingAuditor(Auditor(self._stored.trail), self.metrics, registry.knows)
        self._policy = Policy(
            hosts=settings.token_hosts,
            module_certificates=False,
            thumbprint_needs_common_name=settings.thumbprint_needs_common_name,
            verify=VerifiedChains().verify,
        )
        around = Surroundings(
            registry=registry,
            endpoint=self._router,
            subscriptions=self._stored.sessions,
            commands=self._commands,
            sessions=self._sessions,
            tasks=self._tasks,
            clock=self._clock,
            twins=self._children,
            methods=self._methods,
            inputs=self._inputs,
            interested=self._children.interested,
        )
        house = House(settings.hub, "gateway-mqtt", any_host=True)
        self._door = GatewayDoor(house, around, self._policy, self._auditor, registry)
        self._callers = Callers(registry, self._policy, self._auditor, self._clock)

    def _tell_of_changes(self) -> None:
        """Whoever learns that something has changed tells whom it concerns."""
        device, registry, hub_side = self.settings.device, self._registry, self._hub_side
        self._decided = OpenSessions(device, self._sessions, registry, self._children, self._door, self._tasks)
        registry.listen(self._decided.changed)
        self._in_use = CertificatesInUse(
            self._certificates, self._upkeep, lambda: hub_side.generation, lambda: self._decided.changed(None)
        )
        queue, observer = self._stored.queue.lane(UPSTREAM), UpstreamObserver(device, self.metrics, self._clock)
        hub_side.attach(registry, queue, self.own_twin, observer, lambda: self._tasks.start(self._in_use.swap_server()))

    # Serving --------------------------------------------------------------------------------------------------------

    async def _serve(self, key: SoftKey) -> None:
        settings = self.settings
        await self._in_use.begin(key)
        health = Health(self._watched(), self.metrics, self._clock)
        app = build_app(WebSockets(self._accept), health, self._nested(), self._downstream())
        self._forwarding = Forwarding(
            settings, lambda: self.settings.called, Auditor(self._stored.trail), self.metrics, self._clock
        )
        self._listeners = await Listeners.open(settings.listen, self._in_use.slot, self._accept, app, self._forwarding)
        self._open.push_async_callback(self._listeners.close)  # should the start fail
        served = await health.serve(settings.metrics)
        if served is not None:
            self.metrics_port, close = served
            self._open.push_async_callback(close)

    def _accept(self) -> mqtt.MqttServerProtocol:
        client = Client(self._door)
        protocol = mqtt.MqttServerProtocol(lambda: client)
        client.attach(protocol)
        return protocol

    def _watched(self) -> Watched:
        return Watched(
            self.settings.device,
            self._stored.queue,
            self._router.holding,
            self._registry,
            lambda: dict(reversed(self._in_use.held())),
            lambda: self._hub_side.is_connected,
            lambda: len(self._sessions),
        )

    def _nested(self) -> Nested:
        settings, registry, api = self.settings, self._registry, self._hub_side.api
        return Nested(settings.hub, settings.device, registry, api, self._callers, self._auditor, self._clock)

    def _downstream(self) -> Downstream:
        return Downstream(
            Identity(self.settings.hub, self.settings.device),
            self._router,
            self._methods,
            self._callers,
            self.metrics,
            self._clock,
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
        return InProcess(store, issuer, identities.api, self._device.provisioning)

    def _start_tasks(self) -> None:
        upstream = self._hub_side.upstream
        assert upstream is not None
        draining = asyncio.create_task(upstream.run())
        self._open.push_async_callback(self._end_upstream, draining)
        self._open.push_async_callback(self._tasks.close)
        self._open.callback(self._children.close)
        self._open.push_async_callback(self._listeners.close)
        queue, age = self._stored.queue, self.settings.queue_age
        for work in (
            self._hub_side.keep_synchronised(),
            self._hub_side.watch_scope(),
            self._children.resume(self._decided.left),
            self._in_use.keep(
                lambda: self._device.take_up(self._certificates), lambda: self._device.look(self.settings)
            ),
            self._decided.decide_periodically(),
            self._tick(),
            keep_house(queue, age, self._clock, partial(self._router.given_up, "ttl_expiry")),
        ):
            self._tasks.start(work)

    async def _end_upstream(self, draining: asyncio.Task[None]) -> None:
        assert self._hub_side.upstream is not None
        self._hub_side.upstream.close()
        _, late = await asyncio.wait((draining,), timeout=UPSTREAM_STOP_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(draining, return_exceptions=True)

    def _seen(self, identity: Identity, here: bool) -> None:
        self._children.seen(identity, here)
        self.own_twin.seen(identity, here, self._clock.now())
        if not here:
            self.metrics.disconnected.add(str(identity))

    # Names ----------------------------------------------------------------------------------------------------------

    async def reread(self, settings: Settings) -> None:
        """Take up the hostname and the names of `settings`, and replaced files, while serving; what else is another is
        said to wait for the next start. Raises EdgeCaError; then nothing has changed.
        """
        self._in_use.look_now()
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
        self._policy = replace(self._policy, hosts=wanted.token_hosts | {self.settings.hostname.lower()})
        self._door.decide_by(self._policy)
        self._callers.decide_by(self._policy)
        self.settings = wanted
        await self._in_use.swap_server()
        _log.info(EVENT_NAMES_CHANGED, gateway=wanted.hostname, names=list(wanted.names))

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
        settings, queue = self.settings, await self._stored.queue.status()
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
            "upstream": self._hub_side.state(),
            "scope": {
                "identities": len(self._registry),
                "as_of": self._registry.as_of,
                "trusted_until": self._registry.trusted_until,
            },
            "routing": self.own_twin.state(),
            "queue": {"messages": queue.messages, "bytes": queue.bytes, "oldest_at": queue.oldest_at},
            "sessions": len(self._sessions),
            "forward": self._forwarding.state(),
            "certificates": self._in_use.described(self._clock.now()),
            "warnings": list(settings.warnings),
        }
