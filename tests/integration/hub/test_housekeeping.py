"""What a hub removes by itself, and that appending goes on meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from edgetrust.errors import UnavailableError
from edgetrust.hub.pki import HubPki
from edgetrust.protocol.messages import Message
from edgetrust.telemetry import METRICS
from support.hub import World, running


def removed(kind: str) -> float:
    return METRICS.get_sample_value("edgetrust_removed_total", {"kind": kind}) or 0.0


async def append(world: World, count: int) -> None:
    stored = asyncio.get_running_loop().create_future()
    now = world.clock.milliseconds()
    messages = [Message("d1", None, "", b"%d" % n, now, "{}", "Telemetry") for n in range(count)]
    world.hub._events.append(messages, stored.set_result)
    assert await stored is None


async def test_everything_that_is_old_goes(each_world: World) -> None:
    world = each_world
    await world.create("d1")
    await append(world, 5_000)
    for _ in range(3):
        assert (await world.ask("POST", "/devices/d1/messages/devicebound", b"x")).status == 202
    place = await world.ask("POST", "/devices/d1/files", {"blobName": "b"}, token=world.token("d1"))
    path = f"/device-files/d1/b{place.json['sasToken']}&comp=block&blockid=YQ%3D%3D"
    assert (await world.ask("PUT", path, b"x" * 100, token=None, version=None)).status == 201
    before = {kind: removed(kind) for kind in ("event", "command", "upload")}
    await world.hub._housekeeping.tidy()
    assert {kind: removed(kind) for kind in before} == before
    world.clock.advance(7 * 86_400 + 1)
    tidying = asyncio.create_task(world.hub._housekeeping.tidy())
    await append(world, 1)  # is not held up until everything is gone
    await tidying
    assert {kind: removed(kind) - count for kind, count in before.items()} == {
        "event": 5_000,
        "command": 3,
        "upload": 1,
    }
    assert len(await world.events()) == 1
    assert [file for file in (world.directory / "uploads").rglob("*") if file.is_file()] == []


async def test_a_store_that_is_away_is_reported_and_stops_nothing(tmp_path: Path, hub_pki: HubPki) -> None:
    async with running(tmp_path, hub_pki) as world:

        async def away() -> int:
            raise UnavailableError("the disk is full", reason="store-full")

        world.hub._identities.trim_changes = away  # type: ignore[method-assign,assignment]
        world.clock.advance(8 * 86_400)
        with structlog.testing.capture_logs() as logs:
            await world.hub._housekeeping.tidy()
        assert {entry["reason"] for entry in logs if entry["event"] == "store.unavailable"} == {"store-full"}
        assert (await world.ask("GET", "/edgetrust/health", version=None)).status == 200
