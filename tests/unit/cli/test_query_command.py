"""The query command: pages, tables, limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Call = Callable[..., Any]


@pytest.fixture
def call(edgetrust: Call, hub: Any) -> Call:
    return lambda *arguments: edgetrust("device", "query", *arguments, "--dir", hub.directory)


def test_rows_as_a_table(call: Call, hub: Any) -> None:
    hub.answer("POST", "/devices/query", [{"deviceId": "d1", "n": 1}, {"deviceId": "d2", "on": True, "o": {"a": [1]}}])
    outcome = call("SELECT deviceId, tags.n FROM devices")
    assert [line.split() for line in outcome.out.splitlines()] == [
        ["deviceId", "n", "on", "o"],
        ["d1", "1"],
        ["d2", "true", '{"a":[1]}'],
    ]
    assert hub.asked[0]["body"] == {"query": "SELECT deviceId, tags.n FROM devices"}
    assert hub.asked[0]["headers"]["x-ms-max-item-count"] == "1000"


def test_whole_twins_are_shortened(call: Call, hub: Any) -> None:
    twin = {"deviceId": "d1", "etag": "x", "status": "enabled", "connectionState": "Connected", "tags": {"a": 1}}
    hub.answer("POST", "/devices/query", [{**twin, "properties": {}}])
    assert call("SELECT * FROM devices").out.splitlines()[1].split() == ["d1", "enabled", "Connected", '{"a":1}']
    assert call("SELECT * FROM devices", "--json").json() == [{**twin, "properties": {}}]


def test_no_rows_and_too_many(call: Call, hub: Any) -> None:
    hub.answer("POST", "/devices/query", [])
    assert call("SELECT * FROM devices").out == "no rows\n"
    hub.answer("POST", "/devices/query", [{"n": 1}, {"n": 2}])
    outcome = call("SELECT * FROM devices", "--limit", "1", "--json")
    assert outcome.json() == [{"n": 1}]
    assert "the first 1; there are more" in outcome.err


def test_what_the_hub_says_of_a_wrong_query(call: Call, hub: Any) -> None:
    body = {"Message": "ErrorCode:ArgumentInvalid;position 1: expected SELECT, found the end"}
    hub.answer("POST", "/devices/query", body, 400)
    outcome = call("")
    assert outcome.code == 1
    assert outcome.err == "error: position 1: expected SELECT, found the end\n"
