"""Which hub."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network
from typing import Any

import pytest

from edgetrust.protocol.dps.enrollments import AllocationPolicy, Enrollment
from edgetrust.protocol.dps.errors import DpsError
from edgetrust.provisioning.allocation import Choice, Network, allocate
from support.enrollments import individual, keys

HUBS = {"a": 1, "b": 1, "c": 2}


def body(**fields: Any) -> Enrollment:
    return individual("own", keys(), **fields)


def spread(weights: dict[str, int]) -> dict[str, str]:
    return {name: allocate(body(), name, "", Choice(weights)) for name in (f"dev-{n}" for n in range(4000))}


def test_hashed_gives_each_hub_its_share_always_the_same() -> None:
    chosen = spread(HUBS)
    counts = Counter(chosen.values())
    assert {name: round(count / 1000) for name, count in counts.items()} == {"a": 1, "b": 1, "c": 2}
    assert spread(HUBS) == chosen
    assert allocate(body(), "DEV-1", "", Choice(HUBS)) == allocate(body(), "dev-1", "", Choice(HUBS))


def test_a_new_hub_takes_its_share_and_moves_nobody_else() -> None:
    before, after = spread(HUBS), spread({**HUBS, "d": 1})
    assert {after[name] for name in before if after[name] != before[name]} == {"d"}


def test_a_hub_that_is_named() -> None:
    for fields in ({"iotHubHostName": "B"}, {"allocationPolicy": "static", "iotHubs": ["b"]}, {"iotHubs": ["b"]}):
        assert allocate(body(**fields), "own", "", Choice(HUBS)) == "b"
    assert allocate(body(iotHubs=["a", "gone"]), "own", "", Choice(HUBS)) == "a"
    for fields in ({"iotHubs": ["gone"]}, {"iotHubHostName": "gone"}):
        with pytest.raises(DpsError) as raised:
            allocate(body(**fields), "own", "", Choice(HUBS))
        assert raised.value.code == 400_208
    with pytest.raises(DpsError) as raised:
        allocate(body(), "own", "", Choice(HUBS, AllocationPolicy.STATIC))
    assert raised.value.code == 400_207


def test_the_nearest_or_the_fastest() -> None:
    networks = [
        Network(ip_network("10.0.0.0/8"), ("a",)),
        Network(ip_network("10.2.0.0/16"), ("b", "gone")),
        Network(ip_network("2001:db8::/32"), ("c",)),
    ]
    choice = Choice(HUBS, AllocationPolicy.GEO_LATENCY, networks, {"a": 0.2, "b": 0.01, "c": 0.1})
    places = {
        "10.1.0.1:50": "a",
        "10.2.0.1:50": "b",
        "[2001:db8::1]:50": "c",
        "192.0.2.1:9": "b",
        "unknown": "b",
        "": "b",
    }
    assert {peer: allocate(body(), "own", peer, choice) for peer in places} == places
    assert allocate(body(iotHubs=["a", "c"]), "own", "10.2.0.1:50", choice) == "a"
    assert allocate(body(iotHubs=["c"]), "own", "10.1.0.1:50", choice) == "c"
    unmeasured = Choice(HUBS, AllocationPolicy.GEO_LATENCY)
    assert allocate(body(), "own", "", unmeasured) == "a"
