"""Twins, methods and commands of children, with a hub that answers, refuses, misses a word or is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from edgetrust.broker.methods import Methods
from edgetrust.edge.children import Children
from edgetrust.edge.commands import PassedCommands
from edgetrust.errors import UnavailableError
from edgetrust.limits import METHODS_IN_FLIGHT
from edgetrust.pki.keys import SecretBytes
from edgetrust.protocol.iothub import (
    SubscriptionKind,
    TwinGetTopic,
    TwinPatchTopic,
    devicebound_topic,
    method_request_topic,
    parse_publish_topic,
    twin_desired_topic,
    twin_response_topic,
)
from edgetrust.protocol.methods import MethodAnswer, MethodCall
from edgetrust.protocol.mqtt.packets import Publish
from edgetrust.protocol.twin import DesiredChange, TwinError, merge
from edgetrust.store.engine import Database
from edgetrust.store.twin_copies import TwinCopies, TwinCopy
from edgetrust.trust.identity import Identity

HUB = "hub.example"
DEVICE = Identity(HUB, "d1")
FOLLOWS = frozenset({SubscriptionKind.C2D, SubscriptionKind.METHODS, SubscriptionKind.TWIN_DESIRED})


class FakeHub:
    """One device's twin at the hub, and the connections to it."""

    def __init__(self) -> None:
        self.away = False
        self.refusing = False
        self.desired: dict[str, Any] = {"rate": 1, "$version": 3}
        self.reported: dict[str, Any] = {"$version": 1}
        self.links: list[FakeLink] = []

    async def dial(self, identity: Identity, said: Mapping[str, str], heard: Callable[[Publish], None]) -> FakeLink:
        if self.away:
            raise UnavailableError("away")
        self.links.append(FakeLink(self, heard))
        return self.links[-1]

    @property
    def link(self) -> FakeLink:
        return self.links[-1]

    def leave(self) -> None:
        self.away = True
        for link in self.links:
            link.end()


class FakeLink:
    def __init__(self, hub: FakeHub, heard: Callable[[Publish], None]) -> None:
        self.hub = hub
        self.heard = heard
        self.answered: list[tuple[str, bytes]] = []
        self.acknowledged: list[Publish] = []
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def is_open(self) -> bool:
        return not self.closed.done()

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1) -> None:
        match parse_publish_topic(topic):
            case TwinGetTopic(request_id):
                body = msgspec.json.encode({"desired": self.hub.desired, "reported": self.hub.reported})
                self.heard(Publish(twin_response_topic(200, request_id), body))
            case TwinPatchTopic(request_id) if self.hub.refusing:
                self.heard(Publish(twin_response_topic(400, request_id), b"{}"))
            case TwinPatchTopic(request_id):
                version = self.hub.reported["$version"] + 1
                self.hub.reported = merge(self.hub.reported, msgspec.json.decode(payload)) | {"$version": version}
                self.heard(Publish(twin_response_topic(204, request_id, version), b""))
            case _:
                self.answered.append((topic, payload))

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> tuple[int, ...]:
        return tuple(qos for _, qos in filters)

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        return None

    def acknowledge(self, message: Publish) -> None:
        self.acknowledged.append(message)

    async def wait_closed(self) -> str:
        return await asyncio.shield(self.closed)

    async def disconnect(self) -> None:
        self.end()

    def end(self) -> None:
        if not self.closed.done():
            self.closed.set_result("closed")


class FakeSession:
    """A child's session here."""

    def __init__(self, kinds: frozenset[SubscriptionKind]) -> None:
        self.identity = DEVICE
        self.kinds = kinds
        self.filters = self
        self.told: list[DesiredChange] = []
        self.calls: list[tuple[MethodCall, str]] = []
        self.waiting = 0
        self.takes_methods = SubscriptionKind.METHODS in kinds

    def qos_of(self, kind: SubscriptionKind) -> int | None:
        return 1 if kind in self.kinds else None

    def desired_changed(self, change: DesiredChange) -> None:
        self.told.append(change)

    def call_method(self, call: MethodCall, request_id: str) -> None:
        self.calls.append((call, request_id))

    def commands_waiting(self) -> None:
        self.waiting += 1


class FakeSessions:
    def __init__(self) -> None:
        self.open: dict[Identity, FakeSession] = {}

    def of(self, identity: Identity) -> FakeSession | None:
        return self.open.get(identity)


class Tasks:
    def __init__(self) -> None:
        self.running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.running.add(task)
        task.add_done_callback(self.running.discard)


