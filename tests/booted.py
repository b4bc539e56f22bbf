"""A gateway's units under a systemd of their own: booted as process 1 in namespaces, on a copy of this machine's files.

    make systemd

The files of this machine are the lower half of an overlay whose upper half is memory, so nothing of this machine is
written to. Network, processes and cgroups are the booted system's own; /sys and /proc/sys are read-only. Inside, units
come from `edgetrust edge units` and users from systemd-sysusers, sockets are enabled and opened by systemd, and a hub,
a device and a gateway of four services of four users do what they do elsewhere. Exits 0 only when every line holds.
Needs root, overlayfs, cgroup v2 and systemd.
"""

from __future__ import annotations

import base64
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 400
SERVICES = {"keyd": "aziotks", "certd": "aziotcs", "identityd": "aziotid", "edged": "iotedge"}
PROGRAM = str(Path(sys.prefix) / "bin/edgetrust")
RESULT, ENDED = "result: ", "result: end"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BIND_LOW_PORTS = "0000000000000400"  # CAP_NET_BIND_SERVICE alone
_NONE = "0" * 16

BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$PLACE"
mkdir "$PLACE"/upper "$PLACE"/work "$PLACE"/root
cd "$PLACE/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$PLACE/upper,workdir=$PLACE/work" .
cd "$PLACE/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for one in null zero full random urandom tty; do touch dev/$one; mount --bind /dev/$one dev/$one; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
touch dev/console
mount --bind "$TTY" dev/console
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
for closed in $CLOSED; do chmod o+x ".$closed"; done
rm -rf etc/systemd/system/*.wants etc/aziot var/lib/aziot var/lib/edgetrust
"$PROGRAM" edge units --into etc >/dev/null 2>&1
printf '%s' "$UNIT" >etc/systemd/system/seen.service
mkdir -p old
pivot_root . old  # so that there is no way back to the files of this machine
cd /
umount -l /old
mount --make-rshared /  # as systemd expects of whoever boots it: credentials are mounts that come back to it
exec env -i container=edgetrust /lib/systemd/systemd --unit=seen.service --show-status=no --log-level=warning
"""
UNIT = """
[Unit]
Requires=basic.target
After=basic.target
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
TimeoutStartSec=infinity
WorkingDirectory=/tmp
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
ExecStart={python} {script} --inside
"""
HUB = """
[Service]
ExecStart={program} up --dir /srv/hub --mqtt-port 18883 --https-port 18443 --json
StandardOutput=file:/srv/ready
"""
CONFIG = """
hostname = "localhost"
[provisioning]
source = "manual"
iothub_hostname = "localhost"
device_id = "EdgeGateway"
[provisioning.authentication]
method = "sas"
device_id_pk = { uri = "file:///var/aziot/secrets/device-key" }
[edgetrust.upstream]
host = "127.0.0.1"
mqtt_port = 18883
https_port = 18443
ca = "file:///var/aziot/certs/hub.pem"
"""


# Outside ------------------------------------------------------------------------------------------------------------


def boot() -> int:
    """Boot, and print what holds as it comes. The exit code."""
    if os.geteuid() != 0:
        print("needs root", file=sys.stderr)
        return 2
    script = Path(__file__).resolve()
    needed = (Path(sys.base_prefix).resolve(), Path(sys.prefix), script)
    closed = {place for tree in needed for place in tree.parents if not place.stat().st_mode & 0o001}
    unit = UNIT.format(python=Path(sys.prefix) / "bin/python", script=script)
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="booted-") as place:
        ours, console = pty.openpty()
        known = {"PLACE": place, "TTY": os.ttyname(console), "CLOSED": " ".join(map(str, sorted(closed)))}
        known |= {"PROGRAM": PROGRAM, "UNIT": unit, "PATH": _PATH}
        namespaces = ["--pid", "--mount", "--uts", "--net", "--ipc", "--cgroup", "--fork", "--kill-child"]
        enter = 'echo $$ >"$GROUP/cgroup.procs"; exec "$@"'
        limited = ["timeout", "-s", "KILL", str(SECONDS), "unshare", *namespaces, "bash", "-c", BOOT]
        command = ["bash", "-c", enter, "enter", *limited]
        with (
            _group() as group,
            subprocess.Popen(
                command, env={**known, "GROUP": str(group)}, stdin=console, stdout=console, stderr=console
            ) as booted,
        ):
            os.close(console)
            for line in _printed(ours):
                if line.startswith(RESULT):
                    lines.append(line)
                    print(line.removeprefix(RESULT), flush=True)
                else:
                    print(f"    {line}", file=sys.stderr, flush=True)
            booted.wait()
    good = ENDED in lines and not any(line.startswith(f"{RESULT}FAILS") for line in lines)
    return 0 if good else 1


@contextmanager
def _group() -> Iterator[Path]:
    """A cgroup of its own, which is the root of those that are booted in it."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    made = Path(next(place for _, place, kind, *_ in mounts if kind == "cgroup2"), f"booted-{os.getpid()}")
    made.mkdir()
    try:
        yield made
    finally:
        for path in sorted((path for path in made.rglob("*") if path.is_dir()), reverse=True):
            path.rmdir()
        made.rmdir()


def _printed(terminal: int) -> Iterator[str]:
    rest = b""
    while True:
        try:
            more = os.read(terminal, 65_536)
        except OSError:  # the last process that had the console has ended
            more = b""
        if not more:
            os.close(terminal)
            return
        *lines, rest = (rest + more).split(b"\n")
        yield from (line.decode("utf-8", "replace").strip() for line in lines if line.strip())


# Inside -------------------------------------------------------------------------------------------------------------


def run(*command: str, ok: bool = True, seconds: float = 90) -> str:
    """The output of a program."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0 or not ok, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def until(true: Callable[[], bool], seconds: float = 90) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.2)


def of(service: str, name: str) -> str:
    """A property of a unit."""
    return run("systemctl", "show", "--value", "--property", name, f"aziot-{service}")


def status(service: str, *names: str) -> list[str]:
    """Words of /proc/PID/status."""
    text = Path(f"/proc/{of(service, 'MainPID')}/status").read_text()
    found = dict(line.split(":\t", 1) for line in text.splitlines())
    return [found[name].strip() for name in names]


def is_same(found: object, wanted: object) -> None:
    assert found == wanted, f"{found!r} is not {wanted!r}"


class Seen:
    """What is looked at in the booted system, each as a line."""

    def __init__(self) -> None:
        run("ip", "link", "set", "lo", "up")
        Path("/srv").mkdir(exist_ok=True)
        Path("/run/systemd/system").mkdir(parents=True, exist_ok=True)
        Path("/run/systemd/system/hub.service").write_text(HUB.format(program=PROGRAM))
        run("systemctl", "daemon-reload")
        run("systemctl", "start", "hub")
        until(lambda: Path("/srv/ready").exists() and Path("/srv/ready").read_text().endswith("\n"))
        ready = json.loads(Path("/srv/ready").read_text())
        Path("/var/aziot/certs/hub.pem").write_bytes(Path(ready["trust_bundle"]).read_bytes())
        key = Path("/var/aziot/secrets/device-key")
        key.write_bytes(base64.b64decode(self._made("EdgeGateway", "--edge")))
        run("chown", "aziotks:", str(key))
        key.chmod(0o600)
        Path("/etc/aziot").mkdir(exist_ok=True)
        Path("/etc/aziot/config.toml").write_text(CONFIG)
        Path("/etc/aziot/config.toml").chmod(0o600)
        Path("/tmp/sensor.key").write_text(self._made("Sensor", "--parent", "EdgeGateway"))

    def _made(self, device: str, *options: str) -> str:
        """Register a device; its key."""
        told = json.loads(run(PROGRAM, "device", "create", device, *options, "--keys", "--json", "--dir", "/srv/hub"))
        return str(told["authentication"]["symmetricKey"]["primaryKey"])

    def users_and_directories(self) -> None:
        for user in SERVICES.values():
            run("id", user)
        is_same(run("stat", "-c", "%U %a", "/var/aziot/secrets"), "aziotks 700")

    def sockets_are_opened_and_nothing_runs_yet(self) -> None:
        run("systemctl", "enable", "--now", *(f"aziot-{name}.socket" for name in SERVICES if name != "edged"))
        is_same({of(f"{name}.service", "ActiveState") for name in SERVICES}, {"inactive"})
        is_same(run("stat", "-c", "%U:%G %a", "/run/aziot/keyd.sock"), "aziotks:aziotks 660")

    def the_gateway_starts_and_with_it_whom_it_asks(self) -> None:
        run("systemctl", "start", "aziot-edged", seconds=120)
        is_same({of(name, "ActiveState") for name in SERVICES}, {"active"})
        is_same({of(name, "NRestarts") for name in SERVICES}, {"0"})

    def each_has_its_user_and_its_copy_of_the_configuration(self) -> None:
        for name, user in SERVICES.items():
            is_same(run("stat", "-c", "%U", f"/proc/{of(name, 'MainPID')}"), user)
            assert Path(f"/run/credentials/aziot-{name}.service/config.toml").read_text() == CONFIG

    def each_is_hardened(self) -> None:
        for name in SERVICES:
            is_same(status(name, "Seccomp", "NoNewPrivs"), ["2", "1"])
            is_same(status(name, "CapEff", "CapBnd"), [_BIND_LOW_PORTS if name == "edged" else _NONE] * 2)
            inside = ["nsenter", "-m", "-t", of(name, "MainPID"), "--"]
            refused = subprocess.run([*inside, "touch", "/etc/x"], capture_output=True, text=True, check=False)
            assert "Read-only file system" in refused.stderr, refused
        own = Path(f"/proc/{of('keyd', 'MainPID')}/ns/net").readlink()
        assert own != Path("/proc/self/ns/net").readlink(), "keyd has a network"

    def keys_are_the_key_services(self) -> None:
        keys = list(Path("/var/lib/aziot/keyd/keys").glob("*.key"))
        assert len(keys) >= 3, keys
        is_same({(path.owner(), path.stat().st_mode & 0o777) for path in keys}, {("aziotks", 0o600)})

    def it_listens_on_the_usual_ports(self) -> None:
        for port in (443, 8883):
            run("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}")

    def a_device_reaches_the_hub(self, message: str = "first") -> None:
        trust = next(Path("/var/lib/aziot/certd/certs").glob("aziotedgedca-*.cer"))
        run(PROGRAM, "device", "send", "Sensor", "--message", message, "--hub", "localhost", "--gateway",
            "localhost:8883", "--trust", str(trust), "--key-file", "/tmp/sensor.key")  # fmt: skip
        asked = [PROGRAM, "monitor", "--from", "start", "--device", "Sensor", "--timeout", "1", "--json", "--dir"]
        until(lambda: message in run(*asked, "/srv/hub", ok=False))

    def one_that_is_killed_is_started_again_and_nobody_else_notices(self) -> None:
        before = of("keyd", "MainPID")
        os.kill(int(before), signal.SIGKILL)
        until(lambda: of("keyd", "ActiveState") == "active" and of("keyd", "MainPID") not in ("0", before))
        is_same(of("edged", "NRestarts"), "0")
        self.a_device_reaches_the_hub("second")

    def all_stop_when_they_are_told_to(self) -> None:
        run("systemctl", "stop", *(f"aziot-{name}.service" for name in reversed(SERVICES)))
        is_same({of(f"{name}.service", "Result") for name in SERVICES}, {"success"})


def look() -> int:
    """Look at everything. The exit code."""
    seen = Seen()
    for name in (name for name in vars(Seen) if not name.startswith("_")):
        what = name.replace("_", " ")
        try:
            getattr(seen, name)()
        except (AssertionError, OSError, StopIteration, subprocess.TimeoutExpired) as problem:
            print(f"{RESULT}FAILS   {what}: {problem}", flush=True)
            print(run("journalctl", "--no-pager", "--quiet", "-n", "40", "-u", "aziot-*", ok=False), flush=True)
        else:
            print(f"{RESULT}holds   {what}", flush=True)
    print(ENDED, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(look() if sys.argv[1:] == ["--inside"] else boot())
