"""Ten renewals of everything that a gateway is issued, while 200 devices publish through it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.device_fleet import Fleet, summary
from support.edge_world import wait_until
from support.field import Field, presented

DEVICES = 200
RATE = 100.0  # messages a second, of all devices
RENEWALS = 10


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Field]:
    made = Field(tmp_path)
    try:
        made.begin()
        yield made
    finally:
        made.close()


def issued(field: Field, profile: str, identity: str) -> int:
    """How many certificates of a kind an identity has had so far."""
    listed = json.loads(field.ca_command("list", "--json", "--identity", identity))
    return sum(one["profile"] == profile for one in listed)


def test_ten_renewals_lose_no_session_and_no_message(field: Field) -> None:
    gateway = field.gateway("gateway-1")
    gateway.start()
    names = [f"device-{number}" for number in range(DEVICES)]
    devices = field.register(names[20:], gateway.device) + field.register(names[:20], gateway.device, by_ca=True)
    with Fleet(field.trust) as fleet:
        fleet.add(devices, gateway.at)
        fleet.wait_connected()
        fleet.publish(RATE)
        kinds = ("edge-ca", "device")
        before = [issued(field, kind, gateway.device) for kind in kinds]
        seen: dict[int, None] = {}

        def renewed() -> bool:
            seen[presented(gateway.at, field.trust).serial_number] = None
            return len(seen) > RENEWALS

        wait_until(renewed, 180)
        fleet.settle()
        assert (fleet.tally.dropped, fleet.tally.refused, fleet.tally.unreachable) == ([], [], []), summary(
            [*fleet.tally.dropped, *fleet.tally.refused, *fleet.tally.unreachable]
        )
        assert [device.connections for device in fleet.devices] == [1] * DEVICES
        field.wait_forwarded()
        log = field.log()
        assert fleet.missing_from(log) == []
        assert fleet.out_of_order(log) == []
        edge_cas, identities = (
            issued(field, kind, gateway.device) - had for kind, had in zip(kinds, before, strict=True)
        )
        assert edge_cas >= RENEWALS
        assert identities >= 2 * RENEWALS  # towards the hub, and towards EST
        assert "not_renewed" not in gateway.text()
