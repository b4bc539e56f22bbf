"""Ports of loopback that nobody else takes until this process ends.

A port that the kernel once called free is anybody's as soon as its socket is closed: of the next test that asks for any
port, and of every connection on its way out. So these come from below the range that the kernel chooses from, and an
abstract unix socket per port, which the kernel closes with the process, says to other test processes that it is taken.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

_LOWEST, _HIGHEST = 20_000, 65_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_choice = random.SystemRandom()  # not the generator that is seeded anew for each test


def free_port() -> int:
    """A port of loopback that nothing listens on, for this process and what it starts."""
    ports = _ports()
    for _ in range(10 * len(ports)):
        port = _choice.choice(ports)
        if _reserve(port):
            return port
    raise AssertionError("no port is free")


def _ports() -> range:
    """Those that the kernel gives to nobody who asks for any."""
    lowest = int(_RANGE.read_text().split()[0])
    return range(_LOWEST, lowest) if lowest - _LOWEST >= 1000 else range(_LOWEST, _HIGHEST)


def _reserve(port: int) -> bool:
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        mark.bind(f"\0edgetrust-test-port-{port}")
        with socket.socket() as probe:
            probe.bind(("0.0.0.0", port))
    except OSError:
        mark.close()
        return False
    mark.detach()  # open until this process ends
    return True
