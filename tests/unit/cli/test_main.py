"""Whoever types something wrong is told what and what to do, in two lines, with the promised exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from edgetrust import __version__
from edgetrust.cli import main
from edgetrust.cli.main import COMMANDS, run
from edgetrust.errors import (
    ConfigError,
    Error,
    IntegrityError,
    PeerError,
    RefusedError,
    UnavailableError,
    UsageError,
)

Call = Callable[..., Any]
HERE = Path(__file__)


def test_help_names_every_command(edgetrust: Call) -> None:
    shown = edgetrust("--help")
    assert shown.code == 0
    for name in COMMANDS:
        assert f" {name} " in shown.out


def test_help_imports_no_command() -> None:
    code = (
        "import sys; from edgetrust.cli.main import run; run(['--help']);"
        "heavy = {'aiohttp', 'sqlalchemy', 'OpenSSL', 'cryptography', 'edgetrust.cli.device'} & set(sys.modules);"
        "sys.exit(','.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_version(edgetrust: Call) -> None:
    assert edgetrust("--version").out == f"edgetrust {__version__}\n"


def test_an_unknown_command_names_the_nearest(edgetrust: Call) -> None:
    shown = edgetrust("devic")
    assert shown.code == 2
    assert "Did you mean 'device'?" in shown.err
    assert "fix: see edgetrust --help" in shown.err


def test_a_group_without_a_command_shows_its_help(edgetrust: Call) -> None:
    shown = edgetrust("cert")
    assert shown.code == 2
    assert "thumbprint" in shown.out
    assert "error" not in shown.err


def test_an_unknown_option_is_usage(edgetrust: Call) -> None:
    shown = edgetrust("explain", "--nonsense")
    assert shown.code == 2
    assert shown.err.startswith("error: ")


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (Error("e"), 1),
        (UsageError("e"), 2),
        (ConfigError("e"), 2),
        (PeerError("e", reason="r"), 1),
        (UnavailableError("e"), 3),
        (IntegrityError("e"), 4),
        (RefusedError("e", reason="r"), 1),
    ],
)
def test_every_error_has_its_exit_code(
    problem: Error, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _command(monkeypatch, lambda: _raise(problem))
    assert run(["explain"]) == code
    assert capsys.readouterr().err == "error: e\n"


def test_the_fix_is_the_second_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _command(monkeypatch, lambda: _raise(UsageError("wrong", fix="do right")))
    assert run(["explain"]) == 2
    assert capsys.readouterr().err == "error: wrong\nfix: do right\n"


def test_verbose_shows_where_it_came_from(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _command(monkeypatch, lambda: _raise(UsageError("wrong")))
    run(["-v", "explain"])
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("error: wrong\n")


def test_an_interrupt_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _command(monkeypatch, lambda: _raise(KeyboardInterrupt()))
    assert run(["explain"]) == 130
    assert capsys.readouterr().err == ""


def test_a_command_may_end_with_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    _command(monkeypatch, lambda: _raise(typer.Exit(7)))
    assert run(["explain"]) == 7


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    done = subprocess.run(
        f"{sys.executable} -m edgetrust.cli explain | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_completion_knows_commands_and_reasons() -> None:
    shown = _complete("edgetrust explain thumb", 2)
    assert "thumbprint-mismatch" in shown
    assert "create" in _complete("edgetrust device cr", 2)
    assert "monitor" in _complete("edgetrust mon", 1)


def _complete(words: str, word: int) -> str:
    environment = {**os.environ, "_EDGETRUST_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(word)}
    done = subprocess.run(
        [sys.executable, "-c", "from edgetrust.cli.main import main; main()"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def _command(monkeypatch: pytest.MonkeyPatch, body: Callable[[], None]) -> None:
    replaced = typer.Typer()
    replaced.command()(body)
    monkeypatch.setattr(main, "load", lambda _name: typer.main.get_command(replaced))


def _raise(problem: BaseException) -> None:
    raise problem
