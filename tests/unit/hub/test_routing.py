"""Routes deliver at least once, each device's events in order, and never give up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import pytest_asyncio

from edgetrust.clock import ManualClock
from edgetrust.errors import UnavailableError
from edgetrust.hub import routing
from edgetrust.hub.routing import Route, Router
from edgetrust.protocol.expressions import parse_expression
from edgetrust.store.engine import Database
from edgetrust.store.events import EventLog, StoredMessage
from edgetrust.telemetry import METRICS
from support.database import Outcomes, message
from support.hub import until


class Collecting:
    """Takes what `refuses` does not refuse."""

    def __init__(self, lanes: int = 1) -> None:
        self.lanes = lanes
        self.got: list[StoredMessage] = []
        self.at_once = self.most_at_once = 0
        self.refusals = 0
        self.refuses: Callable[[StoredMessage], bool] = lambda _stored: False
        self.closed = False

    async def deliver(self, events: Sequence[StoredMessage]) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            for stored in events:
                if self.refuses(stored):
                    self.refusals += 1
                    raise UnavailableError("not now", reason="endpoint-away")
                self.got.append(stored)
        finally:
            self.at_once -= 1

    async def close(self) -> None:
        self.closed = True

    def bodies(self, device: str | None = None) -> list[str]:
        return [one.message.body.decode() for one in self.got if device in (None, one.message.device)]


@pytest_asyncio.fixture
async def log(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EventLog]:
    monkeypatch.setattr(routing, "ROUTE_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(routing, "ROUTE_RETRY_MAX_SECONDS", 0.002)
    database = Database("sqlite://")
    await database.migrate()
    opened = await EventLog.open(database)
    yield opened
    await opened.close()
    await database.close()


async def append(log: EventLog, *numbers: int, device: str = "d", **fields: Any) -> None:
    done = Outcomes()
    log.append([message(number, device, b"%d" % number, **fields) for number in numbers], done)
    assert await done.wait() == [None]


def route(condition: str = "true", name: str = "r", endpoint: str = "e", **more: Any) -> Route:
    return Route(name, endpoint, (parse_expression(condition),), **more)


async def running(log: EventLog, *routes: Route, **endpoints: Collecting) -> Router:
    router = Router(log, ManualClock(), routes, dict(endpoints))
    await router.start()
    return router


async def test_what_the_condition_takes_is_delivered_in_order(log: EventLog) -> None:
    await append(log, 1)  # before the route was there
    end = Collecting()
    router = await running(log, route("number IN ['2', '4', '5']"), e=end)
    for number in range(2, 7):
        await append(log, number)
    await until(lambda: end.bodies() == ["2", "4", "5"])
    await until(lambda: router.states[0].offset == 6)
    assert (await log.consumed("route:r"), router.states[0].delivered) == (6, 3)
    assert METRICS.get_sample_value("edgetrust_route_lag", {"route": "r"}) == 0
    await router.close()
    assert end.closed


async def test_a_new_route_may_begin_with_the_oldest(log: EventLog) -> None:
    await append(log, 1, 2)
    end = Collecting()
    router = await running(log, route(oldest=True), e=end)
    await until(lambda: end.bodies() == ["1", "2"])
    await router.close()


async def test_a_route_goes_on_where_it_was(log: EventLog) -> None:
    end = Collecting()
    router = await running(log, route(), e=end)
    await append(log, 1)
    await until(lambda: router.states[0].offset == 1)
    await router.close()
    await append(log, 2)
    router = await running(log, route(oldest=True), e=end)
    await append(log, 3)
    await until(lambda: end.bodies() == ["1", "2", "3"])
    await router.close()


async def test_what_is_not_taken_is_tried_again_and_nothing_overtakes_it(log: EventLog) -> None:
    end, other = Collecting(lanes=4), Collecting()
    end.refuses = lambda stored: stored.message.device == "stuck" and end.refusals < 5
    router = await running(log, route(), route(name="o", endpoint="o"), e=end, o=other)
    await append(log, 1, 2, 3, device="stuck")
    await append(log, 4, 5, device="fine")
    await until(lambda: len(other.got) == 5)
    await until(lambda: len(end.got) == 5)
    assert end.refusals == 5
    assert end.bodies("stuck") == ["1", "2", "3"]
    assert end.bodies("fine") == ["4", "5"]
    await until(lambda: router.states[0].offset == 5)
    assert router.states[0].problem is None
    await router.close()


async def test_never_given_up_and_seen(log: EventLog) -> None:
    end = Collecting()
    end.refuses = lambda _stored: True
    router = await running(log, route(), e=end)
    await append(log, 1)
    await until(lambda: end.refusals > 20)
    assert router.states[0].problem == "not now"
    assert await log.consumed("route:r") == 0
    end.refuses = lambda _stored: False
    await until(lambda: end.bodies() == ["1"])
    await router.close()


async def test_whoever_moves_the_offset_lets_it_skip(log: EventLog) -> None:
    end = Collecting()
    end.refuses = lambda stored: stored.offset == 2
    router = await running(log, route(), e=end)
    await append(log, 1, 2, 3)
    await until(lambda: end.refusals > 3)
    await log.consume("route:r", 2, ManualClock().now())
    await until(lambda: "3" in end.bodies())
    assert "2" not in end.bodies()
    await until(lambda: router.states[0].offset == 3)
    await router.close()


async def test_after_a_crash_nothing_is_missing(log: EventLog) -> None:
    end = Collecting(lanes=3)
    await append(log, 0)
    router = await running(log, route(), e=end)
    for number in range(1, 60):
        await append(log, number, device=f"d{number % 5}")
        if number % 10 == 0:  # stopped wherever it is
            await router.close()
            router = await running(log, route(), e=end)
    await until(lambda: {int(body) for body in end.bodies()} == set(range(1, 60)))
    for device in range(5):
        seen = [int(body) for body in end.bodies(f"d{device}")]
        first = list(dict.fromkeys(seen))
        assert first == sorted(first)
    await router.close()


async def test_no_more_at_once_than_lanes(log: EventLog) -> None:
    end = Collecting(lanes=3)
    router = await running(log, route(), e=end)
    done = Outcomes()
    log.append([message(number, f"d{number}") for number in range(40)], done)
    await done.wait()
    await until(lambda: len(end.got) == 40)
    assert end.most_at_once == 3
    await router.close()


async def test_the_fallback_takes_what_no_route_takes(log: EventLog) -> None:
    end, rest = Collecting(), Collecting()
    hot, cold = parse_expression("number = '1'"), parse_expression("number = '2'")
    fallback = Route("$fallback", "rest", (hot, cold), fallback=True)
    router = await running(log, Route("hot", "e", (hot,)), fallback, e=end, rest=rest)
    await append(log, 1, 2, 3)
    await until(lambda: (end.bodies(), rest.bodies()) == (["1"], ["3"]))
    await router.close()


async def test_a_store_that_is_away_is_waited_for(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "EVENT_POLL_SECONDS", 0.001)
    end, read, failures = Collecting(), log.read, 0

    async def failing(*arguments: Any, **named: Any) -> Any:
        nonlocal failures
        failures += 1
        if failures < 4:
            raise UnavailableError("away", reason="store-unreachable")
        return await read(*arguments, **named)

    monkeypatch.setattr(log, "read", failing)
    router = await running(log, route(), e=end)
    await append(log, 1)
    await until(lambda: end.bodies() == ["1"])
    await router.close()
