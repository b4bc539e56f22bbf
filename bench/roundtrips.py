"""Measures how long a twin patch, a direct method and a cloud-to-device message take, there and back, on an idle hub.

    python bench/roundtrips.py [--quick] [--json]

The hub is a real `edgetrust up` on one core, on SQLite with synced commits; device and service share the other. A line
is milliseconds as the client sees them, one operation after the other, over connections that are open.

    twin patch   the device reports a property and waits for the new version (stored)
    method       the service calls over HTTPS, the device answers over MQTT, the service has the answer
    c2d          the service sends over HTTPS (stored), until the device has it over MQTT at quality 1
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from edgetrust.device.session import DeviceSession, KeyCredential, MethodRequested, Received, Route
from edgetrust.pki.chain import TrustBundle
from edgetrust.pki.keys import SecretBytes
from edgetrust.trust.identity import Identity
from fleet import HUB, Hub
from servers import ServerFailedError, pin_generator

NAME = "bench"
WARM_UP = 20
ROUNDS = 3


async def measure(hub: Hub, operations: int) -> dict[str, list[list[float]]]:
    """Milliseconds of each operation, by kind and round."""
    async with hub._session() as http:
        body = {"deviceId": NAME, "authentication": {"type": "sas"}}
        made = await hub._request(http, "PUT", f"/devices/{NAME}", body)
        key = SecretBytes(base64.b64decode(made["authentication"]["symmetricKey"]["primaryKey"]))
        bundle = TrustBundle.from_pem(hub.trust_bundle.read_bytes(), as_of=datetime.now(UTC))
        session = DeviceSession(Identity(HUB, NAME, None), Route(HUB, HUB, hub.mqtt_port), KeyCredential(key), bundle)
        arrived: asyncio.Queue[float] = asyncio.Queue()
        async with session:
            listening = asyncio.create_task(_listen(session, arrived))
            await asyncio.sleep(0.5)  # until both filters are granted

            async def report() -> float:
                begun = time.perf_counter()
                await session.report(b'{"n": %d}' % time.perf_counter_ns())
                return time.perf_counter() - begun

            async def call() -> float:
                begun = time.perf_counter()
                answer = await hub._request(http, "POST", f"/twins/{NAME}/methods", {"methodName": "m", "payload": 1})
                assert answer["status"] == 200
                return time.perf_counter() - begun

            async def command() -> float:
                begun = time.perf_counter()
                await hub._request(http, "POST", f"/devices/{NAME}/messages/devicebound", {"x": 1})
                return await arrived.get() - begun

            kinds = {"twin patch round trip": report, "method round trip": call, "c2d delivery": command}
            figures: dict[str, list[list[float]]] = {name: [] for name in kinds}
            for turn in range(ROUNDS + 1):
                for name, operation in kinds.items():
                    taken = [await operation() * 1000 for _ in range(operations if turn else WARM_UP)]
                    if turn:
                        figures[name].append(taken)
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
    return figures


async def _listen(session: DeviceSession, arrived: asyncio.Queue[float]) -> None:
    async for one in session.incoming(methods=True):
        if isinstance(one, MethodRequested):
            await session.answer(one, 200, b"1")
        elif isinstance(one, Received):
            arrived.put_nowait(time.perf_counter())


def _row(name: str, rounds: list[list[float]]) -> dict[str, Any]:
    medians = [median(taken) for taken in rounds]
    worst = max(sorted(taken)[int(len(taken) * 0.99)] for taken in rounds)
    best = min(sorted(taken)[len(taken) // 20] for taken in rounds)
    return {"name": name, "p5": best, "ms": median(medians), "min": min(medians), "max": max(medians), "p99": worst}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if something did not work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few of each: is it still in order?")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args(arguments)
    pin_generator()
    with tempfile.TemporaryDirectory(prefix="edgetrust-bench-") as name:
        hub = Hub(Path(name) / "hub", Path(name) / "hub.log")
        try:
            hub.start()
            figures = asyncio.run(measure(hub, 30 if options.quick else 300))
        except ServerFailedError as problem:
            print(f"error: {problem}", file=sys.stderr)
            return 1
        finally:
            hub.stop()
    rows = [_row(name, rounds) for name, rounds in figures.items()]
    if options.json:
        print(json.dumps({"rows": rows}))
        return 0
    print(f"{'operation':<24}{'median':>8} ms   min/max of {ROUNDS} rounds' medians   best p5   worst p99")
    for row in rows:
        spread = f"{row['min']:.2f}/{row['max']:.2f}"
        print(f"{row['name']:<24}{row['ms']:>8.2f} ms   {spread:<31} {row['p5']:<9.2f} {row['p99']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
