"""What runs between a gateway and its hub: the module's identity, the copy of the scope, the connection that drains
the queue.

    at start        the module is made sure of, or its backup is used; the copy on disk is taken up
    on connection   module and copy are brought up to date, before anything that waits is forwarded
    every hour      the copy is synchronised; every minute until that worked
    on change       the hub tells when the scope has changed; the copy is synchronised at once

None of this needs to work for devices to be served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from edgetrust.clock import Clock
from edgetrust.edge.files import Layout
from edgetrust.edge.hubapi import HubApi, HubTrust
from edgetrust.edge.identityclient import IdentityClient
from edgetrust.edge.identityd import EdgeHub, Identities
from edgetrust.edge.owntwin import OwnTwin
from edgetrust.edge.scope import ScopeRegistry
from edgetrust.edge.scopesource import ScopeSource
from edgetrust.edge.settings import Settings
from edgetrust.edge.upstream import Observer, Upstream
from edgetrust.errors import Error, RefusedError, UnavailableError
from edgetrust.limits import (
    SCOPE_REFRESH_SECONDS,
    SCOPE_RETRY_SECONDS,
    SCOPE_SYNCHRONISE_SPACING_SECONDS,
    SCOPE_WATCH_RETRY_SECONDS,
    START_WAIT_SECONDS,
    UPSTREAM_KEEP_ALIVE_SECONDS,
    UPSTREAM_RETRY_SECONDS,
    UPSTREAM_TOKEN_SECONDS,
    UPSTREAM_WINDOW,
)
from edgetrust.pki.keys import KeyStore
from edgetrust.protocol.iothub import UserName, format_user_name
from edgetrust.protocol.mqtt.packets import Connect, Publish
from edgetrust.protocol.sas import resource_text, sign
from edgetrust.store.lanes import Lane, QueuedMessage
from edgetrust.telemetry import EVENT_GATEWAY_DEGRADED, EVENT_SCOPE_NOT_SYNCHRONISED
from edgetrust.transport.mqtt import ConnackError, MqttClient, connect_mqtt
from edgetrust.transport.tls.contexts import ClientContext
from edgetrust.trust.authorize import EDGE_HUB
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Missing, MissingWhy

_API_VERSION = "2021-04-12"
_log = structlog.get_logger()


class HubSide:
    """This gateway towards its hub. `refused` is as in `Identities`."""

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        keys: KeyStore,
        clock: Clock,
        refused: Callable[[], Awaitable[bool]] | None = None,
        *,
        identities: IdentityClient | None = None,
    ) -> None:
        self._settings = settings
        self._gateway = Identity(settings.hub, settings.device)
        self._clock = clock
        self._trust = HubTrust(settings.upstream, clock)
        self.identities: Identities | IdentityClient = identities or Identities(
            settings, layout, keys, self._trust, clock, refused=refused
        )
        self.api = HubApi(settings, self._trust, authorization=self._token)
        self.source = ScopeSource(settings.hub, settings.device, self.api, clock)
        self._edge_hub: EdgeHub | None = None
        self._sure = False  # the hub has confirmed the module since the start, or since it last refused us
        self._synchronise_now = asyncio.Event()
        self.upstream: Upstream | None = None
        self._registry: ScopeRegistry | None = None
        self._own_twin: OwnTwin | None = None
        self._changed: Callable[[], None] = _nothing
        self.degraded = ""

    async def close(self) -> None:
        """Close the connections to the hub."""
        await self.identities.close()
        await self.api.close()

    @property
    def generation(self) -> str:
        """The generation of `$edgeHub`, known once `begin` has returned."""
        assert self._edge_hub is not None, "begin() comes first"
        return self._edge_hub.generation

    @property
    def is_connected(self) -> bool:
        """Whether messages can go to the hub at the moment."""
        return self.upstream is not None and self.upstream.is_connected

    def state(self) -> dict[str, Any]:
        """How it is with the hub, for who shows it."""
        upstream = self.upstream
        assert upstream is not None, "attach() comes first"
        return {
            "connected": upstream.is_connected,
            "connected_at": upstream.connected_at if upstream.is_connected else None,
            "problem": upstream.problem,
            "degraded": self.degraded,
        }

    # The module -----------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Learn who we are: from the hub, or from the backup when the hub is away.

        A gateway that was never provisioned waits for its hub, since it could not admit anybody. Raises
        DeviceRefusedError or HubNotTrustedError when such a gateway is told no.
        """
        backup = self.identities.backup()
        if backup is None:
            self._edge_hub = await self._provision()
            self._sure = True
            return
        self._edge_hub = backup
        if self._settings.prefer_backup:
            return
        try:
            async with asyncio.timeout(START_WAIT_SECONDS):
                await self._make_sure()
        except TimeoutError:
            self._degrade("the hub does not answer at once; going on with what was remembered", "hub-unreachable")
        except Error as problem:
            self._degrade(problem.message, problem.reason, problem.fix)

    async def _provision(self) -> EdgeHub:
        attempt = 0
        while True:
            try:
                return await self.identities.ensure_edge_hub()
            except UnavailableError as problem:
                if problem.exit_code == 1:  # who answers is not the hub: waiting does not help
                    raise
                self._degrade(f"waiting to be provisioned: {problem.message}", problem.reason, problem.fix)
            await asyncio.sleep(UPSTREAM_RETRY_SECONDS[min(attempt, len(UPSTREAM_RETRY_SECONDS) - 1)])
            attempt += 1

    async def _make_sure(self) -> None:
        found = await self.identities.ensure_edge_hub()
        before, self._edge_hub, self._sure, self.degraded = self._edge_hub, found, True, ""
        if before is not None and before.generation != found.generation:
            self._changed()

    def _degrade(self, problem: str, reason: str, fix: str = "") -> None:
        if problem != self.degraded:
            _log.warning(EVENT_GATEWAY_DEGRADED, detail=problem, reason=reason, fix=fix)
        self.degraded = problem

    def _token(self) -> str | None:
        assert self._edge_hub is not None, "begin() comes first"
        settings = self._settings
        expires_at = int(self._clock.now().timestamp()) + UPSTREAM_TOKEN_SECONDS
        return sign(self._edge_hub.primary.reveal(), resource_text(settings.hub, settings.device, EDGE_HUB), expires_at)

    # The connection -------------------------------------------------------------------------------------------------

    def attach(
        self, registry: ScopeRegistry, queue: Lane, own_twin: OwnTwin, observer: Observer, changed: Callable[[], None]
    ) -> None:
        """The copy to keep, the queue to drain, the module's twin, and whom to tell of a new generation."""
        self._registry = registry
        self._own_twin = own_twin
        self._changed = changed
        self.upstream = Upstream(
            queue,
            self._connect,
            connected=_nothing,
            undeliverable=self._undeliverable,
            withheld=self._withheld,
            clock=self._clock,
            observer=observer,
        )

    async def _connect(self) -> MqttClient:
        if not self._sure:
            await self._try_to_make_sure()
        own_twin = self._own_twin
        assert own_twin is not None, "attach() comes first"
        try:
            name = UserName(self._settings.hub, self._settings.device, EDGE_HUB, _API_VERSION)
            link = await self._dial(name, own_twin.heard)
        except ConnackError:
            self._sure = False  # maybe the module was made anew: see before the next attempt
            raise
        if not await self._synchronise():  # who is disabled by now is shut out before what waits is forwarded
            link.abort("the copy is not up to date")
            message = "the hub does not tell who is below this gateway: nothing is forwarded before it does"
            raise UnavailableError(message, reason="scope-not-synchronised")
        own_twin.attach(link)
        return link

    async def connect_as(
        self, identity: Identity, said: Mapping[str, str], heard: Callable[[Publish], None]
    ) -> MqttClient:
        """A connection in the name of somebody below, who has `said` this of itself; `heard` gets what comes.

        Errors as `connect_mqtt`.
        """
        assert self._registry is not None, "attach() comes first"
        chain = self._registry.chain_to(self._settings.device, identity)
        name = UserName(self._settings.hub, identity.device, identity.module, _API_VERSION, said, chain)
        return await self._dial(name, heard)

    async def _dial(self, name: UserName, heard: Callable[[Publish], None] | None = None) -> MqttClient:
        settings = self._settings
        connect = Connect(
            name.client_id,
            format_user_name(name),
            (self._token() or "").encode(),
            clean_session=True,
            keep_alive=UPSTREAM_KEEP_ALIVE_SECONDS,
        )
        context = await asyncio.to_thread(ClientContext, self._trust.bundle(), clock=self._clock)
        return await connect_mqtt(
            settings.upstream.host,
            settings.upstream.mqtt_port,
            context,
            connect,
            server_name=settings.upstream.name,
            on_message=heard,
            acknowledge_later=heard is not None,
            window=UPSTREAM_WINDOW,
        )

    async def _try_to_make_sure(self) -> None:
        """The module's own keys may be good even when the device's certificate is not any more: never a reason to
        stop.
        """
        try:
            await self._make_sure()
        except RefusedError as problem:
            self._degrade(problem.message, problem.reason, problem.fix)

    async def _undeliverable(self, message: QueuedMessage) -> bool:
        """Whether the hub says, freshly asked, that the sender is not below this gateway."""
        assert self._registry is not None
        sender = Identity(self._settings.hub, message.device)
        await self._registry.refresh(sender)
        found = await self._registry.find(sender)
        return isinstance(found, Missing) and found.why is not MissingWhy.UNAVAILABLE

    def _withheld(self, message: QueuedMessage) -> str:
        """Why nothing of this sender is forwarded, as the copy is now; "" when it is."""
        assert self._registry is not None
        why = self._registry.why_not_from(message.device, self._gateway)
        return "" if why is None else why.value

    # The copy of the scope ------------------------------------------------------------------------------------------

    def synchronise_soon(self) -> None:
        """The copy may be behind."""
        self._synchronise_now.set()

    async def keep_synchronised(self) -> None:
        """Synchronise for ever: periodically, and when asked to."""
        assert self._registry is not None
        while True:
            self._synchronise_now.clear()
            pause = SCOPE_REFRESH_SECONDS if await self._synchronise() else SCOPE_RETRY_SECONDS
            await asyncio.sleep(SCOPE_SYNCHRONISE_SPACING_SECONDS)
            try:
                async with asyncio.timeout(pause):
                    await self._synchronise_now.wait()
            except TimeoutError:
                continue

    async def _synchronise(self) -> bool:
        """Bring the copy up to date. Whether that worked; if not, what is known stays."""
        assert self._registry is not None
        try:
            await self._registry.synchronise()
        except (UnavailableError, RefusedError) as problem:
            _log.warning(EVENT_SCOPE_NOT_SYNCHRONISED, reason=problem.reason, detail=problem.message)
            return False
        return True

    async def watch_scope(self) -> None:
        """Ask the hub for ever whether the scope has changed, and have the copy synchronised when it has."""
        known: int | None = None
        since = self._clock.now()
        while True:
            asked_at = self._clock.now()
            try:
                version = await self.source.scope_version(known)
            except Error:  # its absence is noticed and logged elsewhere
                await asyncio.sleep(SCOPE_WATCH_RETRY_SECONDS)
                continue
            if version is None:  # this hub does not tell: the hourly synchronisation has to do
                await asyncio.sleep(SCOPE_RETRY_SECONDS)
            elif version != known:
                known, since = version, self._clock.now()
                self.synchronise_soon()
            elif self._registry is not None:
                self._registry.confirm(since, asked_at)


def _nothing() -> None:
    """Nobody is interested yet."""
