"""Rows 1 to 6: which certificate serves which purpose."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.pki import root
from support.relay import ALERT, CHANGE_CIPHER, HANDSHAKE, Relay
from support.story import (
    GATEWAY,
    HUB,
    FalseServer,
    Site,
    Story,
    edgetrust,
    eventually,
    false_server,
    look,
    pem,
    public_key,
    tool,
    verify,
    x509,
)

CONFIG_YAML = """
hostname: "edgegateway.local"
provisioning:
  source: "manual"
  authentication:
    method: "x509"
    iothub_hostname: "ContosoIoTHub.Azure-devices.NET"
    device_id: "EdgeGateway"
    identity_cert: "file:///var/aziot/certs/identity.pem"
    identity_pk: "file:///var/aziot/secrets/identity.key.pem"
certificates:
  {certificates}
agent:
  name: "edgeAgent"
"""


def test_row_001_five_certificates_have_five_keys(story: Story) -> None:
    """Every purpose has a certificate and a key pair of its own: hub, edge identity, Edge CA, edgeHub, downstream."""
    gateway = story.gateway
    on_the_wire = look(story.mqtt_port, "-showcerts").certificates[0], gateway.look("-showcerts").certificates[0]
    sensor, _ = story.files(story.sensor)
    keys = [public_key(one) for one in (*on_the_wire, gateway.file("deviceid-"), gateway.edge_ca, sensor)]
    assert len(set(keys)) == 5


@pytest.mark.parametrize(
    ("certificates", "edge_ca"),
    [
        (
            "{device_ca_cert: /ca/device-ca.pem, device_ca_pk: /ca/device-ca.key.pem, trusted_ca_certs: /ca/root.pem}",
            {"cert": "file:///ca/device-ca.pem", "pk": "file:///ca/device-ca.key.pem"},
        ),
        (
            "{auto_generated_ca_lifetime_days: 60, trusted_ca_certs: /ca/root.pem}",
            {"auto_generated_edge_ca_expiry_days": 60},
        ),
    ],
)
def test_row_002_the_device_ca_of_1_1_is_the_edge_ca(
    tmp_path: Path, certificates: str, edge_ca: dict[str, object]
) -> None:
    """What 1.1 called device CA is the Edge CA: a config.yaml is imported so, and nothing is named otherwise."""
    old = tmp_path / "config.yaml"
    old.write_text(CONFIG_YAML.format(certificates=certificates))
    done = edgetrust("edge", "import", old)
    assert done.code == 0, done.err
    new = tomllib.loads(done.out)
    assert new["edge_ca"] == edge_ca
    assert new["trust_bundle_cert"] == "file:///ca/root.pem"
    assert new["provisioning"]["authentication"]["identity_cert"] == "file:///var/aziot/certs/identity.pem"
    assert "device_ca" not in done.out
    assert "not carried over: agent" in done.err


def test_row_003_no_workload_ca_stands_between(story: Story) -> None:
    """Since 1.2 the Edge CA itself issues server certificates: issuer and key identifier lead to its file."""
    leaf = story.gateway.look("-showcerts").certificates[0]
    edge_ca = story.gateway.edge_ca
    assert x509(leaf, "-issuer").partition("=")[2] == x509(edge_ca, "-subject").partition("=")[2]
    assert x509(leaf, "-issuer_hash") == x509(edge_ca, "-subject_hash")
    authority = x509(leaf, "-ext", "authorityKeyIdentifier").splitlines()[1].strip()
    assert authority == x509(edge_ca, "-ext", "subjectKeyIdentifier").splitlines()[1].strip()


@pytest.fixture(scope="module")
def led_astray(story: Story) -> Iterator[tuple[Site, Relay, Relay]]:
    """A gateway that knows its hub, and whose way to the hub can be turned to somebody else. It is stopped."""
    with Relay(story.mqtt_port) as mqtt, Relay(story.https_port) as https:
        site = story.site("LedAstray", ports=(mqtt.port, https.port))
        site.start()
        site.wait_for_hub()
        site.stop()
        yield site, mqtt, https
        site.stop()


@pytest.mark.parametrize("wrong", ["another CA", "another name"])
@pytest.mark.parametrize("leg", ["MQTT", "HTTPS"])
def test_row_004_a_false_hub_gets_nothing(
    story: Story, led_astray: tuple[Site, Relay, Relay], tmp_path: Path, leg: str, wrong: str
) -> None:
    """Every connection to the hub is verified, chain and name: a false hub sees a handshake, an alert, and no byte of
    MQTT or HTTP, whichever part of the gateway dials.
    """
    site, mqtt, https = led_astray
    with _false_hub(story, tmp_path, wrong) as server:
        mqtt.target, https.target = story.mqtt_port, story.https_port
        astray = mqtt if leg == "MQTT" else https
        astray.target = server.port
        astray.talks.clear()
        site.log.unlink()
        site.start()
        try:
            eventually(lambda: bool(astray.talks) and "is not trusted" in site.text())
        finally:
            site.stop()
        for talk in astray.talks:
            assert set(talk.kinds("client")) <= {HANDSHAKE, CHANGE_CIPHER, ALERT}, talk.records()


@pytest.mark.parametrize("wrong", ["another CA", "another name"])
def test_row_004_a_gateway_is_not_provisioned_by_a_false_hub(story: Story, tmp_path: Path, wrong: str) -> None:
    """A gateway that was never provisioned gives up at a false hub, says why, and has sent nothing."""
    with _false_hub(story, tmp_path, wrong) as server, Relay(server.port) as relay:
        site = story.site("NeverProvisioned", ports=(relay.port, relay.port))
        site.launch()
        assert site.wait() == 1
        expected = "unable to get local issuer certificate" if wrong == "another CA" else "mismatch"
        assert expected in site.text()
        assert "Traceback" not in site.text()
        assert all(set(talk.kinds("client")) <= {HANDSHAKE, CHANGE_CIPHER, ALERT} for talk in relay.talks)
        assert relay.talks


def _false_hub(story: Story, folder: Path, wrong: str) -> FalseServer:
    """TLS 1.2, so that alerts can be told from data on the wire."""
    other = root("Another Root", now=story.now).authority("Contoso TLS CA 1", key_label="other", now=story.now)
    holder = (
        story.hub_server("*.azure-devices.net", issuer=other)
        if wrong == "another CA"
        else story.hub_server("*.somewhere.example")
    )
    return false_server(folder, holder, "-tls1_2", "-quiet")


def test_row_005_the_hub_knows_a_gateway_by_its_identity_certificate(story: Story, tmp_path: Path) -> None:
    """The hub accepts EdgeGateway's request over mutual TLS with its own key, and with no other."""
    request = (
        f"GET /devices/EdgeGateway/modules?api-version=2021-04-12 HTTP/1.1\r\nHost: {HUB}\r\nConnection: close\r\n\r\n"
    )
    certificate = story.gateway.file("deviceid-")
    its_key = next(story.gateway.keys.glob("deviceid-*.key"))
    trust = ("-CAfile", story.os_store, "-verify_hostname", HUB, "-verify_return_error", "-quiet")
    right = look(
        story.https_port, *trust, "-cert", certificate, "-key", its_key, "-cert_chain", certificate, say=request
    )
    assert "HTTP/1.1 200" in right.text
    assert '"$edgeHub"' in right.text
    other, other_key = story.files(story.device_holder("EdgeGateway", label="somebody else"))
    wrong = look(story.https_port, *trust, "-cert", other, "-key", other_key, say=request)
    assert "HTTP/1.1 401" in wrong.text
    mixed = tool(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{story.https_port}"),
        *("-cert", certificate, "-key", other_key),
    )
    assert "key values mismatch" in mixed.text


def test_row_006_a_device_knows_the_gateway_by_a_certificate_of_its_edge_ca(story: Story, tmp_path: Path) -> None:
    """What edgeHub shows to downstream devices was issued by the Edge CA and is good for its name."""
    leaf = tmp_path / "leaf.pem"
    leaf.write_text(story.gateway.look("-showcerts").certificates[0])
    only_edge_ca = tmp_path / "edge-ca.pem"
    only_edge_ca.write_text(pem(story.edge_ca))
    done = verify(
        leaf, "-partial_chain", "-trusted", only_edge_ca, "-purpose", "sslserver", "-verify_hostname", GATEWAY
    )
    assert done.code == 0, done.text
