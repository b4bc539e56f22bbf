"""Conditions over messages, as IoT Hub's routing queries write them: `$body.temperature > 30 AND level = 'hot'`.

    or, and, not                   three-valued: what is not there is undefined, and undefined is not true
    = != <> < <= > >=              undefined when the sides are of different kinds; texts compare with case
    IN [..] NIN [..] + - * / % ||  list membership, arithmetic, joined texts
    name, {any name}               looked up by whoever evaluates, as is $name, with .member, ['member'] and [0]
    is_defined(x), as_number(x)... the functions of `FUNCTIONS`; keywords and functions in any case

Texts stand in single or double quotes; a quote in them is doubled. Pure: evaluating never fails, whatever the message
holds, and parsing says where a text stops being a condition. It does not know what a name means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgetrust.errors import PeerError
from edgetrust.limits import EXPRESSION_CHARACTERS, EXPRESSION_DEPTH, EXPRESSION_TERMS
from edgetrust.protocol.values import COMPARISONS, FUNCTIONS, PRODUCTS, SUMS, UNDEFINED, Path, negated

Resolve = Callable[[Path], Any]
_Evaluate = Callable[[Resolve], Any]


class ExpressionError(PeerError):
    """The text is no condition; the message says where."""

    def __init__(self, text: str, at: int, problem: str) -> None:
        shown = text[at : at + 20]
        place = f"at {shown!r}" if shown else "at its end"
        super().__init__(f"the condition cannot be read {place}: {problem}", reason="condition-malformed", status=400)


@dataclass(frozen=True, slots=True)
class Expression:
    """A condition. `paths` are what it looks up; `resolve` gives the value of each, UNDEFINED for what is not there."""

    text: str
    paths: frozenset[Path]
    _evaluate: _Evaluate = field(compare=False, repr=False)

    def value(self, resolve: Resolve) -> Any:
        """None, bool, number, text, list, mapping, or UNDEFINED."""
        return self._evaluate(resolve)

    def holds(self, resolve: Resolve) -> bool:
        """Whether it is true; undefined is not."""
        return self._evaluate(resolve) is True


def parse_expression(text: str) -> Expression:
    """Read a condition. Raises ExpressionError."""
    if len(text) > EXPRESSION_CHARACTERS:
        raise ExpressionError(text, EXPRESSION_CHARACTERS, f"it has more than {EXPRESSION_CHARACTERS} characters")
    parser = _Parser(text)
    evaluate = parser.condition()
    return Expression(text, frozenset(parser.paths), evaluate)


# Parsing ------------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    | (?P<braced>\{[^{}]+\})
    | (?P<name>\$?[A-Za-z_](?:\w|(?<=\w)-(?=[A-Za-z]))*)
    | (?P<sign><=|>=|<>|!=|\|\||[=<>+\-*/%(),.\[\]])
    )""",
    re.VERBOSE | re.ASCII,
)
_CONSTANTS: Mapping[str, Any] = {"true": True, "false": False, "null": None, "undefined": UNDEFINED}
_WORDS = frozenset({"and", "or", "not", "in", "nin"})


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int

    @property
    def word(self) -> str:
        """As a keyword or sign; empty for texts and braced names, which are never one."""
        return self.text.lower() if self.kind in ("name", "sign") else ""


