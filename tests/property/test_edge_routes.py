"""Laws of a gateway's routes: what is written is what is read, and a message goes where a second reading of the rules
says; whatever else the desired properties hold, they are read, with problems that name their place.

The second reading shares no code with the first: conditions are trees that the test made and never parsed, values are
Python's, and "undefined" is an exception.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edgetrust.protocol.edge_routes import LOWEST_PRIORITY, Choice, RouteTable, Sink, mend, read_edge_hub
from edgetrust.protocol.messages import TWIN_CHANGES, Message


class Undefined(Exception):  # noqa: N818 - it is a value, and none
    """What is not there, or makes no sense, has no value."""


@dataclass(frozen=True)
class Facts:
    """A message as the second reading knows it."""

    module: str | None
    output: str | None
    properties: dict[str, str]
    body: Any
    twin_change: bool

    def message(self) -> Message:
        bag = "&".join(f"{name}={value}" for name, value in self.properties.items())
        if self.output is not None:
            bag = f"%24.on={self.output}&{bag}"
        source = TWIN_CHANGES if self.twin_change else "Telemetry"
        return Message("leaf", self.module, bag, json.dumps(self.body).encode(), 0, "{}", source)


@dataclass(frozen=True)
class Tree:
    """A condition or a part of one: how it is written, and what it is worth; `value` raises Undefined."""

    text: str
    value: Callable[[Facts], Any]


def truth(tree: Tree, facts: Facts) -> bool | None:
    """True, False, or neither."""
    try:
        value = tree.value(facts)
    except Undefined:
        return None
    return value if isinstance(value, bool) else None


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def constant(text: str, value: Any) -> Tree:
    return Tree(text, lambda facts: value)


def of_property(name: str) -> Tree:
    def value(facts: Facts) -> str:
        found = [text for one, text in facts.properties.items() if one.lower() == name.lower()]
        if not found:
            raise Undefined
        return found[0]

    return Tree(name, value)


def of_body(name: str) -> Tree:
    def value(facts: Facts) -> Any:
        if not isinstance(facts.body, dict) or name not in facts.body:
            raise Undefined
        return facts.body[name]

    return Tree(f"$body.{name}", value)


def module_id() -> Tree:
    def value(facts: Facts) -> str:
        if facts.module is None:
            raise Undefined
        return facts.module

    return Tree("$connectionModuleId", value)


def compared(parts: tuple[Tree, str, Tree]) -> Tree:
    left, sign, right = parts

    def value(facts: Facts) -> bool:
        first, second = left.value(facts), right.value(facts)
        if not ((number(first) and number(second)) or type(first) is type(second)):
            raise Undefined
        if sign in ("=", "!=", "<>"):
            return bool(first == second) is (sign == "=")
        if not number(first) and not isinstance(first, str):
            raise Undefined
        ordered: dict[str, bool] = {
            "<": first < second, "<=": first <= second, ">": first > second, ">=": first >= second
        }  # fmt: skip
        return ordered[sign]

    return Tree(f"{left.text} {sign} {right.text}", value)


def calculated(parts: tuple[Tree, str, Tree]) -> Tree:
    left, sign, right = parts

    def value(facts: Facts) -> float:
        first, second = left.value(facts), right.value(facts)
        if not (number(first) and number(second)):
            raise Undefined
        first, second = float(first), float(second)
        return first + second if sign == "+" else first - second if sign == "-" else first * second

    return Tree(f"({left.text} {sign} {right.text})", value)


def is_defined(part: Tree) -> Tree:
    def value(facts: Facts) -> bool:
        try:
            part.value(facts)
        except Undefined:
            return False
        return True

    return Tree(f"Is_Defined({part.text})", value)


def negated(part: Tree) -> Tree:
    def value(facts: Facts) -> bool:
        found = truth(part, facts)
        if found is None:
            raise Undefined
        return not found

    return Tree(f"NOT ({part.text})", value)


def joined(parts: tuple[list[Tree], bool]) -> Tree:
    trees, every = parts

    def value(facts: Facts) -> bool:
        found = [truth(one, facts) for one in trees]
        if (not every) in found:
            return not every
        if None in found:
            raise Undefined
        return every

    return Tree((" AND " if every else "  or ").join(f"({one.text})" for one in trees), value)


VALUES = st.sampled_from(
    [
        *(of_property(name) for name in ("level", "Level", "unit", "missing")),
        *(of_body(name) for name in ("t", "s", "flag", "nothing", "inner")),
        module_id(),
        *(constant(text, value) for text, value in (("1", 1), ("-0.5", -0.5), ("'hot'", "hot"), ("TRUE", True))),
        *(constant(text, value) for text, value in (('"it\'s"', "it's"), ("null", None))),
    ]
)
NUMBERS = st.recursive(
    VALUES, lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(calculated), max_leaves=3
)
CONDITIONS = st.recursive(
    st.one_of(
        st.tuples(NUMBERS, st.sampled_from(["=", "!=", "<>", "<", "<=", ">", ">="]), NUMBERS).map(compared),
        VALUES.map(is_defined),
        VALUES,
    ),
    lambda inner: st.one_of(
        inner.map(negated), st.tuples(st.lists(inner, min_size=2, max_size=3), st.booleans()).map(joined)
    ),
    max_leaves=6,
)
FACTS = st.builds(
    Facts,
    st.sampled_from([None, "filter", "Other"]),
    st.sampled_from([None, "out", "alarm"]),
    st.dictionaries(st.sampled_from(["level", "unit"]), st.sampled_from(["hot", "1", ""])),
    st.dictionaries(
        st.sampled_from(["t", "s", "flag", "nothing", "inner"]),
        st.sampled_from([0, 1, 1.5, -3, "hot", "it's", True, False, None]),
    ),
    st.booleans(),
)
# What a source takes, by the second reading.
SOURCES: dict[str, Callable[[Facts], bool]] = {
    "/*": lambda facts: True,
    "/messages/*": lambda facts: not facts.twin_change,
    "/messages/events": lambda facts: not facts.twin_change and facts.module is None,
    "/messages/modules/*": lambda facts: not facts.twin_change and facts.module is not None,
    "/messages/modules/filter/*": lambda facts: not facts.twin_change and facts.module == "filter",
    "/messages/modules/FILTER/outputs/*": lambda facts: (
        not facts.twin_change and facts.module == "filter" and facts.output is not None
    ),
    "/messages/modules/filter/outputs/Alarm": lambda facts: (
        not facts.twin_change and facts.module == "filter" and facts.output == "alarm"
    ),
    "/twinChangeNotifications": lambda facts: facts.twin_change,
}
IN1 = ('BrokeredEndpoint("/modules/m/inputs/in1")', "brokeredendpoint('/modules/m/inputs/in1')")
SINKS = {text: Sink("$upstream") for text in ("$upstream", "$UPSTREAM")} | {text: Sink("m", "in1") for text in IN1}


@dataclass(frozen=True)
class Route:
    source: str
    condition: Tree | None
    sink: str
    priority: int | None
    ttl: int | None

    def written(self) -> Any:
        where = "" if self.condition is None else f"wHERE {self.condition.text}\n "
        text = f" SELECT  *  From {self.source} {where} INTO {self.sink} "
        if self.priority is None and self.ttl is None:
            return text
        given = {"route": text, "priority": self.priority, "timeToLiveSecs": self.ttl}
        return {name: value for name, value in given.items() if value is not None}

    def takes(self, facts: Facts) -> bool:
        if facts.twin_change and SINKS[self.sink].queue == "$upstream":
            return False
        return SOURCES[self.source](facts) and (self.condition is None or truth(self.condition, facts) is True)


ROUTES = st.lists(
    st.builds(
        Route,
        st.sampled_from(sorted(SOURCES)),
        st.none() | CONDITIONS,
        st.sampled_from(sorted(SINKS)),
        st.none() | st.integers(0, 9),
        st.none() | st.integers(1, 100),
    ),
    max_size=5,
)


@settings(max_examples=300)
@given(ROUTES, st.lists(FACTS, min_size=1, max_size=4), st.none() | st.integers(1, 100))
def test_a_message_goes_where_the_rules_say(routes: list[Route], messages: list[Facts], ttl: int | None) -> None:
    desired: dict[str, Any] = {"routes": {f"r{place}": route.written() for place, route in enumerate(routes)}}
    if ttl is not None:
        desired["storeAndForwardConfiguration"] = {"timeToLiveSecs": ttl}
    config = read_edge_hub(desired)
    assert config.problems == ()
    table = RouteTable(config)
    for facts in messages:
        expected: dict[Sink, Choice] = {}
        for route in routes:
            sink = SINKS[route.sink]
            choice = Choice(sink, LOWEST_PRIORITY if route.priority is None else route.priority, route.ttl or ttl)
            if route.takes(facts) and (sink not in expected or choice.priority < expected[sink].priority):
                expected[sink] = choice
        assert {one.sink: one for one in table.choose(facts.message())} == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
WORDS = ["FROM", "INTO", "WHERE", "SELECT *", "NOT", "level", "=", "'", "(", ")", "$body.t", "/", "*", "\0"]
PIECES = st.lists(st.sampled_from([*SOURCES, *SINKS, *WORDS]), max_size=8).map(" ".join)
NUMBER = JSON | st.sampled_from([float("inf"), float("nan"), -1, 0, 9.0, 1e300, 2**60])
TEXT = PIECES | st.text(max_size=60) | st.just("FROM /* INTO $upstream")
ENTRY = TEXT | st.fixed_dictionaries({"route": TEXT, "priority": NUMBER, "timeToLiveSecs": NUMBER})
STORE = st.fixed_dictionaries(
    {"timeToLiveSecs": NUMBER, "storeLimits": JSON | st.fixed_dictionaries({"maxSizeBytes": NUMBER})}
)
DESIRED = st.fixed_dictionaries(
    {},
    optional={
        "routes": JSON | st.dictionaries(st.text(max_size=8), ENTRY, max_size=4),
        "storeAndForwardConfiguration": JSON | STORE,
        "schemaVersion": JSON,
        "$version": JSON,
        "rutes": JSON,
    },
)


@given(DESIRED, JSON, FACTS)
def test_whatever_is_desired_is_read_and_what_is_left_has_no_problem(desired: Any, before: Any, facts: Facts) -> None:
    config = read_edge_hub(desired)
    RouteTable(config).choose(facts.message())
    for problem in config.problems:
        assert problem.place
        assert problem.message
    effective = mend(desired, {"routes": before}, config.problems)
    again = read_edge_hub(effective)
    known = {problem.place for one in (config, read_edge_hub({"routes": before})) for problem in one.problems}
    assert {problem.place for problem in again.problems} <= known  # what was wrong before as well
    RouteTable(again).choose(facts.message())
