"""The servers that are measured: each one a process of its own on core 0, and what the kernel says it has used.

CPU is the process's CPU clock, in nanoseconds and over all of its threads, children included. Memory is what belongs to
the process (`Pss`), so that pages shared with others do not count twice.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

SERVER_CORE, GENERATOR_CORE = 0, 1
START_SECONDS = 30.0
STOP_SECONDS = 15.0
_CPU_OF_PROCESS = 2  # Linux: clock identifier of another process's scheduler clock, see clock_getcpuclockid(3)

MOSQUITTO = """\
per_listener_settings false
persistence false
log_dest none
log_type none
connection_messages false
max_queued_messages 0
max_keepalive 65535
listener {port} 127.0.0.1
cafile {root}
certfile {chain}
keyfile {key}
require_certificate true
use_identity_as_username true
allow_anonymous false
user root
"""


class ServerFailedError(Exception):
    """A server did not start, or ended while it was needed."""


class Server:
    """A child process. Stop it, or use it in a `with` statement."""

    def __init__(self, name: str, command: Sequence[str | Path], log: Path, *, pinned: bool = True) -> None:
        self.name = name
        self.said = ""
        self.log = log
        self._errors = log.open("ab")
        with _on_core(SERVER_CORE) if pinned else contextlib.nullcontext():  # threads started later stay there too
            self.started = time.perf_counter()
            self.process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors
            )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def first_line(self) -> str:
        """The first line on standard output, which says that the server is ready."""
        assert self.process.stdout is not None
        descriptor, line = self.process.stdout.fileno(), b""
        poll = select.poll()  # select ends at descriptor 1,023
        poll.register(descriptor, select.POLLIN)
        deadline = time.perf_counter() + START_SECONDS
        while not line.endswith(b"\n"):
            ready = poll.poll(max(0.0, deadline - time.perf_counter()) * 1000)
            piece = os.read(descriptor, 65536) if ready else b""
            if not piece:
                raise ServerFailedError(
                    f"{self.name} did not say that it is ready, see {self.log}:\n{self._last_words()}"
                )
            line += piece
        return line.decode()

    def wait_for_port(self, port: int) -> None:
        """Until something listens."""
        deadline = time.perf_counter() + START_SECONDS
        while time.perf_counter() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.02)
        raise ServerFailedError(f"{self.name} does not listen on {port}, see {self.log}:\n{self._last_words()}")

    def cpu(self) -> float:
        """Seconds of CPU used so far."""
        return sum(time.clock_gettime(~pid << 3 | _CPU_OF_PROCESS) for pid in self._tree())

    def threads(self) -> list[float]:
        """Seconds of CPU of each thread, the first one first."""
        tasks = sorted(Path(f"/proc/{self.process.pid}/task").iterdir(), key=lambda task: int(task.name))
        fields = [(task / "stat").read_text().rpartition(")")[2].split() for task in tasks]
        return [(int(each[11]) + int(each[12])) / os.sysconf("SC_CLK_TCK") for each in fields]

    def memory(self) -> int:
        """Bytes of memory."""
        return sum(_pss(pid) for pid in self._tree())

    def stop(self) -> None:
        """End it, by force if it does not."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._errors.close()

    def _tree(self) -> list[int]:
        if self.process.poll() is not None:
            raise ServerFailedError(f"{self.name} has ended, see {self.log}:\n{self._last_words()}")
        below = _children()
        found = [self.process.pid]
        for pid in found:
            found += below.get(pid, ())
        return found

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


def mosquitto(directory: Path, root: Path, chain: Path, key: Path) -> tuple[Server, int]:
    """mosquitto, TLS only, that asks for a certificate and verifies it."""
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise ServerFailedError("mosquitto is not installed: apt-get install mosquitto")
    port = free_port()
    file = directory / "mosquitto.conf"
    file.write_text(MOSQUITTO.format(port=port, root=root, chain=chain, key=key))
    server = Server("mosquitto", [program, "-c", file], directory / "mosquitto.log")
    server.wait_for_port(port)
    return server, port


def transport_only(directory: Path, chain: Path, key: Path, *options: str) -> tuple[Server, int]:
    """Our TLS and MQTT without decisions and without a disk."""
    program = Path(__file__).with_name("transport_only.py")
    command: list[str | Path] = [sys.executable, program, "--certificate", chain, "--key", key, *options]
    server = Server("transport-only", command, directory / "transport.log")
    return server, int(server.first_line())


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pin_generator() -> bool:
    """Put this process on its own core; False if the machine has one core only, when figures say little."""
    if not {SERVER_CORE, GENERATOR_CORE} <= os.sched_getaffinity(0):
        return False
    os.sched_setaffinity(0, {GENERATOR_CORE})
    return True


@contextlib.contextmanager
def _on_core(core: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _children() -> dict[int, list[int]]:
    """All processes by their parent."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # ended meanwhile
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found.setdefault(parent, []).append(int(entry.name))
    return found


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ServerFailedError(f"/proc/{pid}/smaps_rollup says nothing about Pss")
