"""Measures the gateway against mosquitto with a bridge, both over mutual TLS, in one run.

    python -m bench gateway [--quick] [--only TEXT] [--profile FILE] [--json]

    forward      CPU of the gateway for each message from the device's publish to the hub's log, at quality 1
    idle         memory of the whole process with so many devices that do nothing
    storm        all devices come at once: seconds until the last is served, and CPU of the gateway for each

Ours is `edgetrust edge serve` below `edgetrust up`; mosquitto bridges at quality 1 with a persistent session to another
mosquitto. What the ratios do not show: ours is durable (synced before PUBACK, forgotten when the hub has it), mosquitto
keeps its queue in memory and writes it down now and then; ours decides on each device by the registry. The gateway has
a core to itself; hub, second mosquitto and load share the other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import generator
from fleet import HUB, Hub, start_gateway
from generator import LoadError
from material import Material, make
from run import FILES, Bench, Measured, Opened, Row, Size, print_profile
from servers import MOSQUITTO, Server, ServerFailedError, free_port, pin_generator

GATEWAY = "bench-gateway"
FORWARD = ((1, 100), (16, 100))  # window, connections
FORWARD_AT_MOST = 1.0
STORM_AT_ONCE = 250  # handshakes in flight: what a gateway takes from one address (limits.PENDING_PER_ADDRESS)
ARRIVED_SECONDS = 180.0

BRIDGE = """
persistence true
persistence_location {directory}/
connection up
address 127.0.0.1:{upstream}
topic # out 1
cleansession false
notifications false
try_private false
bridge_protocol_version mqttv311
bridge_cafile {root}
max_inflight_messages 64
"""
ABOVE = """
per_listener_settings true
persistence true
persistence_location {directory}/
log_dest none
max_queued_messages 0
listener {port} 127.0.0.1
certfile {chain}
keyfile {key}
allow_anonymous true
listener {plain} 127.0.0.1
allow_anonymous true
user root
"""


@dataclass(frozen=True)
class Amounts:
    """How much of everything."""

    rounds: int
    messages: int
    idle: tuple[int, ...]
    storm: tuple[int, ...]


FULL = Amounts(rounds=3, messages=30_000, idle=(1_000, 2_000, 5_000), storm=(1_000, 2_000))
QUICK = Amounts(rounds=1, messages=5_000, idle=(200,), storm=(200,))


class Ours:
    """A hub and a gateway below it; `arrived` counts what is in the hub's log."""

    name = "edgetrust"

    def __init__(self, directory: Path, material: Material, profile: Path | None) -> None:
        self.hub = Hub(directory / "hub", directory / "hub.log", pinned=False)
        self.hub.start()
        self._key = self.hub.create_edge_device(GATEWAY)
        self.hub.fill_below(GATEWAY, material)
        self._place, self._profile, self._turn = directory, profile, 0

    def start(self) -> Server:
        """A new gateway; it knows its devices before anything is measured."""
        self._turn += 1
        place = self._place / f"edge-{self._turn}"
        server, _ = start_gateway(self.hub, GATEWAY, self._key, place, pinned=True, profile=self._profile)
        self.port = json.loads(server.said)["gateway"]["mqtt_port"]
        time.sleep(2.0)
        return server

    def arrived(self) -> int:
        return self.hub.newest_event()

    def stop(self) -> None:
        self.hub.stop()


class Bridge:
    """mosquitto below mosquitto; `arrived` counts what a subscriber of the upper one got."""

    name = "mosquitto"

    def __init__(self, directory: Path, material: Material) -> None:
        self._place, self._material, self._turn = directory, material, 0
        self._program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if self._program is None:
            raise ServerFailedError("mosquitto is not installed: apt-get install mosquitto")
        self._above_port, plain = free_port(), free_port()
        own = {"chain": material.server_chain, "key": material.server_key}
        self._above = self._serve("above", ABOVE, port=self._above_port, plain=plain, **own)
        self._above.wait_for_port(plain)
        self._got = directory / "arrived"
        with self._got.open("wb") as got:
            command = ["mosquitto_sub", "-p", str(plain), "-t", "devices/#", "-F", "x"]
            self._listening = subprocess.Popen(["stdbuf", "-oL", *command], stdout=got)

    def start(self) -> Server:
        """A new lower one."""
        self._turn += 1
        self.port = free_port()
        material = self._material
        own = {"root": material.root, "chain": material.server_chain, "key": material.server_key}
        text = MOSQUITTO.replace("persistence false\n", "") + BRIDGE
        server = self._serve(f"below-{self._turn}", text, pinned=True, port=self.port, upstream=self._above_port, **own)
        server.wait_for_port(self.port)
        time.sleep(2.0)
        return server

    def _serve(self, name: str, text: str, *, pinned: bool = False, **values: object) -> Server:
        directory = self._place / name
        directory.mkdir()
        file = directory / "mosquitto.conf"
        file.write_text(text.format(directory=directory, **values))
        assert self._program is not None
        return Server("mosquitto", [self._program, "-c", file], self._place / f"{name}.log", pinned=pinned)

    def arrived(self) -> int:
        return self._got.stat().st_size // 2

    def stop(self) -> None:
        self._listening.terminate()
        self._listening.wait()
        self._above.stop()


Side = Ours | Bridge


@contextmanager
def running(sides: Sequence[Side]) -> Iterator[list[tuple[Server, int]]]:
    """Both started anew: server and port."""
    with ExitStack() as open_now:
        yield [(open_now.enter_context(side.start()), side.port) for side in sides]


