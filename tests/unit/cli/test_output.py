"""Output: data whole, times in UTC, nothing that steers a terminal."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType

import pytest

from edgetrust.cli import output


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(days=28, hours=3, minutes=5), "28 days 3 h"),
        (timedelta(days=1), "1 day"),
        (timedelta(hours=5, minutes=2), "5 h 2 min"),
        (timedelta(minutes=2), "2 min"),
        (timedelta(minutes=2, seconds=1), "2 min 1 s"),
        (timedelta(seconds=42), "42 s"),
        (timedelta(0), "0 s"),
        (timedelta(hours=-3), "3 h"),
    ],
)
def test_durations_have_two_units(span: timedelta, text: str) -> None:
    assert output.duration(span) == text


def test_times_are_utc() -> None:
    at = datetime(2026, 1, 31, 13, 0, tzinfo=timezone(timedelta(hours=1)))
    assert output.utc(at) == "2026-01-31 12:00:00 UTC"
    assert output.iso(at) == "2026-01-31T12:00:00Z"


def test_a_table_in_a_pipe_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("A", "B"), [("x" * 300, "[bold]y[/bold]")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "x" * 300 in lines[1]
    assert "[bold]y[/bold]" in lines[1]


def test_what_peers_chose_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_line("red\x1b[31m\nline")
    output.print_table(("A",), [("\x1b[2J",)])
    output.print_facts([("name", "\x07bell")])
    assert "\x1b" not in (shown := capsys.readouterr().out)
    assert "\x07" not in shown


def test_facts_align_and_leave_out_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_facts([("a", "1"), ("long", "2\n3"), ("none", "")], indent="  ")
    assert capsys.readouterr().out == "  a     1\n  long  2\n        3\n"


def test_json_knows_times_and_paths(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    output.print_json({"at": at, "path": Path("/x"), "map": MappingProxyType({"a": 1})})
    assert json.loads(capsys.readouterr().out) == {"at": "2026-01-01T00:00:00Z", "path": "/x", "map": {"a": 1}}
    output.print_json_line({"a": "é"})
    assert capsys.readouterr().out == '{"a":"é"}\n'


def test_messages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("working")
    output.print_block("data\n")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("data\n", "working\n")
