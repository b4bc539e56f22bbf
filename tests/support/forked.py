"""Processes of `edgetrust` that do not start Python first.

A start of Python that imports a hub or a gateway costs a second of a processor, and a run of all tests starts many
hundreds. Here one process for each process of the tests has imported everything, and forks what it is asked for: a
process of its own, with its own arguments, environment, descriptors and end, that runs what the console script runs.
Who wants to see a start itself, by the console script or the module, starts it as a user does (tests/docs, the story).

What is between: the one that has imported everything forks one that waits, which forks the one asked for, and says its
process id and how it ended. Each of them holds only the descriptors that are for it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

_REQUEST_BYTES = 1_000_000
_IMPORTED_LATE = ("alembic.command", "alembic.ddl", "alembic.runtime.environment", "typer._adapters")
_NOT_IMPORTED = ("edgetrust.cli.__main__", "edgetrust.store.migrations")  # they do something when they are


class Forked:
    """One process of `edgetrust`; as subprocess.Popen, where it has the same names."""

    def __init__(
        self,
        arguments: list[str],
        *,
        stderr: IO[Any],
        stdout: IO[Any] | None = None,
        stdin: IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`stdout`: where it prints; a pipe if not given, whose end is the attribute `stdout`."""
        self.args = arguments
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        reads, says = os.pipe()
        asked = {"arguments": arguments, "cwd": str(Path.cwd()), "env": dict(os.environ if env is None else env)}
        ours: list[int] = [says]
        try:
            nothing = os.open(os.devnull, os.O_RDONLY)
            ours.append(nothing)
            if stdout is None:
                printed, prints = os.pipe()
                ours.append(prints)
                self.stdout = os.fdopen(printed)
            else:
                prints = stdout.fileno()
            given = [nothing if stdin is None else stdin.fileno(), prints, stderr.fileno(), says]
            socket.send_fds(_origin(), [json.dumps(asked).encode()], given)
        finally:
            for descriptor in ours:
                os.close(descriptor)
        self._said = os.fdopen(reads)
        said = self._said.readline()
        assert said, "the process that forks has ended"
        self.pid = int(said)

    def poll(self) -> int | None:
        """The exit code (negative: the signal that ended it), None while it runs."""
        if self.returncode is None and self._has_said(0):
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not self._has_said(timeout):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self._end()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _has_said(self, timeout: float | None) -> bool:
        """Whether something was said within that time. With poll(2): a test of many devices has many descriptors."""
        waits = select.poll()
        waits.register(self._said, select.POLLIN)
        return bool(waits.poll(None if timeout is None else timeout * 1000))

    def _end(self) -> None:
        self.returncode = int(self._said.readline())
        self._said.close()


def run(
    *arguments: str, timeout: float, stdin: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command of `edgetrust` to its end. Raises subprocess.TimeoutExpired."""
    with (
        tempfile.TemporaryFile("w+") as given,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        given.write(stdin)
        given.seek(0)
        process = Forked(list(arguments), stdin=given, stdout=out, stderr=err, env=env)
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(["edgetrust", *arguments], code, out.read(), err.read())


@cache
def _origin() -> socket.socket:
    """The way to the process that has imported everything; it ends when this one does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "support.forked", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# The process that forks ---------------------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Fork what is asked for, until nobody can ask. Comes back in each process that was asked for, too."""
    import edgetrust

    for module in pkgutil.walk_packages(edgetrust.__path__, "edgetrust."):
        if not module.name.startswith(_NOT_IMPORTED):
            importlib.import_module(module.name)
    for name in _IMPORTED_LATE:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: who asked decides what ends
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    with socket.socket(fileno=descriptor) as requests:
        while True:
            request, given, _, _ = socket.recv_fds(requests, _REQUEST_BYTES, 4)
            if not request:
                return
            if os.fork() == 0:
                asked = json.loads(request)
                _between(requests.detach(), given)
                _become(asked)
            for one in given:
                os.close(one)


def _between(requests: int, given: list[int]) -> None:
    """Fork again, and wait; comes back in the new process only, with descriptors 0 to 2 and no other."""
    *standard, says = given
    os.close(requests)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        for number, one in enumerate(standard):
            os.dup2(one, number)
        os.closerange(3, max(given) + 1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return
    for one in {0, 1, 2, *standard}:
        os.close(one)
    os.write(says, b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    os.write(says, b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _become(asked: dict[str, Any]) -> NoReturn:
    """What Python and the console script do at a start."""
    from edgetrust.cli.main import main

    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = ["edgetrust", *asked["arguments"]]
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    main()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
