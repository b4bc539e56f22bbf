"""What a query says about one row, which is an object of JSON.

Rules:
1. A place that is not there is undefined; so is every comparison with it and the opposite of that. A condition takes a
   row only when it is true.
2. Values of different types are unequal, and neither is less than the other: such an order is undefined. Numbers are
   one type whether they have a fraction or not; true is no number.
3. AND is false as soon as one side is, OR true as soon as one side is, whatever the other.
4. Texts are compared by their characters, letter case included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, assert_never

import msgspec

from edgetrust.limits import QUERY_GROUPS
from edgetrust.protocol.query.syntax import (
    And,
    Call,
    Column,
    Comparison,
    Expression,
    Function,
    Literal,
    Membership,
    Not,
    Operator,
    Or,
    Path,
    Query,
)
from edgetrust.protocol.query.tokens import QueryError

Row = Mapping[str, Any]


class _Undefined:
    """The value of what is not there."""

    def __repr__(self) -> str:
        return "undefined"


UNDEFINED: Final = _Undefined()


def holds(condition: Expression | None, row: Row) -> bool:
    """Whether the row is taken."""
    return condition is None or value_of(condition, row) is True


def value_at(path: Path, row: Any) -> Any:
    """What stands there, UNDEFINED if nothing does."""
    found = row
    for step in path.steps:
        if isinstance(step, str):
            if not isinstance(found, Mapping) or step not in found:
                return UNDEFINED
        elif not isinstance(found, list) or step >= len(found):
            return UNDEFINED
        found = found[step]
    return found


def value_of(expression: Expression, row: Row) -> Any:
    """Its value: JSON, or UNDEFINED."""
    match expression:
        case Path():
            return value_at(expression, row)
        case Literal(value):
            return list(value) if isinstance(value, tuple) else value
        case Comparison(operator, left, right):
            return compared(operator, value_of(left, row), value_of(right, row))
        case Membership(value, options, negated):
            return _among(value_of(value, row), [value_of(option, row) for option in options], negated=negated)
        case Not(operand):
            found = value_of(operand, row)
            return not found if isinstance(found, bool) else UNDEFINED
        case And(operands):
            return _decided(operands, row, by=False)
        case Or(operands):
            return _decided(operands, row, by=True)
        case Call(name, arguments):
            return _FUNCTIONS[name](*(value_of(argument, row) for argument in arguments))
        case _:
            assert_never(expression)


def compared(operator: Operator, left: Any, right: Any) -> Any:
    """The outcome of a comparison: True, False or UNDEFINED."""
    if left is UNDEFINED or right is UNDEFINED:
        return UNDEFINED
    if operator is Operator.EQUAL:
        return same(left, right)
    if operator is Operator.UNEQUAL:
        return not same(left, right)
    if not (_is_number(left) and _is_number(right)) and not (isinstance(left, str) and isinstance(right, str)):
        return UNDEFINED
    match operator:
        case Operator.LESS:
            return left < right
        case Operator.LESS_OR_EQUAL:
            return left <= right
        case Operator.GREATER:
            return left > right
        case Operator.GREATER_OR_EQUAL:
            return left >= right
        case _:
            assert_never(operator)


def same(left: Any, right: Any) -> bool:
    """Equal as JSON."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    return type(left) is type(right) and left == right if not _is_number(left) else _is_number(right) and left == right


def _among(value: Any, options: Sequence[Any], *, negated: bool) -> Any:
    if value is UNDEFINED:
        return UNDEFINED
    return any(option is not UNDEFINED and same(value, option) for option in options) is not negated


def _decided(operands: Iterable[Expression], row: Row, *, by: bool) -> Any:
    """`by` as soon as one operand is that, its opposite when all are, undefined otherwise."""
    outcome: Any = not by
    for operand in operands:
        found = value_of(operand, row)
        if found is by:
            return by
        if not isinstance(found, bool):
            outcome = UNDEFINED
    return outcome


# Functions ----------------------------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is(test: Callable[[Any], bool]) -> Callable[[Any], Any]:
    return lambda value: value is not UNDEFINED and test(value)


