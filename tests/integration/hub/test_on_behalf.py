"""Modules below a gateway, managed through it: as their own device could, and nobody else's."""

from __future__ import annotations

from typing import Any

import pytest

from support.hub import Answer, World
from support.surface import HTTP, surface

PATH = "/devices/{}/modules/$edgeHub/{}"


async def ask(world: World, actor: str, call: str, body: dict[str, Any], **headers: str) -> Answer:
    method = "PUT" if call.startswith("put") else "POST"
    token = world.token(f"{actor}/$edgeHub")
    return await world.ask(method, PATH.format(actor, call), body, token=token, **headers)


def module(device: str, name: str, **more: Any) -> dict[str, Any]:
    return {"authChain": f"{device};top", "module": {"deviceId": device, "moduleId": name, **more}}


@pytest.fixture
async def family(each_world: World) -> World:
    await each_world.gateway("top")
    await each_world.gateway("low", parent="top")
    await each_world.create("stranger")
    return each_world


@surface(HTTP, "nested")
async def test_the_life_of_a_module(family: World) -> None:
    made = await ask(family, "top", "putModuleOnBehalfOf", module("low", "m1", managedBy="IotEdge"))
    assert (made.status, made.json["managedBy"]) == (200, "IotEdge")
    assert (await ask(family, "top", "putModuleOnBehalfOf", module("low", "m1"))).status == 409
    keys = {"primaryKey": "cHBwcHBwcHBwcHBwcHBwcA==", "secondaryKey": "c3Nzc3Nzc3Nzc3Nzc3Nzcw=="}
    changed = await ask(
        *(family, "top", "putModuleOnBehalfOf"),
        module("low", "m1", authentication={"type": "sas", "symmetricKey": keys}),
        If_Match="*",
    )
    assert changed.json["authentication"]["symmetricKey"] == keys
    got = await ask(family, "top", "getModuleOnBehalfOf", {"authChain": "low;top", "targetModuleId": "m1"})
    assert got.json["generationId"] == made.json["generationId"]
    listed = await ask(family, "top", "getModulesOnTargetDevice", {"authChain": "low;top"})
    assert sorted(one["moduleId"] for one in listed.json) == ["$edgeAgent", "$edgeHub", "m1"]
    gone = await ask(family, "top", "deleteModuleOnBehalfOf", {"authChain": "low;top", "moduleId": "m1"})
    assert gone.status == 204
    again = await ask(family, "top", "getModuleOnBehalfOf", {"authChain": "low;top", "targetModuleId": "m1"})
    assert (again.status, again.error) == (404, "ModuleNotFound")


async def test_nobody_elses(family: World) -> None:
    for chain, status in (("stranger;top", 403), ("low;stranger", 401), ("top;low", 401), ("nobody;top", 403)):
        answer = await ask(family, "top", "getModulesOnTargetDevice", {"authChain": chain})
        assert answer.status == status, chain
    foreign = {"authChain": "low;top", "module": {"deviceId": "stranger", "moduleId": "m"}}
    assert (await ask(family, "top", "putModuleOnBehalfOf", foreign)).status == 400
    body = {"authChain": "low;top"}
    refused = await family.ask("POST", PATH.format("top", "getModulesOnTargetDevice"), body, token=family.token("low"))
    assert refused.status == 401


async def test_what_is_missing_is_named(family: World) -> None:
    for call, member in (
        ("getModuleOnBehalfOf", "targetModuleId"),
        ("deleteModuleOnBehalfOf", "moduleId"),
        ("putModuleOnBehalfOf", "module"),
    ):
        answer = await ask(family, "top", call, {"authChain": "low;top"})
        assert answer.status == 400
        assert member in answer.json["Message"]
