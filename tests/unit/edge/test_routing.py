"""The router over a real queue: acknowledged when durable everywhere, dropped and said, held back and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
import structlog

from edgetrust.broker.sessions import Sessions
from edgetrust.clock import ManualClock
from edgetrust.edge import holding as held_module
from edgetrust.edge.inputs import ModuleInputs
from edgetrust.edge.metrics import GatewayMetrics
from edgetrust.edge.routing import Router
from edgetrust.errors import UnavailableError
from edgetrust.protocol.edge_routes import read_edge_hub
from edgetrust.protocol.messages import Message
from edgetrust.store import failures
from edgetrust.store.engine import Database
from edgetrust.store.queues import ForwardQueue
from edgetrust.transport.tasks import LoopTasks
from edgetrust.trust.identity import Identity
from support.database import Outcomes
from support.sockets import until

HUB = "hub.example"
GATEWAY = Identity(HUB, "gw")
FILTER = Identity(HUB, "gw", "filter")
ROUTES = {
    "in": "FROM /messages/events/* WHERE kind = 'hot' INTO BrokeredEndpoint('/modules/filter/inputs/hot')",
    "up": {
        "route": "FROM /messages/* WHERE NOT is_defined(kind) OR kind != 'lost' INTO $upstream",
        "priority": 2,
        "timeToLiveSecs": 60,
    },
    "twins": "FROM /twinChangeNotifications INTO BrokeredEndpoint('/modules/filter/inputs/twins')",
}


@dataclass
class World:
    queue: ForwardQueue
    router: Router
    inputs: ModuleInputs
    metrics: GatewayMetrics
    clock: ManualClock

    async def send(self, *bodies: str, kind: str = "", device: str = "leaf") -> Outcomes:
        done = Outcomes()
        self.router.append([self.message(body, kind, device) for body in bodies], done)
        await done.wait()
        return done

    def message(self, body: str, kind: str = "", device: str = "leaf") -> Message:
        bag = f"kind={kind}" if kind else ""
        return Message(device, None, bag, body.encode(), self.clock.milliseconds(), "", "Telemetry")

    async def waiting(self, name: str = "$upstream") -> list[str]:
        lane = self.queue.lane(name)
        lane.release()
        return [one.message.body.decode() for one in await lane.lease()]

    def routes(self, **desired: Any) -> None:
        config = read_edge_hub(desired)
        assert config.problems == ()
        self.router.use(config)


@pytest_asyncio.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(held_module, "HELD_RETRY_SECONDS", 0.01)
    clock, metrics, tasks = ManualClock(), GatewayMetrics(HUB, "gw"), LoopTasks()
    database = Database("sqlite://")
    await database.migrate()
    queue = await ForwardQueue.open(database, clock=clock)
    router = Router(GATEWAY, queue, Sessions(), tasks, clock, metrics)
    yield World(queue, router, ModuleInputs(GATEWAY, queue, tasks, clock, metrics), metrics, clock)
    await tasks.close()
    await queue.close()
    await database.close()


async def test_without_a_deployment_everything_goes_up(world: World) -> None:
    assert (await world.send("1", "2")).told == [None]
    assert await world.waiting() == ["1", "2"]


async def test_to_every_destination_and_acknowledged_once(world: World) -> None:
    world.routes(routes=ROUTES)
    assert (await world.send("1", kind="hot")).told == [None]
    await world.send("2")
    assert await world.waiting() == ["1", "2"]
    assert await world.waiting("filter") == ["1"]
    (lane,) = [one for one in await world.queue.lanes() if one.queue == "$upstream"]
    assert lane.priority == 2
    world.clock.advance(60)
    assert [one.properties for one in await world.queue.expire_due()] == ["kind=hot", ""]
    assert await world.waiting("filter") == ["1"]


async def test_what_no_route_takes_is_acknowledged_dropped_counted_and_said_once_a_minute(world: World) -> None:
    world.routes(routes=ROUTES)
    with structlog.testing.capture_logs() as logs:
        assert (await world.send("1", "2", kind="lost")).told == [None]
        world.clock.advance(61)
        await world.send("3", kind="lost")
    assert [(entry["event"], entry["messages"]) for entry in logs] == [("route.no_match", 1), ("route.no_match", 2)]
    assert world.metrics.dropped.values == {("no_route", "leaf", ""): 3}
    assert await world.waiting() == []


async def test_what_is_reported_goes_to_modules_that_ask_for_it(world: World) -> None:
    leaf = Identity(HUB, "leaf")
    world.router.twin_reported(leaf, {"a": 1})
    world.routes(routes=ROUTES)
    world.router.twin_reported(leaf, {"a": 2})
    await world.send("after")
    (one,) = await world.inputs.lease(FILTER, 10)
    assert (one.input, one.body, one.properties) == (
        "twins",
        b'{"a":2}',
        "%24.ct=application%2Fjson&%24.ce=utf-8&%24.cdid=leaf",
    )


async def test_inputs_are_forgotten_when_acknowledged_and_come_again_when_not(world: World) -> None:
    world.routes(routes=ROUTES)
    await world.send("1", "2", "3", kind="hot")
    first = await world.inputs.lease(FILTER, 2)
    assert [(one.body, one.deliveries) for one in first] == [(b"1", 1), (b"2", 1)]
    world.inputs.complete(FILTER, first[0].sequence, lambda error: None)
    world.inputs.release(FILTER)
    assert [(one.body, one.deliveries) for one in await world.inputs.lease(FILTER, 10)] == [(b"2", 2), (b"3", 1)]
    while await world.waiting("filter") != ["2", "3"]:
        await asyncio.sleep(0)
    assert world.metrics.sent.values == {("leaf", "gw/filter/hot", "", "hot", "2000000000"): 1}
    assert await world.inputs.lease(Identity(HUB, "leaf", "filter"), 10) == ()
    assert await world.inputs.lease(GATEWAY, 10) == ()


# Full ---------------------------------------------------------------------------------------------------------------


async def test_a_full_queue_holds_publishers_back_and_keeps_their_order(world: World) -> None:
    world.queue.limit(4, drop_oldest=False)
    await world.send("1", "2", "3", "4")
    done = [Outcomes() for _ in range(4)]
    with structlog.testing.capture_logs() as logs:
        for number, outcome in enumerate(done):
            world.router.append([world.message(str(5 + number))], outcome)
            await until(lambda: world.router.holding.problem is not None)
            await asyncio.sleep(0.005)
        assert [outcome.told for outcome in done] == [[], [], [], []]
        lane = world.queue.lane("$upstream")
        lane.release()
        await lane.ack([one.offset for one in await lane.lease(2)])
        await done[0].wait()
        await done[1].wait()
        assert [outcome.told for outcome in done] == [[None], [None], [], []]
        world.queue.limit(1000, drop_oldest=False)
        await done[3].wait()
        await until(lambda: world.router.holding.problem is None)
    assert await world.waiting() == ["3", "4", "5", "6", "7", "8"]
    assert [entry["event"] for entry in logs] == ["queue.refuses", "queue.takes_again"]
    assert world.metrics.unack.values == {("queue-full",): 4}
    assert world.router.holding.problem is None
    assert (await world.send("9")).told == [None]


async def test_what_is_held_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_module, "HELD_BYTES", 10)
    world.queue.limit(1, drop_oldest=False)
    held, above = Outcomes(), Outcomes()
    world.router.append([world.message("12345678")], held)
    await until(lambda: world.router.holding.problem is not None)
    world.router.append([world.message("12345678")], above)
    (error,) = await above.wait()
    assert isinstance(error, UnavailableError)
    assert (error.reason, held.told) == ("queue-full", [])


async def test_a_full_disk_is_refused_and_recovers_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts, full = world.queue._accounts, [True]
    taking = accounts.taking

    def on_a_disk(cursor: Any, dialect: str, messages: Any) -> None:
        if full[0]:
            raise UnavailableError("the store cannot be used now: disk is full", reason="store-full")
        taking(cursor, dialect, messages)

    monkeypatch.setattr(accounts, "taking", on_a_disk)
    done = Outcomes()
    world.router.append([world.message("1")], done)
    await until(lambda: bool(world.metrics.unack.values))
    await asyncio.sleep(0.05)
    assert done.told == []
    assert world.metrics.unack.values == {("store-full",): 1}
    full[0] = False
    assert await done.wait() == [None]
    assert await world.waiting() == ["1"]
    assert "SQLITE_FULL" in failures._SQLITE_REASONS  # what such a disk is called there


async def test_a_queue_that_drops_the_oldest_counts_them(world: World) -> None:
    world.queue.limit(3, drop_oldest=True)
    for body in "12345":
        assert (await world.send(body)).told == [None]
    await asyncio.sleep(0)
    assert await world.waiting() == ["3", "4", "5"]
    assert world.metrics.dropped.values == {("queue_full", "leaf", ""): 2}
