"""Addresses of peers, as people read them and as limits count them."""

from __future__ import annotations

import ipaddress
from typing import Final

_SITE_PREFIX: Final = 64


def peer_address(peer: object) -> str:
    """A socket address for people: `192.0.2.1:5000`, `[2001:db8::1]:5000`, `unknown` when there is none."""
    match peer:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case _:
            return "unknown"


def counted_as(host: str) -> str:
    """What the connections from `host` are counted under: an IPv6 network of 64 bits counts as one address."""
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host.partition("%")[0])
    return str(address.ipv4_mapped or ipaddress.IPv6Network((address, _SITE_PREFIX), strict=False).network_address)
