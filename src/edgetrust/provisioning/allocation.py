"""Which hub: the policies of hub specification 14.7, over the hubs that this service is linked to.

    static        the enrollment's one hub
    hashed        by the registration identifier and the hubs' weights; a new hub takes its share and moves no one else
    geoLatency    the hubs of the device's network, if the operator named some, else the one that answers fastest
    custom        a webhook (`webhook`) decides

An enrollment may narrow the hubs; names of hubs that are not linked do not count. Pure but for the webhook, which is
another module's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address

from edgetrust.protocol.dps.enrollments import AllocationPolicy, Enrollment
from edgetrust.protocol.dps.errors import ALLOCATION_FAILED, ALLOCATION_WITHOUT_HUB, DpsError
from edgetrust.protocol.dps.names import registration_key


@dataclass(frozen=True, slots=True)
class Network:
    """Devices with addresses in `range` belong to `hubs`."""

    range: IPv4Network | IPv6Network
    hubs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """What can be chosen from: `weights` of all linked hubs that take part; `latencies` in seconds, measured last."""

    weights: Mapping[str, int]
    default: AllocationPolicy = AllocationPolicy.HASHED
    networks: Sequence[Network] = ()
    latencies: Mapping[str, float] = field(default_factory=dict)


def policy_of(enrollment: Enrollment, choice: Choice) -> AllocationPolicy:
    """The enrollment's policy, or that of the service; a hub named by itself is a static one."""
    if enrollment.allocation_policy is not None:
        return enrollment.allocation_policy
    return AllocationPolicy.STATIC if enrollment.iot_hub_host_name else choice.default


def allocate(enrollment: Enrollment, registration_id: str, peer: str, choice: Choice) -> str:
    """The hub's name, for every policy but custom. DpsError 400207, 400208."""
    names = candidates(enrollment, choice)
    match policy_of(enrollment, choice):
        case AllocationPolicy.STATIC:
            if len(names) > 1:
                raise DpsError(
                    ALLOCATION_FAILED,
                    "static allocation, and several hubs to choose from",
                    reason="allocation-failed",
                    fix="name one hub in the enrollment: iotHubHostName",
                )
            return names[0]
        case AllocationPolicy.GEO_LATENCY:
            near = _of_network(peer, names, choice.networks) or names
            return min(near, key=lambda name: (choice.latencies.get(name, math.inf), name))
        case _:
            return max(names, key=lambda name: (_score(registration_id, name, choice.weights[name]), name))


def candidates(enrollment: Enrollment, choice: Choice) -> tuple[str, ...]:
    """The linked hubs that the enrollment allows. DpsError 400208 when there is none."""
    wished = (enrollment.iot_hub_host_name,) if enrollment.iot_hub_host_name else enrollment.iot_hubs
    linked = {name.lower(): name for name in choice.weights}
    names = tuple(choice.weights) if not wished else tuple(linked[n.lower()] for n in wished if n.lower() in linked)
    if not names:
        said = ", ".join(wished or ())[:200] or "none"
        raise DpsError(
            ALLOCATION_WITHOUT_HUB,
            f"no linked hub to assign to (wanted: {said}; linked: {', '.join(choice.weights)[:200] or 'none'})",
            reason="allocation-without-hub",
            fix="link the hub in dps.toml ([[hubs]]), or correct the name in the enrollment",
        )
    return tuple(dict.fromkeys(names))


def _of_network(peer: str, names: Sequence[str], networks: Sequence[Network]) -> tuple[str, ...]:
    """The candidates of the narrowest network that holds the peer (`192.0.2.1:5000`, `[2001:db8::1]:5000`)."""
    host = peer.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return ()
    matching = [network for network in networks if address in network.range]
    for network in sorted(matching, key=lambda network: network.range.prefixlen, reverse=True):
        near = tuple(name for name in names if name in network.hubs)
        if near:
            return near
    return ()


def _score(registration_id: str, hub: str, weight: int) -> float:
    """Weighted rendezvous hashing: each hub wins a share in proportion to its weight."""
    digest = hashlib.sha256(f"{registration_key(registration_id)}\n{hub.lower()}".encode()).digest()
    uniform = (int.from_bytes(digest[:8], "big") + 1) / (2**64 + 1)
    return weight / -math.log(uniform)
