"""What a query is made of. Frozen, and without any behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum


class Source(StrEnum):
    """What is asked about."""

    DEVICES = "devices"
    MODULES = "devices.modules"
    JOBS = "devices.jobs"


@dataclass(frozen=True, slots=True)
class Path:
    """Where in a row: member names, and places in arrays."""

    steps: tuple[str | int, ...]


Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant of JSON; an array is a tuple."""

    value: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A function by its name in lower case, without underscores."""

    name: str
    arguments: tuple[Expression, ...]


class Operator(StrEnum):
    """How two values are compared."""

    EQUAL = "="
    UNEQUAL = "!="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="


@dataclass(frozen=True, slots=True)
class Comparison:
    """`left operator right`."""

    operator: Operator
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Membership:
    """`value IN [options]`; negated it is NIN."""

    value: Expression
    options: tuple[Expression, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    operand: Expression


@dataclass(frozen=True, slots=True)
class And:
    """All of them."""

    operands: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Any of them."""

    operands: tuple[Expression, ...]


Expression = Path | Literal | Call | Comparison | Membership | Not | And | Or


class Function(Enum):
    """What is computed over a group."""

    COUNT = "count"
    SUM = "sum"
    AVERAGE = "avg"
    SMALLEST = "min"
    LARGEST = "max"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the answer: a place in the row, or an aggregate (of a place, except for COUNT). `name` is what it
    is called there.
    """

    name: str
    path: Path | None
    function: Function | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """`columns` is empty for `*`; `condition` None takes every row; `top` None all that match."""

    source: Source
    columns: tuple[Column, ...] = ()
    condition: Expression | None = None
    groups: tuple[Path, ...] = ()
    top: int | None = None

    @property
    def aggregates(self) -> bool:
        """Whether rows are counted or gathered instead of shown."""
        return bool(self.groups) or any(column.function is not None for column in self.columns)
