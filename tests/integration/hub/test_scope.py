"""What a gateway's edgeHub asks about those below it: one level at a time, and nothing about anybody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.hub import Answer, World, devices_pki
from support.surface import HTTP, surface

EDGE_HUB = "/devices/{}/modules/$edgeHub"


async def listing(world: World, actor: str, chain: str | None = None, **more: Any) -> Answer:
    body = {"pageSize": 100, "authChain": chain or f"{actor}/$edgeHub;{actor}", **more}
    path = EDGE_HUB.format(actor) + "/devicesAndModulesInTargetDeviceScope"
    return await world.ask("POST", path, body, token=world.token(f"{actor}/$edgeHub"))


async def lookup(world: World, actor: str, device: str, module: str | None = None, chain: str = "") -> Answer:
    body = {"targetDeviceId": device, "targetModuleId": module, "authChain": chain or actor}
    path = EDGE_HUB.format(actor) + "/getDeviceAndModuleOnBehalfOf"
    return await world.ask("POST", path, body, token=world.token(f"{actor}/$edgeHub"))


def devices(answer: Answer) -> list[str]:
    assert answer.status == 200, answer
    assert set(answer.json) == {"devices", "modules", "continuationLink"}
    return [device["deviceId"] for device in answer.json["devices"]]


def modules(answer: Answer) -> list[str]:
    return [f"{module['deviceId']}/{module['moduleId']}" for module in answer.json["modules"]]


async def family(world: World) -> None:
    """top above low above leaf; leaf1 and leaf2 below top; a stranger below nobody."""
    await world.gateway("top")
    await world.gateway("low", parent="top")
    for name, parent in (("leaf1", "top"), ("leaf2", "top"), ("deep", "low")):
        await world.create(name, parentScopes=[await world.scope_of(parent)])
    await world.create_module("leaf1", "m")
    await world.create("stranger")
    await world.gateway("elsewhere")


@surface(HTTP, "scope")
async def test_one_level(each_world: World) -> None:
    world = each_world
    await family(world)
    top = await listing(world, "top")
    assert sorted(devices(top)) == ["leaf1", "leaf2", "low", "top"]
    assert modules(top) == ["top/$edgeAgent", "top/$edgeHub"]
    assert top.json["continuationLink"] is None
    leaf = next(device for device in top.json["devices"] if device["deviceId"] == "leaf1")
    assert leaf["authentication"]["symmetricKey"]["primaryKey"] == world.keys["leaf1"]
    assert leaf["parentScopes"] == [await world.scope_of("top")]

    low = await listing(world, "top", "low;top")
    assert sorted(devices(low)) == ["deep", "low"]
    assert sorted(devices(await listing(world, "low"))) == ["deep", "low"]
    assert devices(await listing(world, "elsewhere")) == ["elsewhere"]


@surface(HTTP, "scope")
async def test_pages(each_world: World) -> None:
    await each_world.gateway("gw")
    scope = await each_world.scope_of("gw")
    names = [f"d{number:02}" for number in range(7)]
    for name in names:
        await each_world.create(name, deviceScope=scope)
    found: list[str] = []
    link: str | None = None
    pages = 0
    while pages == 0 or link:
        more = {"pageSize": 3} if link is None else {"pageSize": 3, "continuationLink": link}
        page = await listing(each_world, "gw", **more)
        found += devices(page)
        assert modules(page) == (["gw/$edgeAgent", "gw/$edgeHub"] if pages == 0 else [])
        link, pages = page.json["continuationLink"], pages + 1
    assert found == ["gw", *names]
    assert pages == 3
    wrong = await listing(each_world, "gw", continuationLink="%%%")
    assert (wrong.status, wrong.error) == (400, "ArgumentInvalid")


@surface(HTTP, "scope")
async def test_pages_of_older_edge_hubs(world: World) -> None:
    await world.gateway("gw")
    for number in range(4):
        await world.create(f"d{number}", deviceScope=await world.scope_of("gw"))
    token = world.token("gw/$edgeHub")
    path: str | None = (
        EDGE_HUB.format("gw")
        + "/devicesAndModulesInDeviceScope?deviceCount=2&continuationToken=&api-version=2018-08-30-preview"
    )
    found: list[str] = []
    while path:
        page = await world.ask("GET", path, version=None, token=token)
        found += devices(page)
        path = page.json["continuationLink"]
    assert found == ["gw", "d0", "d1", "d2", "d3"]
    one = await world.ask(
        "GET", EDGE_HUB.format("gw") + "/deviceAndModuleInDeviceScope?targetDeviceId=d1&targetModuleId=", token=token
    )
    assert devices(one) == ["d1"]


@surface(HTTP, "scope")
async def test_look_ups(world: World) -> None:
    await family(world)
    one = await lookup(world, "top", "leaf1")
    assert (devices(one), modules(one)) == (["leaf1"], [])
    one = await lookup(world, "top", "leaf1", "m")
    assert (devices(one), modules(one)) == (["leaf1"], ["leaf1/m"])
    assert devices(await lookup(world, "top", "deep")) == ["deep"]  # at any depth
    assert devices(await lookup(world, "top", "top", "$edgeHub")) == ["top"]
    for device, module, status in (
        ("stranger", None, 403),
        ("elsewhere", None, 403),
        ("nobody", None, 404),
        ("leaf1", "nothing", 404),
    ):
        answer = await lookup(world, "top", device, module)
        assert answer.status == status, (device, module)
        assert answer.error
    assert (await lookup(world, "low", "leaf1")).status == 403


async def test_a_chain_that_is_not_its_own_is_on_record(world: World) -> None:
    await family(world)
    for chain, reason in (("low;elsewhere;top", "not-a-child"), ("top;low", "auth-chain-mismatch")):
        assert (await listing(world, "top", chain)).status in (401, 403)
        last = (await world.refusals())[0]
        assert (last["identity"], last["reason"]) == ("top/$edgeHub", reason)


@surface(HTTP, "nested")
@pytest.mark.parametrize(
    ("chain", "statuses"),
    [
        ("top", {200}),
        ("low;top", {200}),
        ("low/$edgeHub;low;top", {200}),
        ("low", {401, 403}),  # does not end with the caller
        ("top;low", {401, 403}),
        ("elsewhere;top", {401, 403}),
        ("stranger;top", {401, 403}),
        ("nobody;top", {401, 403, 404}),
        ("deep;top", {401, 403}),  # a step is missing
        ("low;elsewhere;top", {401, 403}),
        ("", {400}),
        (";", {400}),
        ("a;b;c;d;e;f;g;top", {400}),
        ("top/a/b", {400}),
    ],
)
async def test_chains(shared_family: World, chain: str, statuses: set[int]) -> None:
    answer = await listing(shared_family, "top", chain or " ")
    assert answer.status in statuses
    if answer.status != 200:
        assert answer.error


@pytest.fixture
async def shared_family(world: World) -> World:
    await family(world)
    return world


async def test_only_the_edge_hub_itself(world: World) -> None:
    await family(world)
    body = {"pageSize": 10, "authChain": "top"}
    path = EDGE_HUB.format("top") + "/devicesAndModulesInTargetDeviceScope"
    agent = await world.ask("GET", "/devices/top/modules/$edgeAgent")
    world.keys["top/$edgeAgent"] = agent.json["authentication"]["symmetricKey"]["primaryKey"]
    for who in ("low/$edgeHub", "low", "leaf1", "elsewhere/$edgeHub", "top/$edgeAgent"):
        answer = await world.ask("POST", path, body, token=world.token(who))
        assert (answer.status, answer.error) == (401, "IotHubUnauthorizedAccess"), who
    for policy in ("registryReadWrite", "service"):
        assert (await world.ask("POST", path, body, token=world.service_token(policy))).status == 401
    assert (await world.ask("POST", path, body, token=None)).status == 401
    # the encoded form that real gateways send
    encoded = path.replace("$", "%24")
    assert (await world.ask("POST", encoded, body, token=world.token("top/$edgeHub"))).status == 200


async def test_bodies(world: World) -> None:
    await world.gateway("gw")
    for body in (
        b"",
        b"{}",
        b'{"authChain":1}',
        b'{"authChain":"gw","pageSize":0}',
        b'{"authChain":"gw","pageSize":"x"}',
    ):
        path = EDGE_HUB.format("gw") + "/devicesAndModulesInTargetDeviceScope"
        answer = await world.ask("POST", path, body, token=world.token("gw/$edgeHub"))
        assert answer.status == 400, body


async def test_a_change_is_heard_at_once(world: World) -> None:
    await world.gateway("gw")
    path = EDGE_HUB.format("gw") + "/scopeVersion"
    token = world.token("gw/$edgeHub")
    version = (await world.ask("GET", path, token=token)).json["version"]
    waiting = asyncio.create_task(world.ask("GET", f"{path}?after={version}&wait_seconds=30", token=token))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await world.create("d1")
    assert (await asyncio.wait_for(waiting, 20)).json["version"] > version
    old = await world.ask("GET", f"{path}?after={version}&wait_seconds=30", token=token)
    assert old.json["version"] > version
    newest = old.json["version"]
    assert (await world.ask("GET", f"{path}?after={newest}&wait_seconds=0.05", token=token)).json["version"] == newest


async def test_verified_authorities(world: World) -> None:
    await world.gateway("gw")
    path = EDGE_HUB.format("gw") + "/verifiedCertificates"
    token = world.token("gw/$edgeHub")
    assert (await world.ask("GET", path, token=token)).json["certificates"] == []
    await world.trust(devices_pki().root)
    answer = (await world.ask("GET", path, token=token)).json
    assert answer["certificates"] == [devices_pki().root.chain.pem()]
    assert answer["asOf"]
