"""Configurations over HTTPS, and the twins that they make; on SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest

from support.hub import World, until

AGENT: dict[str, Any] = {"schemaVersion": "1.1", "modules": {"sensor": {"settings": {"image": "sensor:1"}}}}
BASE: dict[str, Any] = {
    "modulesContent": {
        "$edgeAgent": {"properties.desired": AGENT},
        "$edgeHub": {"properties.desired": {"routes": {"up": "FROM /messages/* INTO $upstream"}}},
        "sensor": {"properties.desired": {"interval": 5}},
    }
}


async def put(world: World, name: str, content: Any = None, **more: Any) -> Any:
    answer = await world.ask("PUT", f"/configurations/{name}", {"id": name, "content": content or BASE, **more})
    assert answer.status == 200, answer
    return answer.json


async def desired(world: World, device: str, module: str) -> Any:
    answer = await world.ask("GET", f"/twins/{device}/modules/{module.replace('$', '%24')}")
    if answer.status != 200:
        return None
    found = answer.json["properties"]["desired"]
    return {name: value for name, value in found.items() if not name.startswith("$")}


async def applied(world: World, name: str, count: int) -> None:
    async def seen() -> bool:
        results = (await world.ask("GET", f"/configurations/{name}")).json["systemMetrics"]["results"]
        return results == {"targetedCount": count, "appliedCount": count}

    await until(seen)


async def test_content_is_applied_to_one_device(each_world: World) -> None:
    await each_world.gateway("edge")
    await each_world.create("leaf")
    answer = await each_world.ask("POST", "/devices/edge/applyConfigurationContent", BASE)
    assert (answer.status, answer.body) == (204, b"")
    assert await desired(each_world, "edge", "$edgeAgent") == AGENT
    assert await desired(each_world, "edge", "sensor") == {"interval": 5}
    assert (await each_world.ask("GET", "/devices/edge/modules/sensor")).json["managedBy"] == "IotEdge"
    layer = {"modulesContent": {"sensor": {"properties.desired.limits.high": 90}}}
    assert (await each_world.ask("POST", "/devices/edge/applyConfigurationContent", layer)).status == 204
    assert await desired(each_world, "edge", "sensor") == {"interval": 5, "limits": {"high": 90}}
    for device, code in {"leaf": "InvalidOperation", "nobody": "DeviceNotFound"}.items():
        answer = await each_world.ask("POST", f"/devices/{device}/applyConfigurationContent", BASE)
        assert answer.error == code


async def test_what_fails_leaves_nothing(each_world: World) -> None:
    await each_world.gateway("edge")
    content = {
        "modulesContent": {"first": {"properties.desired": {"a": 1}}, "second": {"properties.desired": {"a.b": 1}}}
    }
    answer = await each_world.ask("POST", "/devices/edge/applyConfigurationContent", content)
    assert (answer.status, answer.error) == (400, "ArgumentInvalid")
    left = (await each_world.ask("GET", "/devices/edge/modules")).json
    assert [one["moduleId"] for one in left] == ["$edgeAgent", "$edgeHub"]


async def test_the_life_of_a_configuration(each_world: World) -> None:
    ask = each_world.ask
    made = await put(each_world, "one", targetCondition="tags.site='Oslo'", priority=3, labels={"a": "b"})
    assert (made["priority"], made["targetCondition"], made["labels"]) == (3, "tags.site='Oslo'", {"a": "b"})
    assert made["content"]["modulesContent"] == BASE["modulesContent"]
    again = await ask("PUT", "/configurations/one", {"id": "one", "content": BASE})
    assert (again.status, again.error) == (409, "ConfigurationAlreadyExists")
    changed = await ask("PUT", "/configurations/one", {**made, "priority": 7}, If_Match=f'"{made["etag"]}"')
    assert (changed.json["priority"], changed.json["labels"]) == (7, {"a": "b"})
    stale = await ask("PUT", "/configurations/one", made, If_Match=f'"{made["etag"]}"')
    assert (stale.status, stale.error) == (412, "PreconditionFailed")
    other = {"id": "one", "content": {"modulesContent": {"x": {"properties.desired": {}}}}}
    refused = await ask("PUT", "/configurations/one", other, If_Match="*")
    assert (refused.status, refused.error) == (400, "CannotModifyImmutableConfigurationContent")
    await put(each_world, "two", priority=9)
    listed = (await ask("GET", "/configurations?top=1")).json
    assert [one["id"] for one in listed] == ["two"]
    assert (await ask("DELETE", "/configurations/one", If_Match='"x"')).status == 412
    assert (await ask("DELETE", "/configurations/one", If_Match='"*"')).status == 204
    for method in ("GET", "DELETE"):
        assert (await ask(method, "/configurations/one")).error == "ConfigurationNotFound"


async def test_a_configuration_reaches_its_devices(each_world: World) -> None:
    for device in ("edge-1", "edge-2"):
        await each_world.gateway(device)
    await each_world.create("leaf")
    for device in ("edge-1", "leaf"):
        await each_world.ask("PATCH", f"/twins/{device}", {"tags": {"site": "Oslo"}})
    await put(each_world, "base", targetCondition="tags.site='Oslo'", priority=1)
    await applied(each_world, "base", 1)
    assert await desired(each_world, "edge-1", "sensor") == {"interval": 5}
    assert await desired(each_world, "edge-2", "sensor") is None
    layer = {"modulesContent": {"sensor": {"properties.desired.interval": 60}}}
    await put(each_world, "slow", layer, targetCondition="*", priority=2)

    async def slowed() -> bool:
        return bool(await desired(each_world, "edge-1", "sensor") == {"interval": 60})

    await until(slowed)
    assert (await each_world.ask("DELETE", "/configurations/slow")).status == 204
    await until(lambda: _is(each_world, {"interval": 5}))


async def _is(world: World, wanted: Any) -> bool:
    return bool(await desired(world, "edge-1", "sensor") == wanted)


async def test_metrics_and_trying_out(world: World) -> None:
    await world.gateway("edge")
    queries = {"all": "SELECT * FROM devices", "agents": "SELECT * FROM devices.modules WHERE moduleId='$edgeAgent'"}
    made = await put(world, "one", metrics={"queries": queries})
    assert made["metrics"] == {"results": {"all": 1, "agents": 1}, "queries": queries}
    tried = {"targetCondition": "tags.", "customMetricQueries": {"good": queries["all"], "bad": "SELECT"}}
    answer = await world.ask("POST", "/configurations/testQueries", tried)
    assert answer.json["targetConditionError"].startswith("position 6: expected")
    assert list(answer.json["customMetricQueryErrors"]) == ["bad"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "IotHubFormatError"),
        ({"id": "one"}, "InvalidConfigurationContent"),
        ({"id": "two", "content": BASE}, "GenericBadRequest"),
        ({"id": "one", "content": BASE, "targetCondition": "tags."}, "InvalidConfigurationTargetCondition"),
        ({"id": "one", "content": BASE, "priority": "high"}, "ArgumentInvalid"),
    ],
)
async def test_what_is_no_configuration(world: World, body: Any, code: str) -> None:
    answer = await world.ask("PUT", "/configurations/one", body)
    assert (answer.status, answer.error) == (400, code)
    assert (await world.ask("GET", "/configurations")).json == []
