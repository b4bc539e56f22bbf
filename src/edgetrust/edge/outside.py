"""A gateway looked at from outside, as a downstream device would: name, port, chain; and what the device needs.

Needs nothing of the gateway but its address and the root that the device has. Run on the gateway without a root, it
takes the last certificate of the Edge CA's chain, and says that this is what to copy to devices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from edgetrust.clock import Clock
from edgetrust.edge.checking import FoundError, Outcome, Result
from edgetrust.edge.files import EDGE_CA, Layout
from edgetrust.edge.pairs import CertificateStore, read_chain
from edgetrust.edge.surroundings import resolved, shake
from edgetrust.errors import ConfigError, Error
from edgetrust.limits import CHECK_SECONDS
from edgetrust.pki.chain import Chain, TrustBundle

MQTTS_PORT = 8883
_NAMES = {
    "device-resolves-gateway": "the gateway's name has an address",
    "device-reaches-gateway": "the gateway takes connections",
    "device-trusts-gateway": "the gateway proves to be who it is",
    "device-trust-root": "what a device has to trust",
}


async def check_as_device(address: str, trust: Path | None, layout: Layout, clock: Clock) -> list[Result]:
    """Look at `address`, host[:port]. Raises ConfigError for an address or a file that is none."""
    host, port = _parsed(address)
    root, place = await asyncio.to_thread(_root, trust, layout)
    results: list[Result] = []
    looks: list[tuple[str, Callable[[], Awaitable[None]]]] = [
        ("device-resolves-gateway", lambda: resolved(host)),
        ("device-reaches-gateway", lambda: _reaches(host, port)),
        ("device-trusts-gateway", lambda: _trusts(host, port, root, clock)),
    ]
    for name, work in looks:
        if results and results[-1].outcome is not Outcome.OK:
            results.append(Result(name, _NAMES[name], Outcome.SKIPPED, "see above"))
            continue
        try:
            await work()
        except FoundError as found:
            results.append(Result(name, _NAMES[name], Outcome.ERROR, found.cause, found.fix))
        else:
            results.append(Result(name, _NAMES[name], Outcome.OK))
    subject = root.end_entity.subject.rfc4514_string()
    told = f"copy {place} to the device, and have it trust it: {subject}, sha256 {root.thumbprint().hex()}"
    return [*results, Result("device-trust-root", _NAMES["device-trust-root"], Outcome.OK, fix=told)]


def _parsed(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon:
        return address, MQTTS_PORT
    if not host or not port.isdecimal() or not 0 < int(port) <= 65_535:  # noqa: PLR2004 - the highest TCP port
        raise ConfigError(f"{address!r} is not HOST or HOST:PORT", reason="config-wrong-value")
    return host, int(port)


def _root(trust: Path | None, layout: Layout) -> tuple[Chain, Path]:
    if trust is not None:
        return read_chain(trust), trust
    store = CertificateStore(layout.certificates)
    chain = store.load(EDGE_CA)
    if chain is None:
        raise ConfigError(
            "nothing says which root the device has",
            reason="config-missing-key",
            fix="name it with --trust, or run this on the gateway with --root",
        )
    return Chain(chain.certificates[-1:]), store.path(EDGE_CA)


async def _reaches(host: str, port: int) -> None:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as problem:
        raise FoundError(
            f"nothing takes connections at {host}, port {port}: {str(problem) or 'no answer'}",
            "start the gateway; open the port in firewalls between",
        ) from problem
    writer.close()


async def _trusts(host: str, port: int, root: Chain, clock: Clock) -> None:
    try:
        await shake(host, port, TrustBundle(root.certificates, as_of=clock.now()), host, clock)
    except (Error, OSError) as problem:
        message, fix = (problem.message, problem.fix) if isinstance(problem, Error) else (str(problem), "")
        raise FoundError(message, fix or "compare the root, and the name that is dialled with hostname") from problem
