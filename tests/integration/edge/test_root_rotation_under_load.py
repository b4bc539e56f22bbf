"""A new root for everything, A to A and B to B, with 200 connected devices below three gateways."""

from __future__ import annotations

import random
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.device_fleet import Credentials, Device, Fleet
from support.edge_world import wait_until
from support.field import HUB, Field, Life, presented

DEVICES = 200
BY_CA = 10  # of each gateway
RATE = 100.0  # messages a second, of all devices


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Field]:
    made = Field(tmp_path, Life(1, "86%"))
    try:
        made.begin()
        yield made
    finally:
        made.close()


class Stage:
    """What every stage of the rotation has to let pass: devices that come again, and some that come anew."""

    def __init__(self, field: Field, fleet: Fleet) -> None:
        self.field, self.fleet = field, fleet
        self.number = 0

    def traffic(self) -> None:
        self.number += 1
        self.fleet.reconnect(random.sample(self.fleet.devices, 30))
        gateway = self.field.gateways[self.number % 3]
        new = self.field.register([f"new-{self.number}"], gateway.device)
        new += self.field.register([f"new-ca-{self.number}"], gateway.device, by_ca=True)
        self.field.fetch_trust(new[1:])
        self.fleet.add(new, gateway.at)
        self.fleet.wait_connected()


def by_ca(fleet: Fleet) -> list[Device]:
    return [device for device in fleet.devices if device.credentials.certificate is not None]


@pytest.mark.timeout(400)
def test_a_new_root_disturbs_nobody(field: Field, tmp_path: Path) -> None:
    for number in range(3):
        field.gateway(f"gateway-{number}").start()
    with Fleet(field.trust) as fleet:
        for number, gateway in enumerate(field.gateways):
            names = [f"device-{number}-{one}" for one in range(DEVICES // 3 + (number < DEVICES % 3))]
            fleet.add(field.register(names[BY_CA:], gateway.device), gateway.at)
            fleet.add(field.register(names[:BY_CA], gateway.device, by_ca=True), gateway.at)
        fleet.wait_connected()
        fleet.publish(RATE)
        stage = Stage(field, fleet)
        stage.traffic()

        # Distributed: both are trusted everywhere.
        only_old = field.trust
        stale = field.certify(["device-0-0"])[0]  # of the old root, and never renewed
        field.distribute_new_root()
        fleet.believe(field.trust)
        field.fetch_trust(device.credentials for device in by_ca(fleet))
        stage.traffic()
        field.wait_lacking({HUB})

        # Active: the new root issues.
        field.activate_new_root()
        only_new = field.ca_command("export", "--authority", "root-2")
        renew(field, fleet)
        stage.traffic()
        wait_until(lambda: all(trusted(one.at, only_new) for one in field.gateways), 90)

        # Tainted: the old one does not.
        assert field.advance() == "tainted"
        field.wait_lacking(set())
        stage.traffic()

        # Retired: nobody accepts it.
        wait_until(lambda: trusted(("127.0.0.1", field.ca_port, "localhost"), only_new))
        fleet.believe(only_new)
        field.retire_old_root()
        fleet.reconnect(fleet.devices)
        stage.traffic()
        fleet.settle()

        assert (fleet.tally.dropped, fleet.tally.refused, fleet.tally.unreachable) == ([], [], []), str(fleet)
        field.wait_forwarded()
        log = field.log()
        assert fleet.missing_from(log) == []
        assert fleet.out_of_order(log) == []
        wait_until(lambda: not any(trusted(one.at, only_old) for one in field.gateways), 60)
        refuse_stale(field, stale, only_new)


def renew(field: Field, fleet: Fleet) -> None:
    """Devices with certificates get new ones, and come again with them."""
    devices = by_ca(fleet)
    for device, new in zip(devices, field.certify(one.name for one in devices), strict=True):
        fleet.equip(device, new)
    fleet.reconnect(devices)
    fleet.wait_connected()


def trusted(address: tuple[str, int, str], roots: str) -> bool:
    try:
        presented(address, roots)
    except ssl.SSLCertVerificationError:
        return False
    return True


def refuse_stale(field: Field, stale: Credentials, roots: str) -> None:
    """A certificate of the old root, good before, is good for nothing now: neither at its gateway nor at the hub."""
    gateway = field.gateways[0]
    for address in (gateway.at, ("127.0.0.1", field.hub_ports[0], HUB)):
        with Fleet(roots) as strangers:
            strangers.add([stale], address)
            wait_until(lambda strangers=strangers: strangers.tally.refused != [])  # type: ignore[misc]
            assert strangers.tally.handshakes == 0
            assert strangers.tally.refused[0].what == "CONNACK 5"
