"""The gateway's own twin, that of `$edgeHub`: what its deployment wants of it, and what it reports about that.

    at start        what was in force when it stopped is in force again, with or without a hub
    on connection   the twin is read
    on change       what changed is merged in; when something was missed, the twin is read again
    on a call       its direct methods are answered (`ownmethods`)
    meanwhile       who has come and gone is reported (`clients`), what gathered in CLIENTS_GATHER_SECONDS together

What is wrong is left as it was before, or out, and reported; everything else is applied (edge specification 6.7, 6.11).
Without any of it, and on a hub that does not tell, everything goes to the hub.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Protocol

import structlog

from edgetrust import __version__
from edgetrust.broker.ports import Tasks
from edgetrust.edge.clients import Clients
from edgetrust.edge.ownmethods import answer
from edgetrust.edge.twinquestions import Publisher, TwinQuestions, encoded, section, without_version
from edgetrust.errors import Error, IntegrityError
from edgetrust.limits import CLIENTS_GATHER_SECONDS
from edgetrust.protocol.edge_routes import EdgeHubConfig, Problem, mend, read_edge_hub
from edgetrust.protocol.iothub import (
    MethodRequestTopic,
    Subscription,
    SubscriptionKind,
    TopicError,
    TwinDesiredTopic,
    TwinResponseTopic,
    filter_for,
    method_response_topic,
    parse_delivery_topic,
)
from edgetrust.protocol.mqtt.packets import Publish
from edgetrust.protocol.twin import Json, merge, parse_patch
from edgetrust.store.twin_copies import TwinCopies, TwinCopy
from edgetrust.telemetry import EVENT_OWN_TWIN_FAILED, EVENT_ROUTE_UNUSABLE, EVENT_ROUTES_APPLIED
from edgetrust.trust.identity import Identity

_SCHEMA = "1.1"
_OK, _BAD_REQUEST = 200, 400
_DESCRIBED = 1_000  # characters of a description: one text of a twin takes 4 KiB
_log = structlog.get_logger()


class Connection(Publisher, Protocol):
    """The connection to the hub as `$edgeHub`."""

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> tuple[int, ...]: ...

    def acknowledge(self, message: Publish) -> None: ...


class OwnTwin:
    """The twin of `identity`; `use` is called with what is in force from now on, `synchronise` when a method asks."""

    def __init__(
        self,
        identity: Identity,
        copies: TwinCopies,
        tasks: Tasks,
        use: Callable[[EdgeHubConfig], None],
        synchronise: Callable[[], Awaitable[None]],
    ) -> None:
        self._synchronise = synchronise
        self._identity = identity
        self._copies = copies
        self._tasks = tasks
        self._use = use
        self._questions = TwinQuestions()
        self._link: Connection | None = None
        self._desired: Json = {}  # as the hub said it last
        self._effective: Json = {}  # without what cannot be used
        self._applied = False
        self._turn = asyncio.Lock()
        self._clients = Clients()
        self._seen = asyncio.Event()
        self.version = 0
        self.problems: tuple[Problem, ...] = ()

    async def load(self) -> None:
        """Take up what was in force. Raises the store's errors."""
        try:
            copy = await self._copies.find(self._identity)
        except IntegrityError as problem:
            self._failed(problem)
            return
        if copy.is_known:
            self._effective, self.version = copy.desired, copy.desired_version
            self._use(read_edge_hub(copy.desired))

    def attach(self, link: Connection) -> None:
        """A connection to the hub stands: read the twin over it."""
        self._link = link
        self._tasks.start(self._begin(link))

    def seen(self, identity: Identity, here: bool, now: datetime) -> None:
        """A client of this gateway has come or gone."""
        self._clients.seen(identity, here, now)
        self._seen.set()

    def heard(self, message: Publish) -> None:
        """Something came over it."""
        try:
            topic = parse_delivery_topic(message.topic)
        except TopicError:
            return  # a hub of a later version
        if isinstance(topic, TwinResponseTopic):
            self._questions.answered(topic, message.payload)
        elif isinstance(topic, TwinDesiredTopic):
            self._tasks.start(self._changed(topic.version, message.payload))
        elif isinstance(topic, MethodRequestTopic) and self._link is not None:
            self._tasks.start(self._called(self._link, topic, message.payload))
        if self._link is not None:
            self._link.acknowledge(message)

    async def _begin(self, link: Connection) -> None:
        kinds = (SubscriptionKind.TWIN_RESPONSES, SubscriptionKind.TWIN_DESIRED, SubscriptionKind.METHODS)
        try:
            await link.subscribe([(filter_for(Subscription(kind)), 0) for kind in kinds])
            await self._read(link)
            while self._is_current(link):
                await self._tell_clients(link)
        except Error as problem:
            self._failed(problem)  # the next connection is another attempt

    async def _called(self, link: Connection, call: MethodRequestTopic, payload: bytes) -> None:
        said = await answer(call.method, payload, self._synchronise)
        if link.is_open:
            await link.publish(method_response_topic(said.status, call.request_id), said.payload, qos=0)

    async def _tell_clients(self, link: Connection) -> None:
        await self._seen.wait()
        await asyncio.sleep(CLIENTS_GATHER_SECONDS)
        if not self._is_current(link):
            return  # whoever has the next connection tells
        self._seen.clear()
        patch = self._clients.news()
        if patch:
            await self._questions.report(link, encoded({"clients": patch}))
            self._clients.told(patch)

    def _is_current(self, link: Connection) -> bool:
        return self._link is link and link.is_open

    async def _changed(self, version: int, body: bytes) -> None:
        link = self._link
        if link is None:
            return
        try:
            patch = without_version(parse_patch(body))
            if self._applied and version == self.version + 1:
                async with self._turn:
                    await self._apply(link, merge(self._desired, patch), version)
            elif version > self.version:
                await self._read(link)
        except Error as problem:
            self._failed(problem)

    async def _read(self, link: Connection) -> None:
        async with self._turn:
            twin = parse_patch(await self._questions.twin(link))
            desired, version = section(twin, "desired")
            self._clients.known(section(twin, "reported")[0].get("clients"))
            self._seen.set()  # what it knows may be of before a restart
            if not self._applied or version > self.version:
                await self._apply(link, desired, version)

    async def _apply(self, link: Connection, desired: Json, version: int) -> None:
        """Remember first: what is in force shall be so after a restart too."""
        problems = read_edge_hub(desired).problems
        effective = mend(desired, self._effective, problems)
        await self._copies.keep(self._identity, TwinCopy(effective, max(1, version)))
        changed = effective != self._effective
        self._desired, self._effective, self.version, self.problems = desired, effective, version, problems
        self._applied = True
        config = read_edge_hub(effective)
        self._use(config)
        if changed:
            routes = "default" if config.routes is None else len(config.routes)
            _log.info(EVENT_ROUTES_APPLIED, version=version, routes=routes)
        for one in problems:
            _log.warning(EVENT_ROUTE_UNUSABLE, place=one.place, detail=one.message, fix=one.fix)
        await self._questions.report(link, encoded(self._told()))

    def _told(self) -> dict[str, Any]:
        said = "; ".join(map(str, self.problems))[:_DESCRIBED]
        code = _BAD_REQUEST if self.problems else _OK
        return {
            "schemaVersion": _SCHEMA,
            "version": {"version": __version__},
            "lastDesiredVersion": self.version,
            "lastDesiredStatus": {"code": code, "description": said},
            "problems": [
                {"place": one.place[:200], "problem": one.message[:_DESCRIBED], "fix": one.fix[:_DESCRIBED]}
                for one in self.problems[:20]
            ],
        }

    def state(self) -> dict[str, Any]:
        """What is in force, for who shows it: `routes` by name as the twin has them, None for everything to the hub."""
        told, routes = self._told(), self._effective.get("routes")
        return {
            "version": self.version,
            "routes": {name: _shown(route) for name, route in routes.items()} if isinstance(routes, dict) else None,
            "status": told["lastDesiredStatus"],
            "problems": told["problems"],
        }

    def _failed(self, problem: Error) -> None:
        _log.warning(EVENT_OWN_TWIN_FAILED, reason=problem.reason, detail=problem.message)


def _shown(route: Any) -> dict[str, Any]:
    """A route, which may be its text alone, as an object."""
    return dict(route) if isinstance(route, dict) else {"route": route}
