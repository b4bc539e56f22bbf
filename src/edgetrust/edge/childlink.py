"""One connection to the hub in the name of somebody below this gateway (edge specification 6.6).

Rules: it is made as long as it is wanted, again after each loss, quickly at first and then with growing pauses, and
renewed at half the life of its token. Upstream it subscribes to what the child has subscribed to here, so that the hub
knows who can be called, and to nothing more. Whoever waits for an answer when the connection is lost is told so.

It must not know sessions, stores or what is done with what it hears.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

import structlog

from edgetrust.edge.twinquestions import TwinQuestions
from edgetrust.errors import Error
from edgetrust.limits import (
    CHILD_CONNECT_SECONDS,
    UPSTREAM_RETRY_SECONDS,
    UPSTREAM_TOKEN_SECONDS,
)
from edgetrust.protocol.iothub import (
    Subscription,
    SubscriptionKind,
    TopicError,
    TwinResponseTopic,
    filter_for,
    method_response_topic,
    parse_delivery_topic,
)
from edgetrust.protocol.mqtt.packets import Publish
from edgetrust.telemetry import EVENT_CHILD_LINK_LOST
from edgetrust.trust.identity import Identity

_FOLLOWED: Final = frozenset({SubscriptionKind.C2D, SubscriptionKind.METHODS, SubscriptionKind.TWIN_DESIRED})
_log = structlog.get_logger()


class Link(Protocol):
    """An open MQTT connection, as far as it is used here."""

    @property
    def is_open(self) -> bool: ...

    async def publish(self, topic: str, payload: bytes, *, qos: int = ...) -> None: ...

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> tuple[int, ...]: ...

    async def unsubscribe(self, filters: Sequence[str]) -> None: ...

    def acknowledge(self, message: Publish) -> None: ...

    async def wait_closed(self) -> str: ...

    async def disconnect(self) -> None: ...


class Listener(Protocol):
    """Who is told what comes for `child`."""

    def connected(self, child: ChildLink) -> None: ...

    def lost(self, child: ChildLink) -> None: ...

    def heard(self, child: ChildLink, message: Publish) -> None: ...


Dial = Callable[[Identity, Mapping[str, str], Callable[[Publish], None]], Awaitable[Link]]
"""Connects as an identity; the mapping is what the child said of itself, as parameters of the user name."""


class ChildLink:
    """The connection in the name of `identity`. `run` keeps it until `close`."""

    def __init__(self, identity: Identity, dial: Dial, listener: Listener, said: Mapping[str, str]) -> None:
        self.identity = identity
        self._said = said
        self._dial = dial
        self._listener = listener
        self._link: Link | None = None
        self._wanted: frozenset[SubscriptionKind] = frozenset()
        self._subscribed: frozenset[SubscriptionKind] = frozenset()
        self._changed = asyncio.Event()  # something to do: subscriptions, or the end
        self._settled = asyncio.Event()  # the first attempt is over, whatever its outcome
        self._closing = False
        self._questions = TwinQuestions()
        self.problem = ""

    # What its owner calls -------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._link is not None and self._link.is_open

    def follow(self, kinds: frozenset[SubscriptionKind]) -> None:
        """What the child has subscribed to here, from now on."""
        self._wanted = kinds & _FOLLOWED
        self._changed.set()

    def close(self) -> None:
        """Nobody needs it any more."""
        self._closing = True
        self._changed.set()

    async def ready(self) -> bool:
        """Whether the hub can be asked; waits for a connection that is being made."""
        if not self._settled.is_set():
            try:
                async with asyncio.timeout(CHILD_CONNECT_SECONDS):
                    await self._settled.wait()
            except TimeoutError:
                return False
        return self.is_open

    async def twin(self) -> bytes:
        """The twin as the hub tells it: JSON. Raises UnavailableError, PeerError."""
        return await self._questions.twin(self._link)

    async def report(self, patch: bytes) -> int:
        """Report; the new version of the reported properties. Raises UnavailableError, PeerError."""
        return await self._questions.report(self._link, patch)

    async def answer_method(self, request_id: str, status: int, payload: bytes) -> None:
        """Pass on an answer to a direct method; of no use any more when the connection has gone."""
        if self._link is not None and self._link.is_open:
            await self._link.publish(method_response_topic(status, request_id), payload, qos=0)

    def acknowledge(self, message: Publish) -> None:
        """The child has a cloud-to-device message."""
        if self._link is not None:
            self._link.acknowledge(message)

    # Keeping it -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the connection until `close`."""
        attempt = 0
        while not self._closing:
            try:
                link = await self._dial(self.identity, self._said, self._hear)
            except Error as problem:
                self._say(problem.message, problem.reason)
                self._settled.set()
                await self._pause(UPSTREAM_RETRY_SECONDS[min(attempt, len(UPSTREAM_RETRY_SECONDS) - 1)])
                attempt += 1
                continue
            attempt = 0
            await self._serve(link)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not self._closing:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return

    async def _serve(self, link: Link) -> None:
        self._link, self._subscribed, self.problem = link, frozenset(), ""
        ended = asyncio.ensure_future(link.wait_closed())
        try:
            async with asyncio.timeout(UPSTREAM_TOKEN_SECONDS / 2):
                await link.subscribe(((filter_for(Subscription(SubscriptionKind.TWIN_RESPONSES)), 0),))
                self._settled.set()
                self._listener.connected(self)
                await self._keep_subscribed(link, ended)
        except TimeoutError:
            pass  # time for a new token
        except Error as problem:
            self._say(problem.message, problem.reason)
        finally:
            ended.cancel()
            self._settled.set()
            self._questions.fail()
            self._listener.lost(self)
            await link.disconnect()

    async def _keep_subscribed(self, link: Link, ended: asyncio.Future[str]) -> None:
        while link.is_open and not self._closing:
            self._changed.clear()
            wanted, had = self._wanted, self._subscribed
            if wanted - had:
                await link.subscribe([(self._filter(kind), 1) for kind in sorted(wanted - had)])
            if had - wanted:
                await link.unsubscribe([self._filter(kind) for kind in sorted(had - wanted)])
            self._subscribed = wanted
            if self._changed.is_set():
                continue
            changed = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait((changed, ended), return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()

    def _filter(self, kind: SubscriptionKind) -> str:
        return filter_for(Subscription(kind, self.identity.device, self.identity.module))

    def _say(self, problem: str, reason: str) -> None:
        if problem != self.problem:
            _log.warning(EVENT_CHILD_LINK_LOST, identity=str(self.identity), reason=reason, detail=problem)
        self.problem = problem

    def _hear(self, message: Publish) -> None:
        try:
            topic = parse_delivery_topic(message.topic)
        except TopicError:
            return  # a hub of a later version
        if isinstance(topic, TwinResponseTopic):
            self._questions.answered(topic, message.payload)
        else:
            self._listener.heard(self, message)
