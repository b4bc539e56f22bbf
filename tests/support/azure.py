"""The unmodified Azure SDKs, driven from tests. Those for Python run in .venv-azure, those for Node from .node-azure;
they talk in JSON lines.

A missing SDK fails the test with the command that mends it.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any

from support.pages import ROOT

PYTHON = ROOT / ".venv-azure" / "bin" / "python"
NODE_MODULES = ROOT / ".node-azure" / "node_modules"
CLIENTS = ROOT / "tests" / "interop" / "clients"
SECONDS = 60.0  # longer than the SDK's own pauses


class SdkError(Exception):
    """What the SDK raised. `causes` are the names of the error and of those behind it; `status` is HTTP's, if any."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['causes']}: {error['text']}")
        self.module: str = error["module"]
        self.causes: list[str] = error["causes"]
        self.status: int | None = error.get("status")

    @property
    def kind(self) -> str:
        return self.causes[0]


class Sdk:
    """One program of tests/interop/clients that runs. `prefix` starts it elsewhere, `environment` is added."""

    def __init__(
        self,
        client: str,
        *arguments: str,
        log: Path,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        with log.open("a") as errors:
            self._running = subprocess.Popen(
                [*prefix, *self.command(client), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **self.environment(), **(environment or {})},
            )
        self._log = log
        self._numbers = itertools.count(1)
        self._answers: dict[int, Future[Any]] = {}
        self._news: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, args=(self._pipe(self._running.stdout),))
        self._reader.start()

    def command(self, client: str) -> list[str]:
        """What runs a program of tests/interop/clients."""
        assert PYTHON.exists(), f"{PYTHON} is missing; in {ROOT}: make .venv-azure/.installed (make test does it too)"
        return [str(PYTHON), str(CLIENTS / f"{client}.py")]

    def environment(self) -> dict[str, str]:
        """What that program's environment has besides."""
        return {}

    def begin(self, do: str, **words: Any) -> Future[Any]:
        """Give a command; its answer comes in the future, an SdkError when the SDK raised one."""
        number, answer = next(self._numbers), Future[Any]()
        with self._changed:
            self._answers[number] = answer
            pipe = self._pipe(self._running.stdin)
            pipe.write(json.dumps({"id": number, "do": do, **words}) + "\n")
            pipe.flush()
        return answer

    def do(self, do: str, **words: Any) -> Any:
        """Give a command and wait for its answer."""
        return self.begin(do, **words).result(SECONDS)

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the registry manager."""
        return self.do(method, arguments=arguments, options=options)

    def news(self, client: str, event: str) -> list[dict[str, Any]]:
        """What a client has told so far."""
        with self._changed:
            return self._chosen(client, event)

    def wait_for(self, client: str, event: str, count: int = 1, seconds: float = SECONDS) -> list[dict[str, Any]]:
        """Wait until a client has told of `count` such events."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self._chosen(client, event)) >= count, seconds)
            assert came, f"{client}: {len(self._chosen(client, event))} of {count} x {event!r} in {seconds} s"
            return self._chosen(client, event)

    def close(self) -> None:
        """End it."""
        self._pipe(self._running.stdin).close()
        try:
            self._running.wait(10)
        except subprocess.TimeoutExpired:  # a client that still waits for its hub
            self._running.kill()
            self._running.wait()
        self._reader.join()
        self._pipe(self._running.stdout).close()

    def _chosen(self, client: str, event: str) -> list[dict[str, Any]]:
        return [told for told in self._news if (told["client"], told["event"]) == (client, event)]

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            said = json.loads(line)
            with self._changed:
                if "id" not in said:
                    self._news.append(said)
                elif "error" in said:
                    self._answers.pop(said["id"]).set_exception(SdkError(said["error"]))
                else:
                    self._answers.pop(said["id"]).set_result(said["ok"])
                self._changed.notify_all()
        with self._changed:
            for answer in self._answers.values():
                answer.set_exception(AssertionError(f"the SDK's process ended: {self._log.read_text()[-3000:]}"))

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None  # Popen was asked for pipes
        return pipe


class NodeSdk(Sdk):
    """The program of tests/interop/clients/node: devices and services in one process. `trust` is the CA's file."""

    def __init__(self, *, log: Path, trust: Path, prefix: Sequence[str] = ()) -> None:
        self._trust = trust
        super().__init__("node", log=log, prefix=prefix)

    def command(self, client: str) -> list[str]:
        assert NODE_MODULES.exists(), (
            f"{NODE_MODULES} is missing; in {ROOT}: make .node-azure/.installed (make test too)"
        )
        return ["node", str(CLIENTS / client / "main.js")]

    def environment(self) -> dict[str, str]:
        return {"NODE_PATH": str(NODE_MODULES), "NODE_EXTRA_CA_CERTS": str(self._trust)}
