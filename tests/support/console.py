"""Runs the console blocks of one page as a reader would type them, in an empty directory, in order.

    python -m support.console PAGE DIRECTORY

A block runs when `<!-- run -->` stands right before it. In the block, `$ ` starts a command; a command goes on over
lines that end in a backslash and to the end of a here-document; other lines are the output that must come, where `...`
stands for anything. The marker may say more:

    <!-- run: until="TEXT" -->    the command stays running; go on when its output holds TEXT, and is what is shown
    <!-- run: until="TEXT" written="FILE" -->    the same, and a line of FILE, into which it writes, is there
    <!-- run: exit="1" -->        the exit code that the block's last command must have (otherwise 0)
    <!-- run: as="COMMAND" -->    what is really run for the block's one command
    <!-- file: NAME -->           write the next block to the file NAME

Exported variables and the current directory carry over from command to command. What is still running at the end gets
SIGTERM and must end by itself. Exit code 1 and a transcript on stderr when the page does not hold.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from support.azure import NODE_MODULES
from support.pages import ROOT, Block, blocks

COMMAND_SECONDS = 240
READY_SECONDS = 60
STOP_SECONDS = 60
_KEPT = ("LANG", "LC_ALL", "TMPDIR", "USER")


class PageError(Exception):
    """The page says something that is not so."""


@dataclass(frozen=True, slots=True)
class Command:
    text: str
    expected: str


def commands(block: Block) -> Iterator[Command]:
    """The commands of a console block, each with the output shown below it."""
    lines = block.text.splitlines()
    at = 0
    while at < len(lines):
        if not lines[at].startswith("$ "):
            raise PageError(f"line {block.line + at + 1}: output without a command: {lines[at]!r}")
        typed = [lines[at][2:]]
        at += 1
        here = re.search(r"<<-?\s*'?(\w+)'?", typed[0])
        while at < len(lines) and (typed[-1].endswith("\\") or (here and typed[-1] != here[1])):
            typed.append(lines[at].removeprefix("> ") if not here else lines[at])
            at += 1
        shown = []
        while at < len(lines) and not lines[at].startswith("$ "):
            shown.append(lines[at])
            at += 1
        yield Command("\n".join(typed), "\n".join(shown).strip())


def matches(expected: str, output: str) -> bool:
    """Whether `output` is what the page shows; `...` stands for anything, spaces at line ends do not count."""
    parts = [re.escape(_trimmed(part)) for part in _trimmed(expected).split("...")]
    return re.fullmatch(".*".join(parts), _trimmed(output), re.DOTALL) is not None


def _compare(command: str, expected: str, output: str) -> None:
    if expected and not matches(expected, output):
        raise PageError(f"other output than shown: {command}\n--- shown\n{expected}\n--- came\n{output}")


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


class Reader:
    """Somebody at a terminal, following a page."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "work"
        self._state = directory / "state.sh"
        self._background: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._log = directory / "background.log"
        self._directory.mkdir()
        self._environment = _environment(directory)
        self.transcript: list[str] = []

    def follow(self, page: str) -> None:
        """Do what the page says. Raises PageError."""
        try:
            for block in blocks(page):
                if block.marker == "file":
                    self._write(block)
                elif block.marker == "run":
                    self._run(block)
        finally:
            self._stop()

    def _write(self, block: Block) -> None:
        path = self._directory / block.settings["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text.replace("/path/to", str(self._directory)) + "\n")

    def _run(self, block: Block) -> None:
        typed = list(commands(block))
        for number, command in enumerate(typed):
            text = block.settings.get("as", command.text)
            if "until" in block.settings:
                self._start(text.removesuffix("&").strip(), block.settings, command.expected)
                continue
            code = int(block.settings.get("exit", "0")) if number == len(typed) - 1 else 0
            self._do(text, command.expected, code)

    def _do(self, text: str, expected: str, code: int) -> None:
        before = f"[ ! -e {self._state} ] || . {self._state}"
        after = f"status=$?\n{{ declare -px; printf 'cd %q' \"$PWD\"; }} >{self._state}\nexit $status"
        script = f"{before}\n{text}\n{after}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        output = done.stdout.decode(errors="replace")
        self.transcript.append(f"$ {text}\n{output}[exit code {done.returncode}]")
        if done.returncode != code:
            raise PageError(f"exit code {done.returncode} instead of {code}: {text}")
        _compare(text, expected, output)

    def _start(self, text: str, settings: Mapping[str, str], expected: str) -> None:
        until, written = settings["until"], settings.get("written")
        log = self._log.with_suffix(f".{len(self._background)}")
        with log.open("wb") as file:
            state = f"[ ! -e {self._state} ] || . {self._state}\nexec {text}"
            process = subprocess.Popen(
                ["bash", "-c", state],
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._background.append((text, process))
        self.transcript.append(f"$ {text} &")
        deadline = time.monotonic() + READY_SECONDS

        def ready() -> bool:
            file = None if written is None else self._directory / written
            line = file is None or (file.exists() and "\n" in file.read_text())
            return line and until in log.read_text(errors="replace")

        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise PageError(f"{text}: no {until!r} in its output:\n{log.read_text(errors='replace')}")
            time.sleep(0.05)
        _compare(text, expected, log.read_text(errors="replace"))

    def _stop(self) -> None:
        for text, process in reversed(self._background):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired as late:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise PageError(f"still running {STOP_SECONDS} s after SIGTERM: {text}") from late
        for number in range(len(self._background)):
            self.transcript.append(self._log.with_suffix(f".{number}").read_text(errors="replace"))


def _environment(directory: Path) -> dict[str, str]:
    """A newcomer's environment: `edgetrust` is on PATH, `python` and `node` have the SDKs, nothing else is set."""
    programs = directory / "bin"
    programs.mkdir()
    (programs / "edgetrust").symlink_to(ROOT / ".venv" / "bin" / "edgetrust")
    path = [str(programs), str(ROOT / ".venv-azure" / "bin"), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    plain = {"TERM": "dumb", "COLUMNS": "120", "NO_COLOR": "1"}
    at_once = {"PYTHONUNBUFFERED": "1"}  # as on a terminal
    node = {"NODE_PATH": str(NODE_MODULES)}
    return {**kept, **plain, **at_once, **node, "PATH": ":".join(path), "HOME": str(directory)}


def main() -> int:
    """Follow one page; the exit code."""
    page, directory = Path(sys.argv[1]), Path(sys.argv[2])
    reader = Reader(directory)
    try:
        reader.follow(page.read_text())
    except (PageError, subprocess.TimeoutExpired) as problem:
        sys.stderr.write("\n".join([*reader.transcript, "", f"{page}: {problem}", ""]))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
