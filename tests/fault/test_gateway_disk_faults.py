"""The disk of a gateway is full, read-only or slow, or a device sends faster than it takes: nobody is cut off, nothing
is acknowledged that is not stored, and what is held in memory is bounded.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog

from edgetrust.edge import holding
from edgetrust.hub.pki import HubPki
from edgetrust.limits import APPEND_BACKLOG_BYTES, MESSAGE_BYTES
from edgetrust.store import appending
from edgetrust.telemetry import EVENT_QUEUE_REFUSES, EVENT_QUEUE_TAKES_AGAIN
from support.faulty_disk import full_disk
from support.gateway_field import SENSOR, Field, field
from support.hub import new_pki, running, until
from support.raw_mqtt import PUBACK, Raw, publish

TOPIC = f"devices/{SENSOR}/messages/events/"


@pytest.fixture(scope="module")
def hub_pki(tmp_path_factory: pytest.TempPathFactory) -> HubPki:
    return new_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "HELD_RETRY_SECONDS", 0.05)


class Publisher:
    """Sends numbered messages of a size without waiting, and counts what is acknowledged, which must be in order."""

    def __init__(self, raw: Raw, size: int) -> None:
        self.raw, self.size = raw, size
        self.sent = self.acknowledged = 0
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            kind, body = await self.raw.read()
            self.acknowledged += 1
            assert (kind, int.from_bytes(body, "big")) == (PUBACK, self.acknowledged)

    async def send(self, count: int) -> None:
        for _ in range(count):
            self.sent += 1
            self.raw.writer.write(publish(TOPIC, (b"%08d" % self.sent).ljust(self.size, b"x"), self.sent))
            await self.raw.writer.drain()

    async def end(self) -> None:
        self.reading.cancel()
        await asyncio.gather(self.reading, return_exceptions=True)
        self.raw.abort()


async def arrived(made: Field) -> list[int]:
    """The numbers of the sensor in the hub's log, each once."""
    found: list[int] = []
    after = 0
    while True:
        page = await made.hub.hub._events.read(after, 100, device=SENSOR)
        found += [int(one.message.body[:8]) for one in page.events]
        if page.read_to == after:
            return list(dict.fromkeys(found))
        after = page.read_to


async def all_of(made: Field, count: int) -> bool:
    return await arrived(made) == list(range(1, count + 1))


async def test_a_full_disk_holds_back_and_recovers(tmp_path: Path, hub_pki: HubPki) -> None:
    async with running(tmp_path / "hub", hub_pki) as hub, field(tmp_path, hub_pki, hub) as made:
        publisher = Publisher(await made.device(), 100_000)
        made.fail("forget")
        with structlog.testing.capture_logs() as logs, full_disk(3_000_000):
            await publisher.send(60)
            await until(lambda: any(one["event"] == EVENT_QUEUE_REFUSES for one in logs))
            await asyncio.sleep(0.2)
            stored = publisher.acknowledged
            assert stored < 60
            assert (await made.gateway.state())["queue"]["messages"] >= stored
            assert not publisher.reading.done()  # nobody is cut off
        with structlog.testing.capture_logs() as logs:
            await until(lambda: publisher.acknowledged == 60)
        assert any(one["event"] == EVENT_QUEUE_TAKES_AGAIN for one in logs)
        made.fail("through")
        await until(lambda: all_of(made, 60))
        await publisher.end()


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """SQLite refuses what the gateway's queue writes, as long as `now` is set."""
    state, insert = {"now": False}, appending._SqliteRows.insert

    def guarded(rows: Any, *arguments: Any) -> int:
        rows._connection.raw.execute(f"PRAGMA query_only = {'ON' if state['now'] else 'OFF'}")
        return insert(rows, *arguments)

    monkeypatch.setattr(appending._SqliteRows, "insert", guarded)
    return state


