"""Floods, readers that do not read, and a hub that is killed: whoever behaves is not disturbed, nothing that was
acknowledged is lost.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgetrust.hub.pki import HubPki
from edgetrust.limits import APPEND_BACKLOG_BYTES, PACKET_BYTES
from support.hub import World, new_pki, running
from support.raw_mqtt import PUBACK, PUBLISH, Raw, packet, puback, publish, subscribe
from support.up import UpProcess, up

FLOOD = 100_000
CLIENTS = 50
ROUNDS = 2


@pytest.fixture(scope="module")
def hub_pki(tmp_path_factory: pytest.TempPathFactory) -> HubPki:
    return new_pki(tmp_path_factory.mktemp("pki"))


@asynccontextmanager
async def connected(world: World, who: str) -> AsyncIterator[Raw]:
    raw = await Raw.connect(world.mqtt_port, world.root, who, world.token(who))
    try:
        yield raw
    finally:
        raw.abort()


async def acknowledged(raw: Raw, topic: str, payload: bytes, packet_id: int = 1) -> None:
    raw.writer.write(publish(topic, payload, packet_id))
    async with asyncio.timeout(60):
        kind, body = await raw.read()
    assert (kind, body) == (PUBACK, packet_id.to_bytes(2, "big"))


async def count(world: World, device: str) -> list[int]:
    """The numbers that the device sent, in the order of the log."""
    found: list[int] = []
    after = 0
    while True:
        page = await world.hub._events.read(after, 1000, device=device)
        found += [int(stored.message.body) for stored in page.events]
        if page.read_to == after:
            return found
        after = page.read_to


class TestFlood:
    @pytest.mark.parametrize("qos", [0, 1])
    async def test_one_connection_floods_and_others_are_acknowledged(
        self, tmp_path: Path, hub_pki: HubPki, qos: int
    ) -> None:
        """100,000 packets without a pause, and without reading what comes back."""
        async with running(tmp_path, hub_pki) as world:
            for name in ("flood", "other"):
                await world.create(name)
            async with connected(world, "flood") as flood, connected(world, "other") as other:
                sending = asyncio.create_task(self._flood(flood, qos))
                most_waiting, number = 0, 0
                while not sending.done() or number < 20:
                    number += 1
                    await acknowledged(other, "devices/other/messages/events/", b"%d" % number)
                    most_waiting = max(most_waiting, world.hub._events.waiting_bytes)
                await sending
                async with asyncio.timeout(60):
                    while await world.hub._events.newest() < FLOOD + number:
                        await asyncio.sleep(0.05)
            assert await count(world, "flood") == list(range(FLOOD))
            assert await count(world, "other") == list(range(1, number + 1))
            assert most_waiting <= APPEND_BACKLOG_BYTES

    async def _flood(self, raw: Raw, qos: int) -> None:
        topic = "devices/flood/messages/events/"
        for start in range(0, FLOOD, 1_000):
            ids = [n % 65_535 + 1 if qos else None for n in range(start, start + 1_000)]
            raw.writer.write(b"".join(publish(topic, b"%d" % (start + i), one) for i, one in enumerate(ids)))
            await raw.writer.drain()

    @pytest.mark.parametrize(
        "junk",
        [
            b"\xff" * 1_000_000,
            packet(0x36, b"\x00\x01a" + b"x" * 1000),  # quality 3
            b"\x30\xff\xff\xff\x7f" + b"x" * (PACKET_BYTES + 1),  # 256 MiB announced
            packet(0x34, b"\x00\x01a\x00\x01"),  # quality 2
            publish("devices/other/messages/events/", b"x", 1) * 1000,
            packet(0xC0, b"") * 100_000,
        ],
        ids=["junk", "quality-3", "too-long", "quality-2", "as-another", "pings"],
    )
    async def test_what_is_no_mqtt_ends_one_connection_only(self, tmp_path: Path, hub_pki: HubPki, junk: bytes) -> None:
        async with running(tmp_path, hub_pki) as world:
            for name in ("bad", "other"):
                await world.create(name)
            async with connected(world, "bad") as bad, connected(world, "other") as other:
                with suppress(ConnectionError):
                    bad.writer.write(junk)
                    await bad.writer.drain()
                for number in range(1, 20):
                    await acknowledged(other, "devices/other/messages/events/", b"%d" % number)
            assert await count(world, "other") == list(range(1, 20))
            assert await count(world, "bad") == []


async def test_a_reader_that_does_not_read_gets_it_later_and_nobody_waits(tmp_path: Path, hub_pki: HubPki) -> None:
    """50 messages of 256 KiB for a device that subscribes and then reads nothing."""
    async with running(tmp_path, hub_pki) as world:
        for name in ("slow", "other"):
            await world.create(name)
        async with connected(world, "slow") as slow, connected(world, "other") as other:
            slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
            slow.writer.write(subscribe("devices/slow/messages/devicebound/#"))
            other.writer.write(subscribe("devices/other/messages/devicebound/#"))
            assert (await other.read())[0] == 9
            for number in range(50):
                body = b"%02d" % number + b"x" * 262_000
                answer = await world.ask("POST", "/devices/slow/messages/devicebound", body)
                assert answer.status == 202
                if number % 10 == 0:
                    await world.ask("POST", "/devices/other/messages/devicebound", b"%d" % number)
                    async with asyncio.timeout(60):
                        kind, got = await other.read()
                    assert (kind, got[-len(str(number)) :]) == (PUBLISH, b"%d" % number)
                    length = int.from_bytes(got[:2], "big")
                    other.writer.write(puback(int.from_bytes(got[2 + length : 4 + length], "big")))
        got_bodies: list[bytes] = []
        async with connected(world, "slow") as slow, asyncio.timeout(60):  # its session knows the subscription
            while len(got_bodies) < 50:
                kind, got = await slow.read()
                assert kind == PUBLISH
                length = int.from_bytes(got[:2], "big")
                got_bodies.append(got[4 + length : 6 + length])
                slow.writer.write(puback(int.from_bytes(got[2 + length : 4 + length], "big")))
        assert got_bodies == [b"%02d" % number for number in range(50)]


# Killed -------------------------------------------------------------------------------------------------------------


@dataclass
class Fleet:
    """Devices as the SDKs are: clean session 0, quality 1, ten in flight, what is not acknowledged is sent again."""

    keys: dict[str, str]
    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    unacknowledged: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    acknowledged: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    async def run(self, hub: UpProcess, who: str, more: asyncio.Event) -> None:
        """Send until the hub is gone, or until everything is acknowledged once `more` is not set any more."""
        raw = await Raw.connect(hub.mqtt_port, hub.root, who, hub.token(who, self.keys[who]))
        topic = f"devices/{who}/messages/events/"
        waiting = self.unacknowledged[who]
        try:
            for number in waiting:
                raw.writer.write(publish(topic, b"%d" % number, number % 65_535 + 1, dup=True))
            while more.is_set() or waiting:
                while more.is_set() and len(waiting) < 10:
                    number = self.sent[who]
                    self.sent[who] += 1
                    waiting.append(number)
                    raw.writer.write(publish(topic, b"%d" % number, number % 65_535 + 1))
                kind, body = await raw.read()
                assert kind == PUBACK
                number = next(n for n in waiting if n % 65_535 + 1 == int.from_bytes(body, "big"))
                waiting.remove(number)
                self.acknowledged[who].add(number)
        finally:
            raw.abort()


async def test_killed_again_and_again_under_fifty_clients(tmp_path: Path) -> None:
    """Every acknowledged message is in the log, once or more, none missing; each device's in order."""
    fleet = Fleet({})
    for turn in range(ROUNDS + 1):
        async with up(tmp_path / "hub") as hub:
            if turn == 0:
                fleet.keys.update(await _registered(hub))
            more = asyncio.Event()
            more.set()
            devices = [asyncio.create_task(fleet.run(hub, who, more)) for who in fleet.keys]
            before = sum(map(len, fleet.acknowledged.values()))
            async with asyncio.timeout(60):
                while sum(map(len, fleet.acknowledged.values())) < before + random.randint(100, 3_000):
                    await asyncio.sleep(0.005)
            if turn < ROUNDS:
                await hub.kill()  # in the middle of it
            else:
                more.clear()
            outcomes = await asyncio.gather(*devices, return_exceptions=True)
            assert all(outcome is None or isinstance(outcome, OSError) for outcome in outcomes), outcomes
            if turn == ROUNDS:
                assert outcomes == [None] * CLIENTS
                stored = await _stored(hub)
    assert sum(map(len, fleet.acknowledged.values())) == sum(fleet.sent.values())
    for who in fleet.keys:
        assert fleet.acknowledged[who] <= set(stored[who]), who
        first = list(dict.fromkeys(stored[who]))
        assert first == sorted(first), who


async def _registered(hub: UpProcess) -> dict[str, str]:
    """The primary keys of fifty new devices."""
    items = [{"id": f"d{number}", "importMode": "create", "status": "enabled"} for number in range(CLIENTS)]
    made: Any = await hub.ask("POST", "/devices?api-version=2021-04-12", items)
    assert made["isSuccessful"], made
    listed: Any = await hub.ask("GET", "/devices?top=1000&api-version=2021-04-12")
    return {one["deviceId"]: one["authentication"]["symmetricKey"]["primaryKey"] for one in listed}


async def _stored(hub: UpProcess) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    after = 0
    while True:
        page: Any = await hub.ask("GET", f"/edgetrust/events?after={after}&limit=1000")
        for event in page["events"]:
            found[event["device"]].append(int(event["bodyText"]))
        if page["next"] == after:
            return found
        after = page["next"]
