"""The laws of a lane, whether messages come from memory or from the store: every message once between two releases,
the first priority first, within a priority in the order of arrival, and after a release all that was not acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from edgetrust.store import queues as store_queues
from edgetrust.store.engine import Database
from edgetrust.store.lanes import LeasedMessage
from edgetrust.store.queue_tables import queue_lanes, queued_messages
from edgetrust.store.queues import ForwardQueue
from support.database import Outcomes, queued

LANES = ("$upstream", "m")
EVERYTHING = 1_000


@dataclass
class Step:
    """Something that happens. `places` are (lane, priority) of what is appended."""

    kind: str
    lane: str
    places: Sequence[tuple[str, int]]
    count: int


@dataclass
class Known:
    """What must be in a lane."""

    there: dict[int, int] = field(default_factory=dict)  # priority by number
    leased: dict[int, LeasedMessage] = field(default_factory=dict)  # by number, since the last release


places = st.lists(st.tuples(st.sampled_from(LANES), st.sampled_from((0, 5))), min_size=1, max_size=4)
kinds = st.sampled_from(
    ("append", "append", "append and wait", "another process appends", "lease", "lease", "ack", "release")
)
steps = st.lists(st.builds(Step, kinds, st.sampled_from(LANES), places, st.integers(1, 6)), min_size=1, max_size=25)


@pytest.fixture
def database() -> Iterator[Database]:
    opened = Database("sqlite://")
    asyncio.run(opened.migrate())
    yield opened
    asyncio.run(opened.close())


class Play:
    """Plays steps on queues, and holds each lease against what is known."""

    def __init__(self, ours: ForwardQueue, other: ForwardQueue) -> None:
        self.ours, self.other = ours, other
        self.known = {lane: Known() for lane in LANES}
        self.number = 0
        self.appended = 0
        self.done = Outcomes()

    async def step(self, step: Step) -> None:
        known, lane = self.known[step.lane], self.ours.lane(step.lane)
        match step.kind:
            case "append":
                self.append(self.ours, step.places)
            case "append and wait":
                self.append(self.ours, step.places)
                await self.settled()
            case "another process appends":
                await self.settled()
                self.append(self.other, step.places)
                await self.settled()
            case "lease":
                self.hold(known, await lane.lease(step.count))
            case "ack":
                numbers = list(known.leased)[: step.count]
                await lane.ack(known.leased[number].offset for number in numbers)
                for number in numbers:
                    known.there.pop(number, None)
            case "release":
                lane.release()
                known.leased.clear()

    def append(self, queue: ForwardQueue, places: Sequence[tuple[str, int]]) -> None:
        rows = []
        for lane, priority in places:
            self.number += 1
            rows.append(queued(self.number, queue=lane, priority=priority))
            self.known[lane].there[self.number] = priority
        self.appended += 1
        queue.append(rows, self.done)

    async def settled(self) -> None:
        assert set(await self.done.wait(self.appended)) <= {None}

    def hold(self, known: Known, leased: Sequence[LeasedMessage]) -> None:
        assert [one.message.priority for one in leased] == sorted(one.message.priority for one in leased)
        for one in leased:
            number = number_of(one)
            assert number not in known.leased
            assert known.there[number] == one.message.priority
            before = [other.offset for other in known.leased.values() if other.message.priority == one.message.priority]
            assert all(offset < one.offset for offset in before)
            known.leased[number] = one

    async def end(self) -> None:
        await self.settled()
        self.append(self.ours, [(name, 0) for name in LANES])  # who finds a gap before it looks for what others stored
        await self.settled()
        for name, known in self.known.items():
            while leased := await self.ours.lane(name).lease(EVERYTHING):
                self.hold(known, leased)
            assert set(known.there) <= set(known.leased)
            assert self.ours.lane(name).fresh_bytes == 0
        for name, known in self.known.items():
            lane = self.ours.lane(name)
            lane.release()
            known.leased.clear()
            expected = sorted(known.there, key=lambda number: (known.there[number], number))
            assert [number_of(one) for one in await lane.lease(EVERYTHING)] == expected


def number_of(one: LeasedMessage) -> int:
    return one.message.enqueued_ms - 1_700_000_000_000


async def played(database: Database, happens: list[Step]) -> None:
    await database.write(lambda connection: connection.execute(delete(queued_messages)).rowcount)
    await database.write(lambda connection: connection.execute(delete(queue_lanes)).rowcount)
    play = Play(await ForwardQueue.open(database), await ForwardQueue.open(database))
    for step in happens:
        await play.step(step)
    await play.end()
    await play.ours.close()
    await play.other.close()


@pytest.mark.parametrize("memory", [store_queues.QUEUE_FRESH_BYTES, 1_500])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happens=steps)
def test_a_lane_gives_everything_once_and_in_order(
    database: Database, monkeypatch: pytest.MonkeyPatch, memory: int, happens: list[Step]
) -> None:
    monkeypatch.setattr(store_queues, "QUEUE_FRESH_BYTES", memory)
    asyncio.run(played(database, happens))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(places, min_size=1, max_size=10), limit=st.integers(1, 5))
def test_who_keeps_up_reads_nothing(database: Database, batches: list[list[tuple[str, int]]], limit: int) -> None:
    async def keep_up() -> None:
        play = Play(await ForwardQueue.open(database), await ForwardQueue.open(database))
        for name in LANES:
            await play.ours.lane(name).lease(EVERYTHING)  # what other examples have left
        read = database.read
        database.read = None  # type: ignore[assignment,method-assign]
        try:
            for batch in batches:
                await play.step(Step("append and wait", "m", batch, 0))
                for name in {name for name, _priority in batch}:
                    lane, known = play.ours.lane(name), play.known[name]
                    while set(known.leased) != set(known.there):
                        assert await lane.wait_for_new(0)
                        play.hold(known, await lane.lease(limit))
        finally:
            database.read = read  # type: ignore[method-assign]
        await play.ours.close()
        await play.other.close()

    asyncio.run(keep_up())