async def test_a_read_only_disk_is_said_and_costs_nothing_but_time(
    tmp_path: Path, hub_pki: HubPki, read_only: dict[str, bool]
) -> None:
    async with running(tmp_path / "hub", hub_pki) as hub, field(tmp_path, hub_pki, hub) as made:
        publisher = Publisher(await made.device(), 100)
        await publisher.send(3)
        await until(lambda: publisher.acknowledged == 3)
        await until(lambda: all_of(made, 3))
        with structlog.testing.capture_logs() as logs:
            read_only["now"] = True
            await publisher.send(10)
            await until(lambda: any(one["event"] == EVENT_QUEUE_REFUSES for one in logs))
            await asyncio.sleep(0.2)  # it is tried again, and again refused
            assert publisher.acknowledged == 3
            assert not publisher.reading.done()
        assert [one["reason"] for one in logs if one["event"] == EVENT_QUEUE_REFUSES] == ["store-read-only"]
        read_only["now"] = False
        await until(lambda: publisher.acknowledged == 13)
        await until(lambda: all_of(made, 13))
        await publisher.end()


async def test_a_slow_disk_is_waited_for(tmp_path: Path, hub_pki: HubPki) -> None:
    async with running(tmp_path / "hub", hub_pki) as hub, field(tmp_path, hub_pki, hub) as made:
        publisher = Publisher(await made.device(), 100)
        database = made.gateway.layout.database
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await publisher.send(20)
            await asyncio.sleep(0.5)
            assert publisher.acknowledged == 0
            other.execute("COMMIT")
        await until(lambda: publisher.acknowledged == 20)
        await until(lambda: all_of(made, 20))
        await publisher.end()


async def test_a_disk_that_is_slow_at_each_append(
    tmp_path: Path, hub_pki: HubPki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The more wait, the more are stored at once: two devices are served, each in order, and nobody is cut off."""
    insert, appends = appending._SqliteRows.insert, 0

    def slowly(rows: Any, *arguments: Any) -> int:
        nonlocal appends
        appends += 1
        time.sleep(0.03)  # in the store's own thread, as a disk does
        return insert(rows, *arguments)

    async with running(tmp_path / "hub", hub_pki) as hub, field(tmp_path, hub_pki, hub) as made:
        await hub.create("other", deviceScope=await hub.scope_of("gw"))
        publisher, other = Publisher(await made.device(), 100), await made.device("other")
        monkeypatch.setattr(appending._SqliteRows, "insert", slowly)
        await publisher.send(200)
        other.writer.write(publish("devices/other/messages/events/", b"", 1))
        async with asyncio.timeout(60):
            assert (await other.read())[0] == PUBACK
        await until(lambda: publisher.acknowledged == 200)
        await until(lambda: all_of(made, 200))
        assert appends < 200
        assert not publisher.reading.done()
        await publisher.end()
        other.abort()


async def test_the_largest_messages_as_fast_as_they_go(tmp_path: Path, hub_pki: HubPki) -> None:
    """One device sends 40 MB without a pause: another is served meanwhile, and memory is bounded."""
    count = 160
    async with running(tmp_path / "hub", hub_pki) as hub, field(tmp_path, hub_pki, hub) as made:
        await hub.create("other", deviceScope=await hub.scope_of("gw"))
        publisher = Publisher(await made.device(), MESSAGE_BYTES - 1_024)
        other = await made.device("other")
        sending, most, turns = asyncio.create_task(publisher.send(count)), 0, 0
        while not sending.done() or publisher.acknowledged < count:
            turns += 1
            most = max(most, made.gateway._stored.queue.waiting_bytes)
            other.writer.write(publish("devices/other/messages/events/", b"", turns % 65_535 + 1))
            async with asyncio.timeout(60):
                assert (await other.read())[0] == PUBACK
            assert not publisher.reading.done()
        assert most <= APPEND_BACKLOG_BYTES
        await until(lambda: all_of(made, count), 60)
        await publisher.end()
        other.abort()