class _Parser:
    """Recursive descent, bounded in depth. Every method returns what evaluates the part it has read."""

    def __init__(self, text: str) -> None:
        self.paths: set[Path] = set()
        self._text = text
        self._depth = 0
        self._terms = 0
        self._tokens = list(self._split())
        self._next = 0

    def _split(self) -> list[_Token]:
        tokens, at, end = [], 0, len(self._text.rstrip())
        while at < end:
            match = _TOKEN.match(self._text, at)
            if match is None or match.lastgroup is None:
                raise ExpressionError(self._text, at, "no name, number, text or sign")
            tokens.append(_Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
            at = match.end()
        return tokens

    @property
    def _word(self) -> str:
        return self._tokens[self._next].word if self._next < len(self._tokens) else ""

    def _take(self) -> _Token:
        if self._next == len(self._tokens):
            raise ExpressionError(self._text, len(self._text), "something is missing")
        self._next += 1
        return self._tokens[self._next - 1]

    def _expect(self, word: str) -> None:
        if self._word != word:
            raise self._unexpected(f"{word} is missing")
        self._next += 1

    def _unexpected(self, problem: str) -> ExpressionError:
        at = self._tokens[self._next].at if self._next < len(self._tokens) else len(self._text)
        return ExpressionError(self._text, at, problem)

    def condition(self) -> _Evaluate:
        """All of the text."""
        evaluate = self._or()
        if self._next < len(self._tokens):
            raise self._unexpected("it goes on where it should end")
        return evaluate

    def _or(self) -> _Evaluate:
        self._depth += 1
        if self._depth > EXPRESSION_DEPTH:
            raise self._unexpected(f"it is nested more than {EXPRESSION_DEPTH} deep")
        parts = [self._and()]
        while self._word == "or":
            self._next += 1
            parts.append(self._and())
        self._depth -= 1
        return parts[0] if len(parts) == 1 else _any_of(parts)

    def _and(self) -> _Evaluate:
        parts = [self._negation()]
        while self._word == "and":
            self._next += 1
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else _all_of(parts)

    def _negation(self) -> _Evaluate:
        odd = False
        while self._word == "not":
            self._next += 1
            odd = not odd
        part = self._comparison()
        return (lambda resolve: negated(part(resolve))) if odd else part

    def _comparison(self) -> _Evaluate:
        left = self._sum()
        compare = COMPARISONS.get(self._word)
        if compare is None:
            return left
        self._next += 1
        return _both(compare, left, self._sum())

    def _sum(self) -> _Evaluate:
        left = self._product()
        while (work := SUMS.get(self._word)) is not None:
            self._count_term()
            left = _both(work, left, self._product())
        return left

    def _product(self) -> _Evaluate:
        left = self._value()
        while (work := PRODUCTS.get(self._word)) is not None:
            self._count_term()
            left = _both(work, left, self._value())
        return left

    def _count_term(self) -> None:
        self._next += 1
        self._terms += 1
        if self._terms > EXPRESSION_TERMS:
            raise self._unexpected(f"it calculates with more than {EXPRESSION_TERMS} terms")

    def _value(self) -> _Evaluate:
        negative = False
        while self._word == "-":
            self._next += 1
            negative = not negative
        part = self._primary()
        return _both(SUMS["-"], _constant(0), part) if negative else part

    def _primary(self) -> _Evaluate:
        token = self._take()
        if token.kind == "number":
            return _constant(float(token.text))
        if token.kind == "text":
            return _constant(_unquoted(token.text))
        if token.word == "(":
            inner = self._or()
            self._expect(")")
            return inner
        if token.word == "[":
            return _list_of(self._items("]"))
        if token.word in _CONSTANTS:
            return _constant(_CONSTANTS[token.word])
        if token.kind == "sign" or token.word in _WORDS:
            self._next -= 1
            raise self._unexpected("a name, number, text or ( is missing")
        if token.kind == "name" and self._word == "(":
            return self._call(token)
        return self._path(token.text[1:-1] if token.kind == "braced" else token.text)

    def _call(self, name: _Token) -> _Evaluate:
        known = FUNCTIONS.get(name.word)
        if known is None:
            raise ExpressionError(self._text, name.at, f"there is no function {name.text}")
        self._expect("(")
        arguments = self._items(")")
        fewest, most, work = known
        if not fewest <= len(arguments) <= most:
            raise ExpressionError(self._text, name.at, f"{name.text} does not take {len(arguments)} arguments")
        return lambda resolve: work(*(argument(resolve) for argument in arguments))

    def _items(self, end: str) -> list[_Evaluate]:
        items: list[_Evaluate] = []
        while self._word != end:
            if items:
                self._expect(",")
            items.append(self._or())
        self._expect(end)
        return items

    def _path(self, first: str) -> _Evaluate:
        steps: list[str | int] = [first]
        while self._word in (".", "["):
            opening = self._take()
            step = self._take()
            if opening.text == "." and step.kind in ("name", "braced"):
                steps.append(step.text.strip("{}"))
            elif opening.text == "[" and step.kind == "text":
                steps.append(_unquoted(step.text))
                self._expect("]")
            elif opening.text == "[" and step.kind == "number" and step.text.isdecimal():
                steps.append(int(step.text))
                self._expect("]")
            else:
                raise ExpressionError(self._text, step.at, "a member's name or number is missing")
        path = tuple(steps)
        self.paths.add(path)
        return lambda resolve: resolve(path)


def _constant(value: Any) -> _Evaluate:
    return lambda _resolve: value


def _both(work: Callable[[Any, Any], Any], left: _Evaluate, right: _Evaluate) -> _Evaluate:
    return lambda resolve: work(left(resolve), right(resolve))


def _list_of(parts: list[_Evaluate]) -> _Evaluate:
    return lambda resolve: [part(resolve) for part in parts]


def _any_of(parts: list[_Evaluate]) -> _Evaluate:
    return lambda resolve: _combined(parts, resolve, decisive=True)


def _all_of(parts: list[_Evaluate]) -> _Evaluate:
    return lambda resolve: _combined(parts, resolve, decisive=False)


def _combined(parts: list[_Evaluate], resolve: Resolve, *, decisive: bool) -> Any:
    """`decisive` as soon as one part is that; else undefined when one is no truth value."""
    outcome: Any = not decisive
    for part in parts:
        value = part(resolve)
        if value is decisive:
            return decisive
        if not isinstance(value, bool):
            outcome = UNDEFINED
    return outcome


def _unquoted(text: str) -> str:
    quote = text[0]
    return text[1:-1].replace(quote * 2, quote)
