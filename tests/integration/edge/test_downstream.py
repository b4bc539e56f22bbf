"""Who gets in through the gateway, who does not, and what happens while the hub is away."""

from __future__ import annotations

import base64
import signal
import subprocess
import threading
from datetime import timedelta

from support.edge_world import HUB_NAME, Story, World, edgetrust, wait_until, write_holder
from support.pki import EXPIRED, NOT_A_CA, self_signed

REFUSED = "not authori"


def reasons(story: Story) -> str:
    return story.gateway.text()


def refused(done: subprocess.CompletedProcess[str]) -> bool:
    return done.returncode != 0 and REFUSED in (done.stdout + done.stderr).lower()


# Thumbprints --------------------------------------------------------------------------------------------------------


def test_the_sensor_is_accepted_and_its_telemetry_is_at_the_hub(shared: Story) -> None:
    assert shared.gateway.publish("TempSensor", "21.5", holder=shared.sensor).returncode == 0
    shared.world.wait_for_events(["21.5"], "TempSensor")


def test_a_wrong_certificate_is_refused(shared: Story) -> None:
    other = self_signed("Impostor", now=shared.world.pki.now)
    assert refused(shared.gateway.publish("TempSensor", holder=other))
    assert "thumbprint-mismatch" in reasons(shared)


def test_a_certificate_for_another_name_is_refused(shared: Story) -> None:
    assert refused(shared.gateway.publish("Other", holder=shared.sensor))


def test_a_copied_certificate_without_its_key_does_not_even_connect(shared: Story) -> None:
    folder = shared.gateway.root.parent
    certificate, _ = write_holder(folder, "copied", shared.sensor)
    _, key = write_holder(folder, "own", self_signed("thief", now=shared.world.pki.now))
    done = shared.gateway.publish("TempSensor", cert=str(certificate), key=str(key))
    assert done.returncode != 0
    assert "CONNACK" not in done.stdout


def test_an_expired_certificate_is_refused(shared: Story) -> None:
    late = self_signed("LateSensor", now=shared.world.pki.now, **EXPIRED)
    shared.world.thumbprint_device("LateSensor", late, "--parent", "EdgeGateway")
    assert refused(shared.gateway.publish("LateSensor", holder=late))
    assert "certificate-expired" in reasons(shared)


def test_no_credential_is_refused(shared: Story) -> None:
    assert refused(shared.gateway.publish("TempSensor"))
    assert "no-credential" in reasons(shared)


def test_the_client_identifier_must_be_the_device(shared: Story) -> None:
    done = shared.gateway.publish("TempSensor", holder=shared.sensor, client_id="Other")
    assert done.returncode != 0


def test_a_wrong_connect_does_not_disturb_the_connected_device(shared: Story) -> None:
    child = shared.gateway.subscribe("TempSensor", shared.sensor)
    shared.world.children.append(child)
    wait_until(lambda: shared.gateway.state()["sessions"] == 1)
    assert refused(shared.gateway.publish("TempSensor", holder=self_signed("Impostor", now=shared.world.pki.now)))
    assert child.poll() is None
    assert shared.gateway.state()["sessions"] == 1
    child.terminate()
    child.communicate()


# The scope ----------------------------------------------------------------------------------------------------------


def test_a_device_of_another_parent_and_one_that_nobody_knows(shared: Story) -> None:
    stray = self_signed("Stray", now=shared.world.pki.now)
    shared.world.thumbprint_device("Stray", stray)
    assert refused(shared.gateway.publish("Stray", holder=stray))
    assert '"reason": "not-a-child"' in reasons(shared)
    assert refused(shared.gateway.publish("Nobody", holder=self_signed("Nobody", now=shared.world.pki.now)))
    assert '"reason": "unknown-identity"' in reasons(shared)


def test_a_new_child_is_accepted_at_once(shared: Story) -> None:
    new = self_signed("NewSensor", now=shared.world.pki.now)
    shared.world.thumbprint_device("NewSensor", new, "--parent", "EdgeGateway")
    assert shared.gateway.publish("NewSensor", "first", holder=new).returncode == 0
    shared.world.wait_for_events(["first"], "NewSensor")


