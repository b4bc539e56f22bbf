"""Draining the queue: order, the window, lost connections, and the message that nobody takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from edgetrust.clock import ManualClock
from edgetrust.edge import upstream as module
from edgetrust.edge.upstream import Sent, Upstream
from edgetrust.errors import Error, UnavailableError, UsageError
from edgetrust.store.lanes import LeasedMessage, QueuedMessage


def message(device: str, body: str, properties: str = "") -> QueuedMessage:
    return QueuedMessage(device, None, properties, body.encode(), 0, "{}", "Telemetry")


class FakeQueue:
    """A queue in memory with the store's rules."""

    def __init__(self) -> None:
        self.stored: dict[int, QueuedMessage] = {}
        self.once_leased_to = 0
        self.leased_to = 0
        self.next = 1
        self.news = asyncio.Event()
        self.releases = 0

    def put(self, *messages: QueuedMessage) -> None:
        for one in messages:
            self.stored[self.next] = one
            self.next += 1
        self.news.set()

    async def lease(self, limit: int = 500) -> tuple[LeasedMessage, ...]:
        found = [
            LeasedMessage(offset, one, again=offset <= self.once_leased_to)
            for offset, one in self.stored.items()
            if offset > self.leased_to
        ][:limit]
        self.leased_to = found[-1].offset if found else self.leased_to
        self.once_leased_to = max(self.leased_to, self.once_leased_to)
        return tuple(found)

    def release(self) -> None:
        self.leased_to = 0
        self.releases += 1

    async def ack(self, offsets: list[int]) -> None:
        for offset in offsets:
            self.stored.pop(offset, None)

    async def wait_for_new(self, wait_seconds: float) -> bool:
        self.news.clear()
        try:
            async with asyncio.timeout(wait_seconds):
                await self.news.wait()
        except TimeoutError:
            return False
        return True


class FakeLink:
    """A connection that acknowledges by itself, by hand, or cuts itself off at some message."""

    def __init__(self, *, automatic: bool = True, poison: str = "", odd: str = "") -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.again: list[bool] = []
        self.waiting: list[int] = []
        self.acknowledged: Callable[[Sequence[int]], None] = lambda _: None
        self.automatic = automatic
        self.poison = poison
        self.odd = odd
        self.ended = asyncio.Event()
        self.is_open = True
        self.cause = ""
        self.most_waiting = 0
        self.disconnected = False

    def send(self, topic: str, payload: bytes, *, again: bool = False) -> int:
        if not self.is_open:
            raise UnavailableError("closed")
        if self.odd and self.odd in topic:
            raise UsageError("the topic is too long")
        self.sent.append((topic, payload))
        self.again.append(again)
        packet_id = len(self.sent)
        self.waiting.append(packet_id)
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        loop = asyncio.get_running_loop()
        if self.poison and self.poison in topic:
            loop.call_soon(self.abort, "the hub does not like it")
        elif self.automatic:
            loop.call_soon(self.answer)
        return packet_id

    def answer(self) -> None:
        if self.waiting and self.is_open:
            self.acknowledged([self.waiting.pop(0)])

    async def wait_closed(self) -> str:
        await self.ended.wait()
        return self.cause

    async def disconnect(self) -> None:
        self.disconnected = True
        self.abort("we disconnected")

    def abort(self, cause: str = "cut") -> None:
        self.is_open = False
        self.cause = self.cause or cause
        self.waiting.clear()
        self.ended.set()


class Story:
    """An upstream whose links the test makes."""

    def __init__(self, make: Callable[[int], FakeLink | Error], *, gone: tuple[str, ...] = ()) -> None:
        self.queue = FakeQueue()
        self.links: list[FakeLink] = []
        self.make = make
        self.attempts = 0
        self.gone = gone
        self.clock = ManualClock()
        self.reached = 0
        self.withheld: dict[str, str] = {}
        self.given_up: list[tuple[str, str]] = []
        self.asked: list[str] = []
        self.upstream = Upstream(
            self.queue,
            self.connect,
            connected=self.note,
            undeliverable=self.undeliverable,
            withheld=lambda one: self.withheld.get(one.device, ""),
            observer=self,
            clock=self.clock,
        )

    def note(self) -> None:
        self.reached += 1

    def connected(self) -> None: ...

    def lost(self) -> None: ...

    def arrived(self, messages: Sequence[Sent]) -> None: ...

    def dropped(self, stored: LeasedMessage, why: str) -> None:
        self.given_up.append((stored.message.body.decode(), why))

    async def connect(self) -> FakeLink:
        self.attempts += 1
        made = self.make(self.attempts)
        if isinstance(made, Error):
            raise made
        self.links.append(made)
        return made

    async def undeliverable(self, one: QueuedMessage) -> bool:
        self.asked.append(one.device)
        return one.device in self.gone

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0.001)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Story]:
        task = asyncio.create_task(self.upstream.run())
        try:
            yield self
        finally:
            self.upstream.close()
            async with asyncio.timeout(60):
                await task


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPSTREAM_RETRY_SECONDS", (0.001, 0.002, 0.005))
    monkeypatch.setattr(module, "EVENT_POLL_SECONDS", 0.01)
    monkeypatch.setattr(module, "UPSTREAM_FORGET_SECONDS", 0)


