"""Queries over HTTPS: bodies, headers, pages, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from support.hub import Answer, World


async def query(world: World, text: str, **headers: str) -> Answer:
    return await world.ask("POST", "/devices/query", {"query": text}, **headers)


async def pages(world: World, text: str, size: int) -> list[list[Any]]:
    found: list[list[Any]] = []
    headers: dict[str, str] = {}
    while True:
        answer = await query(world, text, x_ms_max_item_count=str(size), **headers)
        assert answer.status == 200, answer
        found.append(answer.json)
        more = answer.headers.get("x-ms-continuation")
        if more is None:
            return found
        headers = {"x_ms_continuation": more}


async def fleet(world: World, count: int = 5) -> None:
    items = [
        {"id": f"d{number}", "status": "disabled" if number == 0 else "enabled", "tags": {"n": number}}
        for number in range(count)
    ]
    assert (await world.ask("POST", "/devices", items)).status == 200


async def test_whole_twins_and_columns(each_world: World) -> None:
    await fleet(each_world)
    twin = (await each_world.ask("GET", "/twins/d3")).json
    answer = await query(each_world, "SELECT * FROM devices WHERE tags.n = 3")
    assert answer.json == [twin]
    assert answer.headers["x-ms-item-type"] == "twin"
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    answer = await query(each_world, "SELECT deviceId AS d, tags.n FROM devices WHERE tags.n IN [1, 2]")
    assert answer.json == [{"d": "d1", "n": 1}, {"d": "d2", "n": 2}]
    assert answer.headers["x-ms-item-type"] == "raw"
    assert "x-ms-continuation" not in answer.headers


async def test_pages(each_world: World) -> None:
    await fleet(each_world)
    text = "SELECT deviceId FROM devices WHERE status = 'enabled'"
    assert await pages(each_world, text, 2) == [
        [{"deviceId": "d1"}, {"deviceId": "d2"}],
        [{"deviceId": "d3"}, {"deviceId": "d4"}],
    ]
    assert [len(page) for page in await pages(each_world, "SELECT TOP 3 * FROM devices", 2)] == [2, 1]
    assert [len(page) for page in await pages(each_world, "SELECT TOP 2 * FROM devices", 2)] == [2]
    assert [len(page) for page in await pages(each_world, "SELECT TOP 1 * FROM devices", 2)] == [1]
    text = "SELECT tags.n, COUNT() AS c FROM devices GROUP BY tags.n"
    assert [len(page) for page in await pages(each_world, text, 2)] == [2, 2, 1]


async def test_a_device_that_goes_between_two_pages_costs_no_other(world: World) -> None:
    await fleet(world)
    first = await query(world, "SELECT deviceId FROM devices", x_ms_max_item_count="2")
    await world.ask("DELETE", "/devices/d1")
    await world.create("d1-new")
    more = first.headers["x-ms-continuation"]
    second = await query(world, "SELECT deviceId FROM devices", x_ms_continuation=more)
    assert [row["deviceId"] for row in second.json] == ["d1-new", "d2", "d3", "d4"]


async def test_modules(each_world: World) -> None:
    await each_world.gateway("edge")
    await each_world.create_module("edge", "m")
    text = "select * from devices.modules where devices.deviceId = 'edge'"
    answer = await query(each_world, text)
    assert [row["moduleId"] for row in answer.json] == ["$edgeAgent", "$edgeHub", "m"]
    assert answer.json[2] == (await each_world.ask("GET", "/twins/edge/modules/m")).json


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"query": "SELECT"}, 400, "ArgumentInvalid"),
        ({"query": "SELECT * FROM devices WHERE tags.a = 'x\0'"}, 400, "ArgumentInvalid"),
        ({"query": "x" * 10_000}, 400, "ArgumentInvalid"),
        ({"query": 7}, 400, "GenericBadRequest"),
        ({}, 400, "GenericBadRequest"),
        (b"", 400, "GenericBadRequest"),
    ],
)
async def test_what_is_no_query(world: World, body: Any, status: int, code: str) -> None:
    answer = await world.ask("POST", "/devices/query", body)
    assert (answer.status, answer.error) == (status, code)


async def test_a_query_error_says_where(world: World) -> None:
    answer = await query(world, "SELECT * FROM devices WHERE status is 'enabled'")
    assert answer.json["Message"] == "ErrorCode:ArgumentInvalid;position 36: expected the end, found 'is'"


async def test_page_sizes_and_continuations_that_are_none(world: World) -> None:
    await fleet(world)
    for size in ("0", "x", "1.5", "-2"):
        assert (await query(world, "SELECT * FROM devices", x_ms_max_item_count=size)).status == 400
    for size in ("", "-1", "999999999999"):
        assert (await query(world, "SELECT * FROM devices", x_ms_max_item_count=size)).status == 200
    more = (await query(world, "SELECT * FROM devices", x_ms_max_item_count="1")).headers["x-ms-continuation"]
    for text, word in (("SELECT * FROM devices", "e30="), ("SELECT deviceId FROM devices", more)):
        answer = await query(world, text, x_ms_continuation=word)
        assert (answer.status, answer.error) == (400, "GenericBadRequest"), word


async def test_either_right_is_enough(world: World) -> None:
    for policy, status in {"service": 200, "registryRead": 200, "device": 401}.items():
        token = world.service_token(policy)
        body = {"query": "SELECT * FROM devices"}
        assert (await world.ask("POST", "/devices/query", body, token=token)).status == status