class World:
    def __init__(self, database: Database) -> None:
        self.hub = FakeHub()
        self.database = database
        self.copies = TwinCopies(database, SecretBytes(b"k" * 32))
        self.commands = PassedCommands()
        self.sessions = FakeSessions()
        self.tasks = Tasks()
        sessions: Any = self.sessions
        self.children = Children(HUB, self.hub.dial, self.copies, self.commands, sessions, self.tasks)
        self.methods = self.children.methods = Methods(sessions, 1)

    def comes(self, kinds: frozenset[SubscriptionKind] = FOLLOWS) -> FakeSession:
        session = self.sessions.open[DEVICE] = FakeSession(kinds)
        self.children.seen(DEVICE, True)
        seen: Any = session
        self.children.interested(seen)
        return session

    def goes(self) -> None:
        del self.sessions.open[DEVICE]
        self.children.seen(DEVICE, False)

    async def reported(self) -> dict[str, Any]:
        return dict((await self.children.twin("d1")).reported.values)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    database = Database("sqlite://")
    await database.migrate()
    made = World(database)
    yield made
    made.children.close()
    await asyncio.wait_for(asyncio.gather(*made.tasks.running), 60)
    await database.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.001)


async def test_a_child_that_wants_nothing_has_no_connection(world: World) -> None:
    world.comes(frozenset())
    await asyncio.sleep(0)
    assert world.hub.links == []


async def test_it_lives_as_long_as_the_session(world: World) -> None:
    world.comes()
    await until(lambda: bool(world.hub.links) and world.hub.link.is_open)
    world.goes()
    await until(lambda: not world.hub.link.is_open)


async def test_the_twin_is_the_hubs(world: World) -> None:
    twin = await world.children.twin("d1")
    assert (twin.desired.values, twin.desired.version) == ({"rate": 1}, 3)
    assert await world.children.report("d1", {"a": 1}) == 2
    assert world.hub.reported == {"a": 1, "$version": 2}
    assert (await world.copies.find(DEVICE)).waiting == ()


async def test_without_hub_and_copy_there_is_no_answer(world: World) -> None:
    world.hub.away = True
    with pytest.raises(UnavailableError):
        await world.children.twin("d1")


async def test_reports_wait_for_the_hub_in_order(world: World) -> None:
    session = world.comes()
    await world.children.twin("d1")
    world.hub.leave()
    await until(lambda: not world.hub.link.is_open)
    await world.children.report("d1", {"a": {"b": 1}})
    await world.children.report("d1", {"a": 2})
    await world.children.report("d1", {"a": {"c": 3}})
    assert await world.reported() == {"a": {"c": 3}}
    assert len((await world.copies.find(DEVICE)).waiting) == 2
    world.hub.desired = {"rate": 2, "new": True, "$version": 5}
    world.hub.away = False
    await until(lambda: bool(session.told))
    assert world.hub.reported == {"a": {"c": 3}, "$version": 3}
    assert session.told == [DesiredChange({"rate": 2, "new": True}, 5)]


async def test_what_waits_survives_a_restart(world: World) -> None:
    await world.children.twin("d1")
    world.hub.leave()
    await until(lambda: not world.hub.link.is_open)
    await world.children.report("d1", {"a": 1})
    world.children.close()
    again = World(world.database)
    await again.children.resume(lambda _: False)
    await until(lambda: again.hub.reported.get("a") == 1)
    await until(lambda: not again.hub.link.is_open)  # delivered, and nobody is here
    assert await again.copies.waiting(HUB) == ()


async def test_who_has_left_leaves_nothing_behind(world: World) -> None:
    other, module = Identity(HUB, "d2"), Identity(HUB, "d1", "m")
    for identity in (DEVICE, module, other):
        await world.copies.keep(identity, TwinCopy({"secret": 1}, 1, {}, 1, ({"a": 1},)))
    await world.children.forget([DEVICE])
    assert await world.copies.everybody(HUB) == (other,)


async def test_who_left_while_nobody_was_here_is_forgotten_at_the_start_and_told_of_nothing(world: World) -> None:
    other = Identity(HUB, "d2")
    for identity in (DEVICE, other):
        await world.copies.keep(identity, TwinCopy({}, 1, {}, 1, ({"a": 1},)))
    await world.children.resume(lambda identity: identity == other)
    await until(lambda: world.hub.reported.get("a") == 1)
    assert await world.copies.everybody(HUB) == (DEVICE,)
    assert len(world.hub.links) == 1


