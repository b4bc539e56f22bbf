"""HTTP over unix sockets, with the caller's identity from the kernel.

Rules. Who calls is what the kernel says of the connected process (SO_PEERCRED); nothing in a request can change it. A
socket file left by a process that has died is replaced, one of a process that serves is not. The path may be longer
than a socket address can be: it is bound through its directory. Must not know routes or who may call them.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from edgetrust import limits
from edgetrust.errors import ConfigError

_CREDENTIALS = struct.Struct("3i")
_FIRST_INHERITED = 3  # SD_LISTEN_FDS_START
_ADDRESS_BYTES = 107  # of a socket's path, without the final zero (unix(7))


@dataclass(frozen=True, slots=True)
class Caller:
    """The process at the other end of a connection, as it was when it connected."""

    pid: int
    uid: int
    gid: int


def peer(request: web.BaseRequest) -> Caller | None:
    """The caller of a request; None when the connection has gone."""
    connection = request.get_extra_info("socket")
    if connection is None:
        return None
    try:
        return Caller(
            *_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        )
    except OSError:
        return None


def inherited(path: Path) -> socket.socket | None:
    """The listening socket for `path` that a supervisor opened for this process (sd_listen_fds(3)), if there is one."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    for number in range(_FIRST_INHERITED, _FIRST_INHERITED + int(os.environ.get("LISTEN_FDS") or "0")):
        found = socket.socket(fileno=os.dup(number))
        if found.family == socket.AF_UNIX and os.path.realpath(found.getsockname() or "") == os.path.realpath(path):
            os.set_inheritable(number, False)
            found.setblocking(False)
            return found
        found.close()
    return None


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """An address for a socket, however long its path: through its directory, while the block runs. Raises OSError."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = len(str(path).encode()) <= _ADDRESS_BYTES
        yield str(path) if short else f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


class UnixServer:
    """An application that is being served on a socket. Made by `serve_unix`."""

    __slots__ = ("_ours", "_runner", "path")

    def __init__(self, runner: web.AppRunner, path: Path, *, ours: bool) -> None:
        self._runner = runner
        self._ours = ours
        self.path = path

    async def close(self) -> None:
        """Let requests in progress finish, close the application, remove the socket unless a supervisor keeps it."""
        await self._runner.cleanup()
        if self._ours:
            self.path.unlink(missing_ok=True)


async def serve_unix(app: web.Application, path: Path, *, mode: int = 0o660) -> UnixServer:
    """Serve `app` on the socket `path`: on one that a supervisor opened, or else on a new one, which gets `mode`.

    Raises ConfigError when another process serves there.
    """
    held = inherited(path)
    listening = _bound(path, mode) if held is None else held
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=limits.HTTP_KEEP_ALIVE_SECONDS,
        max_line_size=limits.HTTP_HEADER_BYTES,
        max_field_size=limits.HTTP_HEADER_BYTES,
        shutdown_timeout=limits.CLOSE_SECONDS,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
    except BaseException:
        await runner.cleanup()
        raise
    return UnixServer(runner, path, ours=held is None)


def _bound(path: Path, mode: int) -> socket.socket:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with address_of(path) as address:
            return _bound_to(address, path, mode)
    except OSError as problem:
        raise ConfigError(f"{path} cannot be served on: {problem.strerror}", reason="socket-unusable") from problem


def _bound_to(address: str, path: Path, mode: int) -> socket.socket:
    if path.exists() and _answers(address):
        raise ConfigError(
            f"another process serves on {path}", reason="socket-in-use", fix="give each gateway its own --root"
        )
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(address)
        path.chmod(mode)
        listening.listen(limits.UNIX_BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(address) == 0