def _texts(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: function(*values) if all(isinstance(value, str) for value in values) else UNDEFINED


def _array_contains(array: Any, value: Any) -> Any:
    if not isinstance(array, list) or value is UNDEFINED:
        return UNDEFINED
    return any(same(value, member) for member in array)


def _length(value: Any) -> Any:
    return len(value) if isinstance(value, str | list) else UNDEFINED


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "isdefined": lambda value: value is not UNDEFINED,
    "isnull": lambda value: value is None,
    "isstring": _is(lambda value: isinstance(value, str)),
    "isnumber": _is(_is_number),
    "isbool": _is(lambda value: isinstance(value, bool)),
    "isobject": _is(lambda value: isinstance(value, Mapping)),
    "isarray": _is(lambda value: isinstance(value, list)),
    "isprimitive": _is(lambda value: not isinstance(value, Mapping | list)),
    "arraycontains": _array_contains,
    "startswith": _texts(str.startswith),
    "endswith": _texts(str.endswith),
    "contains": _texts(lambda text, part: part in text),
    "lower": _texts(str.lower),
    "upper": _texts(str.upper),
    "length": _length,
}


# Answers ------------------------------------------------------------------------------------------------------------


def project(query: Query, row: Row) -> Row:
    """What is shown of a row that was taken; what is undefined is left out."""
    if not query.columns:
        return row
    found = ((column.name, value_at(column.path, row)) for column in query.columns if column.path is not None)
    return {name: value for name, value in found if value is not UNDEFINED}


class Aggregation:
    """The groups of a query with aggregates, filled row by row. Raises QueryError when there are too many."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._groups: dict[bytes, _Group] = {}
        if not query.groups:
            self._groups[b""] = _Group(query.columns, ())

    def add(self, row: Row) -> None:
        """One row that was taken."""
        values = tuple(value_at(path, row) for path in self._query.groups)
        key = b"" if not values else _key(values)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= QUERY_GROUPS:
                raise QueryError(1, f"there are more than {QUERY_GROUPS} groups")
            group = self._groups[key] = _Group(self._query.columns, values)
        group.add(row)

    def count(self, rows: int) -> None:
        """So many rows of which nothing but their number is asked, at once."""
        self._groups[b""].rows += rows

    def answer(self) -> list[Row]:
        """One row for each group, in the order of their keys."""
        found = [self._groups[key].answer(self._query) for key in sorted(self._groups)]
        return found if self._query.top is None else found[: self._query.top]


class _Group:
    """Running totals; those of a column are kept under its number."""

    def __init__(self, columns: Sequence[Column], values: tuple[Any, ...]) -> None:
        self.rows = 0
        self._values = values
        self._seen: list[list[Any]] = [[0, 0, UNDEFINED, UNDEFINED] for _ in columns]  # count, sum, least, largest
        self._columns = columns

    def add(self, row: Row) -> None:
        self.rows += 1
        for column, seen in zip(self._columns, self._seen, strict=True):
            if column.function is None or column.path is None:
                continue
            value = value_at(column.path, row)
            if value is UNDEFINED:
                continue
            if column.function is Function.COUNT:
                seen[0] += 1
            elif _is_number(value):
                seen[0] += 1
                seen[1] += value
                seen[2] = value if seen[2] is UNDEFINED else min(seen[2], value)
                seen[3] = value if seen[3] is UNDEFINED else max(seen[3], value)

    def answer(self, query: Query) -> Row:
        answer: dict[str, Any] = {}
        for column, (count, total, least, largest) in zip(self._columns, self._seen, strict=True):
            match column.function:
                case None:
                    value = self._values[query.groups.index(column.path)] if column.path is not None else UNDEFINED
                case Function.COUNT:
                    value = self.rows if column.path is None else count
                case Function.SUM:
                    value = total
                case Function.AVERAGE:
                    value = total / count if count else UNDEFINED
                case Function.SMALLEST:
                    value = least
                case Function.LARGEST:
                    value = largest
                case _:
                    assert_never(column.function)
            if value is not UNDEFINED:
                answer[column.name] = value
        return answer


def _key(values: tuple[Any, ...]) -> bytes:
    """The same for values that are the same, in an order that people expect."""
    return b"\0".join(b"" if value is UNDEFINED else msgspec.json.encode(_plain(value)) for value in values)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _plain(value[name]) for name in sorted(value)}
    return [_plain(member) for member in value] if isinstance(value, list) else value