def test_a_child_that_was_refused_is_accepted_as_soon_as_it_is_registered(shared: Story) -> None:
    eager = self_signed("Eager", now=shared.world.pki.now)
    assert refused(shared.gateway.publish("Eager", holder=eager))
    shared.world.thumbprint_device("Eager", eager, "--parent", "EdgeGateway")
    wait_until(lambda: shared.gateway.publish("Eager", holder=eager).returncode == 0)


def test_a_symmetric_key_with_the_hubs_or_the_gateways_name(shared: Story) -> None:
    made = shared.world.device("KeySensor", "--parent", "EdgeGateway")
    key = made["authentication"]["symmetricKey"]["primaryKey"]
    for host in (HUB_NAME, shared.gateway.hostname):
        assert shared.gateway.publish("KeySensor", "k", password=token(host, "KeySensor", key)).returncode == 0
    assert refused(shared.gateway.publish("KeySensor", password=token(HUB_NAME, "Other", key)))
    assert refused(shared.gateway.publish("KeySensor", password=token(HUB_NAME, "KeySensor", "AAAA" * 11)))
    assert refused(shared.gateway.publish("KeySensor", password="SharedAccessSignature nonsense"))
    wrong_beside_right = shared.gateway.publish("TempSensor", holder=shared.sensor, password="SharedAccessSignature x")
    assert refused(wrong_beside_right)


def token(host: str, device: str, key: str) -> str:
    from edgetrust.protocol.sas import resource_text, sign

    return sign(base64.b64decode(key + "=" * (-len(key) % 4)), resource_text(host, device), 4_000_000_000)


# X.509 CA -----------------------------------------------------------------------------------------------------------


def test_x509_ca_by_the_trust_bundle(shared: Story) -> None:
    pki = shared.world.pki
    shared.world.device("CaSensor", "--auth", "ca", "--parent", "EdgeGateway")
    assert shared.gateway.publish("CaSensor", "ca", holder=pki.device("CaSensor")).returncode == 0
    for wrong in (
        pki.device("casensor"),
        pki.impostor().device("CaSensor"),
        pki.device("CaSensor", **EXPIRED),
        pki.issuing.authority("CaSensor", now=pki.now),
        pki.issuing.issue("Not a CA", now=pki.now, **NOT_A_CA).issue("CaSensor", now=pki.now),
    ):
        assert refused(shared.gateway.publish("CaSensor", holder=wrong))
    text = reasons(shared)
    for reason in ("cn-mismatch", "chain-", "certificate-expired", "end-entity-is-a-ca"):
        assert reason in text


def test_x509_ca_by_a_ca_that_only_the_hub_has_verified(story: Story) -> None:
    world, gateway = story.world, story.gateway
    other = world.pki.impostor()  # same names, other keys
    world.device("OtherSensor", "--auth", "ca", "--parent", "EdgeGateway")
    assert refused(gateway.publish("OtherSensor", holder=other.device("OtherSensor")))
    certificate, _ = write_holder(world.folder, "other-root", other.root)
    edgetrust("hub", "ca", "add", "other", str(certificate), "--verified", "--dir", str(world.hub_folder))
    wait_until(lambda: gateway.publish("OtherSensor", holder=other.device("OtherSensor")).returncode == 0)
    world.hub.stop()
    gateway.stop()
    gateway.start()
    assert gateway.publish("OtherSensor", holder=other.device("OtherSensor")).returncode == 0


# Without the hub ----------------------------------------------------------------------------------------------------


