"""What commands print: data on stdout, messages on stderr, JSON for machines, and never a status by colour alone.

Colour is Rich's decision: none without a terminal, none with NO_COLOR. Without a terminal tables are as wide as their
content, so that `grep` and `awk` see whole lines. Times are UTC. This module knows nothing of what it prints.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetrust.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]

_WIDE = 10_000  # columns of a "terminal" that is a pipe or a file


def print_json(value: object) -> None:
    """One JSON document on stdout, indented."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n")


def print_json_line(value: object) -> None:
    """One JSON document on one line of stdout, flushed: a line of a stream."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain) + "\n")
    sys.stdout.flush()


def parse_json(option: str, text: str) -> Any:
    """What an option holds as JSON. Raises UsageError."""
    try:
        return json.loads(text)
    except ValueError as problem:
        raise UsageError(
            f"{option}: no JSON: {problem}", reason="json-malformed", fix=f"write it like {option} '{{\"a\": 1}}'"
        ) from problem


def pairs(texts: list[str] | None) -> dict[str, str]:
    """`K=V` options as a mapping. Raises UsageError."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(
                f"--property {text!r} is not K=V", reason="property-malformed", fix="write it like --property k=v"
            )
        found[name] = value
    return found


def print_line(text: str = "") -> None:
    """One line of data on stdout, flushed."""
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def print_block(text: str) -> None:
    """Several lines of our own text on stdout."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A message for people on stderr: progress, warnings, hints."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout. Cells are plain text; what peers sent is made printable here."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    shown = console()
    with shown.capture() as capture:
        shown.print(table)
    sys.stdout.writelines(line.rstrip() + "\n" for line in capture.get().splitlines())


def print_facts(facts: Iterable[tuple[str, str]], *, indent: str = "") -> None:
    """Names and values, one pair per line, values aligned. A value of several lines continues below itself."""
    pairs = [(name, value) for name, value in facts if value]
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        first, *rest = value.split("\n")
        sys.stdout.write(f"{indent}{name:<{width}}  {printable(first)}\n")
        sys.stdout.writelines(f"{indent}{'':<{width}}  {printable(line)}\n" for line in rest)
    sys.stdout.flush()  # whoever serves on must not sit on what it said


def console() -> Console:
    """Rich on stdout."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def printable(text: str) -> str:
    """`text` without what could steer a terminal: peers choose names, topics and messages."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def utc(at: datetime) -> str:
    """`2026-01-31 12:00:00 UTC`."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def iso(at: datetime) -> str:
    """`2026-01-31T12:00:00Z`, for machines."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def duration(span: timedelta) -> str:
    """The two largest units: `28 days 3 h`, `5 h 2 min`, `42 s`. Never negative."""
    seconds = abs(int(span.total_seconds()))
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, seconds = divmod(rest, 60)
    units = ((days, "day" if days == 1 else "days"), (hours, "h"), (minutes, "min"), (seconds, "s"))
    first = next((place for place, (count, _) in enumerate(units) if count), len(units) - 1)
    return " ".join(
        f"{count} {unit}" for count, unit in units[first : first + 2] if count or unit == "s" == units[first][1]
    )


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
