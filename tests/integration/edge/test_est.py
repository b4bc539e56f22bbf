"""A gateway whose Edge CA comes from an EST server and renews itself, while devices stay connected."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from edgetrust.pki.chain import Chain
from support.edge_world import Gateway, World, edgetrust, wait_until
from support.est_server import Served, TestEst
from support.pki import self_signed

# Due 22 seconds before its end, eight seconds after it was issued.
SHORT = TestEst(life=timedelta(seconds=90), begin=timedelta(seconds=-60))
RENEW = '\nauto_renew = { rotate_key = true, threshold = "75%", retry = "1%" }\n'
RENEWALS = 3


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path, SHORT)
    yield made
    made.stop()


def test_renewals_lose_no_client_and_no_message(world: World, served: Served) -> None:
    identity = world.edge_device()
    sensor = self_signed("TempSensor", now=world.pki.now)
    world.thumbprint_device("TempSensor", sensor, "--parent", "EdgeGateway")
    listener = self_signed("Listener", now=world.pki.now)
    world.thumbprint_device("Listener", listener, "--parent", "EdgeGateway")
    gateway = world.gateway(identity, quickstart=True, extra=served.issuance() + f'[edge_ca]\nmethod = "est"{RENEW}')
    gateway.trust.write_text(served.est.pki.bundle.pem())
    gateway.start()
    connected = gateway.subscribe("Listener", listener)
    world.children.append(connected)

    sent: list[str] = []

    def send_until_renewed() -> bool:
        sent.append(f"m{len(sent)}")
        done = gateway.publish("TempSensor", sent[-1], holder=sensor)
        assert done.returncode == 0, done.stdout + done.stderr
        return len(edge_cas(served)) > RENEWALS

    wait_until(send_until_renewed, 90)
    wait_until(lambda: shown_edge_ca(gateway) == edge_cas(served)[-1])
    world.wait_for_events(sent, "TempSensor")
    connected.terminate()
    assert connected.stdout is not None
    assert connected.stdout.read().count("received CONNACK") == 1
    assert [one.client for one in served.est.asked].count("CN=bootstrap") == 1
    assert not any(line for line in gateway.text().splitlines() if "not_renewed" in line), gateway.text()[-2000:]

    config = str(gateway.root.parent / "config.toml")
    checked = edgetrust("edge", "check", "-c", config, "--root", str(gateway.root), "--json", ok=False)
    outcomes = {name: one["outcome"] for name, one in json.loads(checked.stdout)["checks"].items()}
    wrong = {name for name, outcome in outcomes.items() if outcome == "error"}
    assert wrong <= {"certs-match-private-keys"}, checked.stdout  # it may look in the middle of a renewal
    assert outcomes["edgehub-server-certificate"] == "ok"
    assert outcomes["host-connect-iothub-mqtt"] == "ok"

    shown = edgetrust("cert", "status", str(gateway.root)).stdout
    assert shown.count("% used") == 4
    assert "est-id" in shown


def edge_cas(served: Served) -> list[x509.Certificate]:
    return [one for one in served.est.issued if "aziot-edge CA" in one.subject.rfc4514_string()]


def shown_edge_ca(gateway: Gateway) -> x509.Certificate:
    """The second certificate that `openssl s_client` is shown."""
    blocks = re.findall(
        r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", gateway.s_client("-showcerts"), re.S
    )
    return Chain.from_pem(blocks[1]).end_entity
