"""Queries as people and tools write them, and what is said about those that cannot be read."""

from __future__ import annotations

import pytest

from edgetrust.limits import QUERY_CHARACTERS, QUERY_DEPTH
from edgetrust.protocol.query import Path, QueryError, Source, parse_condition, parse_query
from edgetrust.protocol.query.syntax import (
    And,
    Call,
    Column,
    Comparison,
    Function,
    Literal,
    Membership,
    Not,
    Operator,
    Or,
    Query,
)

DEVICE = Path(("deviceId",))


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("SELECT * FROM devices", Query(Source.DEVICES)),
        ("select deviceId from devices", Query(Source.DEVICES, (Column("deviceId", DEVICE),))),
        (
            "SELECT deviceId, deviceScope FROM devices",
            Query(Source.DEVICES, (Column("deviceId", DEVICE), Column("deviceScope", Path(("deviceScope",))))),
        ),
        (
            "select * from devices where capabilities.iotEdge = true",
            Query(
                Source.DEVICES,
                condition=Comparison(Operator.EQUAL, Path(("capabilities", "iotEdge")), Literal(True)),
            ),
        ),
        (
            "select deviceId from devices where array_contains(parentScopes, 'ms-azure-iot-edge://a-1')",
            Query(
                Source.DEVICES,
                (Column("deviceId", DEVICE),),
                Call("arraycontains", (Path(("parentScopes",)), Literal("ms-azure-iot-edge://a-1"))),
            ),
        ),
        (
            "select * from devices.modules where devices.deviceId = 'd1'",
            Query(Source.MODULES, condition=Comparison(Operator.EQUAL, DEVICE, Literal("d1"))),
        ),
        ("SELECT TOP 10 * FROM devices", Query(Source.DEVICES, top=10)),
        ("SELECT TOP (10) * FROM devices.jobs", Query(Source.JOBS, top=10)),
        (
            "SELECT COUNT() AS n FROM devices",
            Query(Source.DEVICES, (Column("n", None, Function.COUNT),)),
        ),
        (
            "SELECT status AS s, COUNT(*), AVG(properties.reported.t) AS mean FROM devices GROUP BY status",
            Query(
                Source.DEVICES,
                (
                    Column("s", Path(("status",))),
                    Column("$2", None, Function.COUNT),
                    Column("mean", Path(("properties", "reported", "t")), Function.AVERAGE),
                ),
                groups=(Path(("status",)),),
            ),
        ),
    ],
)
def test_queries(text: str, query: Query) -> None:
    assert parse_query(text) == query


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("tags.a.b = 'x'", Comparison(Operator.EQUAL, Path(("tags", "a", "b")), Literal("x"))),
        ('tags.a <> "it\'s"', Comparison(Operator.UNEQUAL, Path(("tags", "a")), Literal("it's"))),
        ("'it''s' != tags.a", Comparison(Operator.UNEQUAL, Literal("it's"), Path(("tags", "a")))),
        ("tags.a >= -1.5e2", Comparison(Operator.GREATER_OR_EQUAL, Path(("tags", "a")), Literal(-150.0))),
        ("tags.a IN ['x', 1, null]", Membership(Path(("tags", "a")), (Literal("x"), Literal(1), Literal(None)))),
        ("tags.a nin ('x')", Membership(Path(("tags", "a")), (Literal("x"),), True)),
        ("tags.a NOT IN []", Membership(Path(("tags", "a")), (), True)),
        ("tags.a = [1, true]", Comparison(Operator.EQUAL, Path(("tags", "a")), Literal((1, True)))),
        (
            "configurations.[[my cfg]].status = 'Applied'",
            Comparison(Operator.EQUAL, Path(("configurations", "my cfg", "status")), Literal("Applied")),
        ),
        (
            "tags.list[0]['odd name'].$x < 3",
            Comparison(Operator.LESS, Path(("tags", "list", 0, "odd name", "$x")), Literal(3)),
        ),
        ("IS_DEFINED(tags.a)", Call("isdefined", (Path(("tags", "a")),))),
        ("StartsWith(deviceId, 'p')", Call("startswith", (DEVICE, Literal("p")))),
        (
            "a = 1 OR b = 2 AND NOT c",
            Or(
                (
                    Comparison(Operator.EQUAL, Path(("a",)), Literal(1)),
                    And((Comparison(Operator.EQUAL, Path(("b",)), Literal(2)), Not(Path(("c",))))),
                )
            ),
        ),
        (
            "(a OR b) AND c",
            And((Or((Path(("a",)), Path(("b",)))), Path(("c",)))),
        ),
    ],
)
def test_conditions(text: str, condition: object) -> None:
    assert parse_condition(text) == condition


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "position 1: expected SELECT, found the end"),
        ("SELECT", "position 7: expected the name of a property, found the end"),
        ("SELECT * devices", "position 10: expected FROM, found 'devices'"),
        ("SELECT * FROM twins", "position 15: expected devices, devices.modules, devices.jobs, found 'twins'"),
        ("SELECT * FROM devices.twins", "position 15: expected devices, devices.modules"),
        ("SELECT * FROM devices WHERE", "position 28: expected a value, found the end"),
        ("SELECT * FROM devices WHERE a =", "position 32: expected a value, found the end"),
        ("SELECT * FROM devices WHERE a IN 1", "position 34: expected a list in [ ], found 1"),
        ("SELECT * FROM devices WHERE (a", "position 31: expected ')', found the end"),
        ("SELECT * FROM devices WHERE 'a", "position 29: the text has no end"),
        ("SELECT * FROM devices WHERE a ; b", "position 31: ';' stands for nothing here"),
        ("SELECT * FROM devices WHERE maybe(a)", "position 29: there is no function 'maybe'"),
        ("SELECT * FROM devices WHERE contains(a)", "position 29: contains takes 2 values, found 1"),
        ("SELECT * FROM devices WHERE a = [b]", "position 33: an array holds texts"),
        ("SELECT * FROM devices WHERE a[-1] = 1", "position 31: expected a place in an array, found -1"),
        ("SELECT * FROM devices ORDER BY a", "position 23: expected the end, found 'ORDER'"),
        ("SELECT TOP 0 * FROM devices", "position 12: expected a whole number from 1, found 0"),
        ("SELECT TOP x * FROM devices", "position 12: expected a whole number from 1, found 'x'"),
        ("SELECT SUM() FROM devices", "position 12: expected a property"),
        ("SELECT a, COUNT() FROM devices", "position 8: 'a' is neither in GROUP BY nor an aggregate"),
        ("SELECT * FROM devices GROUP BY a", "position 8: with GROUP BY name the columns"),
        ("SELECT a AS FROM devices", "position 18: expected FROM, found 'devices'"),
        ("SELECT * FROM devices WHERE a = 'x\0'", "position 35: a query holds no U+0000"),
        ("SELECT * FROM devices WHERE a = 12x", "position 33: '1' stands for nothing here"),
        ("SELECT * FROM devices WHERE a = 1e999", "position 33: the number is too large"),
        ("SELECT * FROM devices WHERE a = " + "9" * 41, "position 33: a number has at most"),
    ],
)
def test_what_is_said_about_the_rest(text: str, says: str) -> None:
    with pytest.raises(QueryError) as raised:
        parse_query(text)
    assert raised.value.message.startswith(says)
    assert (raised.value.status, raised.value.code) == (400, "ArgumentInvalid")


def test_bounds() -> None:
    deep = "(" * QUERY_DEPTH + "a" + ")" * QUERY_DEPTH
    assert parse_condition(deep) == Path(("a",))
    for text in (f"({deep})", "NOT " * (QUERY_DEPTH + 1) + "a", "lower(" * 40 + "a" + ")" * 40):
        with pytest.raises(QueryError, match=f"nested more than {QUERY_DEPTH} levels deep"):
            parse_condition(text)
    wide = " OR ".join(["a = 1"] * 800)
    assert len(wide) < QUERY_CHARACTERS
    assert isinstance(parse_condition(wide), Or)
    with pytest.raises(QueryError, match="at most"):
        parse_condition("a" * (QUERY_CHARACTERS + 1))
