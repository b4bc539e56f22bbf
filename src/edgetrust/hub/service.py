"""The hub as a whole: opens its store and its listeners, and keeps open connections honest.

Beside the connections runs little:
    a change of the registry     the sessions that it concerns are decided again at once, all of them after a change of
                                 the shared access policies
    every second                 a changed server certificate is taken; sessions whose credential has run out end; what
                                 other processes changed is heard; who is connected, and with what, is written down
    every half minute            configurations reach devices whose tags have changed; at once when one of them changes
    every minute                 what is old enough leaves the store
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import structlog

from edgetrust.broker.claim import House
from edgetrust.broker.client import Client
from edgetrust.broker.door import Door
from edgetrust.broker.methods import Methods
from edgetrust.broker.session import Session, Surroundings
from edgetrust.broker.sessions import Sessions
from edgetrust.clock import Clock
from edgetrust.errors import Error
from edgetrust.hub.deployments import Deployments
from edgetrust.hub.housekeeping import Housekeeping
from edgetrust.hub.jobs import JobRunner
from edgetrust.hub.policies import Policies
from edgetrust.hub.presence import Presence
from edgetrust.hub.registry import HubRegistry
from edgetrust.hub.rest.access import Access
from edgetrust.hub.rest.app import build_app
from edgetrust.hub.rest.bodies import twin_row
from edgetrust.hub.rest.methods import invoke
from edgetrust.hub.rest.parts import Parts
from edgetrust.hub.routing import Router
from edgetrust.hub.settings import HubSettings
from edgetrust.limits import HOUSEKEEPING_SECONDS
from edgetrust.pki.remember import VerifiedChains
from edgetrust.protocol.methods import MethodAnswer, MethodCall
from edgetrust.protocol.twin import DesiredChange
from edgetrust.store.audit import AuditTrail
from edgetrust.store.auditing import Auditor
from edgetrust.store.c2d import C2dQueues
from edgetrust.store.certificates import CaCertificates
from edgetrust.store.configurations import Configurations
from edgetrust.store.engine import Database
from edgetrust.store.events import EventLog
from edgetrust.store.feedback import Feedback
from edgetrust.store.files import UploadedFiles
from edgetrust.store.identities import Identities
from edgetrust.store.jobs import JobStore
from edgetrust.store.queries import Queries
from edgetrust.store.records import Change, ChangeKind
from edgetrust.store.retention import EventTrimmer
from edgetrust.store.sessions import Sessions as StoredSessions
from edgetrust.store.twins import Twins
from edgetrust.store.uploads import Uploads
from edgetrust.telemetry import EVENT_READY, EVENT_STOPPED, EVENT_STORE_UNAVAILABLE
from edgetrust.transport import http, listener
from edgetrust.transport.guests import Guest, shared_app, shared_handler
from edgetrust.transport.mqtt.server import MqttServerProtocol
from edgetrust.transport.tasks import LoopTasks
from edgetrust.transport.tls.contexts import ContextSlot, ServerContext
from edgetrust.transport.tls.served import ServedCertificate
from edgetrust.transport.websocket import WebSockets
from edgetrust.trust.authenticate import Policy
from edgetrust.trust.identity import Identity

_TICK_SECONDS = 1.0
_CALLS_PER_MILLISECOND_BITS = 8  # request identifiers of one run never reach those of the next
_log = structlog.get_logger()


Invite = Callable[["Hub"], Awaitable[Sequence[Guest]]]


class Hub:
    """One running hub. `await Hub.start(settings, clock)`, later `await hub.stop()`."""

    def __init__(self, settings: HubSettings, clock: Clock, database: Database, certificate: ServedCertificate) -> None:
        self.settings = settings
        self._certificate = certificate
        self._clock = clock
        self._database = database
        self._tasks = LoopTasks()
        self._running = AsyncExitStack()  # what is open, closed in the opposite order
        self._running.push_async_callback(database.close)
        self._guests: Sequence[Guest] = ()

    @classmethod
    async def start(cls, settings: HubSettings, clock: Clock, invite: Invite | None = None) -> Hub:
        """Open everything. Raises ConfigError, UnavailableError, IntegrityError; then nothing is left open.

        `invite` is called when the store is open and before anybody is let in; the guests that it returns share the
        listeners, and are closed after these and before the store.
        """
        certificate = ServedCertificate(settings.certificate, settings.key)
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        hub = cls(settings, clock, Database(settings.database), certificate)
        try:
            await hub._database.migrate()
            await hub._open()
            if invite is not None:
                hub._guests = await invite(hub)
                for guest in hub._guests:
                    hub._running.push_async_callback(guest.close)
            await hub._listen(certificate.slot)
        except BaseException:
            await hub._running.aclose()
            raise
        hub._tasks.start(hub._tick())
        hub._tasks.start(hub._keep_house())
        hub._tasks.start(hub._parts.deployments.run())
        hub._tasks.start(hub._parts.job_runner.run())
        _log.info(EVENT_READY, hub=settings.name, mqtt_port=hub.mqtt_port, https_port=hub.https_port)
        return hub

    async def stop(self) -> None:
        """Close connections, store what waits, close the store. What fails on the way does not keep the rest open."""
        await self._running.aclose()
        _log.info(EVENT_STOPPED, hub=self.settings.name)

    @property
    def database(self) -> Database:
        """Where the hub keeps everything; guests may keep their tables in it."""
        return self._database

    @property
    def parts(self) -> Parts:
        """What answers requests, for guests of the same process."""
        return self._parts

    @property
    def mqtt_port(self) -> int:
        """The port that is really open."""
        return self._mqtt.port

    @property
    def https_port(self) -> int:
        """The port that is really open."""
        return self._https.port

    # Opening --------------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        settings, database, clock = self.settings, self._database, self._clock
        policies = self.policies = Policies(settings.data / "policies.json")
        self._identities = Identities(database, clock, settings.name, allow_edge_ca=settings.allow_edge_ca)
        await self._identities.start_hearing()
        await self._identities.forget_presence()
        certificates = await CaCertificates.open(database, clock, self._identities)
        self._events = await EventLog.open(database)
        self._running.push_async_callback(self._events.close)
        self._trail = AuditTrail(database)
        self._running.push_async_callback(self._trail.flush)
        commands = C2dQueues(database, clock)
        await commands.forget_locks()
        feedback = Feedback(database, clock)
        self._twins = twins = Twins(database, clock)
        self._running.push_async_callback(twins.write_clients)
        self._presence = Presence(self._identities, clock)
        self._running.push_async_callback(self._presence.write)
        self._running.push_async_callback(self._tasks.close)
        self._sessions = Sessions(self._presence.note)
        methods = Methods(self._sessions, clock.milliseconds() << _CALLS_PER_MILLISECOND_BITS)
        self._stored_sessions = StoredSessions(database, clock)
        await self._stored_sessions.preload()
        self._registry = HubRegistry(self._identities, certificates, policies)
        auditor = Auditor(self._trail)
        policy = Policy(settings.hosts, edge_by_ca=settings.allow_edge_ca, verify=VerifiedChains().verify)
        around = Surroundings(
            registry=self._registry,
            endpoint=self._events,
            subscriptions=self._stored_sessions,
            commands=commands,
            sessions=self._sessions,
            tasks=self._tasks,
            clock=clock,
            twins=twins,
            methods=methods,
        )
        self._door = Door(House(settings.name, "hub-mqtt"), around, policy, auditor)
        endpoints = settings.routing.open_endpoints(settings.name, clock.now())
        router = Router(self._events, clock, settings.routing.routes, endpoints)
        self._running.push_async_callback(router.close)
        await router.start()
        queries, configurations = Queries(database, twin_row), Configurations(database, clock)
        jobs = JobStore(database, clock)
        self._parts = Parts(
            settings=settings,
            identities=self._identities,
            certificates=certificates,
            events=self._events,
            commands=commands,
            feedback=feedback,
            twins=twins,
            methods=methods,
            queries=queries,
            configurations=configurations,
            deployments=Deployments(configurations, self._identities, queries, twins),
            jobs=jobs,
            job_runner=JobRunner(jobs, queries, twins, self._invoke, clock),
            trail=self._trail,
            sessions=self._sessions,
            registry=self._registry,
            policies=policies,
            access=Access(settings.name, self._registry, policies, policy, auditor, clock),
            clock=clock,
            websockets=WebSockets(self._accept),
            uploads=Uploads(database),
            files=UploadedFiles(settings.data / "uploads"),
            router=router,
        )
        self._housekeeping = Housekeeping(
            clock,
            self._events,
            EventTrimmer(database, settings.retention),
            self._identities,
            commands,
            feedback,
            self._parts.uploads,
            self._parts.files,
        )
        self._identities.listen(self._heard)
        policies.listen(self._policies_changed)
        commands.listen(self._command_waits)
        twins.listen(self._desired_changed)

    async def _listen(self, slot: ContextSlot[ServerContext]) -> None:
        settings = self.settings
        self._mqtt = await listener.serve(self._accept, slot, settings.host, settings.mqtt_port, label="mqtt")
        try:
            app = shared_app(build_app(self._parts), self._guests)
            self._https = await http.serve_http(app, slot, settings.host, settings.https_port)
        except BaseException:
            await self._mqtt.close(0)
            raise
        self._running.push_async_callback(self._close_listeners)

    async def _close_listeners(self) -> None:
        self._parts.stopping.set()
        await asyncio.gather(self._mqtt.close(), self._https.close())

    def _accept(self) -> MqttServerProtocol:
        client = Client(self._door)
        protocol = MqttServerProtocol(shared_handler(lambda: client, self._guests))
        client.attach(protocol)
        return protocol

    # What runs beside the connections -------------------------------------------------------------------------------

    def _heard(self, change: Change) -> None:
        """The registry changed: forget what was kept of it, then decide again whom it concerns."""
        self._registry.heard(change, self.settings.name)
        if change.kind is ChangeKind.DELETED and change.device is not None:
            self._stored_sessions.forget(change.device, change.module)
        if change.kind is ChangeKind.AUTHORITIES or change.device is None:
            concerned = list(self._sessions)
        else:
            concerned = self._sessions.concerned(Identity(self.settings.name, change.device, change.module))
            self._sessions.forget_scopes()
        if concerned:
            self._tasks.start(self._decide_again(concerned))

    def _policies_changed(self) -> None:
        """Keys of policies may be gone: everybody who is connected is decided again."""
        self._registry.policies_changed()
        self._tasks.start(self._decide_again(list(self._sessions)))

    async def _decide_again(self, sessions: list[Session]) -> None:
        for session in sessions:
            await self._door.decide_again(session)
            await asyncio.sleep(0)  # many decisions in a row must not hold up everybody else

    async def _invoke(self, device: str, call: MethodCall) -> MethodAnswer:
        return await invoke(self._parts, Identity(self.settings.name, device), call)

    def _command_waits(self, device: str, module: str | None) -> None:
        session = self._sessions.of(Identity(self.settings.name, device, module))
        if session is not None:
            session.commands_waiting()

    def _desired_changed(self, device: str, module: str | None, change: DesiredChange) -> None:
        session = self._sessions.of(Identity(self.settings.name, device, module))
        if session is not None:
            session.desired_changed(change)

    async def _keep_house(self) -> None:
        while True:
            await self._housekeeping.tidy()
            await asyncio.sleep(HOUSEKEEPING_SECONDS)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self._sessions.expire(self._clock.now())
            self._certificate.refresh()
            try:
                await self._identities.catch_up()
                await self._presence.write()
                await self._twins.write_clients()
            except Error as problem:  # the next second is another attempt
                _log.warning(EVENT_STORE_UNAVAILABLE, reason=problem.reason, detail=problem.message)
