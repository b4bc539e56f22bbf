"""Tokens to syntax, by recursive descent: one function per rule, the rule above it.

Rules of refusing: what cannot be read names its place, what was expected and what stands there; nesting is bounded, so
that no text makes the reader or the evaluator run out of stack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

from edgetrust.limits import QUERY_DEPTH
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
    Source,
)
from edgetrust.protocol.query.tokens import Kind, QueryError, Token, tokens_of

_T = TypeVar("_T")

__all__ = ["QueryError", "parse_condition", "parse_query"]

_OPERATORS = {**{one.value: one for one in Operator}, "<>": Operator.UNEQUAL}
_AGGREGATES = {one.value: one for one in Function}
_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "null": None}
_KEYWORDS = frozenset({"select", "top", "from", "where", "group", "by", "and", "or", "not", "in", "nin", "as"})
FUNCTIONS = {  # how many arguments each takes
    "isdefined": 1,
    "isnull": 1,
    "isstring": 1,
    "isnumber": 1,
    "isbool": 1,
    "isobject": 1,
    "isarray": 1,
    "isprimitive": 1,
    "arraycontains": 2,
    "startswith": 2,
    "endswith": 2,
    "contains": 2,
    "lower": 1,
    "upper": 1,
    "length": 1,
}
_ROOT = "devices"  # `devices.deviceId` is what `deviceId` is


def parse_query(text: str) -> Query:
    """A whole query. Raises QueryError."""
    parser = _Parser(tokens_of(text))
    query = parser.query()
    parser.end()
    return query


def parse_condition(text: str) -> Expression:
    """What may stand behind WHERE. Raises QueryError."""
    parser = _Parser(tokens_of(text))
    condition = parser.condition()
    parser.end()
    return condition


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._place = 0
        self._depth = 0

    # SELECT [TOP n] columns FROM source [WHERE condition] [GROUP BY path, ...]

    def query(self) -> Query:
        self._expect_word("select")
        top = self._top()
        begin = self._here.at
        columns = () if self._take_sign("*") else self._list(self._column)
        self._expect_word("from")
        source = self._source()
        condition = self.condition() if self._take_word("where") else None
        groups: tuple[Path, ...] = ()
        if self._take_word("group"):
            self._expect_word("by")
            groups = self._list(self._path)
        _check_columns(columns, groups, begin)
        return Query(source, tuple(_named(columns)), condition, groups, top)

    def end(self) -> None:
        if self._here.kind is not Kind.END:
            self._fail("the end")

    def _top(self) -> int | None:
        if not self._take_word("top"):
            return None
        bracket = self._take_sign("(")
        token = self._here
        if type(token.value) is not int or token.value < 1:
            self._fail("a whole number from 1")
        self._place += 1
        if bracket:
            self._expect_sign(")")
        return int(token.value)

    # path [AS name] | aggregate ( [path | *] ) [AS name]

    def _column(self) -> Column:
        word = str(self._here.value).lower()
        following = self._tokens[min(self._place + 1, len(self._tokens) - 1)]
        function = None
        path: Path | None
        if self._here.kind is Kind.WORD and word in _AGGREGATES and following.value == "(":
            function = _AGGREGATES[word]
            self._place += 2
            path = None if self._here.value == ")" or self._take_sign("*") else self._path()
            if path is None and function is not Function.COUNT:
                self._fail("a property")
            self._expect_sign(")")
        else:
            path = self._path()
        name = self._alias() if self._take_word("as") else ""
        return Column(name, path, function)

    def _alias(self) -> str:
        if self._here.kind not in (Kind.WORD, Kind.NAME, Kind.TEXT):
            self._fail("a name")
        return str(self._next().value)

    # devices | devices.modules | devices.jobs

    def _source(self) -> Source:
        at = self._here.at
        words = [self._word().lower()]
        while self._take_sign("."):
            words.append(self._word().lower())
        try:
            return Source(".".join(words))
        except ValueError:
            raise QueryError(at, f"expected {', '.join(Source)}, found {'.'.join(words)[:80]!r}") from None

    # and {OR and};  not {AND not};  NOT not | comparison

    def condition(self) -> Expression:
        found = [self._both()]
        while self._take_word("or"):
            found.append(self._both())
        return found[0] if len(found) == 1 else Or(tuple(found))

    def _both(self) -> Expression:
        found = [self._negation()]
        while self._take_word("and"):
            found.append(self._negation())
        return found[0] if len(found) == 1 else And(tuple(found))

    def _negation(self) -> Expression:
        if not self._is_word("not"):
            return self._comparison()
        self._place += 1
        return Not(self._deeper(self._negation))

    # value [operator value | [NOT] IN list | NIN list]

    def _comparison(self) -> Expression:
        left = self._value()
        operator = _OPERATORS.get(self._here.value) if self._here.kind is Kind.SIGN else None
        if operator is not None:
            self._place += 1
            return Comparison(operator, left, self._value())
        if self._take_word("in"):
            return Membership(left, self._options())
        if self._take_word("nin"):
            return Membership(left, self._options(), negated=True)
        if self._take_word("not"):
            self._expect_word("in")
            return Membership(left, self._options(), negated=True)
        return left

    def _options(self) -> tuple[Expression, ...]:
        closing = {"[": "]", "(": ")"}.get(str(self._here.value)) if self._here.kind is Kind.SIGN else None
        if closing is None:
            self._fail("a list in [ ]")
        self._place += 1
        if self._take_sign(closing):
            return ()
        options = self._list(self._value)
        self._expect_sign(closing)
        return options

    # a literal, an array of literals, a function of values, a path, or a condition in brackets

    def _value(self) -> Expression:
        token = self._here
        if token.kind in (Kind.NUMBER, Kind.TEXT):
            self._place += 1
            return Literal(token.value)
        if token.kind is Kind.SIGN and token.value == "(":
            return self._deeper(self._bracketed)
        if token.kind is Kind.SIGN and token.value == "[":
            return self._array()
        if token.kind is not Kind.WORD:
            self._fail("a value")
        word = token.value.lower()
        if word in _CONSTANTS:
            self._place += 1
            return Literal(_CONSTANTS[word])
        if self._tokens[self._place + 1].value == "(" and word not in _KEYWORDS:
            return self._deeper(self._call)
        return self._path()

    def _bracketed(self) -> Expression:
        self._expect_sign("(")
        inner = self.condition()
        self._expect_sign(")")
        return inner

    def _array(self) -> Literal:
        at = self._here.at
        options = self._options()
        values = [option.value for option in options if isinstance(option, Literal)]
        flat = tuple(value for value in values if not isinstance(value, tuple))
        if len(flat) != len(options):
            raise QueryError(at, "an array holds texts, numbers, true, false and null")
        return Literal(flat)

    def _call(self) -> Call:
        token = self._next()
        name = str(token.value).lower().replace("_", "")
        if name not in FUNCTIONS:
            raise QueryError(token.at, f"there is no function {token.value[:80]!r}")
        self._expect_sign("(")
        arguments = () if self._here.value == ")" else self._list(self.condition)
        self._expect_sign(")")
        if len(arguments) != FUNCTIONS[name]:
            raise QueryError(token.at, f"{token.value} takes {FUNCTIONS[name]} values, found {len(arguments)}")
        return Call(name, arguments)

    # name {. name | . [[name]] | [[name]] | [number] | ['name']}

    def _path(self) -> Path:
        steps: list[str | int] = [self._word()]
        while True:
            if self._take_sign("."):
                steps.append(self._step())
            elif self._here.kind is Kind.NAME:
                steps.append(str(self._next().value))
            elif self._take_sign("["):
                steps.append(self._index())
                self._expect_sign("]")
            else:
                break
        if steps[0] == _ROOT and len(steps) > 1:
            del steps[0]
        return Path(tuple(steps))

    def _step(self) -> str:
        if self._here.kind not in (Kind.WORD, Kind.NAME):
            self._fail("the name of a property")
        return str(self._next().value)

    def _index(self) -> str | int:
        token = self._here
        if token.kind is not Kind.TEXT and (type(token.value) is not int or token.value < 0):
            self._fail("a place in an array")
        self._place += 1
        return str(token.value) if token.kind is Kind.TEXT else int(token.value)

    def _word(self) -> str:
        if self._here.kind is not Kind.WORD or str(self._here.value).lower() in _KEYWORDS:
            self._fail("the name of a property")
        return str(self._next().value)

    # Tokens

    @property
    def _here(self) -> Token:
        return self._tokens[self._place]

    def _next(self) -> Token:
        token = self._here
        self._place += 1
        return token

    def _is_word(self, word: str) -> bool:
        return self._here.kind is Kind.WORD and str(self._here.value).lower() == word

    def _take_word(self, word: str) -> bool:
        taken = self._is_word(word)
        self._place += taken
        return taken

    def _expect_word(self, word: str) -> None:
        if not self._take_word(word):
            self._fail(word.upper())

    def _take_sign(self, sign: str) -> bool:
        taken = self._here.kind is Kind.SIGN and self._here.value == sign
        self._place += taken
        return taken

    def _expect_sign(self, sign: str) -> None:
        if not self._take_sign(sign):
            self._fail(repr(sign))

    def _list(self, one: Callable[[], _T]) -> tuple[_T, ...]:
        found = [one()]
        while self._take_sign(","):
            found.append(one())
        return tuple(found)

    def _deeper(self, inner: Callable[[], _T]) -> _T:
        self._depth += 1
        if self._depth > QUERY_DEPTH:
            raise QueryError(self._here.at, f"nested more than {QUERY_DEPTH} levels deep")
        found = inner()
        self._depth -= 1
        return found

    def _fail(self, expected: str) -> NoReturn:
        raise QueryError(self._here.at, f"expected {expected}, found {self._here}")


def _check_columns(columns: tuple[Column, ...], groups: tuple[Path, ...], at: int) -> None:
    """What is shown of a group is what its rows have in common, or an aggregate."""
    aggregates = any(column.function is not None for column in columns)
    if groups and not columns:
        raise QueryError(at, "with GROUP BY name the columns instead of *")
    for column in columns:
        if (groups or aggregates) and column.function is None and column.path not in groups:
            shown = "" if column.path is None else ".".join(str(step) for step in column.path.steps)
            raise QueryError(at, f"{shown[:80]!r} is neither in GROUP BY nor an aggregate")


def _named(columns: tuple[Column, ...]) -> list[Column]:
    """Every column with a name: its own, the last of its path, or its number for an aggregate."""
    named: list[Column] = []
    for number, column in enumerate(columns, 1):
        name = column.name
        if not name:
            steps = () if column.path is None else column.path.steps
            last = next((step for step in reversed(steps) if isinstance(step, str)), "")
            name = last if column.function is None else f"${number}"
        named.append(Column(name, column.path, column.function))
    return named
