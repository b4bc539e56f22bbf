"""Scheduled jobs: progress, failures, cancelling, and a restart in between; on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edgetrust.hub.pki import HubPki
from support.hub import World, running, until
from support.mosquitto import device, wait

TWIN: dict[str, Any] = {"type": "scheduleUpdateTwin", "updateTwin": {"tags": {"wave": 2}}}


async def fleet(world: World, count: int) -> None:
    items = [{"id": f"d{number}", "tags": {"even": number % 2 == 0}} for number in range(count)]
    assert (await world.ask("POST", "/devices", items)).status == 200


async def ended(world: World, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def seen() -> bool:
        found.update((await world.ask("GET", f"/jobs/v2/{name}")).json)
        return found["endTime"] is not None

    await until(seen)
    return found


async def test_twins_of_all_that_fit(each_world: World) -> None:
    await fleet(each_world, 50)
    job = {**TWIN, "queryCondition": "tags.even = true"}
    made = await each_world.ask("PUT", "/jobs/v2/wave-2", job)
    assert made.status == 200
    assert (made.json["jobId"], made.json["type"], made.json["endTime"]) == ("wave-2", "scheduleUpdateTwin", None)
    done = await ended(each_world, "wave-2")
    assert done["status"] == "completed"
    assert done["deviceJobStatistics"] == {
        "deviceCount": 25,
        "succeededCount": 25,
        "failedCount": 0,
        "runningCount": 0,
        "pendingCount": 0,
    }
    counted = await each_world.ask(
        "POST", "/devices/query", {"query": "SELECT COUNT() AS n FROM devices WHERE tags.wave = 2"}
    )
    assert counted.json == [{"n": 25}]
    again = await each_world.ask("PUT", "/jobs/v2/wave-2", job)
    assert (again.status, again.error) == (409, "GenericConflict")


async def test_methods_succeed_and_fail_one_by_one(world: World) -> None:
    await world.create("away")
    await world.create("here")
    method = {"methodName": "reboot", "payload": 1, "responseTimeoutInSeconds": 5}
    with device(world, "here") as here:
        await wait(lambda: here.code == 0)
        here.client.subscribe("$iothub/methods/POST/#")
        await wait(lambda: here.granted)
        job = {"type": "scheduleDeviceMethod", "cloudToDeviceMethod": method}
        assert (await world.ask("PUT", "/jobs/v2/m", job)).status == 200
        await wait(lambda: here.got)
        request = here.got[0].topic.partition("$rid=")[2]
        here.client.publish(f"$iothub/methods/res/200/?$rid={request}", b'{"ok":true}')
        done = await ended(world, "m")
    counts = done["deviceJobStatistics"]
    assert (done["status"], counts["succeededCount"], counts["failedCount"]) == ("completed", 1, 1)


async def test_a_job_that_waits_is_cancelled(each_world: World) -> None:
    await fleet(each_world, 2)
    later = (each_world.clock.now() + timedelta(hours=1)).isoformat()
    made = await each_world.ask("PUT", "/jobs/v2/later", {**TWIN, "startTime": later})
    assert made.json["status"] == "scheduled"
    cancelled = await each_world.ask("POST", "/jobs/v2/later/cancel")
    assert (cancelled.json["status"], cancelled.json["deviceJobStatistics"]["deviceCount"]) == ("cancelled", 0)
    each_world.clock.advance(7200)
    await each_world.ask("PUT", "/jobs/v2/now", TWIN)
    assert (await ended(each_world, "now"))["status"] == "completed"
    assert (await ended(each_world, "later"))["status"] == "cancelled"


async def test_a_job_survives_a_restart(durable_url: str, tmp_path: Path, hub_pki: HubPki) -> None:
    async with running(tmp_path, hub_pki, durable_url) as world:
        await fleet(world, 3)
        later = (world.clock.now() + timedelta(hours=1)).isoformat()
        assert (await world.ask("PUT", "/jobs/v2/later", {**TWIN, "startTime": later})).status == 200
        clock = world.clock
    clock.advance(3601)
    async with running(tmp_path, hub_pki, durable_url, clock=clock) as world:
        done = await ended(world, "later")
        assert (done["status"], done["deviceJobStatistics"]["succeededCount"]) == ("completed", 3)


async def test_a_job_that_was_cut_off_goes_on(durable_url: str, tmp_path: Path, hub_pki: HubPki) -> None:
    """What is done is not done again, and nothing is left out."""
    async with running(tmp_path, hub_pki, durable_url) as world:
        await fleet(world, 3)
        store = world.hub.parts.jobs
        later = (world.clock.now() + timedelta(hours=1)).isoformat()
        await world.ask("PUT", "/jobs/v2/cut", {**TWIN, "startTime": later})
        await store.begin("cut", ["d0", "d1", "gone"])
        await store.done("cut", {"d0": (True, {})})
        clock = world.clock
    clock.advance(3601)
    async with running(tmp_path, hub_pki, durable_url, clock=clock) as world:
        done = await ended(world, "cut")
        counts = done["deviceJobStatistics"]
        assert (counts["deviceCount"], counts["succeededCount"], counts["failedCount"]) == (3, 2, 1)
        tags = [(await world.ask("GET", f"/twins/{name}")).json["tags"].get("wave") for name in ("d0", "d1", "d2")]
        assert tags == [None, 2, None]


async def test_a_job_whose_time_is_over(world: World) -> None:
    await fleet(world, 1)
    start = (world.clock.now() - timedelta(hours=2)).isoformat()
    await world.ask("PUT", "/jobs/v2/late", {**TWIN, "startTime": start, "maxExecutionTimeInSeconds": 60})
    done = await ended(world, "late")
    assert (done["status"], done["failureReason"]) == ("failed", "its time is over")
    assert done["deviceJobStatistics"]["pendingCount"] == 1


async def test_jobs_are_listed(each_world: World) -> None:
    for name in ("a", "b", "c"):
        await each_world.ask("PUT", f"/jobs/v2/{name}", TWIN)
        await ended(each_world, name)
    path = "/jobs/v2/query?jobType=ScheduleUpdateTwin&jobStatus=completed"
    first = await each_world.ask("GET", path, x_ms_max_item_count="2")
    assert [job["jobId"] for job in first.json] == ["a", "b"]
    assert first.headers["x-ms-item-type"] == "jobResponse"
    more = first.headers["x-ms-continuation"]
    second = await each_world.ask("GET", path, x_ms_max_item_count="2", x_ms_continuation=more)
    assert [job["jobId"] for job in second.json] == ["c"]
    assert "x-ms-continuation" not in second.headers
    assert (await each_world.ask("GET", "/jobs/v2/query?jobStatus=failed")).json == []
    assert (await each_world.ask("GET", "/jobs/v2/query?jobStatus=perhaps")).status == 400


@pytest.mark.parametrize(("method", "path"), [("GET", "/jobs/v2/none"), ("POST", "/jobs/v2/none/cancel")])
async def test_a_job_that_is_none(world: World, method: str, path: str) -> None:
    answer = await world.ask(method, path)
    assert (answer.status, answer.error) == (404, "JobNotFound")
    refused = await world.ask(method, path, token=world.service_token("registryReadWrite"))
    assert refused.status == 401
