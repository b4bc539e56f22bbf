"""A query's text as tokens, each with its place.

A word may begin with `$` (`$edgeHub`, `$metadata`) and is compared in any letter case where the language has it. Texts
stand in single or double quotes, a quote inside is doubled. `[[...]]` holds a name with any characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from edgetrust.errors import PeerError
from edgetrust.limits import QUERY_CHARACTERS


class QueryError(PeerError):
    """A query that cannot be read. The message says where, and what was expected there."""

    def __init__(self, at: int, message: str) -> None:
        super().__init__(f"position {at}: {message}", reason="query-malformed", status=400)
        self.code = "ArgumentInvalid"
        self.at = at


class Kind(Enum):
    """What a token is."""

    WORD = "a name"
    NUMBER = "a number"
    TEXT = "a text"
    NAME = "a name in [[ ]]"
    SIGN = "a sign"
    END = "the end"


@dataclass(frozen=True, slots=True)
class Token:
    """`value` is what a number or a text is, otherwise the token as it stands. `at` counts from 1."""

    kind: Kind
    value: Any
    at: int

    def __str__(self) -> str:
        return "the end" if self.kind is Kind.END else repr(self.value)


_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<number>-?\d+(\.\d+)?([eE][+-]?\d+)?(?![\w$]))
    | (?P<word>[A-Za-z_$][\w$]*)
    | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    | (?P<name>\[\[[^\[\]]+\]\])
    | (?P<sign><=|>=|!=|<>|[=<>(),.*\[\]])
    """,
    re.VERBOSE | re.ASCII,
)
_NUMBER_DIGITS = 40  # more than any number of JSON that clients keep exactly


def tokens_of(text: str) -> list[Token]:
    """All tokens, the last one being the end. Raises QueryError."""
    if len(text) > QUERY_CHARACTERS:
        raise QueryError(QUERY_CHARACTERS, f"a query has at most {QUERY_CHARACTERS} characters, this one {len(text)}")
    if "\0" in text:
        raise QueryError(text.index("\0") + 1, "a query holds no U+0000")
    found: list[Token] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise QueryError(place + 1, _unreadable(text, place))
        kind, raw = str(match.lastgroup), match.group()
        if kind != "space":
            found.append(_token(kind, raw, place + 1))
        place = match.end()
    return [*found, Token(Kind.END, "", len(text) + 1)]


def _token(kind: str, raw: str, at: int) -> Token:
    match kind:
        case "number":
            return Token(Kind.NUMBER, _number(raw, at), at)
        case "text":
            return Token(Kind.TEXT, raw[1:-1].replace(raw[0] * 2, raw[0]), at)
        case "name":
            return Token(Kind.NAME, raw[2:-2], at)
        case "word":
            return Token(Kind.WORD, raw, at)
        case _:
            return Token(Kind.SIGN, raw, at)


def _number(raw: str, at: int) -> int | float:
    if len(raw) > _NUMBER_DIGITS:
        raise QueryError(at, f"a number has at most {_NUMBER_DIGITS} characters")
    try:
        return int(raw)
    except ValueError:
        value = float(raw)
    if value in (float("inf"), float("-inf")):
        raise QueryError(at, "the number is too large")
    return value


def _unreadable(text: str, place: int) -> str:
    if text[place] in "'\"":
        return "the text has no end"
    return f"{text[place]!r} stands for nothing here"