def forward(bench: Bench, amounts: Amounts, sides: Sequence[Side]) -> None:
    """From the publish to the hub's log."""
    names = [
        (window, count, f"forward QoS 1, window {window}, {count} devices")
        for window, count in FORWARD
        if bench.wants(f"forward QoS 1, window {window}, {count} devices")
    ]
    if not names:
        return
    with running(sides) as servers:
        places = {port: side for (_, port), side in zip(servers, sides, strict=True)}
        for window, count, name in names:
            opened = {port: generator.connect(port, bench.material.by_ca[:count], HUB) for _, port in servers}

            def load(server: Server, port: int, _: int, opened: Opened = opened, window: int = window) -> Measured:
                return through(places[port], server, opened[port], window, amounts.messages)

            bench.compare(name, servers, load, FORWARD_AT_MOST)
            for connections in opened.values():
                generator.close(connections)
        if bench.profile is not None:
            print_profile(servers[0][0], bench.profile)
    last = bench.rows[-1]
    ours, reference = ([1e6 / one for one in figures] for figures in (last.ours, last.reference))
    bench.add(Row("messages for each CPU-second of the gateway, last load", "", ours, reference))


def through(side: Side, server: Server, opened: list[generator.Connection], window: int, count: int) -> Measured:
    """Publish, and wait until all is where it shall be."""
    each = count // len(opened)
    before, wanted = server.cpu(), side.arrived() + each * len(opened)
    done, _ = generator.publish(opened, window, count, server.cpu)
    wait_for(lambda: side.arrived() >= wanted, f"{server.name}: not everything has arrived")
    return done, server.cpu() - before


def wait_for(true: Callable[[], bool], what: str) -> None:
    deadline = time.perf_counter() + ARRIVED_SECONDS
    while not true():
        if time.perf_counter() > deadline:
            raise LoadError(what)
        time.sleep(0.05)


def idle(bench: Bench, amounts: Amounts, sides: Sequence[Side]) -> None:
    """Memory with devices that do nothing."""
    for count in amounts.idle:
        name = f"memory of the gateway with {count:,} idle devices"
        if not bench.wants(name):
            continue
        figures: list[float] = []
        with running(sides) as servers:
            for server, port in servers:
                connections = generator.connect(port, bench.material.by_ca[:count], HUB)
                time.sleep(2.0)
                figures.append(server.memory() / 1024**2)
                generator.close(connections)
        bench.add(Row(name, "MiB", figures[:1], figures[1:]))


def storm(bench: Bench, amounts: Amounts, sides: Sequence[Side]) -> None:
    """Everybody comes again at once."""
    for count in amounts.storm:
        name = f"storm: {count:,} devices come again, until the last is served"
        if bench.wants(name):
            _storm(bench, amounts, sides, name, count)


def _storm(bench: Bench, amounts: Amounts, sides: Sequence[Side], name: str, count: int) -> None:
    seconds: list[list[float]] = [[], []]
    cpu: list[list[float]] = [[], []]
    devices = bench.material.by_ca[:count]
    with running(sides) as servers:
        for _, port in servers:
            generator.close(generator.connect(port, devices, HUB))
        for number, (server, port) in list(enumerate(servers)) * amounts.rounds:
            before, began = server.cpu(), time.perf_counter()
            connections = generator.connect(port, devices, HUB, at_once=STORM_AT_ONCE)
            seconds[number].append(time.perf_counter() - began)
            cpu[number].append((server.cpu() - before) / len(devices) * 1e6)
            generator.close(connections)
            time.sleep(1.0)
    bench.add(Row(name, "s", seconds[0], seconds[1]))
    bench.add(Row(f"storm: CPU of the gateway for each of {count:,}", "us", cpu[0], cpu[1]))


def measure(bench: Bench, amounts: Amounts) -> None:
    """Everything that is wanted."""
    with ExitStack() as open_now:
        sides: list[Side] = [Ours(bench.directory, bench.material, bench.profile)]
        open_now.callback(sides[0].stop)
        sides.append(Bridge(bench.directory, bench.material))
        open_now.callback(sides[1].stop)
        for part in (forward, idle, storm):
            part(bench, amounts, sides)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. 1 if something did not work; a missed target is not an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round of everything: is it still in order?")
    parser.add_argument("--only", default="", metavar="TEXT", help="the lines whose name holds TEXT")
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="cProfile of our gateway; figures are then inflated"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args(arguments)
    amounts = QUICK if options.quick else FULL
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not pin_generator():
        print("only one core may be used: server and load share it, and the figures say little", file=sys.stderr)
    size = Size(amounts.rounds, 0, amounts.messages, 0, 0, max(amounts.idle))
    with tempfile.TemporaryDirectory(prefix="edgetrust-bench-") as name:
        material = make(Path(name), 0, max(*amounts.idle, *amounts.storm, 100))
        bench = Bench(Path(name), material, size, options.only, "hub", options.json, options.profile)
        if not options.json:
            print(__doc__)
        try:
            measure(bench, amounts)
        except (LoadError, ServerFailedError) as problem:
            print(f"error: {problem}", file=sys.stderr)
            return 1
        rows = [{**asdict(row), "median": median(row.ours), "ratio": row.ratio} for row in bench.rows]
        if options.json:
            machine = {"python": platform.python_version(), "kernel": platform.release(), "cores": os.cpu_count()}
            print(json.dumps({"machine": machine, "others_share_max": round(bench.busiest, 3), "rows": rows}))
        elif bench.busiest > 0.1:
            print(f"Other processes used up to {bench.busiest:.0%} of the two cores meanwhile: trust no single figure.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
