"""Property bags."""

from __future__ import annotations

import pytest

from edgetrust.protocol.iothub import add_property, format_properties, parse_properties

PYTHON_SDK = "%24.mid=m%201%2F2&%24.cid=c&%24.uid=u&%24.ct=application%2Fjson&%24.ce=utf-8&a%20b=%C3%A9%26&z=1"


def test_a_bag_of_the_python_sdk() -> None:
    assert parse_properties(PYTHON_SDK) == {
        "$.mid": "m 1/2",
        "$.cid": "c",
        "$.uid": "u",
        "$.ct": "application/json",
        "$.ce": "utf-8",
        "a b": "é&",
        "z": "1",
    }
    assert format_properties(parse_properties(PYTHON_SDK)) == PYTHON_SDK


@pytest.mark.parametrize(
    ("text", "properties"),
    [
        ("", {}),
        ("&&", {}),
        ("a", {"a": None}),
        ("a=", {"a": ""}),
        ("a=b=c", {"a": "b=c"}),
        ("=b", {"": "b"}),
        ("a+b=c+d", {"a+b": "c+d"}),
        ("a=1&a=2", {"a": "2"}),
        ("$.mid=1", {"$.mid": "1"}),
        ("a=%", {"a": "%"}),
        ("a=%zz", {"a": "%zz"}),
        ("a=%FF", {"a": "\ufffd"}),
        ("a=!'()*", {"a": "!'()*"}),
    ],
)
def test_reading(text: str, properties: dict[str, str | None]) -> None:
    assert parse_properties(text) == properties


def test_writing() -> None:
    assert format_properties({"a/b": "c&d", "n": None, "e": ""}) == "a%2Fb=c%26d&n&e="
    assert format_properties({}) == ""


def test_adding() -> None:
    assert add_property("", "mqtt-dup", "true") == "mqtt-dup=true"
    assert add_property("a=1", "$.to", "/d") == "a=1&%24.to=%2Fd"
    assert parse_properties(add_property("mqtt-dup=false", "mqtt-dup", "true")) == {"mqtt-dup": "true"}