def test_the_hub_goes_and_comes_back(story: Story) -> None:
    world, gateway, sensor = story.world, story.gateway, story.sensor
    assert gateway.publish("TempSensor", "0", holder=sensor).returncode == 0
    world.wait_for_events(["0"])
    world.hub.stop(signal.SIGKILL)
    for number in range(1, 4):
        assert gateway.publish("TempSensor", str(number), holder=sensor).returncode == 0
    unknown = gateway.publish("Nobody", holder=self_signed("Nobody", now=world.pki.now))
    assert unknown.returncode != 0
    assert "registry-unavailable" in gateway.text()
    gateway.stop(signal.SIGKILL)
    gateway.start()
    assert gateway.publish("TempSensor", "4", holder=sensor).returncode == 0
    wait_until(lambda: gateway.state()["queue"]["messages"] >= 3)
    world.hub.start()
    world.wait_for_events(["0", "1", "2", "3", "4"])
    wait_until(lambda: gateway.state()["queue"]["messages"] == 0)


def test_no_key_can_be_read_from_the_store(story: Story) -> None:
    made = story.world.device("KeySensor", "--parent", "EdgeGateway")
    key = made["authentication"]["symmetricKey"]["primaryKey"]
    password = token(HUB_NAME, "KeySensor", key)
    assert story.gateway.publish("KeySensor", "k", password=password).returncode == 0
    story.gateway.stop()
    raw = base64.b64decode(key)
    for file in (story.gateway.root / "var/lib/edgetrust").iterdir():
        content = file.read_bytes()
        assert raw not in content
        assert key.encode() not in content


def test_a_disabled_device_loses_its_open_connection(story: Story) -> None:
    child = story.gateway.subscribe("TempSensor", story.sensor)
    story.world.children.append(child)
    wait_until(lambda: story.gateway.state()["sessions"] == 1)
    story.world.device_command("disable", "TempSensor")
    wait_until(lambda: "decided again" in story.gateway.text() or story.gateway.state()["sessions"] == 0)
    wait_until(lambda: refused(story.gateway.publish("TempSensor", holder=story.sensor)))
    assert '"reason": "disabled"' in story.gateway.text()
    story.world.device_command("enable", "TempSensor")
    wait_until(lambda: story.gateway.publish("TempSensor", holder=story.sensor).returncode == 0)


def test_a_removed_device_does_not_hold_up_the_queue(story: Story) -> None:
    world, gateway = story.world, story.gateway
    leaving = self_signed("Leaving", now=world.pki.now)
    world.thumbprint_device("Leaving", leaving, "--parent", "EdgeGateway")
    assert gateway.publish("Leaving", "here", holder=leaving).returncode == 0
    world.wait_for_events(["here"])
    world.hub.stop()
    assert gateway.publish("Leaving", "too late", holder=leaving).returncode == 0
    assert gateway.publish("TempSensor", "behind it", holder=story.sensor).returncode == 0
    gateway.stop()
    world.hub.start()
    world.device_command("delete", "Leaving")
    gateway.start()
    world.wait_for_events(["behind it"])
    assert "upstream.dropped" in gateway.text()


def test_a_replaced_thumbprint_is_taken_up(story: Story) -> None:
    new = self_signed("TempSensor", key_kind="rsa-2048", now=story.world.pki.now, end=timedelta(days=5))
    assert refused(story.gateway.publish("TempSensor", holder=new))
    story.world.device_command("update", "TempSensor", "--thumbprint", new.chain.thumbprint().hex())
    wait_until(lambda: story.gateway.publish("TempSensor", holder=new).returncode == 0)


def test_a_second_connection_of_a_device_takes_over(story: Story) -> None:
    child = story.gateway.subscribe("TempSensor", story.sensor)
    story.world.children.append(child)
    wait_until(lambda: story.gateway.state()["sessions"] == 1)
    assert story.gateway.publish("TempSensor", holder=story.sensor).returncode == 0


def test_a_gateway_that_was_never_provisioned_waits_for_its_hub(world: World) -> None:
    gateway = world.gateway(world.edge_device())
    world.hub.stop()
    starting = threading.Thread(target=gateway.start)
    starting.start()
    wait_until(lambda: gateway.log.exists() and "waiting to be provisioned" in gateway.text())
    world.hub.start()
    starting.join(60)
    assert gateway.ready["gateway"]["hostname"] == "localhost"