def bodies(link: FakeLink) -> list[str]:
    return [payload.decode() for _, payload in link.sent]


async def test_messages_go_up_in_order_and_leave_the_queue() -> None:
    story = Story(lambda _: FakeLink())
    story.queue.put(message("a", "1", "k=v"), message("b", "2"), message("a", "3"))
    async with story.running():
        await story.until(lambda: not story.queue.stored)
        story.queue.put(message("a", "4"))
        await story.until(lambda: not story.queue.stored)
        assert story.upstream.is_connected
    assert bodies(story.links[0]) == ["1", "2", "3", "4"]
    assert story.links[0].sent[0][0] == "devices/a/messages/events/k=v"
    assert story.reached == 1
    assert story.links[0].disconnected
    assert not story.upstream.is_connected


async def test_never_more_than_a_window_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPSTREAM_WINDOW", 4)
    story = Story(lambda _: FakeLink(automatic=False))
    story.queue.put(*(message("a", str(number)) for number in range(10)))
    async with story.running():
        await story.until(lambda: bool(story.links) and len(story.links[0].waiting) == 4)
        link = story.links[0]
        while story.queue.stored:
            link.answer()
            await asyncio.sleep(0)
        assert link.most_waiting == 4


async def test_never_much_more_than_so_many_bytes_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPSTREAM_WINDOW_BYTES", 250)
    story = Story(lambda _: FakeLink(automatic=False))
    story.queue.put(*(message("a", str(number) * 100) for number in range(10)))
    async with story.running():
        await story.until(lambda: bool(story.links) and len(story.links[0].waiting) == 3)
        link = story.links[0]
        while story.queue.stored:
            link.answer()
            await asyncio.sleep(0)
        assert link.most_waiting == 3
    assert [body[0] for body in bodies(link)] == [str(number) for number in range(10)]


async def test_what_has_arrived_is_forgotten_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPSTREAM_FORGET_SECONDS", 0.02)
    story = Story(lambda _: FakeLink())
    asked: list[int] = []
    ack = story.queue.ack

    async def counted(offsets: list[int]) -> None:
        asked.append(len(offsets))
        await ack(offsets)

    story.queue.ack = counted  # type: ignore[method-assign]
    story.queue.put(*(message("a", str(number)) for number in range(100)))
    async with story.running():
        await story.until(lambda: not story.queue.stored)
    assert sum(asked) == 100
    assert len(asked) <= 3


async def test_what_was_not_acknowledged_is_sent_again_from_the_oldest() -> None:
    story = Story(lambda number: FakeLink(automatic=number > 1))
    story.queue.put(*(message("a", str(number)) for number in range(4)))
    async with story.running():
        await story.until(lambda: bool(story.links) and len(story.links[0].sent) == 4)
        story.links[0].answer()
        await asyncio.sleep(0)
        story.links[0].abort("the cable")
        assert len(story.queue.stored) >= 3
        await story.until(lambda: not story.queue.stored)
    assert bodies(story.links[1]) == ["1", "2", "3"]
    assert story.links[0].again == [False] * 4
    assert story.links[1].again == [True] * 3


async def test_what_cannot_be_forgotten_holds_up_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPSTREAM_UNFORGOTTEN", 3)
    monkeypatch.setattr(module, "HELD_RETRY_SECONDS", 0.001)
    story = Story(lambda _: FakeLink())
    ack, attempts = story.queue.ack, 0

    async def full(offsets: list[int]) -> None:
        nonlocal attempts
        attempts += 1
        assert len(offsets) <= 3
        if attempts < 5:
            raise UnavailableError("the disk is full", reason="store-full")
        await ack(offsets)

    story.queue.ack = full  # type: ignore[method-assign]
    story.queue.put(*(message("a", str(number)) for number in range(10)))
    async with story.running():
        await story.until(lambda: attempts == 4)
        assert len(story.links[0].sent) == 3
        await story.until(lambda: not story.queue.stored)
    assert bodies(story.links[0]) == [str(number) for number in range(10)]


async def test_a_hub_that_is_away_is_tried_until_it_is_there() -> None:
    story = Story(lambda number: UnavailableError("away", fix="wait") if number < 5 else FakeLink())
    story.queue.put(message("a", "1"))
    async with story.running():
        await story.until(lambda: not story.queue.stored)
    assert story.attempts == 5


async def test_retry_now_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPSTREAM_RETRY_SECONDS", (60.0,))
    story = Story(lambda number: UnavailableError("away") if number < 2 else FakeLink())
    story.queue.put(message("a", "1"))
    async with story.running():
        await story.until(lambda: story.attempts == 1)
        await story.until(lambda: story.upstream.problem == "away")
        story.upstream.retry_now()
        await story.until(lambda: not story.queue.stored)


