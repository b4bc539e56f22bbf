"""Conditions of queries as SQL, as far as SQL can say the same: what narrows the rows that are looked at.

Rules: a clause is true for every row of which the condition holds, and may be true for more; the evaluator always has
the last word. Where a clause is true for exactly those rows it says so, so that they may be counted without being read.
What cannot be said becomes no clause at all.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, cast, exists, false, func, literal, not_, or_, true

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
    Source,
)
from edgetrust.protocol.registry import BodyError, parse_scope_id
from edgetrust.store.schema import devices, modules, twins

_SECTIONS = {
    ("tags",): twins.c.tags,
    ("properties", "desired"): twins.c.desired,
    ("properties", "reported"): twins.c.reported,
}
_PLAIN = re.compile(r"\w+")  # names that need no quoting in any database's paths, and none that the hub makes
_EXACT = 2**53  # beyond it numbers are rounded, and not by everybody in the same way
_FLAGS = {  # columns that are true for one of two words
    "status": ("enabled", "disabled"),
    "connectionState": ("Connected", "Disconnected"),
}


@dataclass(frozen=True, slots=True)
class Clause:
    """`exact`: true for exactly the rows of which the condition holds."""

    sql: ColumnElement[bool]
    exact: bool


class Narrowing:
    """Clauses for the rows of `source` in a database that speaks `dialect`."""

    def __init__(self, source: Source, dialect: str) -> None:
        self._of_modules = source is Source.MODULES
        self._table = modules if self._of_modules else devices
        self._dialect = dialect

    def clause(self, condition: Expression | None) -> Clause | None:
        """None when SQL can say nothing of it. No condition is true for every row."""
        return Clause(true(), True) if condition is None else self._said(condition)

    def _said(self, condition: Expression) -> Clause | None:
        match condition:
            case And(operands):
                return self._all(operands)
            case Or(operands):
                return self._any(operands)
            case Not(operand):
                inner = self._said(operand)
                return Clause(not_(inner.sql), True) if inner is not None and inner.exact else None
            case Comparison(how, Path(steps), Literal(value)):
                return self._comparison(how, steps, value)
            case Membership(Path() as path, options, False):
                return self._any([Comparison(Operator.EQUAL, path, option) for option in options])
            case Call(name, arguments):
                return self._call(name, arguments)
            case Path(("capabilities", "iotEdge")) if not self._of_modules:
                return Clause(devices.c.edge, True)
            case _:
                return None

    def _call(self, name: str, arguments: tuple[Expression, ...]) -> Clause | None:
        match name, arguments:
            case "arraycontains", (Path(("parentScopes",)), Literal(str() as scope)):
                return self._child_of(scope)
            case "isdefined", (Path(steps),):
                return self._defined(steps)
            case _:
                return None

    def _all(self, operands: Sequence[Expression]) -> Clause | None:
        found = [self._said(operand) for operand in operands]
        said = [clause for clause in found if clause is not None]
        if not said:
            return None
        exact = len(said) == len(found) and all(clause.exact for clause in said)
        return Clause(and_(*(clause.sql for clause in said)), exact)

    def _any(self, operands: Sequence[Expression]) -> Clause | None:
        found = [self._said(operand) for operand in operands]
        said = [clause for clause in found if clause is not None]
        if len(said) != len(found):
            return None
        return Clause(or_(false(), *(clause.sql for clause in said)), all(clause.exact for clause in said))

    def _comparison(self, how: Operator, steps: tuple[str | int, ...], value: Any) -> Clause | None:
        if steps == ("capabilities", "iotEdge") and not self._of_modules and isinstance(value, bool):
            return _equal(how, devices.c.edge.is_(value))
        if isinstance(value, str):
            if steps == ("deviceId",):
                return Clause(_compared(how, self._table.c.device, value), True)
            if steps == ("moduleId",) and self._of_modules:
                return Clause(_compared(how, modules.c.module, value), True)
            if steps == ("authenticationType",):
                return _equal(how, self._table.c.authentication == value)
            if len(steps) == 1 and steps[0] in _FLAGS:
                return self._flag(how, str(steps[0]), value)
        return self._member(how, steps, value)

    def _flag(self, how: Operator, name: str, value: str) -> Clause | None:
        yes, no = _FLAGS[name]
        if name == "status":
            if self._of_modules:
                return None  # it is the device's
            column = devices.c.enabled
        else:
            column = self._table.c.connected
        return _equal(how, {yes: column, no: not_(column)}.get(value, false()))

    def _member(self, how: Operator, steps: tuple[str | int, ...], value: Any) -> Clause | None:
        """A text, number or truth value somewhere in the twin. Texts have another order in databases: they are only
        looked for; and what is unequal may be of another type, of which databases think differently.
        """
        ordered = isinstance(value, int | float) and not isinstance(value, bool)
        possible = how is Operator.EQUAL or (ordered and how is not Operator.UNEQUAL)
        if value is None or isinstance(value, tuple) or not possible or (ordered and abs(value) >= _EXACT):
            return None
        found = self._place(steps)
        if found is None:
            return None
        if self._dialect == "postgresql":
            wanted: Any = literal(value, _jsonb())
        else:
            wanted = int(value) if isinstance(value, bool) else value  # which is how SQLite reads them
        return self._in_twin(_compared(how, found, wanted))

    def _defined(self, steps: tuple[str | int, ...]) -> Clause | None:
        found = self._place(steps, json_type=True)
        return None if found is None else self._in_twin(found.is_not(None))

    def _place(self, steps: tuple[str | int, ...], *, json_type: bool = False) -> Any:
        """The value there, NULL where there is none; None when SQL cannot name the place."""
        section = next((name for name in _SECTIONS if steps[: len(name)] == name), None)
        inner = () if section is None else steps[len(section) :]
        names = [step for step in inner if isinstance(step, str) and _PLAIN.fullmatch(step)]
        if section is None or not names or len(names) != len(inner):
            return None
        column = _SECTIONS[section]
        if self._dialect == "postgresql":
            return func.jsonb_extract_path(cast(column, _jsonb()), *names)
        path = "$" + "".join(f'."{name}"' for name in names)
        return func.json_type(column, path) if json_type else func.json_extract(column, path)

    def _in_twin(self, condition: ColumnElement[bool]) -> Clause:
        of_module = twins.c.module == (modules.c.module if self._of_modules else "")
        return Clause(exists().where(twins.c.device == self._table.c.device, of_module, condition), False)

    def _child_of(self, scope: str) -> Clause | None:
        if self._of_modules:
            return None
        try:
            parent, _generation = parse_scope_id(scope)
        except BodyError:
            return Clause(false(), True)  # nobody has such a parent
        return Clause(devices.c.parent == parent, False)


def _equal(how: Operator, equal: ColumnElement[bool]) -> Clause | None:
    if how is Operator.EQUAL:
        return Clause(equal, True)
    return Clause(not_(equal), True) if how is Operator.UNEQUAL else None


_COMPARED: Mapping[Operator, Callable[[Any, Any], Any]] = {
    Operator.EQUAL: operator.eq,
    Operator.UNEQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}


def _compared(how: Operator, column: Any, value: Any) -> ColumnElement[bool]:
    compared: ColumnElement[bool] = _COMPARED[how](column, value)
    return compared


def _jsonb() -> Any:
    """PostgreSQL's type, imported where PostgreSQL is used: its dialect is a good part of the time a hub needs to
    start.
    """
    from sqlalchemy.dialects.postgresql import JSONB  # noqa: PLC0415 - see above

    return JSONB
