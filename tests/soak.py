"""Soak: a thousand devices publish through one gateway while everything is renewed, rotated, cut and killed.

    make soak ARGS="--minutes 15 --devices 1000 --json"

During the run, all with real processes:

    all the time    Edge CA, server certificate and both identities of the gateway are renewed
    first half      three cuts between gateway and hub; gateway and hub are killed (SIGKILL) twice each
    second half     the root of everything is changed: old, both, new

and devices leave and come again now and then. At the end every message that a device was told is safe has to be in the
hub's log, in order. Exits 0 only when every line of the table holds.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from support.device_fleet import Fleet, summary
from support.edge_world import wait_until
from support.field import HUB, Field, Life, Measured, presented

CUTS, KILLS = 3, 2
LEAST_RENEWALS = 6  # each Edge CA brings a server certificate along: five of these, and one of those, and more
CUT_SECONDS = 5.0
MEMORY_GROWTH = 1.15  # from the middle to the end, and a little for what is measured late
MEMORY_SLACK = 12.0  # MiB
DESCRIPTORS_SLACK = 10
BY_CA = 0.05  # of the devices have certificates; the others have keys
SHARE_THAT_COMES_AGAIN = 0.02
FILES = 16_384


@dataclass
class Line:
    """One line of the result."""

    name: str
    value: float | int | str
    wanted: str
    holds: bool


@dataclass
class Soak:
    """One run. `minutes` is the time under load; what comes before and after is not in it."""

    folder: Path
    minutes: float
    devices: int
    rate: float
    say: Callable[[str], None]
    disturbed: list[tuple[float, float]] = field(default_factory=list)
    shown: set[int] = field(default_factory=set)
    middle: dict[str, Measured] = field(default_factory=dict)

    def run(self) -> list[Line]:
        """Everything; the lines of the result."""
        # A certificate's life holds many renewals of a long run, and is renewed at once in a short one.
        life = Life(1, "82%") if self.minutes <= 3 else Life(2, "80%")
        self.field = Field(self.folder, life)
        try:
            self.field.begin()
            return self._run()
        finally:
            self.field.close()

    def _run(self) -> list[Line]:
        self.gateway = self.field.gateway("gateway")
        self.gateway.start()
        with Fleet(self.field.trust) as self.fleet, self._watching():
            self._connect()
            began = time.monotonic()
            self.fleet.publish(self.rate)
            self._faults(began + self.minutes * 60 / 2)
            self._settled("half of it is over")
            self.middle = self._measure()
            self._change_root(began + self.minutes * 60)
            self._until(began + self.minutes * 60)
            end = self._measure()
            self.fleet.settle()
            self.field.wait_forwarded(300)
            return self._result(end)

    def _connect(self) -> None:
        names = [f"device-{number}" for number in range(self.devices)]
        few = max(1, int(self.devices * BY_CA))
        made = self.field.register(names[few:], self.gateway.device)
        made += self.field.register(names[:few], self.gateway.device, by_ca=True)
        self.say(f"{len(made)} devices are registered")
        self.fleet.add(made, self.gateway.at)
        self.fleet.wait_connected(180)
        self.say("and connected")

    def _measure(self) -> dict[str, Measured]:
        return {"gateway": Measured.of(self.gateway), "hub": Measured.of(self.field.hub)}

    # Time -----------------------------------------------------------------------------------------------------------

    def _until(self, deadline: float) -> None:
        """Let time pass, and have some devices come again."""
        while (left := deadline - time.monotonic()) > 0:
            coming = random.sample(self.fleet.devices, max(1, int(self.devices * SHARE_THAT_COMES_AGAIN)))
            self.fleet.reconnect([device for device in coming if device.connected])
            time.sleep(min(left, 3.0))

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Note which certificates are shown, whatever else happens meanwhile."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(1.0):
                with suppress(OSError):  # while the gateway is killed; what devices meet is counted by them
                    self.shown.add(presented(self.gateway.at, self.field.trust).serial_number)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def _settled(self, what: str) -> None:
        self.fleet.wait_connected(180)
        self.say(f"{what}; {self.fleet.acknowledged:,} messages are acknowledged")

    # What happens ---------------------------------------------------------------------------------------------------

    def _faults(self, deadline: float) -> None:
        steps: list[tuple[str, Callable[[], None]]] = [
            ("cut", self._cut), ("hub killed", self._kill_hub), ("gateway killed", self._kill_gateway),
            ("cut", self._cut), ("hub killed", self._kill_hub), ("gateway killed", self._kill_gateway),
            ("cut", self._cut),
        ]  # fmt: skip
        assert len(steps) == CUTS + 2 * KILLS
        for left in range(len(steps), 0, -1):
            what, step = steps[len(steps) - left]
            pause = (deadline - time.monotonic()) / (left + 1)
            self._until(time.monotonic() + max(0.0, pause))
            step()
            self._settled(what)
        self._until(deadline)

    def _cut(self) -> None:
        assert self.gateway.link is not None
        self.gateway.link.cut()
        time.sleep(CUT_SECONDS)
        self.gateway.link.restore()

    def _kill_hub(self) -> None:
        self.field.kill(self.field.hub)

    def _kill_gateway(self) -> None:
        """The only time when a connection may end, or a handshake fail."""
        begin = time.monotonic()
        self.field.kill(self.gateway)
        self.fleet.wait_connected(180)
        self.disturbed.append((begin, time.monotonic()))

    def _change_root(self, deadline: float) -> None:
        pause = max(0.0, deadline - time.monotonic()) / 8
        self.field.distribute_new_root()
        self.fleet.believe(self.field.trust)
        by_ca = [device for device in self.fleet.devices if device.credentials.certificate is not None]
        self.field.fetch_trust(device.credentials for device in by_ca)
        self.say("the new root is distributed")
        self._until(time.monotonic() + pause)
        self.field.wait_lacking({HUB}, 180)
        self.field.activate_new_root()
        new = self.field.ca_command("export", "--authority", "root-2")
        for device, credentials in zip(by_ca, self.field.certify(one.name for one in by_ca), strict=True):
            self.fleet.equip(device, credentials)
        self.fleet.reconnect(by_ca)
        self.say("the new root issues")
        self._until(time.monotonic() + pause)
        assert self.field.advance() == "tainted"
        self.field.wait_lacking(set(), 180)
        for address in (self.gateway.at, ("127.0.0.1", self.field.ca_port, "localhost")):
            wait_until(lambda address=address: shows(address, new), 60)  # type: ignore[misc]
        self.fleet.believe(new)
        self.field.retire_old_root()
        self._settled("the old root is retired")

    # Result ---------------------------------------------------------------------------------------------------------

    def _result(self, end: dict[str, Measured]) -> list[Line]:
        fleet, log = self.fleet, self.field.log()
        refused = fleet.outside(fleet.tally.refused, self.disturbed)
        away = fleet.outside(fleet.tally.unreachable, self.disturbed)
        dropped = fleet.outside(fleet.tally.dropped, self.disturbed)
        missing, disordered = fleet.missing_from(log), fleet.out_of_order(log)
        again = sum(len(numbers) - len(set(numbers)) for numbers in log.values())
        latencies = sorted(fleet.tally.latencies)
        lines = [
            Line("devices", self.devices, "", True),
            Line("minutes", self.minutes, "", True),
            Line("messages acknowledged", fleet.acknowledged, "> 0", fleet.acknowledged > 0),
            Line("handshakes", fleet.tally.handshakes, "", True),
            Line("server certificates", len(self.shown), f">= {LEAST_RENEWALS}", len(self.shown) >= LEAST_RENEWALS),
            Line("handshakes refused", len(refused), f"0 {summary(refused)}".strip(), not refused),
            Line("nobody there", len(away), f"0 {summary(away)}".strip(), not away),
            Line("sessions dropped", len(dropped), f"0 {summary(dropped)}".strip(), not dropped),
            Line("sessions cut by a kill", len(fleet.tally.dropped) - len(dropped), "", True),
            Line("acknowledged and lost", len(missing), "0", not missing),
            Line("devices out of order", len(disordered), "0", not disordered),
            Line("arrived more than once", again, "", True),
            Line("PUBACK p50, ms", round(latencies[len(latencies) // 2] * 1000, 1), "", True),
            Line("PUBACK p99, ms", round(latencies[int(len(latencies) * 0.99)] * 1000, 1), "", True),
        ]
        for name, last in end.items():
            lines += grown(name, self.middle[name], last)
        return lines


def grown(name: str, middle: Measured, end: Measured) -> list[Line]:
    """Whether a process has stayed as big as it was."""
    memory = middle.memory * MEMORY_GROWTH + MEMORY_SLACK
    descriptors = middle.descriptors + DESCRIPTORS_SLACK
    return [
        Line(f"{name}: memory, MiB", round(end.memory, 1), f"<= {memory:.1f}", end.memory <= memory),
        Line(f"{name}: descriptors", end.descriptors, f"<= {descriptors}", end.descriptors <= descriptors),
    ]


def shows(address: tuple[str, int, str], roots: str) -> bool:
    """Whether who believes in these roots only is served."""
    try:
        presented(address, roots)
    except OSError:
        return False
    return True


def table(lines: Sequence[Line]) -> str:
    """For people."""
    return "\n".join(f"{'ok' if one.holds else 'NO':<4}{one.name:<28}{one.value:>14}   {one.wanted}" for one in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; 1 when a line does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0, help="under load; 2 or more")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=200.0, help="messages a second, of all devices")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args(arguments)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, most), most))
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        lines = Soak(Path(folder), options.minutes, options.devices, options.rate, say).run()
    print(json.dumps({"lines": [asdict(one) for one in lines]}) if options.json else table(lines))
    return 0 if all(one.holds for one in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
