"""Which content holds for a device, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from edgetrust.errors import PeerError
from edgetrust.protocol.configuration import (
    ConfigurationError,
    ContentBody,
    Layer,
    applied,
    content_of,
    effective,
    parse_configuration,
    target,
)
from edgetrust.protocol.query import holds

BASE = {
    "$edgeAgent": {"properties.desired": {"modules": {"a": {"image": "1"}}}},
    "$edgeHub": {"properties.desired": {}},
}
LAYER = {"$edgeAgent": {"properties.desired.modules.b": {"image": "2"}}, "b": {"properties.desired.x.y": 1}}


def test_a_base_and_what_is_put_on_it() -> None:
    assert effective([Layer(LAYER, 2), Layer(BASE, 1)]) == {
        "$edgeAgent": {"modules": {"a": {"image": "1"}, "b": {"image": "2"}}},
        "$edgeHub": {},
        "b": {"x": {"y": 1}},
    }
    assert BASE["$edgeAgent"]["properties.desired"] == {"modules": {"a": {"image": "1"}}}  # nothing in place


def test_the_highest_base_holds_and_lower_layers_do_not_count() -> None:
    other = {"$edgeAgent": {"properties.desired": {"modules": {}}}}
    assert effective([Layer(BASE, 1), Layer(other, 5), Layer(LAYER, 4)]) == {"$edgeAgent": {"modules": {}}}
    assert effective([Layer(other, 1, made=2), Layer(BASE, 1, made=3)]) == effective([Layer(BASE)])
    assert effective([Layer(LAYER, 1)]) is None
    assert effective([]) is None


def test_later_layers_win() -> None:
    first = {"b": {"properties.desired.x": 1}}
    second = {"b": {"properties.desired.x": 2}}
    found = effective([Layer(second, 3), Layer(BASE, 1), Layer(first, 2)])
    assert found is not None
    assert found["b"] == {"x": 2}


def test_places_in_what_is_there() -> None:
    assert applied({"a": {"b": 1}, "c": 2}, {"properties.desired.a.d": 3}) == {"a": {"b": 1, "d": 3}, "c": 2}
    assert applied({"a": 1}, {"properties.desired.a.b": 2}) == {"a": {"b": 2}}
    assert applied({"a": 1}, {"properties.desired": {"c": 3}}) == {"c": 3}


def test_targets() -> None:
    edge = {"capabilities": {"iotEdge": True}, "tags": {"env": "prod"}}
    for condition, taken in {"*": True, "tags.env='prod'": True, "tags.env='dev'": False}.items():
        query = target(condition)
        assert query is not None
        assert holds(query.condition, edge) is taken
        assert not holds(query.condition, {**edge, "capabilities": {"iotEdge": False}})
    assert target("") is None
    with pytest.raises(ConfigurationError) as raised:
        target("tags.env =")
    assert raised.value.code == "InvalidConfigurationTargetCondition"


@pytest.mark.parametrize(
    "content",
    [
        None,
        {},
        {"modulesContent": {}},
        {"modulesContent": {"a b": {"properties.desired": {}}}},
        {"modulesContent": {"a": {"properties.desired": 1}}},
        {"modulesContent": {"a": {"properties.reported": {}}}},
        {"modulesContent": {"a": {"properties.desired.": {}}}},
        {"modulesContent": {"a": {"properties.desired.$version": 1}}},
        {"modulesContent": {"a": {"properties.desired": {}, "properties.desired.x": 1}}},
        {"modulesContent": {f"m{n}": {} for n in range(51)}},
        {"modulesContent": {"a": {"properties.desired": {}}}, "deviceContent": {"properties.desired.x": 1}},
    ],
)
def test_what_is_no_content(content: Any) -> None:
    body = None if content is None else msgspec.convert(content, ContentBody)
    with pytest.raises(ConfigurationError) as raised:
        content_of(body)
    assert raised.value.code == "InvalidConfigurationContent"


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"id": "A"},
        {"id": ""},
        {"id": "a" * 129},
        {"id": "a", "priority": -1},
        {"id": "a", "targetCondition": "("},
        {"id": "a", "metrics": {"queries": {"m": "SELECT"}}},
        {"id": "a", "labels": {"x": 1}},
    ],
)
def test_what_is_no_configuration(body: Any) -> None:
    with pytest.raises(PeerError):
        parse_configuration(json.dumps(body).encode())
