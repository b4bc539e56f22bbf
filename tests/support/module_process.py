"""A module for tests: runs the programs that it is told to over a unix socket, so that they are the module's processes.

python -m support.module_process SOCKET      a JSON list of arguments in, what the program printed out
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

STARTING_SECONDS = 60


def serve(path: str) -> None:
    """Serve for ever, one call at a time."""
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        while True:
            connection, _ = listening.accept()
            with connection, connection.makefile("rw") as stream:
                arguments = json.loads(stream.readline())
                if arguments == ["environment"]:
                    stream.write(json.dumps(dict(os.environ)))
                    continue
                done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
                stream.write(done.stdout)


def ask(path: Path, *arguments: str) -> str:
    """What a program prints that the module runs."""
    with _connected(path) as connection, connection.makefile("rw") as stream:
        stream.write(json.dumps(list(arguments)) + "\n")
        stream.flush()
        connection.shutdown(socket.SHUT_WR)
        return stream.read()


def processes_of(root: Path) -> dict[int, str]:
    """The processes of modules of the gateway below `root`, with their words: who was told a workload socket there."""
    mark, found = f"IOTEDGE_WORKLOADURI=unix://{root}/".encode(), {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (path / "environ").read_bytes():
                words = (path / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()
                found[int(path.name)] = words
    return found


def _connected(path: Path) -> socket.socket:
    """A connection to a module that may just be starting."""
    deadline = time.monotonic() + STARTING_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return connection


def curl_arguments(socket_path: str, method: str, route: str, body: Any, version: str) -> list[str]:
    """The curl command that asks a service."""
    data = [] if body is None else ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    url = f"http://localhost{route}?api-version={version}"
    return ["curl", "-s", "--unix-socket", socket_path, "-X", method, "-w", "\n%{http_code}", *data, url]


def parsed(text: str) -> tuple[int, Any]:
    """Status and JSON of what curl printed."""
    content, _, status = text.rpartition("\n")
    return int(status), json.loads(content) if content else None


if __name__ == "__main__":
    serve(sys.argv[1])
