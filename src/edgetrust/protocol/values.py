"""Values of expressions: what is undefined, how values compare, and the functions. Total: nothing here ever fails.

Comparing values of different kinds, or calculating with what is no number, gives `UNDEFINED`. Numbers are computed in
floating point, so that no message makes a result long.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

Path = tuple[str | int, ...]


class Undefined:
    """The value of what is not there. There is one: `UNDEFINED`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "undefined"


UNDEFINED: Final = Undefined()


def member(value: Any, path: Path) -> Any:
    """What `path` leads to inside a JSON value, UNDEFINED when it leads nowhere."""
    for step in path:
        if isinstance(step, str) and isinstance(value, Mapping):
            value = value.get(step, UNDEFINED)
        elif isinstance(step, int) and isinstance(value, list) and step < len(value):
            value = value[step]
        else:
            return UNDEFINED
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same_kind(left: Any, right: Any) -> bool:
    for kind in (bool, str, list, Mapping, type(None)):
        if isinstance(left, kind):
            return isinstance(right, kind)
    return _is_number(left) and _is_number(right)


def _equal(left: Any, right: Any) -> Any:
    return left == right if _same_kind(left, right) else UNDEFINED


def _different(left: Any, right: Any) -> Any:
    return left != right if _same_kind(left, right) else UNDEFINED


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Any]:
    def compared(left: Any, right: Any) -> Any:
        comparable = (_is_number(left) and _is_number(right)) or (isinstance(left, str) and isinstance(right, str))
        return compare(left, right) if comparable else UNDEFINED

    return compared


def _arithmetic(work: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def worked(left: Any, right: Any) -> Any:
        if not (_is_number(left) and _is_number(right)):
            return UNDEFINED
        return _finite(work, left, right)

    return worked


def _finite(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result, if it is a number; computed in floating point, so that no message makes it long."""
    try:
        result = work(*(float(argument) for argument in arguments))
    except (ArithmeticError, ValueError):
        return UNDEFINED
    return result if not isinstance(result, complex) and math.isfinite(result) else UNDEFINED


def _joined(left: Any, right: Any) -> Any:
    return left + right if isinstance(left, str) and isinstance(right, str) else UNDEFINED


def _contained(left: Any, right: Any) -> Any:
    if left is UNDEFINED or not isinstance(right, list):
        return UNDEFINED
    return any(_equal(left, one) is True for one in right)


def negated(value: Any) -> Any:
    """NOT: of truth values only."""
    return not value if isinstance(value, bool) else UNDEFINED


def _text(work: Callable[..., Any], count: int = 1) -> Callable[..., Any]:
    def worked(*arguments: Any) -> Any:
        return work(*arguments) if all(isinstance(one, str) for one in arguments[:count]) else UNDEFINED

    return worked


def _numeric(work: Callable[..., Any]) -> Callable[..., Any]:
    def worked(*arguments: Any) -> Any:
        return _finite(work, *arguments) if all(_is_number(one) for one in arguments) else UNDEFINED

    return worked


def _as_number(value: Any) -> Any:
    if _is_number(value):
        return value
    if not isinstance(value, str) or re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", value) is None:
        return UNDEFINED
    return _finite(lambda number: number, float(value))


def _length(value: Any) -> Any:
    return len(value) if isinstance(value, str | list) else UNDEFINED


def _substring(text: str, start: Any, length: Any = math.inf) -> Any:
    if not (_is_number(start) and _is_number(length)) or start < 0 or length < 0:
        return UNDEFINED
    begin = int(min(start, len(text)))
    return text[begin : begin + int(min(length, len(text)))]


FUNCTIONS: Mapping[str, tuple[int, int, Callable[..., Any]]] = MappingProxyType(
    {  # name: fewest arguments, most arguments, what it does
        "is_defined": (1, 1, lambda value: value is not UNDEFINED),
        "is_null": (1, 1, lambda value: value is None),
        "is_bool": (1, 1, lambda value: isinstance(value, bool)),
        "is_number": (1, 1, _is_number),
        "is_string": (1, 1, lambda value: isinstance(value, str)),
        "is_object": (1, 1, lambda value: isinstance(value, Mapping)),
        "is_array": (1, 1, lambda value: isinstance(value, list)),
        "is_primitive": (1, 1, lambda value: value is None or isinstance(value, str | bool) or _is_number(value)),
        "as_number": (1, 1, _as_number),
        "length": (1, 1, _length),
        "lower": (1, 1, _text(str.lower)),
        "upper": (1, 1, _text(str.upper)),
        "starts_with": (2, 2, _text(str.startswith, 2)),
        "startswith": (2, 2, _text(str.startswith, 2)),
        "ends_with": (2, 2, _text(str.endswith, 2)),
        "endswith": (2, 2, _text(str.endswith, 2)),
        "contains": (2, 2, _text(operator.contains, 2)),
        "index_of": (2, 2, _text(str.find, 2)),
        "substring": (2, 3, _text(_substring)),
        "concat": (2, 2, _joined),
        "array_contains": (2, 2, lambda values, value: _contained(value, values)),
        "abs": (1, 1, _numeric(abs)),
        "ceiling": (1, 1, _numeric(math.ceil)),
        "floor": (1, 1, _numeric(math.floor)),
        "power": (2, 2, _numeric(operator.pow)),
        "sign": (1, 1, _numeric(lambda value: (value > 0) - (value < 0))),
        "sqrt": (1, 1, _numeric(math.sqrt)),
        "square": (1, 1, _numeric(lambda value: value * value)),
    }
)

COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": _equal,
    "!=": _different,
    "<>": _different,
    "<": _ordered(operator.lt),
    "<=": _ordered(operator.le),
    ">": _ordered(operator.gt),
    ">=": _ordered(operator.ge),
    "in": _contained,
    "nin": lambda left, right: negated(_contained(left, right)),
}
SUMS: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": _arithmetic(operator.add),
    "-": _arithmetic(operator.sub),
    "||": _joined,
}
PRODUCTS: Mapping[str, Callable[[Any, Any], Any]] = {
    "*": _arithmetic(operator.mul),
    "/": _arithmetic(operator.truediv),
    "%": _arithmetic(math.fmod),
}
