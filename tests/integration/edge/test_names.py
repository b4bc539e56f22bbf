"""A gateway under several names and addresses, which change while devices are connected."""

from __future__ import annotations

import signal
from pathlib import Path

from support.edge_world import World, edgetrust, wait_until
from support.pki import self_signed


def test_names_are_added_while_a_device_stays_connected(world: World) -> None:
    identity = world.edge_device()
    sensor = self_signed("TempSensor", now=world.pki.now)
    world.thumbprint_device("TempSensor", sensor, "--parent", "EdgeGateway")
    world.device("KeySensor", "--parent", "EdgeGateway")
    gateway = world.gateway(identity, extra='[edgetrust.gateway]\nnames = ["10.9.8.7", "other.local"]\n')
    config = Path(gateway.arguments[3])
    installed = gateway.root / "etc/aziot/config.toml"
    edgetrust("edge", "apply", "-c", str(config), "--root", str(gateway.root))
    gateway.arguments[3] = str(installed)
    gateway.start()
    for verify in (("-verify_ip", "10.9.8.7"), ("-verify_hostname", "other.local"), ("-verify_hostname", "localhost")):
        assert "Verification: OK" in gateway.s_client(*verify, "-brief")
    assert "hostname mismatch" in gateway.s_client("-verify_hostname", "new.local", "-brief")
    listening = gateway.subscribe("TempSensor", sensor)
    world.children.append(listening)
    wait_until(lambda: gateway.state()["sessions"] >= 1)

    text = config.read_text().replace('"other.local"]', '"other.local", "new.local", "fd00::7"]')
    config.write_text(text)
    done = edgetrust("edge", "apply", "-c", str(config), "--root", str(gateway.root))
    assert "told to read its names again" in done.stderr
    wait_until(lambda: "Verification: OK" in gateway.s_client("-verify_hostname", "new.local", "-brief"))
    assert "Verification: OK" in gateway.s_client("-verify_ip", "fd00::7", "-brief")
    assert gateway.publish("TempSensor-2", "x").returncode != 0  # the door is the same

    installed.write_text(text.replace('"new.local"', '"not a name"'))
    assert gateway.running is not None
    gateway.running.send_signal(signal.SIGHUP)
    wait_until(lambda: "config.not_reread" in gateway.text())
    assert "Verification: OK" in gateway.s_client("-verify_hostname", "new.local", "-brief")
    assert gateway.running.poll() is None
    assert listening.poll() is None  # nobody was disconnected
    wait_until(lambda: gateway.state()["gateway"]["names"] == ["10.9.8.7", "other.local", "new.local", "fd00::7"])
