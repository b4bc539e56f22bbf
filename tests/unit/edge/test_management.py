"""The management API over modules that are real processes: what runs, its words, and who may change what."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgetrust import limits
from edgetrust.clock import SystemClock
from edgetrust.edge.management import Management
from edgetrust.edge.moduleids import Module, ModuleUnknownError
from edgetrust.edge.modules import ModuleCommand, Modules, Restart
from edgetrust.edge.principals import Principal, Principals
from edgetrust.errors import RefusedError
from support.sockets import As, Client, served, until

SERVICE, STRANGER = 4_711, 4_712
SAYS = ("/bin/sh", "-c", "echo one; echo two; echo $WORD; exec sleep 600")


class Identities:
    """Modules at a hub in memory."""

    def __init__(self) -> None:
        self.held = {"a": Module("a", "1", "IotEdge")}

    async def listed(self) -> list[Module]:
        return list(self.held.values())

    async def create(self, module_id: str) -> Module:
        if module_id == "refused":
            raise RefusedError("the certificate has expired", reason="device-refused")
        return self.held.setdefault(module_id, Module(module_id, "2", ""))

    async def update(self, module_id: str) -> Module:
        if module_id not in self.held:
            raise ModuleUnknownError(module_id)
        return self.held[module_id]

    async def delete(self, module_id: str) -> None:
        self.held.pop(module_id)


@dataclass
class Bench:
    client: Client
    who: As
    modules: Modules
    logs: Path
    reprovisioned: list[str] = field(default_factory=list)

    async def status(self, name: str) -> str:
        shown = await self.client.ok("GET", f"/modules/{name}")
        return str(shown["status"]["runtimeStatus"]["status"])


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async def told(_name: str) -> Mapping[str, str]:
        return {"WORD": "three"}

    commands = {
        "speaker": ModuleCommand(SAYS, {"MORE": "x"}),
        "once": ModuleCommand(("/bin/sh", "-c", "exit 0"), restart=Restart.ON_FAILURE),
        "fails": ModuleCommand(("/bin/sh", "-c", "exit 3"), restart=Restart.NEVER),
    }
    modules, who = Modules(commands, told, tmp_path / "logs", SystemClock()), As()
    asked: list[str] = []

    async def reprovision() -> None:
        asked.append("asked")

    principals = Principals((Principal(SERVICE, "aziot-edge"),))
    clock = SystemClock()
    made = Management(modules, Identities(), principals, reprovision, "manual", clock.now())
    async with served(made.app(who), tmp_path / "mgmt.sock", "2022-08-03") as client:
        modules.start()
        yield Bench(client, who, modules, tmp_path / "logs", asked)
        await modules.close()


async def test_modules_are_listed_stopped_and_started(bench: Bench) -> None:
    await until(lambda: bench.modules.log_of("speaker").endswith(b"three\n"))
    listed = {one["name"]: one for one in (await bench.client.ok("GET", "/modules"))["modules"]}
    assert list(listed) == ["edgeHub", "speaker", "once", "fails"]
    assert listed["speaker"]["config"] == {
        "settings": {"command": list(SAYS)},
        "env": [{"key": "MORE", "value": "x"}],
    }
    assert listed["speaker"]["status"]["startTime"]
    assert await bench.status("edgeHub") == await bench.status("speaker") == "running"
    await until(lambda: bench.modules.details("fails")["status"]["exitStatus"] == {"statusCode": "3"})
    await until(lambda: bench.modules.details("once")["status"]["exitStatus"] == {"statusCode": "0"})
    assert (await bench.status("fails"), await bench.status("once")) == ("failed", "stopped")
    await bench.client.ok("POST", "/modules/speaker/stop", status=204)
    assert await bench.status("speaker") != "running"
    for verb in ("start", "start", "restart"):
        await bench.client.ok("POST", f"/modules/speaker/{verb}", status=204)
        await until(lambda: bench.modules.details("speaker")["status"]["runtimeStatus"]["status"] == "running")
    await until(lambda: bench.modules.log_of("speaker").count(b"one\n") == 3)


async def test_what_a_module_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await until(lambda: bench.modules.log_of("speaker").endswith(b"three\n"))
    assert await bench.client.text("/modules/speaker/logs?tail=2") == "two\nthree\n"
    assert await bench.client.text("/modules/speaker/logs?tail=0") == ""
    assert await bench.client.text("/modules/speaker/logs") == "one\ntwo\nthree\n"
    monkeypatch.setattr(limits, "MODULE_LOG_BYTES", 100)
    for _ in range(2):
        await bench.client.ok("POST", "/modules/speaker/restart", status=204)
        await until(lambda: bench.modules.log_of("speaker").endswith(b"three\n"))
    assert sum(path.stat().st_size for path in bench.logs.glob("speaker.*")) <= 2 * 100


async def test_a_log_is_followed_until_the_module_is_stopped(bench: Bench) -> None:
    await until(lambda: bench.modules.log_of("speaker").endswith(b"three\n"))
    following = asyncio.create_task(bench.client.text("/modules/speaker/logs?follow=true&tail=1"))
    await asyncio.sleep(0)
    await bench.client.ok("POST", "/modules/speaker/stop", status=204)
    assert await following == "three\n"
    assert await bench.client.text("/modules/speaker/logs?follow=true&timestamps=false&since=1h") == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    "query", ["tail=x", "tail=-1", "tail=%C2%B2", "follow=1", "timestamps=yes", "since=x", "until=1day1"]
)
async def test_what_cannot_be_asked_of_a_log(bench: Bench, query: str) -> None:
    answer = await bench.client.call("GET", f"/modules/speaker/logs?{query}")
    assert answer.status == 400
    assert answer.body["message"].startswith(f'parameter "{query.partition("=")[0]}" has an invalid value')


async def test_the_gateways_own_log_is_elsewhere(bench: Bench) -> None:
    answer = await bench.client.call("GET", "/modules/edgeHub/logs")
    assert answer.status == 404
    assert "journalctl" in answer.body["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/modules/none", 404),
        ("POST", "/modules/none/stop", 404),
        ("POST", "/modules/edgeHub/stop", 403),
        ("POST", "/modules/speaker/kill", 404),
        ("DELETE", "/modules/speaker", 403),
        ("PUT", "/identities/none", 500),
        ("PUT", "/identities/a%20b", 400),
    ],
)
async def test_what_is_not_there_or_not_to_be_changed(bench: Bench, method: str, path: str, status: int) -> None:
    assert (await bench.client.call(method, path, {})).status == status


async def test_identities_and_provisioning(bench: Bench) -> None:
    assert await bench.client.ok("GET", "/identities") == {
        "identities": [{"moduleId": "a", "managedBy": "IotEdge", "generationId": "1", "authType": "sas"}]
    }
    made = await bench.client.ok("POST", "/identities", {"moduleId": "b", "managedBy": "IotEdge"})
    assert (made["moduleId"], made["generationId"]) == ("b", "2")
    assert (await bench.client.ok("PUT", "/identities/b", {}))["generationId"] == "2"
    await bench.client.ok("DELETE", "/identities/b", status=204)
    refused = await bench.client.call("POST", "/identities", {"moduleId": "refused"})
    assert (refused.status, refused.body) == (500, {"message": "the certificate has expired"})
    await bench.client.ok("POST", "/device/reprovision", status=204)
    assert bench.reprovisioned == ["asked"]


async def test_the_machine(bench: Bench) -> None:
    shown = await bench.client.ok("GET", "/systeminfo")
    assert (shown["osType"], shown["provisioning"]) == ("linux", {"type": "manual"})
    measured = await bench.client.ok("GET", "/systeminfo/resources")
    assert 0 < measured["used_ram"] < measured["total_ram"]
    assert measured["disks"][0]["total_space"] > 0


async def test_a_module_looks_and_changes_nothing_and_strangers_do_neither(bench: Bench) -> None:
    await until(lambda: bench.modules.details("speaker")["status"]["runtimeStatus"]["status"] == "running")
    changes = [("POST", "/modules/speaker/stop"), ("POST", "/device/reprovision"), ("POST", "/identities")]
    bench.who.pid = bench.modules._lives["speaker"].pid or 0
    assert (await bench.client.call("GET", "/modules")).status == 200
    for method, path in changes:
        assert (await bench.client.call(method, path, {"moduleId": "x"})).status == 403
    bench.who.pid = os.getpid()
    for uid, wanted in ((STRANGER, {403}), (SERVICE, {200, 204})):
        bench.who.uid = uid
        asked: list[tuple[str, str]] = [("GET", "/modules"), ("GET", "/systeminfo"), ("GET", "/identities"), *changes]
        answers: list[Any] = [await bench.client.call(method, path, {"moduleId": "x"}) for method, path in asked]
        assert {one.status for one in answers} <= wanted
