"""Measures the hub against mosquitto, both over mutual TLS, in one run: CPU of the server for each operation and memory
of an idle connection; and how soon a hub and a gateway are ready.

    python bench/run.py [--quick] [--only TEXT] [--ours hub|transport] [--profile FILE] [--json]

Rounds alternate between the two, a server's figure is the median of its rounds, and ratios below 1 are in our favour.
Servers run on one core and the load on another. What the ratio does not show: the hub's QoS 1 is durable (stored and
synced before PUBACK), mosquitto's is not; the hub decides on each connection by its registry, mosquitto verifies a CA
for every client. The hub offers no resumed handshakes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import pstats
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import generator
from fleet import HUB, Hub, start_gateway
from generator import LoadError
from material import Device, Material, make
from servers import Server, ServerFailedError, mosquitto, pin_generator, transport_only

Measured = tuple[generator.Load, float]
PAIRS = ((1, 1), (1, 50), (1, 500), (16, 1), (16, 50), (16, 500))
TARGETS = {(1, 50): 2.0, (16, 1): 0.8, (16, 50): 0.8, (16, 500): 0.8}
READY_SECONDS = 2.0
KIB_PER_CONNECTION = 40.0
FILES = 16_384  # open sockets of one process; the shell's limit is often 1,024


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    rounds: int
    handshakes: int
    publishes: int
    pace: int
    seconds: float
    idle: int


FULL = Size(rounds=3, handshakes=400, publishes=60_000, pace=20_000, seconds=5.0, idle=2_000)
QUICK = Size(rounds=1, handshakes=150, publishes=20_000, pace=20_000, seconds=1.0, idle=300)
BUSIEST_CONNECTIONS = 500


@dataclass(frozen=True)
class Row:
    """One line of the result."""

    name: str
    unit: str
    ours: list[float]
    reference: list[float] = field(default_factory=list)
    ratio_at_most: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return median(self.ours) / median(self.reference) if self.reference else None

    @property
    def reached(self) -> bool | None:
        if self.ratio is not None and self.ratio_at_most is not None:
            return self.ratio <= self.ratio_at_most
        return None if self.at_most is None else median(self.ours) <= self.at_most


@dataclass
class Bench:
    """What a run has at hand."""

    directory: Path
    material: Material
    size: Size
    only: str
    ours: str
    quiet: bool
    profile: Path | None
    rows: list[Row] = field(default_factory=list)
    busiest: float = 0.0
    acknowledged: int = 0

    def wants(self, name: str) -> bool:
        return self.only.lower() in name.lower()

    def add(self, row: Row) -> None:
        """Keep and print a line."""
        self.rows.append(row)
        if not self.quiet:
            print(_line(row), flush=True)

    def compare(
        self,
        name: str,
        servers: Sequence[tuple[Server, int]],
        load: Callable[[Server, int, int], Measured],
        ratio_at_most: float | None,
    ) -> None:
        """Microseconds of server CPU per operation, ours first, round by round."""
        figures: list[list[float]] = [[] for _ in servers]
        last: list[generator.Load] = []
        for turn in range(self.size.rounds):
            last = []
            for kept, (server, port) in zip(figures, servers, strict=True):
                others = _Others(server)
                try:
                    done, cpu = load(server, port, turn)
                except LoadError as problem:
                    raise LoadError(f"{server.name}: {problem}") from problem
                self.busiest = max(self.busiest, others.share())
                kept.append(cpu / done.operations * 1e6)
                last.append(done)
        self.add(Row(name, "us", figures[0], figures[1], ratio_at_most, note=_note(*last)))


class _Others:
    """The share of the two cores that neither the server nor the load has used since it was made."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._start, self._busy, self._own = time.perf_counter(), _busy(), self._ours()

    def share(self) -> float:
        seconds = time.perf_counter() - self._start
        return max(0.0, (_busy() - self._busy - (self._ours() - self._own)) / seconds / 2)

    def _ours(self) -> float:
        return self._server.cpu() + time.process_time()


def _busy() -> float:
    """Seconds in which the two cores did something, all users, as the kernel counts them."""
    ticks = os.sysconf("SC_CLK_TCK")
    lines = Path("/proc/stat").read_text().splitlines()[1:3]
    return sum(sum(map(int, line.split()[1:4])) + sum(map(int, line.split()[6:8])) for line in lines) / ticks


def handshakes(bench: Bench, servers: Sequence[tuple[Server, int]]) -> None:
    """Full mutual TLS and CONNECT: devices the server has never seen, then the same again."""
    count, fleet = bench.size.handshakes, bench.material
    met: set[tuple[int, str]] = set()  # whom each server has seen
    names = "full handshake + CONNECT, {} device, {}"
    for kind, ours, limit in (("thumbprint", fleet.by_thumbprint, 0.85), ("CA", fleet.by_ca, 1.0)):
        for again in (False, True):
            name = names.format(kind, "again" if again else "first time")
            if not bench.wants(name):
                continue

            def load(server: Server, port: int, turn: int, ours: list[Device] = ours, again: bool = again) -> Measured:
                devices = fleet.by_ca if server.name == "mosquitto" else ours
                part = devices[turn * count : (turn + 1) * count]
                if again and (port, part[0].name) not in met:
                    generator.handshakes(port, part, len(part), HUB, server.cpu)
                met.add((port, part[0].name))
                return generator.handshakes(port, part, len(part), HUB, server.cpu)

            bench.compare(name, servers, load, limit)