async def test_a_message_of_somebody_who_left_is_dropped_and_the_others_go_on() -> None:
    story = Story(lambda _: FakeLink(poison="devices/gone/"), gone=("gone",))
    story.queue.put(message("a", "1"), message("gone", "2"), message("a", "3"))
    async with story.running():
        await story.until(lambda: not story.queue.stored)
    assert "3" in bodies(story.links[-1])
    assert story.asked == ["gone"]


async def test_a_message_that_cuts_the_connection_is_kept_while_its_sender_belongs_here() -> None:
    story = Story(lambda number: FakeLink(poison="devices/a/" if number < 6 else ""))
    story.queue.put(message("a", "1"), message("b", "2"))
    async with story.running():
        await story.until(lambda: not story.queue.stored)
    assert "a" in story.asked
    assert bodies(story.links[-1]) == ["1", "2"]


async def test_what_is_kept_of_who_is_disabled_is_dropped_and_never_sent() -> None:
    story = Story(lambda _: FakeLink())
    story.withheld = {"off": "disabled"}
    story.queue.put(message("off", "1"), message("a", "2"), message("off", "3"), message("a", "4"))
    async with story.running():
        await story.until(lambda: not story.queue.stored)
    assert bodies(story.links[0]) == ["2", "4"]
    assert story.given_up == [("1", "disabled"), ("3", "disabled")]
    assert len(story.links) == 1  # and nobody else noticed


async def test_who_is_disabled_while_the_window_is_full_is_decided_on_when_its_turn_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "UPSTREAM_WINDOW", 1)
    story = Story(lambda _: FakeLink(automatic=False))
    story.queue.put(message("a", "1"), message("off", "2"), message("a", "3"))
    async with story.running():
        await story.until(lambda: bool(story.links) and bool(story.links[0].waiting))
        story.withheld = {"off": "disabled"}  # all three have been read from the queue
        story.links[0].answer()
        await story.until(lambda: bool(story.links[0].waiting))
        story.links[0].answer()
        await story.until(lambda: not story.queue.stored)
    assert bodies(story.links[0]) == ["1", "3"]


async def test_what_cannot_even_be_written_is_dropped() -> None:
    story = Story(lambda _: FakeLink(odd="devices/odd/"))
    story.queue.put(message("odd", "1"), message("a", "2"))
    async with story.running():
        await story.until(lambda: not story.queue.stored)
    assert bodies(story.links[0]) == ["2"]


async def test_the_connection_is_made_anew_at_half_the_life_of_its_token() -> None:
    story = Story(lambda _: FakeLink())
    async with story.running():
        await story.until(lambda: story.upstream.is_connected)
        story.clock.advance(1_801)
        await story.until(lambda: len(story.links) == 2)
        assert story.links[0].disconnected


async def test_a_renewal_waits_for_what_is_under_way_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPSTREAM_DRAIN_SECONDS", 0.02)
    story = Story(lambda number: FakeLink(automatic=number > 1))
    story.queue.put(message("a", "1"))
    async with story.running():
        await story.until(lambda: bool(story.links) and bool(story.links[0].sent))
        story.clock.advance(1_801)
        await story.until(lambda: not story.queue.stored)
    assert not story.links[0].disconnected
    assert bodies(story.links[1]) == ["1"]


async def test_a_connection_that_closes_at_the_moment_of_sending() -> None:
    class Closing(FakeLink):
        def send(self, topic: str, payload: bytes, *, again: bool = False) -> int:
            self.abort("just now")
            raise UnavailableError("closed")

    story = Story(lambda number: Closing() if number == 1 else FakeLink())
    story.queue.put(message("a", "1"))
    async with story.running():
        await story.until(lambda: not story.queue.stored)
    assert bodies(story.links[1]) == ["1"]


async def test_a_store_that_fails_for_a_while_stops_nothing() -> None:
    story = Story(lambda _: FakeLink())
    failing = {"ack": 2, "lease": 1}

    def unwilling(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any) -> Any:
            if failing[name]:
                failing[name] -= 1
                raise UnavailableError("the disk is away", reason="store-busy")
            return await function(*arguments)

        return call

    story.queue.lease = unwilling("lease", story.queue.lease)  # type: ignore[method-assign]
    story.queue.ack = unwilling("ack", story.queue.ack)  # type: ignore[method-assign]
    story.queue.put(message("a", "1"))
    async with story.running():
        await story.until(lambda: len(story.links) == 2 and bool(story.links[1].sent))
        story.queue.put(message("a", "2"), message("a", "3"))
        await story.until(lambda: bodies(story.links[1])[-1] == "3")
        story.queue.put(message("a", "4"))
        await story.until(lambda: not story.queue.stored)
    assert bodies(story.links[1]) == ["1", "2", "3", "4"]
