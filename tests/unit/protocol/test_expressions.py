"""Conditions over messages: what holds, what is undefined, and where a text stops being one."""

from __future__ import annotations

from typing import Any

import pytest

from edgetrust.protocol.expressions import ExpressionError, parse_expression
from edgetrust.protocol.iothub.message_query import MessageQuery
from edgetrust.protocol.messages import Message
from edgetrust.protocol.values import UNDEFINED

BODY = b'{"temperature": 31.5, "on": true, "none": null, "tags": ["a", {"b": "x"}], "o\'clock": {"a b": 1}}'
BAG = "level=hot&Count=5&flag&empty=&iothub-x=1&%24.ct=application%2Fjson&%24.ce=UTF-8&%24.mid=m1&%24.cid=c1"


def query(properties: str = BAG, body: bytes = BODY, module: str | None = None) -> MessageQuery:
    return MessageQuery(Message("d1", module, properties, body, 1_700_000_000_000, "{}", "Telemetry"))


def value(text: str, **message: Any) -> Any:
    return parse_expression(text).value(query(**message))


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "NOT false",
        "$body.temperature > 30",
        "$BODY.temperature >= 31.5",
        "$body.on",
        "$body.on = true",
        "$body.none = null",
        "is_null($body.none)",
        "$body.tags[0] = 'a'",
        "$body.tags[1].b = 'x'",
        "$body['o''clock']['a b'] = 1",
        "true or x",
        "level = 'hot'",
        'level = "hot"',
        "LEVEL = 'hot'",
        "{level} <> 'cold'",
        "level != 'cold'",
        "iothub-x = '1'",
        "as_number(Count) + 2 * 3 = 11",
        "(as_number(Count) + 2) * 3 = 21",
        "7 % 4 = 3",
        "-1 < 0",
        "2 - -1 = 3",
        "1 / 4 = 0.25",
        "'a' || 'b' = 'ab'",
        "'a' < 'b'",
        "level IN ['warm', 'hot']",
        "level NIN ['warm']",
        "$contentType = 'application/json'",
        "$messageId = 'm1' and $correlationId='c1'",
        "$connectionDeviceId = 'd1'",
        "NOT is_defined($connectionModuleId)",
        "is_defined(flag)",
        "is_null(flag)",
        "empty = ''",
        "$messageSource='Telemetry'",
        "starts_with($enqueuedTime, '2023-11-14T22:13:20')",
        "upper(level) = 'HOT'",
        "length(level) = 3",
        "contains(level, 'o')",
        "substring(level, 1) = 'ot'",
        "substring(level, 0, 1) = 'h'",
        "index_of(level, 't') = 2",
        "array_contains($body.tags, 'a')",
        "abs(-2) = 2",
        "floor(2.7) = 2",
        "ceiling(2.1) = 3",
        "power(2, 10) = 1024",
        "sqrt(9) = 3",
        "square(3) = 9",
        "sign(-4) = -1",
        "is_number(1) and is_string('') and is_bool(true)",
        "is_object($body) and is_array($body.tags) and is_primitive(1)",
        "ends_with(level, 't')",
        "concat('a','b')='ab'",
        "false or true and true",
        "not false and true",
        "1 <= 1 AND 1 >= 1 AND 1 <> 2",
    ],
)
def test_holds(text: str) -> None:
    assert value(text) is True


@pytest.mark.parametrize(
    "text",
    [
        "missing",
        "missing = 1",
        "NOT missing",
        "missing <> 1",
        "$body.missing > 1",
        "$body.tags[9] = 1",
        "$body[0] = 1",
        "1 = '1'",
        "1 < 'a'",
        "true < false",
        "null = 1",
        "1 + 'a'",
        "'a' || 1",
        "1 / 0",
        "1 % 0",
        "sqrt(-1)",
        "power(10, 400)",
        "power(-8, 0.5)",
        "as_number('x')",
        "as_number('1_0')",
        "as_number('nan')",
        "lower(1)",
        "length(1)",
        "undefined",
        "missing and true",
        "missing or false",
        "level.x = 1",
        "missing IN ['a']",
        "level IN 'hot'",
        "substring(level, -1)",
        "$unknown",
        "$twin.tags.a = 1",
        "not 1",
        "not 'a'",
    ],
)
def test_undefined_is_not_true(text: str) -> None:
    assert value(text) is UNDEFINED
    assert not parse_expression(text).holds(query())


@pytest.mark.parametrize(("text", "expected"), [("missing and false", False), ("missing or true", True), ("1", 1.0)])
def test_three_values(text: str, expected: object) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    ("properties", "body", "expected"),
    [
        ("", b'{"a":1}', 1),
        ("%24.ct=application%2Fjson%3B%20charset%3Dutf-8", b'{"a":1}', 1),
        ("%24.ct=text%2Fplain", b'{"a":1}', UNDEFINED),
        ("%24.ce=utf-16", b'{"a":1}', UNDEFINED),
        ("", b"\xff", UNDEFINED),
        ("", b"", UNDEFINED),
        ("", b"[" * 100_000, UNDEFINED),
    ],
)
def test_bodies(properties: str, body: bytes, expected: object) -> None:
    assert value("$body.a", properties=properties, body=body) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "something is missing"),
        ("a =", "something is missing"),
        ("(a", ") is missing"),
        ("a b", "goes on"),
        ("a = 'x", "no name, number, text or sign"),
        ("f(x)", "there is no function f"),
        ("lower()", "does not take 0 arguments"),
        ("lower('a', 'b')", "does not take 2 arguments"),
        ("a[x]", "a member's name or number"),
        ("a..b", "a member's name or number"),
        ("a[1.5]", "a member's name or number"),
        ("= 3", "is missing"),
        ("a AND", "something is missing"),
        ("AND", "a name, number, text or ( is missing"),
        ("in", "a name, number, text or ( is missing"),
        ("a; drop", "no name, number, text or sign"),
        ("(" * 60 + "1" + ")" * 60, "nested more than"),
        ("1" + "+1" * 300, "more than 200 terms"),
        ("x" * 5000, "more than 4096 characters"),
        ("\u00e9 = 1", "no name, number, text or sign"),
    ],
)
def test_what_is_no_condition(text: str, problem: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        parse_expression(text)
    assert problem in raised.value.message
    assert (raised.value.reason, raised.value.status) == ("condition-malformed", 400)


def test_what_it_looks_up_is_known() -> None:
    assert parse_expression("$body.a[0].b = c and c = $x").paths == {("$body", "a", 0, "b"), ("c",), ("$x",)}