def publishes(bench: Bench, servers: Sequence[tuple[Server, int]]) -> None:
    """QoS 1 publishes: as fast as the window lets them, and paced."""
    size = bench.size
    for count in sorted({connections for _, connections in PAIRS}):
        wanted = [(window, name) for window, n in PAIRS if n == count and bench.wants(name := _publish_name(window, n))]
        paced = f"publish QoS 1, paced {size.pace:,}/s over {count} connections"
        is_paced = count == BUSIEST_CONNECTIONS and bench.wants(paced)
        if not wanted and not is_paced:
            continue
        opened = {port: generator.connect(port, bench.material.by_ca[:count], HUB) for _, port in servers}
        for window, name in wanted:
            total = size.publishes // (4 if window == count == 1 else 1)

            def load(
                server: Server, port: int, _: int, opened: Opened = opened, window: int = window, total: int = total
            ) -> Measured:
                return generator.publish(opened[port], window, total, server.cpu)

            bench.compare(name, servers, load, TARGETS.get((window, count)))
            bench.acknowledged += size.rounds * (total // count * count)
        if is_paced:

            def load_paced(server: Server, port: int, _: int, opened: Opened = opened) -> Measured:
                return generator.paced(opened[port], size.pace, size.seconds, server.cpu)

            bench.compare(paced, servers, load_paced, 1.5)
            bench.acknowledged += size.rounds * (int(size.pace * size.seconds) // count * count)
        for connections in opened.values():
            generator.close(connections)


Opened = dict[int, list[generator.Connection]]


def _publish_name(window: int, connections: int) -> str:
    return f"publish QoS 1, window {window}, {connections} connection{'s' if connections > 1 else ''}"


def idle(bench: Bench, starters: Sequence[Callable[[], tuple[Server, int]]]) -> None:
    """Memory of connections that do nothing, in freshly started servers."""
    name = f"memory of an idle connection, {bench.size.idle:,} of them"
    if not bench.wants(name):
        return
    figures: list[list[float]] = [[] for _ in starters]
    for _ in range(bench.size.rounds):
        for kept, start in zip(figures, starters, strict=True):
            server, port = start()
            with server:
                generator.close(generator.connect(port, bench.material.by_ca[:10], HUB))
                time.sleep(1.0)
                before = server.memory()
                connections = generator.connect(port, bench.material.by_ca[: bench.size.idle], HUB)
                time.sleep(2.0)
                kept.append((server.memory() - before) / len(connections) / 1024)
                generator.close(connections)
    bench.add(Row(name, "KiB", figures[0], figures[1], at_most=KIB_PER_CONNECTION))


def durable(bench: Bench, hub: Hub, before: int) -> None:
    """Kill the hub in the hard way; every acknowledged publish must be in its event log."""
    assert hub.server is not None
    hub.server.process.send_signal(signal.SIGKILL)
    hub.server.process.wait()
    hub.stop()
    hub.start()
    stored = hub.newest_event() - before
    bench.add(
        Row("publishes acknowledged and in the log after kill -9", "", [float(stored)], note=f"of {bench.acknowledged}")
    )
    if stored != bench.acknowledged:
        raise LoadError(f"{bench.acknowledged} publishes were acknowledged, {stored} are stored")


def ready(bench: Bench) -> None:
    """From the start of the process to the line that says it serves, not tied to a core."""
    names = {
        key: f"ready: {what}, {when}"
        for key, what, when in (
            ("up-new", "edgetrust up", "new directory"),
            ("up", "edgetrust up", "again"),
            ("edge-new", "edgetrust edge serve", "new root"),
            ("edge", "edgetrust edge serve", "again"),
        )
    }
    if not any(map(bench.wants, names.values())):
        return
    figures: dict[str, list[float]] = {key: [] for key in names}
    for turn in range(bench.size.rounds):
        place = bench.directory / f"ready-{turn}"
        hub = Hub(place / "hub", bench.directory / "ready.log", pinned=False)
        place.mkdir()
        try:
            for key in ("up-new", "up"):
                hub.stop()
                hub.start()
                figures[key].append(hub.ready_after)
            secret = hub.create_edge_device("gateway")
            for key in ("edge-new", "edge"):
                gateway, seconds = start_gateway(hub, "gateway", secret, place / "edge")
                figures[key].append(seconds)
                gateway.stop()
        finally:
            hub.stop()
    for key, name in names.items():
        if bench.wants(name):
            bench.add(Row(name, "s", figures[key], at_most=READY_SECONDS))


def measure(bench: Bench) -> None:
    """Everything that is wanted, one after the other."""
    material, directory = bench.material, bench.directory

    def reference() -> tuple[Server, int]:
        return mosquitto(directory, material.root, material.server_chain, material.server_key)

    hub = Hub(directory / "hub", directory / "hub.log")

    def ours() -> tuple[Server, int]:
        if bench.ours == "transport":
            profile = [] if bench.profile is None else ["--profile", str(bench.profile)]
            return transport_only(directory, material.server_chain, material.server_key, *profile)
        return hub.start(), hub.mqtt_port

    with ExitStack() as running:
        running.callback(hub.stop)
        if bench.ours == "hub":
            hub.start()
            hub.fill(material)
            hub.stop()
            hub.profile = bench.profile
        servers = [ours(), reference()]
        for server, _ in servers:
            running.callback(server.stop)
        before = 0
        if bench.ours == "hub":
            before = hub.newest_event()
        handshakes(bench, servers)
        publishes(bench, servers)
        if bench.profile is not None:
            print_profile(servers[0][0], bench.profile)
            return
        if bench.ours == "hub" and bench.acknowledged:
            durable(bench, hub, before)
        hub.stop()
        for server, _ in servers:
            server.stop()
        idle(bench, [ours, reference])
        if bench.ours == "hub":
            ready(bench)


def print_profile(server: Server, file: Path) -> None:
    """Where our server spent its time: its threads, then the functions of the first one."""
    threads = ", ".join(f"{seconds:.2f}" for seconds in server.threads())
    server.stop()
    print(f"CPU seconds of each thread: {threads}")
    pstats.Stats(str(file)).sort_stats("tottime").print_stats(45)


def _note(ours: generator.Load, reference: generator.Load) -> str:
    """Rates for orientation; a generator that is busy all the time says that the rate is the generator's."""
    shares = f"load {ours.generator_share:.0%} and {reference.generator_share:.0%}"
    text = f"{ours.rate:,.0f}/s and {reference.rate:,.0f}/s, {shares}"
    if ours.latencies and reference.latencies:
        text += f", PUBACK p99 {_p99(ours):.1f} and {_p99(reference):.1f} ms"
    return text


def _p99(load: generator.Load) -> float:
    return sorted(load.latencies)[int(len(load.latencies) * 0.99)] * 1000


def _line(row: Row) -> str:
    spread = f"{_number(min(row.ours))}/{_number(median(row.ours))}/{_number(max(row.ours))} of {len(row.ours)}"
    reference = _number(median(row.reference)) if row.reference else "-"
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    limit = "" if row.reached is None else f"{'yes' if row.reached else 'NO'}, at most {_limit(row)}"
    return (
        f"{row.name:<58}{_number(median(row.ours)):>8} {row.unit:<3}{reference:>8}{ratio:>7}  {spread:<22} {limit:<20}"
        f" {row.note}"
    ).rstrip()


def _limit(row: Row) -> str:
    return f"{row.ratio_at_most}" if row.ratio_at_most is not None else f"{row.at_most:g} {row.unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round of everything: is it still in order?")
    parser.add_argument("--only", default="", metavar="TEXT", help="the lines whose name holds TEXT")
    parser.add_argument("--ours", choices=("hub", "transport"), default="hub", help="transport: TLS and MQTT alone")
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="cProfile of our server; figures are then inflated"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    return parser.parse_args(arguments)


HEAD = """\
Server CPU for each operation, ours against mosquitto over mutual TLS; the load runs on another core.
Our QoS 1 is durable (synced to disk before PUBACK), mosquitto's is not. Ratios below 1 are in our favour.
Resumed handshakes: not offered, by design; a resumed session comes without the certificates that the decision needs.
"""


def _head() -> None:
    columns = f"{'min/median/max of n':<22} {'reached':<20} last round"
    print(f"{HEAD}{'name':<58}{'ours':>8} {'':<3}{'mosq.':>8}{'ratio':>7}  {columns}")


def _json(bench: Bench) -> None:
    rows = [{**asdict(row), "ratio": row.ratio, "reached": row.reached} for row in bench.rows]
    machine = {"python": platform.python_version(), "kernel": platform.release(), "cores": os.cpu_count()}
    print(json.dumps({"machine": machine, "others_share_max": round(bench.busiest, 3), "rows": rows}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. 1 if something did not work; a missed target is not an error."""
    options = _options(arguments)
    size = QUICK if options.quick else FULL
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave through the with statements: no server stays behind
    if not pin_generator():
        print("only one core may be used: server and load share it, and the figures say little", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="edgetrust-bench-") as name:
        devices = size.handshakes * size.rounds
        fleet = max(devices, size.idle, BUSIEST_CONNECTIONS)
        material = make(Path(name), devices, fleet)
        how = (options.only, options.ours, options.json, options.profile)
        bench = Bench(Path(name), material, size, *how)
        if not options.json:
            _head()
        try:
            measure(bench)
        except (LoadError, ServerFailedError) as problem:
            print(f"error: {problem}", file=sys.stderr)
            for log in sorted(Path(name).glob("*.log")):  # they go with the directory
                print(f"{log.name}: {log.read_text(errors='replace')[-2000:]}", file=sys.stderr)
            return 1
        if options.json:
            _json(bench)
        elif bench.busiest > 0.1:
            print(f"Other processes used up to {bench.busiest:.0%} of the two cores meanwhile: trust no single figure.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
