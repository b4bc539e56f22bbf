"""A gateway below a gateway: hub, upper, lower and a sensor, as processes; what the article promises for one holds for
both.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.edge_world import Gateway, World, wait_until
from support.pki import Holder, self_signed
from support.ports import free_port
from support.surface import MOSQUITTO, surface


class Hierarchy:
    """hub > Upper > Lower > DeepSensor."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        try:
            self._start()
        except BaseException:
            self.world.close()
            raise

    def _start(self) -> None:
        self.world.hub.start()
        upper = self.world.edge_device("Upper")
        lower = self_signed("Lower", now=self.world.pki.now)
        print_ = lower.chain.thumbprint().hex()
        slots = ("--thumbprint", print_, "--secondary-thumbprint", print_)
        self.world.device("Lower", "--edge", *slots, "--parent", "Upper")
        self.sensor = self_signed("DeepSensor", now=self.world.pki.now)
        self.world.thumbprint_device("DeepSensor", self.sensor, "--parent", "Lower")
        self.upper = self.world.gateway(upper, "Upper", name="upper")
        self.upper.arguments += ["--mqtt-port", str(free_port()), "--https-port", str(free_port())]  # also once again
        self.upper.start()
        self.lower = self.world.gateway(lower, "Lower", name="lower", above=self.upper)
        self.lower.start()

    def sends(self, text: str, gateway: Gateway | None = None, holder: Holder | None = None) -> bool:
        done = (gateway or self.lower).publish("DeepSensor", text, holder=holder or self.sensor)
        return done.returncode == 0


@pytest.fixture(scope="module")
def hierarchy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hierarchy]:
    made = Hierarchy(tmp_path_factory.mktemp("nested"))
    yield made
    made.world.close()


@surface(MOSQUITTO, "nested")
def test_what_the_lowest_sends_is_at_the_hub_under_its_name(hierarchy: Hierarchy) -> None:
    assert hierarchy.sends("21.5")
    hierarchy.world.wait_for_events(["21.5"], "DeepSensor")
    wait_until(lambda: bool(hierarchy.lower.state()["upstream"]["connected"]))


def test_each_is_refused_where_it_does_not_belong(hierarchy: Hierarchy) -> None:
    impostor = self_signed("Impostor", now=hierarchy.world.pki.now)
    assert not hierarchy.sends("x", holder=impostor)
    assert "thumbprint-mismatch" in hierarchy.lower.text()
    hierarchy.world.device("UpperSensor", "--parent", "Upper")
    assert hierarchy.lower.publish("UpperSensor", password="nonsense").returncode != 0
    # From above, a device further below may come by itself too: it is below this gateway.
    assert hierarchy.sends("21.6", gateway=hierarchy.upper)


@surface(MOSQUITTO, "nested")
def test_a_cloud_to_device_message_goes_down_two_gateways(hierarchy: Hierarchy) -> None:
    listening = hierarchy.lower.subscribe("DeepSensor", hierarchy.sensor)
    hierarchy.world.children.append(listening)
    wait_until(lambda: hierarchy.lower.state()["sessions"] >= 1 and hierarchy.upper.state()["sessions"] >= 2)
    hierarchy.world.device_command("c2d", "DeepSensor", "open")
    assert listening.stdout is not None
    for line in listening.stdout:
        if line.strip() == "open":
            break
    listening.terminate()
    listening.communicate()


def test_a_device_that_is_disabled_at_the_hub_loses_its_connection_at_the_lowest(hierarchy: Hierarchy) -> None:
    hierarchy.world.device("Doomed", "--parent", "Lower", "--thumbprint", hierarchy.sensor.chain.thumbprint().hex())
    assert hierarchy.lower.publish("Doomed", "1", holder=hierarchy.sensor).returncode == 0
    hierarchy.world.device_command("disable", "Doomed")
    wait_until(lambda: hierarchy.lower.publish("Doomed", "2", holder=hierarchy.sensor).returncode != 0)
    assert "disabled" in hierarchy.lower.text()


def test_without_the_upper_the_lower_decides_by_its_copy_and_keeps_what_it_gets(hierarchy: Hierarchy) -> None:
    assert hierarchy.sends("before")
    hierarchy.upper.stop(signal.SIGKILL)
    wait_until(lambda: not hierarchy.lower.state()["upstream"]["connected"])
    assert hierarchy.sends("kept")
    hierarchy.upper.start()
    hierarchy.world.wait_for_events(["before", "kept"], "DeepSensor")
