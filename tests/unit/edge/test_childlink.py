"""A connection to the hub in the name of a child: made, kept, told what to follow, and asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from edgetrust.edge import childlink as module
from edgetrust.edge import twinquestions
from edgetrust.edge.childlink import ChildLink
from edgetrust.errors import PeerError, UnavailableError
from edgetrust.protocol.iothub import SubscriptionKind, TwinGetTopic, parse_publish_topic, twin_response_topic
from edgetrust.protocol.mqtt.packets import Publish
from edgetrust.trust.identity import Identity

DEVICE = Identity("hub.example", "d1")
C2D, METHODS, DESIRED = (
    "devices/d1/messages/devicebound/#",
    "$iothub/methods/POST/#",
    ("$iothub/twin/PATCH/properties/desired/#"),
)
RESPONSES = "$iothub/twin/res/#"


class FakeLink:
    """A connection to a hub that answers twin requests with `status`, or not at all (None)."""

    def __init__(self, heard: Callable[[Publish], None]) -> None:
        self.heard = heard
        self.status: int | None = 200
        self.filters: dict[str, int] = {}
        self.published: list[tuple[str, bytes]] = []
        self.acknowledged: list[Publish] = []
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def is_open(self) -> bool:
        return not self.closed.done()

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1) -> None:
        self.published.append((topic, payload))
        parsed = parse_publish_topic(topic)
        if self.status is not None and hasattr(parsed, "request_id") and "/methods/" not in topic:
            version = None if isinstance(parsed, TwinGetTopic) else 5
            self.heard(Publish(twin_response_topic(self.status, parsed.request_id, version), b"{}"))

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> tuple[int, ...]:
        self.filters |= dict(filters)
        return tuple(qos for _, qos in filters)

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        for text in filters:
            del self.filters[text]

    def acknowledge(self, message: Publish) -> None:
        self.acknowledged.append(message)

    async def wait_closed(self) -> str:
        return await asyncio.shield(self.closed)

    async def disconnect(self) -> None:
        self.end("we disconnected")

    def end(self, cause: str) -> None:
        if not self.closed.done():
            self.closed.set_result(cause)


class Hub:
    """What the link dials and whom it tells."""

    def __init__(self) -> None:
        self.links: list[FakeLink] = []
        self.problems: list[Exception] = []
        self.told: list[str] = []
        self.said: Mapping[str, str] = {}

    async def dial(self, identity: Identity, said: Mapping[str, str], heard: Callable[[Publish], None]) -> FakeLink:
        assert identity == DEVICE
        self.said = said
        if self.problems:
            raise self.problems.pop(0)
        self.links.append(FakeLink(heard))
        return self.links[-1]

    def connected(self, child: ChildLink) -> None:
        self.told.append("connected")

    def lost(self, child: ChildLink) -> None:
        self.told.append("lost")

    def heard(self, child: ChildLink, message: Publish) -> None:
        self.told.append(message.topic)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0)


@asynccontextmanager
async def running(hub: Hub) -> AsyncIterator[ChildLink]:
    link = ChildLink(DEVICE, hub.dial, hub, {"model-id": "m"})
    task = asyncio.create_task(link.run())
    yield link
    link.close()
    await task


async def test_it_follows_what_the_child_follows() -> None:
    hub = Hub()
    async with running(hub) as link:
        assert await link.ready()
        assert hub.said == {"model-id": "m"}
        assert hub.links[0].filters == {RESPONSES: 0}
        link.follow(frozenset({SubscriptionKind.C2D, SubscriptionKind.METHODS, SubscriptionKind.TWIN_RESPONSES}))
        await until(lambda: set(hub.links[0].filters) == {RESPONSES, C2D, METHODS})
        link.follow(frozenset({SubscriptionKind.TWIN_DESIRED}))
        await until(lambda: set(hub.links[0].filters) == {RESPONSES, DESIRED})
    assert not hub.links[0].is_open
    assert hub.told == ["connected", "lost"]


async def test_a_lost_connection_is_made_again_with_all_it_followed() -> None:
    hub = Hub()
    async with running(hub) as link:
        link.follow(frozenset({SubscriptionKind.METHODS}))
        await until(lambda: bool(hub.links) and METHODS in hub.links[0].filters)
        hub.links[0].end("cut")
        await until(lambda: len(hub.links) == 2 and METHODS in hub.links[1].filters)
        assert hub.told == ["connected", "lost", "connected"]


async def test_it_is_tried_again_until_the_hub_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPSTREAM_RETRY_SECONDS", (0.0, 0.0))
    hub = Hub()
    hub.problems = [UnavailableError("away")] * 3
    async with running(hub) as link:
        assert not await link.ready()  # the first attempt has failed: nobody waits longer
        assert link.problem == "away"
        await until(lambda: bool(hub.links) and link.is_open)
        assert link.problem == ""


async def test_closing_does_not_wait_for_the_next_attempt() -> None:
    hub = Hub()
    hub.problems = [UnavailableError("away")] * 50
    async with asyncio.timeout(5), running(hub) as link:
        await link.ready()


async def test_questions_and_answers() -> None:
    hub = Hub()
    async with running(hub) as link:
        await link.ready()
        assert await link.twin() == b"{}"
        assert await link.report(b'{"a":1}') == 5
        assert [body for _, body in hub.links[0].published] == [b" ", b'{"a":1}']
        hub.links[0].status = 400
        with pytest.raises(PeerError) as refused:
            await link.report(b"{}")
        assert refused.value.status == 400
        for status in (429, 500, 503):
            hub.links[0].status = status
            with pytest.raises(UnavailableError):
                await link.twin()


async def test_whoever_waits_is_told_of_the_end() -> None:
    hub = Hub()
    async with running(hub) as link:
        await link.ready()
        hub.links[0].status = None
        asking = asyncio.create_task(link.twin())
        await until(lambda: bool(hub.links[0].published))
        hub.links[0].end("cut")
        with pytest.raises(UnavailableError, match="lost"):
            await asking


async def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twinquestions, "CHILD_OPERATION_SECONDS", 0.01)
    hub = Hub()
    async with running(hub) as link:
        with pytest.raises(UnavailableError, match="no connection"):
            await link.twin()
        await link.ready()
        hub.links[0].status = None
        with pytest.raises(UnavailableError, match="does not answer"):
            await link.twin()
        hub.links[0].heard(Publish(twin_response_topic(200, "1"), b"too late"))


async def test_what_it_hears_and_passes_on() -> None:
    hub = Hub()
    async with running(hub) as link:
        await link.ready()
        message = Publish("devices/d1/messages/devicebound/", b"x", 1, packet_id=7)
        hub.links[0].heard(message)
        hub.links[0].heard(Publish("$iothub/unheard/of", b""))  # a hub of a later version
        assert hub.told == ["connected", message.topic]
        link.acknowledge(message)
        assert hub.links[0].acknowledged == [message]
        await link.answer_method("a1", 207, b"null")
        assert hub.links[0].published == [("$iothub/methods/res/207/?$rid=a1", b"null")]
        hub.links[0].end("cut")
        await link.answer_method("a2", 200, b"null")  # nobody there to hear it
        assert len(hub.links[0].published) == 1


async def test_a_new_token_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPSTREAM_TOKEN_SECONDS", 0.02)
    hub = Hub()
    async with running(hub):
        await until(lambda: len(hub.links) >= 3)
    assert not any(link.is_open for link in hub.links)
