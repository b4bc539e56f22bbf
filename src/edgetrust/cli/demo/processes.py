"""Processes of the story: started, watched, stopped, and never left behind unless asked for.

Each has its standard output and its messages in files of the story's folder. Nothing here knows what the processes do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edgetrust.errors import Error, UnavailableError

EDGETRUST = (sys.executable, "-m", "edgetrust.cli")
READY_SECONDS = 30.0  # a loaded machine; 1 to 2 s are usual
STOP_SECONDS = 20.0
_LOOK_SECONDS = 0.05

T = TypeVar("T")


class NotShownError(Error):
    """What the story states could not be shown. The message is the evidence against it."""


@dataclass(frozen=True, slots=True)
class Process:
    """One running program. `out` and `log` are its standard output and error."""

    name: str
    popen: subprocess.Popen[str]
    out: Path
    log: Path

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines on its standard output so far."""
        return _json_lines(self.out)

    def events(self, event: str, since: int = 0) -> list[dict[str, Any]]:
        """The log entries named `event` so far, from the entry number `since` on."""
        return [entry for entry in self.logged()[since:] if entry.get("event") == event]

    def logged(self) -> list[dict[str, Any]]:
        """The JSON lines of its log so far."""
        return _json_lines(self.log)

    def messages(self) -> str:
        """Its log as text."""
        return self.log.read_text("utf-8", "replace")

    def say(self, line: str) -> None:
        """One line to its standard input."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def finish(self) -> int:
        """Close its standard input and wait for its end."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        return self.popen.wait(STOP_SECONDS)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, by force if it does not end by itself."""
        if self.alive:
            self.popen.send_signal(number)
            try:
                self.popen.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        if self.popen.stdin is not None and not self.popen.stdin.closed:
            with suppress(BrokenPipeError):  # an ended process reads nothing
                self.popen.stdin.close()


@dataclass(slots=True)
class Processes:
    """All processes of one story. `directory` takes their files."""

    directory: Path
    started: list[Process] = field(default_factory=list)

    def start(
        self, name: str, *arguments: str | Path, environment: Mapping[str, str] | None = None, talks: bool = False
    ) -> Process:
        """Start `edgetrust ARGUMENTS`. With `talks` its standard input is ours."""
        self.directory.mkdir(parents=True, exist_ok=True)
        number = sum(1 for process in self.started if process.name == name)
        stem = name if number == 0 else f"{name}-{number + 1}"
        out, log = self.directory / f"{stem}.out", self.directory / f"{stem}.log"
        with out.open("w") as out_file, log.open("w") as log_file:
            popen = subprocess.Popen(
                [*EDGETRUST, *map(str, arguments)],
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=out_file,
                stderr=log_file,
                env=environ(environment),
                text=True,
                start_new_session=True,
            )
        process = Process(name, popen, out, log)
        self.started.append(process)
        return process

    def stop_all(self) -> None:
        """End whatever still runs, the last started first."""
        for process in reversed(self.started):
            process.stop()

    @property
    def running(self) -> tuple[Process, ...]:
        return tuple(process for process in self.started if process.alive)


def wait_for(what: str, look: Callable[[], T | None], seconds: float, process: Process | None = None) -> T:
    """The first answer of `look` that is not None. Raises UnavailableError when it does not come or `process` ends."""
    until = time.monotonic() + seconds
    while True:
        found = look()
        if found is not None:
            return found
        if process is not None and not process.alive:
            last = process.messages().strip().splitlines()[-3:]
            raise UnavailableError(f"{process.name} ended: {' '.join(last) or 'without a word'}", reason="demo-process")
        if time.monotonic() > until:
            raise UnavailableError(f"no {what} within {seconds:g} s", reason="demo-late")
        time.sleep(_LOOK_SECONDS)


def first_line(process: Process) -> dict[str, Any]:
    """The object that an actor prints when it is ready."""
    return wait_for(f"sign of {process.name}", lambda: next(iter(process.lines()), None), READY_SECONDS, process)


def run(*command: str | Path, environment: Mapping[str, str] | None = None, text: str = "") -> Finished:
    """Run a program to its end."""
    done = subprocess.run(
        [str(word) for word in command],
        input=text,
        capture_output=True,
        text=True,
        env=environ(environment),
        timeout=120,
        check=False,
        errors="replace",
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def edgetrust(*arguments: str | Path) -> Finished:
    """Run `edgetrust ARGUMENTS` to its end."""
    return run(*EDGETRUST, *arguments)


@dataclass(frozen=True, slots=True)
class Finished:
    """What a program left."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its standard output. Raises NotShownError when the program failed."""
        if self.code != 0:
            raise NotShownError(self.error, reason="demo-command")
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """Its last error, one line."""
        lines = [line for line in self.err.strip().splitlines() if line.startswith("error: ")]
        return (lines or self.err.strip().splitlines() or [f"exit code {self.code}"])[-1].removeprefix("error: ")


def environ(more: Mapping[str, str] | None) -> dict[str, str]:
    """Our environment without what would lead the story's programs elsewhere."""
    ours = {name: value for name, value in os.environ.items() if name not in ("EDGETRUST_DIR", "SSL_CERT_FILE")}
    return {**ours, "PYTHONUNBUFFERED": "1", **(more or {})}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text("utf-8", "replace").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
