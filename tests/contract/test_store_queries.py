"""Queries on every engine: pages, order, and SQL that never takes a row away which the condition would take."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from edgetrust.clock import ManualClock
from edgetrust.hub.rest.bodies import twin_row
from edgetrust.protocol.bulk import ImportMode
from edgetrust.protocol.query import holds, parse_query
from edgetrust.protocol.twin import TwinDraft
from edgetrust.store.bulk import BulkItem
from edgetrust.store.engine import Database
from edgetrust.store.identities import Identities
from edgetrust.store.narrowing import Narrowing
from edgetrust.store.queries import START, Queries
from edgetrust.store.records import DeviceDraft, ModuleDraft
from edgetrust.store.twins import Twins
from edgetrust.trust.identity import Identity

HUB = "hub.example"


@pytest_asyncio.fixture
async def queries(database: Database, clock: ManualClock) -> AsyncIterator[Queries]:
    """Six devices, two of them gateways, four modules besides those of gateways."""
    registry, twins = Identities(database, clock, HUB), Twins(database, clock)
    top = await registry.create_device(DeviceDraft("edge", edge=True))
    await registry.create_device(DeviceDraft("low", edge=True, parent_scopes=(str(top.scope),)))
    await registry.create_device(
        DeviceDraft("a", scope=top.scope, twin=TwinDraft({"env": "prod", "n": 1, "odd-name": {}}, {"mode": "slow"}))
    )
    await registry.create_device(DeviceDraft("B", status="disabled", twin=TwinDraft({"env": "dev", "n": "1"})))
    await registry.create_device(
        DeviceDraft("c", twin=TwinDraft({"env": ["prod"], "o": {"p": "x", "q'": 'y"'}, "on": True}))
    )
    await registry.create_device(DeviceDraft("d'"))
    for device, module in (("a", "m1"), ("a", "m2"), ("c", "m1"), ("B", "m1")):
        await registry.create_module(ModuleDraft(device, module, twin=TwinDraft({"env": "prod"})))
    await twins.report("a", {"state": "ok", "deep": {"t": 21.5}})
    await twins.report("c", {"state": "bad"})
    await registry.record_presence({Identity(HUB, "a"): True, Identity(HUB, "a", "m1"): True}, clock.now())
    yield Queries(database, twin_row)


async def everything(queries: Queries, text: str, size: int) -> list[Any]:
    """All pages of a query."""
    query = parse_query(text)
    found: list[Any] = []
    place = START
    while True:
        page = await queries.page(query, size, place)
        assert len(page.rows) <= size
        assert page.rows or not found, "an empty page after a full one"
        found += page.rows
        if page.more is None:
            return found
        place = page.more


def names(rows: list[Any]) -> list[str]:
    return [row["deviceId"] + ("/" + row["moduleId"] if "moduleId" in row else "") for row in rows]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_pages(queries: Queries, size: int) -> None:
    found = await everything(queries, "SELECT * FROM devices", size)
    assert names(found) == ["B", "a", "c", "d'", "edge", "low"]
    assert found[1]["tags"]["env"] == "prod"
    found = await everything(queries, "SELECT deviceId, moduleId FROM devices.modules WHERE tags.env = 'prod'", size)
    assert names(found) == ["B/m1", "a/m1", "a/m2", "c/m1"]


CONDITIONS = [
    "deviceId = 'a'",
    "deviceId = 'A'",
    "deviceId > 'a'",
    "NOT deviceId <= 'c'",
    "deviceId = 1",
    "NOT deviceId = 1",
    "NOT deviceId < 1",
    "deviceId IN ['a', 'd''', 'x', 5]",
    "deviceId NIN ['a']",
    "deviceId IN []",
    "startswith(deviceId, 'e')",
    "status = 'enabled'",
    "status != 'enabled'",
    "status = 'Enabled'",
    "status != 'Enabled'",
    "status > 'e'",
    "NOT (status = 'disabled' OR deviceId = 'a')",
    "connectionState = 'Connected'",
    "connectionState <> 'Connected' AND status = 'enabled'",
    "capabilities.iotEdge = true",
    "capabilities.iotEdge != true",
    "capabilities.iotEdge",
    "NOT capabilities.iotEdge",
    "capabilities.iotEdge = 'true'",
    "authenticationType = 'sas'",
    "authenticationType != 'sas'",
    "moduleId = 'm1'",
    "moduleId != 'm1'",
    "moduleId IN ['m2', '$edgeHub']",
    "is_defined(moduleId)",
    "tags.env = 'prod'",
    "tags.env != 'prod'",
    "NOT tags.env = 'prod'",
    "tags.env IN ['prod', 'dev'] AND status = 'enabled'",
    "tags.env = 'prod' OR tags.n = '1'",
    "tags.env = 'prod' OR tags.n = 1",
    "tags.n = 1",
    "tags.n = '1'",
    "tags.env[0] = 'prod'",
    "tags = 'x'",
    "tags.o.p = 'x'",
    "tags.o.[[q']] = 'y\"'",
    "is_defined(tags.[[odd-name]])",
    "properties.desired.mode = 'slow'",
    "properties.desired.$version = 1",
    "properties.desired.$metadata.mode.$lastUpdatedVersion = 1",
    "properties.reported.state = 'ok'",
    "properties.reported.state IN ['ok', 'bad']",
    "properties.reported.deep.t > 21",
    "lastActivityTime > '2020-01-01T00:00:00Z'",
    "array_contains(parentScopes, 'nobody')",
    "NOT array_contains(parentScopes, 'nobody')",
    "array_contains(parentScopes, 'ms-azure-iot-edge://edge-1')",
    "deviceScope != ''",
    "nothing.at.all = 'x'",
    "tags.n > 0 AND tags.n <= 1.0",
    "tags.n < 5",
    "tags.n != 1",
    "tags.n = true",
    "tags.on = true",
    "tags.on = false",
    "tags.on = 1",
    "tags.on > 0",
    "tags.huge > 1e300",
    "tags.n < 99999999999999999999",
    "tags.env > 'a'",
    "tags.env > 5",
    "is_defined(tags.o.p)",
    "is_defined(tags.o)",
    "NOT is_defined(tags.n)",
    "is_defined(properties.reported.$version)",
    "properties.reported.deep.t >= 21.5",
]


@pytest.mark.parametrize("source", ["devices", "devices.modules"])
async def test_sql_narrows_and_never_decides(queries: Queries, database: Database, source: str) -> None:
    """Every condition takes the same rows as without SQL, and where SQL counts, it counts the same."""
    every = await everything(queries, f"SELECT * FROM {source}", 100)
    taken = 0
    for condition in CONDITIONS:
        query = parse_query(f"SELECT * FROM {source} WHERE {condition}")
        expected = names([row for row in every if holds(query.condition, row)])
        found = names(await everything(queries, f"SELECT * FROM {source} WHERE {condition}", 2))
        assert found == expected, condition
        counted = await queries.aggregate(parse_query(f"SELECT COUNT() AS n FROM {source} WHERE {condition}"))
        assert counted == [{"n": len(expected)}], condition
        taken += len(expected)
    assert taken > 50


async def test_children_are_found_by_their_parents_scope(queries: Queries) -> None:
    (edge,) = await everything(queries, "SELECT deviceScope FROM devices WHERE deviceId = 'edge'", 1)
    text = f"SELECT deviceId FROM devices WHERE array_contains(parentScopes, '{edge['deviceScope']}')"
    assert names(await everything(queries, text, 10)) == ["a", "low"]


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_what_is_common_is_said_in_sql(dialect: str) -> None:
    """Otherwise large fleets would be read whole."""
    for condition, exact in {
        "deviceId = 'a'": True,
        "status = 'enabled' AND capabilities.iotEdge = true": True,
        "NOT (connectionState = 'Connected')": True,
        "tags.env = 'prod' AND status = 'enabled'": False,
        "tags.n = 1 AND deviceId IN ['a', 'b']": False,
        "array_contains(parentScopes, 'ms-azure-iot-edge://edge-1')": False,
        "tags.n > 1 OR is_defined(properties.reported.x)": False,
    }.items():
        query = parse_query(f"SELECT * FROM devices WHERE {condition}")
        clause = Narrowing(query.source, dialect).clause(query.condition)
        assert clause is not None, condition
        assert clause.exact is exact, condition
    for condition in ("tags.n != 1", "tags.env = 'a' OR tags.n != 1", "NOT tags.env = 'a'", "tags.env > 'a'"):
        query = parse_query(f"SELECT * FROM devices WHERE {condition}")
        assert Narrowing(query.source, dialect).clause(query.condition) is None, condition


async def test_aggregates(queries: Queries) -> None:
    text = "SELECT status, COUNT() AS n FROM devices GROUP BY status"
    assert await queries.aggregate(parse_query(text)) == [
        {"status": "disabled", "n": 1},
        {"status": "enabled", "n": 5},
    ]
    text = "SELECT AVG(properties.reported.deep.t) AS mean FROM devices WHERE properties.reported.state = 'ok'"
    assert await queries.aggregate(parse_query(text)) == [{"mean": 21.5}]
    assert await queries.aggregate(parse_query("SELECT COUNT() AS n FROM devices.modules")) == [{"n": 8}]


async def test_identities(queries: Queries) -> None:
    assert await queries.identities(parse_query("SELECT * FROM devices WHERE tags.env = 'prod'")) == [("a", "")]
    modules = await queries.identities(parse_query("SELECT * FROM devices.modules WHERE moduleId = 'm1'"))
    assert modules == [("B", "m1"), ("a", "m1"), ("c", "m1")]


async def test_more_rows_than_are_read_at_once(database: Database, clock: ManualClock) -> None:
    registry = Identities(database, clock, HUB)
    items = [
        BulkItem(ImportMode.CREATE, DeviceDraft(f"{number:02}", twin=TwinDraft({"even": number % 2 == 0})))
        for number in range(13)
    ]
    assert set(await registry.write_each(items)) == {None}
    queries = Queries(database, twin_row, at_once=3)
    for size in (1, 2, 5, 50):
        found = await everything(queries, "SELECT deviceId FROM devices WHERE tags.even = true", size)
        assert [row["deviceId"] for row in found] == [f"{number:02}" for number in range(0, 13, 2)]
    (counted,) = await queries.aggregate(parse_query("SELECT COUNT() AS n FROM devices WHERE tags.even = false"))
    assert counted == {"n": 6}
    assert len(await queries.identities(parse_query("SELECT * FROM devices"))) == 13
