"""Where the messages of a gateway go: its routes in force, and the queues behind them.

Rules (edge specification 6.7): a message is acknowledged when it is on disk for every destination that a route gives
it. One that no route takes is acknowledged, dropped, counted, and said once a minute at most. What came before is not
stored again, as far as the configuration lets that be recognised (`protocol.repeats`). Routes change without a restart;
what waits already stays where it is. A report of properties is a message for the modules that ask for those.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec
import structlog

from edgetrust.broker.ports import Done, Tasks
from edgetrust.broker.sessions import Sessions
from edgetrust.clock import Clock
from edgetrust.edge.holding import Holding
from edgetrust.edge.metrics import HUB_ENDPOINT, GatewayMetrics
from edgetrust.limits import UNROUTED_SECONDS
from edgetrust.protocol.edge_routes import UPSTREAM, Choice, EdgeHubConfig, RouteTable
from edgetrust.protocol.iothub import parse_properties
from edgetrust.protocol.messages import TWIN_CHANGES, Message
from edgetrust.protocol.twin import Json
from edgetrust.store.lanes import QueuedMessage
from edgetrust.store.queue_accounts import Dropped
from edgetrust.store.queues import ForwardQueue
from edgetrust.telemetry import EVENT_MESSAGES_UNROUTED, EVENT_QUEUE_MADE_ROOM
from edgetrust.trust.identity import Identity

_JSON = "%24.ct=application%2Fjson&%24.ce=utf-8"
_log = structlog.get_logger()


class Router:
    """The broker's endpoint of a gateway; `gateway` is its edge device. Everything goes to the hub before `use`."""

    def __init__(
        self,
        gateway: Identity,
        queue: ForwardQueue,
        sessions: Sessions,
        tasks: Tasks,
        clock: Clock,
        metrics: GatewayMetrics,
    ) -> None:
        self._gateway = gateway
        self._queue = queue
        self._sessions = sessions
        self._clock = clock
        self._metrics = metrics
        self._table = RouteTable(EdgeHubConfig())
        self._unrouted = 0
        self._unrouted_said = float("-inf")
        self.holding = Holding(queue, tasks, lambda reason, count: metrics.unack.add(reason, count=count))
        queue.dropped = self._made_room
        queue.repeated = self._came_again

    def use(self, config: EdgeHubConfig) -> None:
        """These routes are in force from now on."""
        self._table = RouteTable(config)

    def append(self, messages: Sequence[Message], done: Done) -> None:
        """Store each message for its destinations. `done` as in the broker's ports."""
        metrics, table = self._metrics, self._table
        rows: list[QueuedMessage] = []
        modules: set[str] = set()
        for message in messages:
            source, output = sender(message), output_of(message.properties)
            metrics.received.add(output, source)
            metrics.size.observe(len(message.body), source)
            choices = table.choose(message)
            if not choices:
                self._dropped(message, source, output)
            for choice in choices:
                rows.append(_row(message, choice))
                if choice.sink.queue != UPSTREAM:
                    modules.add(choice.sink.queue)
        self.holding.append(rows, partial(self._stored, modules, done) if modules else done)

    def twin_reported(self, identity: Identity, patch: Json) -> None:
        """Somebody below this gateway has reported this."""
        if not self._table.twin_changes:
            return
        now = self._clock.milliseconds()
        change = Message(identity.device, identity.module, _JSON, msgspec.json.encode(patch), now, "", TWIN_CHANGES)
        choices = self._table.choose(change)
        modules = {choice.sink.queue for choice in choices}
        self.holding.append([_row(change, choice) for choice in choices], partial(self._stored, modules, _ignore))

    def _stored(self, modules: set[str], done: Done, error: BaseException | None) -> None:
        done(error)
        if error is None:
            for module in modules:
                session = self._sessions.of(Identity(self._gateway.hub, self._gateway.device, module))
                if session is not None:
                    session.commands_waiting()

    def _dropped(self, message: Message, source: str, output: str) -> None:
        self._metrics.dropped.add("no_route", source, output)
        self._unrouted += 1
        now = self._clock.monotonic()
        if now - self._unrouted_said < UNROUTED_SECONDS:
            return
        fix = "give $edgeHub a route that takes it, like FROM /messages/* INTO $upstream"
        _log.warning(EVENT_MESSAGES_UNROUTED, messages=self._unrouted, last_from=source, output=output, fix=fix)
        self._unrouted, self._unrouted_said = 0, now

    def _made_room(self, dropped: Sequence[Dropped]) -> None:
        self.given_up("queue_full", dropped)
        _log.warning(EVENT_QUEUE_MADE_ROOM, messages=len(dropped), limit_bytes=self._queue.limit_bytes)

    def _came_again(self, repeated: Sequence[Dropped]) -> None:
        for one in repeated:
            self._metrics.repeated.add(sender(one))

    def given_up(self, reason: str, dropped: Sequence[Dropped]) -> None:
        """Count what never arrives."""
        for one in dropped:
            self._metrics.dropped.add(reason, _named(one.device, one.module), output_of(one.properties))


def sender(message: Message | QueuedMessage | Dropped) -> str:
    """A message's sender, as metrics name it."""
    return _named(message.device, message.module)


def endpoint_name(device: str, queue: str, name: str) -> str:
    """A destination, as metrics name it; `device` is the gateway."""
    return HUB_ENDPOINT if queue == UPSTREAM else f"{device}/{queue}/{name}"


def output_of(properties: str) -> str:
    """The output that a module sent a message through, "" for none."""
    return parse_properties(properties).get("$.on") or "" if "on=" in properties else ""


def _named(device: str, module: str | None) -> str:
    return device if module is None else f"{device}/{module}"


def _row(message: Message, choice: Choice) -> QueuedMessage:
    ttl = choice.ttl_seconds
    expires = 0 if ttl is None else message.enqueued_ms + ttl * 1000
    return QueuedMessage._make((*message, choice.sink.queue, choice.sink.input, choice.priority, expires))


def _ignore(error: BaseException | None) -> None:
    """Nobody waits for a change of a twin: its report is kept anyway."""
