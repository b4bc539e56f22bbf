"""The query language: its reader is total, what is written is read back, and conditions mean what they say."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edgetrust.protocol.query import UNDEFINED, QueryError, holds, parse_condition, parse_query
from edgetrust.protocol.query.evaluation import value_of
from edgetrust.protocol.query.syntax import (
    And,
    Call,
    Comparison,
    Expression,
    Literal,
    Membership,
    Not,
    Operator,
    Or,
    Path,
)

WORDS = st.sampled_from(
    (
        *tuple("*=<>()[],.$-'\"1a"),
        "SELECT",
        "FROM",
        "devices",
        "WHERE",
        "AND",
        "NOT",
        "IN",
        "GROUP",
        "BY",
        "COUNT",
        "TOP",
    )
) | st.sampled_from(("AS", "is_defined", "null", "'x'", "[[", "]]", ">="))
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, -2.0]) | st.sampled_from("abc")
NAMES = st.sampled_from("xyz")
ROWS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3))
PATHS = st.lists(NAMES | st.integers(0, 1), min_size=1, max_size=3).map(
    lambda steps: Path((steps[0] if isinstance(steps[0], str) else "x", *steps[1:]))
)
LITERALS = st.builds(Literal, SCALARS | st.lists(SCALARS, max_size=2).map(tuple))
VALUES: st.SearchStrategy[Expression] = PATHS | LITERALS
LEAVES = st.one_of(
    st.builds(Comparison, st.sampled_from(Operator), VALUES, VALUES),
    st.builds(Membership, VALUES, st.lists(VALUES, max_size=3).map(tuple), st.booleans()),
    st.builds(Call, st.sampled_from(["isdefined", "isnull", "isstring", "isnumber", "isarray"]), st.tuples(VALUES)),
    st.builds(Call, st.sampled_from(["startswith", "contains", "arraycontains"]), st.tuples(VALUES, VALUES)),
)


def joined(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.builds(Not, inner) | st.builds(And, several) | st.builds(Or, several)


CONDITIONS: st.SearchStrategy[Expression] = st.recursive(LEAVES, joined, max_leaves=6)


@given(st.text(max_size=60) | st.lists(WORDS, max_size=20).map(" ".join) | st.lists(WORDS, max_size=20).map("".join))
def test_the_reader_is_total(text: str) -> None:
    for read in (parse_query, parse_condition):
        try:
            read(text)
        except QueryError as problem:
            assert 1 <= problem.at <= len(text) + 1
            assert problem.message.startswith(f"position {problem.at}: ")


@given(CONDITIONS)
def test_what_is_written_is_read_back(condition: Expression) -> None:
    assert parse_condition(written(condition)) == condition


@given(CONDITIONS, st.dictionaries(NAMES, ROWS, max_size=3))
def test_conditions_mean_what_they_say(condition: Expression, row: dict[str, Any]) -> None:
    expected = model(condition, row)
    assert value_of(condition, row) is (UNDEFINED if expected == "?" else expected)
    assert holds(condition, row) is (expected is True)


# Text of a condition ------------------------------------------------------------------------------------------------


def written(expression: Expression) -> str:
    match expression:
        case Path(steps):
            return str(steps[0]) + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps[1:])
        case Literal(value):
            return json.dumps(value)
        case Call(name, arguments):
            return f"{name}({', '.join(map(written, arguments))})"
        case Comparison(operator, left, right):
            return f"{written(left)} {operator} {written(right)}"
        case Membership(value, options, negated):
            # With spaces: [[x]] is a name, as in configurations.[[id]].
            return f"{written(value)} {'NIN' if negated else 'IN'} [ {', '.join(map(written, options))} ]"
        case Not(operand):
            return f"NOT ({written(operand)})"
        case And(operands) | Or(operands):
            word = " AND " if isinstance(expression, And) else " OR "
            return word.join(f"({written(one)})" for one in operands)


# Another evaluator, as simple as can be: True, False or "?" for conditions ------------------------------------------


def model(expression: Expression, row: Any) -> Any:
    match expression:
        case Not(operand):
            return {True: False, False: True, "?": "?"}[model(operand, row)]
        case And(operands):
            found = [model(one, row) for one in operands]
            return False if False in found else "?" if "?" in found else True
        case Or(operands):
            found = [model(one, row) for one in operands]
            return True if True in found else "?" if "?" in found else False
        case Comparison(operator, left, right):
            return ordered(operator, plain(left, row), plain(right, row))
        case Membership(value, options, negated):
            found = plain(value, row)
            if found == ("missing",):
                return "?"
            equal = [ordered(Operator.EQUAL, found, plain(option, row)) for option in options]
            return (True in equal) != negated
        case Call(name, arguments):
            return called(name, [plain(argument, row) for argument in arguments])
        case _:
            raise AssertionError(expression)


def plain(expression: Expression, row: Any) -> Any:
    """Type and value, so that Python's own equality is JSON's; ("missing",) for what is not there."""
    if isinstance(expression, Literal):
        return typed(list(expression.value) if isinstance(expression.value, tuple) else expression.value)
    assert isinstance(expression, Path)
    for step in expression.steps:
        if isinstance(row, list) and isinstance(step, int):
            found = row[step : step + 1]
        elif isinstance(row, dict) and isinstance(step, str):
            found = [row[step]] if step in row else []
        else:
            found = []
        if not found:
            return ("missing",)
        row = found[0]
    return typed(row)


def typed(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return ("constant", value)
    if isinstance(value, int | float):
        return ("number", value)
    if isinstance(value, str):
        return ("text", value)
    if isinstance(value, list):
        return ("array", *map(typed, value))
    return ("object", {name: typed(member) for name, member in value.items()})


def ordered(operator: Operator, left: Any, right: Any) -> Any:
    if left == ("missing",) or right == ("missing",):
        return "?"
    if operator in (Operator.EQUAL, Operator.UNEQUAL):
        return (left == right) is (operator is Operator.EQUAL)
    if left[0] != right[0] or left[0] not in ("number", "text"):
        return "?"
    one, other = left[1], right[1]
    return {"<": one < other, "<=": one <= other, ">": one > other, ">=": one >= other}[operator]


def called(name: str, values: list[Any]) -> Any:
    first = values[0]
    kinds = {"isstring": "text", "isnumber": "number", "isarray": "array"}
    if name == "isdefined":
        return first != ("missing",)
    if name == "isnull":
        return first == ("constant", None)
    if name in kinds:
        return first[0] == kinds[name]
    second = values[1]
    if name == "arraycontains":
        return second in first[1:] if first[0] == "array" and second != ("missing",) else "?"
    if first[0] != "text" or second[0] != "text":
        return "?"
    return first[1].startswith(second[1]) if name == "startswith" else second[1] in first[1]
