"""A gateway as four processes of four users, started by a plain supervisor as systemd would: sockets first.

Without root everything runs as one user; what only several users can show is asserted by tests that say so.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.edge_world import wait_until

NAMES = ("keyd", "certd", "identityd", "edged")
_FIRST_UID = 48_610  # of nobody on a usual machine
_GROUPS = {  # edge specification 0.1
    "keyd": (),
    "certd": ("keyd",),
    "identityd": ("certd", "keyd"),
    "edged": ("keyd", "certd", "identityd"),
}
_PACKAGE = str(Path(__file__).parents[2] / "src")


def uid(name: str) -> int:
    """The user of a service; its group has the same number."""
    return _FIRST_UID + NAMES.index(name) if os.geteuid() == 0 else os.geteuid()


def _closed_above(tree: Path) -> Path | None:
    return next((place for place in reversed(tree.parents) if not place.stat().st_mode & 0o001), None)


def _as_user(name: str) -> list[str]:
    groups = ",".join(str(uid(one)) for one in (name, *_GROUPS[name]))
    return ["setpriv", f"--reuid={uid(name)}", f"--regid={uid(name)}", f"--groups={groups}"]


@dataclass
class Separated:
    """The four processes below one root; `trace` writes what each opens, by strace."""

    trace: bool = False
    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="edge-")))
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    sockets: dict[str, socket.socket] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root.chmod(0o755)
        self._own("etc/aziot", None)
        self._own("run/aziot", None)
        self._own("logs", None, 0o777)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(self.root / "notify"))
        (self.root / "notify").chmod(0o666)
        self.notify.setblocking(False)
        for name in ("keyd", "certd", "identityd"):
            self._own(f"var/lib/aziot/{name}", name, 0o700)
            self.sockets[name] = self._listen(name)
        for place in ("var/lib/edgetrust", "var/lib/aziot/edged", "run/iotedge"):
            self._own(place, "edged")

    def configure(self, config: str) -> None:
        """Write config.toml, which every service reads."""
        self.file("config.toml").write_text(config + self._users())

    def file(self, name: str) -> Path:
        """A file below etc/aziot."""
        return self.root / "etc/aziot" / name

    def give(self, source: Path, name: str) -> Path:
        """A file of the user's, for one service only."""
        target = self.file(source.name)
        shutil.copyfile(source, target)
        target.chmod(0o600)
        self._chown(target, name)
        return target

    def _users(self) -> str:
        table = "".join(f"{name} = {uid(name)}\n" for name in NAMES[1:])
        return f"\n[edgetrust.users]\n{table}"

    def _own(self, place: str, name: str | None, mode: int = 0o755) -> None:
        path = self.root / place
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        if name is not None:
            self._chown(path, name)

    def _chown(self, path: Path, name: str) -> None:
        os.chown(path, uid(name), uid(name) if os.geteuid() == 0 else os.getegid())

    def _listen(self, name: str) -> socket.socket:
        path = self.root / f"run/aziot/{name}.sock"
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.bind(str(path))
        path.chmod(0o660)
        self._chown(path, name)
        made.listen(64)
        return made

    # Processes ------------------------------------------------------------------------------------------------------

    def start(self, names: Iterable[str] = NAMES) -> None:
        """Start services, in that order, without waiting for any."""
        for name in names:
            self._start(name)

    def _start(self, name: str) -> None:
        command = [sys.executable, "-m", "edgetrust.cli", "edge", name, "--root", str(self.root), "--json"]
        if name == "edged":
            command += ["--mqtt-port", "0", "--https-port", "0"]
        environment = {**os.environ, "PYTHONPATH": _PACKAGE, "HOME": "/", "PYTHONDONTWRITEBYTECODE": "1"}
        environment["NOTIFY_SOCKET"] = str(self.root / "notify")
        inherited = self.sockets.get(name)
        if inherited is not None:  # as systemd passes it (sd_listen_fds(3)): descriptor 3, for this very process
            passed = 'exec 3<&"$0"; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
            command = ["bash", "-c", passed, str(inherited.fileno()), *command]
        if self.trace:
            files = "trace=open,openat,openat2,execve"
            command = [
                "strace",
                "-D",
                "-f",
                "-qq",
                "--seccomp-bpf",
                "-e",
                files,
                "-o",
                str(self.log(name, "trace")),
                *command,
            ]
        if os.geteuid() == 0:
            command = [*self._opened(), *_as_user(name), *command]
        with self.log(name, "out").open("ab") as out, self.log(name, "log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command,
                env=environment,
                stdout=out,
                stderr=log,
                cwd="/",
                pass_fds=() if inherited is None else (inherited.fileno(),),
            )

    def _opened(self) -> list[str]:
        """Where the interpreter or this repository lies below a directory that others may not enter, as /root: show
        just these below it, in a mount namespace of the process's own.
        """
        needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix), Path(_PACKAGE)}
        closed = {place for tree in needed if (place := _closed_above(tree)) is not None}
        if not closed:
            return []
        script = []
        for number, place in enumerate(sorted(closed)):
            shown = self.root / f"shown{number}"
            for tree in sorted(one for one in needed if one.is_relative_to(place)):
                inside = shown / tree.relative_to(place)
                inside.mkdir(parents=True, exist_ok=True)
                script.append(f"mount --bind '{tree}' '{inside}'")
            script.append(f"mount --rbind '{shown}' '{place}'")
        return ["unshare", "--mount", "sh", "-ec", "; ".join([*script, 'exec "$0" "$@"'])]

    def log(self, name: str, kind: str = "log") -> Path:
        return self.root / f"logs/{name}.{kind}"

    def ready(self, name: str, count: int = 1, seconds: float = 60) -> dict[str, Any]:
        """What a service printed when it was ready for the `count`th time."""
        out = self.log(name, "out")

        def there() -> bool:
            assert self.running[name].poll() is None, self.log(name).read_text()[-3000:]
            return len(out.read_text().splitlines()) >= count

        try:
            wait_until(there, seconds)
        except AssertionError as late:
            logs = "".join(f"--- {one}\n{self.log(one).read_text()[-1500:]}" for one in self.running)
            raise AssertionError(f"{name} is not ready\n{logs}") from late
        return dict(json.loads(out.read_text().splitlines()[count - 1]))

    def notified(self) -> list[str]:
        """What the services have told their supervisor since the last call (sd_notify(3))."""
        self._listen_to_services()
        told, self.told = self.told, []
        return told

    def _listen_to_services(self) -> None:
        """Take what they have told: ten words fill the socket, and then they would wait."""
        with suppress(BlockingIOError):
            while True:
                self.told.append(self.notify.recv(1000).decode())

    def end(self, name: str, number: int = signal.SIGTERM) -> None:
        """End one service."""
        self._listen_to_services()
        process = self.running.pop(name)
        process.send_signal(number)
        process.wait(60)

    def close(self) -> None:
        for name in reversed(NAMES):
            if name not in self.running:
                continue
            self.end(name)
        for held in (*self.sockets.values(), self.notify):
            held.close()
        shutil.rmtree(self.root)