async def test_a_report_that_the_hub_refuses_holds_up_nobody(world: World) -> None:
    await world.children.twin("d1")
    world.hub.refusing = True
    await world.children.report("d1", {"a": 1})
    world.hub.refusing = False
    await world.children.report("d1", {"b": 1})
    assert await world.reported() == {"b": 1}
    with pytest.raises(TwinError):
        await world.children.report("d1", {"no.name": 1})


async def test_changes_are_told_once_and_in_order(world: World) -> None:
    session = world.comes()
    await world.children.twin("d1")

    def says(version: int, **patch: object) -> None:
        world.hub.desired = merge(world.hub.desired, patch) | {"$version": version}
        body = msgspec.json.encode({**patch, "$version": version})
        world.hub.link.heard(Publish(twin_desired_topic(version), body))

    says(4, rate=2)
    await until(lambda: len(session.told) == 1)
    world.hub.link.heard(Publish(twin_desired_topic(4), b'{"rate":2,"$version":4}'))
    world.hub.desired |= {"missed": 1}
    says(6, rate=3)
    await until(lambda: len(session.told) == 2)
    world.hub.link.heard(Publish(twin_desired_topic(7), b"no JSON"))
    assert [(change.patch, change.version) for change in session.told] == [
        ({"rate": 2}, 4),
        ({"rate": 3, "missed": 1}, 6),  # one word was missed: what leads from what the child knew
    ]


async def test_a_copy_sealed_with_another_key_is_forgotten(world: World) -> None:
    await world.children.twin("d1")
    await world.database.write(lambda c: c.exec_driver_sql("UPDATE twin_copies SET sealed = X'00'").close())
    assert (await world.children.twin("d1")).desired.version == 3


async def test_methods_go_through(world: World) -> None:
    session = world.comes()
    await until(lambda: bool(world.hub.links) and world.hub.link.is_open)
    world.hub.link.heard(Publish(method_request_topic("reboot", "a1"), b'{"now":true}'))
    (call, request_id), *_ = session.calls
    assert (call.method, call.payload) == ("reboot", b'{"now":true}')
    world.methods.answer(DEVICE, request_id, MethodAnswer(207, b"null"))
    await until(lambda: bool(world.hub.link.answered))
    assert world.hub.link.answered == [("$iothub/methods/res/207/?$rid=a1", b"null")]


async def test_more_calls_than_wait(world: World) -> None:
    world.comes()
    await until(lambda: bool(world.hub.links) and world.hub.link.is_open)
    for number in range(METHODS_IN_FLIGHT + 1):
        world.hub.link.heard(Publish(method_request_topic("m", str(number)), b"null"))
    await until(lambda: bool(world.hub.link.answered))
    ((topic, _),) = world.hub.link.answered
    assert topic.startswith("$iothub/methods/res/4")


async def test_commands_are_acknowledged_when_the_child_has_them(world: World) -> None:
    session = world.comes()
    await until(lambda: bool(world.hub.links) and world.hub.link.is_open)
    message = Publish(devicebound_topic("d1", "k=v"), b"open", 1, packet_id=5)
    world.hub.link.heard(message)
    assert session.waiting == 1
    (command,) = await world.commands.lease("d1", 10)
    assert (command.body, command.deliveries) == (b"open", 1)
    assert await world.commands.lease("d1", 10) == []
    assert world.hub.link.acknowledged == []
    world.commands.release("d1")
    (command,) = await world.commands.lease("d1", 10)
    assert command.deliveries == 2
    done: list[BaseException | None] = []
    world.commands.complete("d1", command.sequence, done.append)
    assert (world.hub.link.acknowledged, done) == ([message], [None])


async def test_what_was_not_acknowledged_is_the_hubs_to_send_again(world: World) -> None:
    world.comes()
    await until(lambda: bool(world.hub.links) and world.hub.link.is_open)
    first = world.hub.link
    first.heard(Publish(devicebound_topic("d1"), b"open", 1, packet_id=5))
    (command,) = await world.commands.lease("d1", 10)
    first.end()
    await until(lambda: len(world.hub.links) == 2)
    world.commands.complete("d1", command.sequence, lambda _: None)  # late: nobody is told
    assert world.hub.link.acknowledged == []
    world.hub.link.heard(Publish(devicebound_topic("d1"), b"open", 1, dup=True, packet_id=1))
    (command,) = await world.commands.lease("d1", 10)
    assert command.deliveries == 2
