"""Event routes: which events go to which endpoint, at least once, each device's in order, and never given up.

Rules. A route reads the event log behind an offset of its own, which is a consumer of the log named `route:NAME`, so
that retention keeps what it has not delivered. The offset moves when everything up to it has been delivered; after a
crash the rest is delivered again. What an endpoint does not take is tried again after a growing pause, for ever: later
events of that device wait, other devices' go on within the page, other routes are not touched. Whoever moves the
consumer's offset forward lets the route skip what it is stuck at. Events that no route with a condition takes go to the
fallback, which is a route too; the endpoint `events` is the log itself, where every event is anyway.

It does not know how an endpoint delivers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby

import structlog

from edgetrust.clock import Clock
from edgetrust.errors import Error, UnavailableError
from edgetrust.hub.endpoints.port import RouteEndpoint
from edgetrust.limits import EVENT_POLL_SECONDS, ROUTE_PAGE, ROUTE_RETRY_MAX_SECONDS, ROUTE_RETRY_SECONDS
from edgetrust.protocol.expressions import Expression
from edgetrust.protocol.iothub.message_query import MessageQuery
from edgetrust.store.events import EventLog, StoredMessage
from edgetrust.telemetry import EVENT_ROUTE_FAILED, EVENT_ROUTE_RECOVERED, ROUTE_DELIVERED, ROUTE_FAILURES, ROUTE_LAG
from edgetrust.transport.tasks import LoopTasks

_WAIT_SECONDS = 30.0
_AT_ONCE = 20  # conditions evaluated before others have a turn
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Route:
    """Events for which one of `conditions` holds go to the endpoint; `fallback`: those for which none does.

    `oldest`: a route that is new begins with the oldest event of the log, not behind the newest.
    """

    name: str
    endpoint: str
    conditions: tuple[Expression, ...]
    fallback: bool = False
    oldest: bool = False

    @property
    def consumer(self) -> str:
        """Its name among the consumers of the log."""
        return f"route:{self.name}"

    def takes(self, stored: StoredMessage) -> bool:
        """Whether the event is for this route."""
        query = MessageQuery(stored.message)
        return any(condition.holds(query) for condition in self.conditions) is not self.fallback


@dataclass(slots=True)
class RouteState:
    """How a route is doing: the offset it has dealt with, what it has delivered, and what stands in its way."""

    route: Route
    offset: int = 0
    delivered: int = 0
    problem: str | None = None


class Router:
    """Runs routes until it is closed. Made and run on one event loop."""

    def __init__(
        self, events: EventLog, clock: Clock, routes: Sequence[Route], endpoints: dict[str, RouteEndpoint]
    ) -> None:
        self._events = events
        self._clock = clock
        self._endpoints = endpoints
        self.states = tuple(RouteState(route) for route in routes)
        self._tasks = LoopTasks()

    async def start(self) -> None:
        """Find out where each route is, then let it run."""
        for state in self.states:
            state.offset = await self._begin(state.route)
        for state in self.states:
            self._tasks.start(self._run(state))

    async def close(self) -> None:
        """Stop, wherever that is: what is not known as delivered is delivered again."""
        await self._tasks.close()
        for endpoint in self._endpoints.values():
            await endpoint.close()

    async def _begin(self, route: Route) -> int:
        if await self._events.is_consumer(route.consumer):
            return await self._events.consumed(route.consumer)
        offset = 0 if route.oldest else await self._events.newest()
        await self._events.consume(route.consumer, offset, self._clock.now())
        return offset

    async def _run(self, state: RouteState) -> None:
        while True:
            try:
                if await self._events.wait_for(state.offset, _WAIT_SECONDS):
                    await self._page(state)
            except Error as problem:  # the store is away: so is what would be delivered
                self._failed(state, problem)
                await asyncio.sleep(EVENT_POLL_SECONDS)

    async def _page(self, state: RouteState) -> None:
        page = await self._events.read(state.offset, ROUTE_PAGE)
        await self._deliver(state, await self._chosen(state.route, page.events))
        skipped = await self._events.consumed(state.route.consumer)
        state.offset = max(page.read_to, skipped)
        await self._events.consume(state.route.consumer, state.offset, self._clock.now())
        ROUTE_LAG.labels(state.route.name).set(max(0, await self._events.newest() - state.offset))

    async def _chosen(self, route: Route, events: Sequence[StoredMessage]) -> list[StoredMessage]:
        chosen = []
        for number, stored in enumerate(events):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)  # reading bodies must not hold up those who send them
            if route.takes(stored):
                chosen.append(stored)
        return chosen

    # Delivery -------------------------------------------------------------------------------------------------------

    async def _deliver(self, state: RouteState, events: list[StoredMessage]) -> None:
        """Returns when the endpoint has all of them."""
        endpoint = self._endpoints[state.route.endpoint]
        if not events:
            return
        if endpoint.lanes == 1:
            await self._insist(state, endpoint, events)
            return
        room = asyncio.Semaphore(endpoint.lanes)

        async def lane(of_device: list[StoredMessage]) -> None:
            for stored in of_device:
                await self._insist(state, endpoint, [stored], room)

        async with asyncio.TaskGroup() as lanes:
            for of_device in _by_device(events):
                lanes.create_task(lane(of_device))

    async def _insist(
        self,
        state: RouteState,
        endpoint: RouteEndpoint,
        events: Sequence[StoredMessage],
        room: asyncio.Semaphore | None = None,
    ) -> None:
        """Deliver, as often as it takes; the pause between two attempts is not spent in the endpoint's room."""
        pause = ROUTE_RETRY_SECONDS
        while events:
            try:
                async with room or nullcontext():
                    await endpoint.deliver(events)
            except UnavailableError as problem:
                self._failed(state, problem)
                await asyncio.sleep(pause)
                pause = min(pause * 2, ROUTE_RETRY_MAX_SECONDS)
                skipped = await self._skipped(state)
                events = [stored for stored in events if stored.offset > skipped]
            else:
                self._succeeded(state, len(events))
                return

    async def _skipped(self, state: RouteState) -> int:
        """Up to where somebody has moved the route by hand."""
        try:
            return await self._events.consumed(state.route.consumer)
        except Error:
            return state.offset

    def _failed(self, state: RouteState, problem: Error) -> None:
        ROUTE_FAILURES.labels(state.route.name).inc()
        if state.problem is None:
            _log.warning(
                EVENT_ROUTE_FAILED,
                route=state.route.name,
                endpoint=state.route.endpoint,
                reason=problem.reason,
                detail=problem.message,
                fix=problem.fix,
            )
        state.problem = problem.message

    def _succeeded(self, state: RouteState, count: int) -> None:
        state.delivered += count
        ROUTE_DELIVERED.labels(state.route.name).inc(count)
        if state.problem is not None:
            state.problem = None
            _log.info(EVENT_ROUTE_RECOVERED, route=state.route.name, endpoint=state.route.endpoint)


def _by_device(events: list[StoredMessage]) -> list[list[StoredMessage]]:
    ordered = sorted(events, key=lambda stored: (stored.message.device, stored.offset))
    return [list(lane) for _device, lane in groupby(ordered, key=lambda stored: stored.message.device)]
