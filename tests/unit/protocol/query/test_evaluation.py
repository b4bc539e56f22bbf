"""What conditions, projections and aggregates make of rows."""

from __future__ import annotations

from typing import Any

import pytest

from edgetrust.limits import QUERY_GROUPS
from edgetrust.protocol.query import Aggregation, QueryError, holds, parse_condition, parse_query, project

ROW = {
    "deviceId": "d1",
    "status": "enabled",
    "statusReason": None,
    "tags": {"env": "prod", "floor": 3, "temp": 3.0, "on": True, "list": ["a", 1], "o": {"p": 1}, "t": "10"},
}


@pytest.mark.parametrize(
    "condition",
    [
        "deviceId = 'd1'",
        "tags.env IN ['dev', 'prod']",
        "tags.env NIN ['dev']",
        "tags.floor = 3.0 AND tags.temp = 3",
        "tags.floor > 2 AND tags.floor <= 3 AND 2 < tags.floor",
        "tags.env < 'q'",
        "tags.on",
        "NOT tags.on = false",
        "tags.on != 1",
        "tags.t != 10",
        "statusReason = null AND is_null(statusReason) AND is_defined(statusReason)",
        "NOT is_defined(tags.nothing)",
        "tags.nothing = 1 OR tags.on",
        "tags.list = ['a', 1]",
        "tags.list[1] = 1",
        "array_contains(tags.list, 'a') AND NOT array_contains(tags.list, 'b')",
        "tags.o != 1 AND is_object(tags.o) AND is_array(tags.list) AND NOT is_primitive(tags.o)",
        "is_string(tags.env) AND is_number(tags.floor) AND is_bool(tags.on) AND is_primitive(statusReason)",
        "startswith(deviceId, 'd') AND endswith(deviceId, '1') AND contains(tags.env, 'ro')",
        "upper(tags.env) = 'PROD' AND lower('ABC') = 'abc' AND length(tags.list) = 2 AND length(deviceId) = 2",
    ],
)
def test_true(condition: str) -> None:
    assert holds(parse_condition(condition), ROW)


@pytest.mark.parametrize(
    "condition",
    [
        "tags.nothing = 1",
        "tags.nothing != 1",
        "NOT tags.nothing = 1",
        "tags.nothing IN [1]",
        "tags.nothing NIN [1]",
        "tags.nothing = tags.nothing",
        "tags.t > 9",
        "tags.env > 1",
        "tags.on = 1",
        "tags.on > false",
        "is_number(tags.on)",
        "tags.list[2] = 1",
        "tags.list.a = 1",
        "tags.env.x = 1",
        "tags.env",
        "NOT tags.env",
        "startswith(tags.floor, '3')",
        "array_contains(tags.env, 'p')",
        "is_string(tags.nothing)",
        "deviceId = 'D1'",
        "tags.on AND tags.nothing = 1",
        "length(tags.floor) = 1",
    ],
)
def test_not_true(condition: str) -> None:
    assert not holds(parse_condition(condition), ROW)


def test_projections() -> None:
    query = parse_query("SELECT deviceId AS id, tags.env, tags.nothing, tags.list[0], statusReason FROM devices")
    assert project(query, ROW) == {"id": "d1", "env": "prod", "list": "a", "statusReason": None}
    assert project(parse_query("SELECT * FROM devices"), ROW) is ROW


def gathered(text: str, *rows: dict[str, Any]) -> list[Any]:
    aggregation = Aggregation(parse_query(text))
    for row in rows:
        aggregation.add(row)
    return aggregation.answer()


def test_aggregates() -> None:
    rows = [{"s": "b", "n": 1}, {"s": "a", "n": 2.5}, {"s": "b", "n": "x"}, {"n": True}, {"s": "b", "n": 5}]
    assert gathered("SELECT s, COUNT() AS c, SUM(n) AS n FROM devices GROUP BY s", *rows) == [
        {"c": 1, "n": 0},
        {"s": "a", "c": 1, "n": 2.5},
        {"s": "b", "c": 3, "n": 6},
    ]
    assert gathered("SELECT COUNT(s), MIN(n), MAX(n), AVG(n) AS mean FROM devices", *rows) == [
        {"$1": 4, "$2": 1, "$3": 5, "mean": 8.5 / 3}
    ]
    assert gathered("SELECT COUNT() AS c, AVG(n) AS a FROM devices") == [{"c": 0}]
    assert gathered("SELECT COUNT() AS c FROM devices GROUP BY s") == []
    assert gathered("SELECT TOP 1 s FROM devices GROUP BY s", {"s": 2}, {"s": 1}) == [{"s": 1}]


def test_groups_of_equal_values_are_one() -> None:
    rows = [{"s": {"a": 1, "b": 2}}, {"s": {"b": 2.0, "a": 1}}, {"s": True}, {"s": 1}, {"s": 1.0}]
    found = gathered("SELECT COUNT() AS c FROM devices GROUP BY s", *rows)
    assert sorted(one["c"] for one in found) == [1, 2, 2]


def test_too_many_groups() -> None:
    aggregation = Aggregation(parse_query("SELECT COUNT() FROM devices GROUP BY n"))
    for number in range(QUERY_GROUPS):
        aggregation.add({"n": number})
    aggregation.add({"n": 1})
    with pytest.raises(QueryError, match="groups"):
        aggregation.add({"n": -1})
