"""Rows 55 to 69 and 71: how TempSensor knows EdgeGateway."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.pki import SERVER, root
from support.relay import DATA, Relay
from support.story import (
    API,
    EDGE_CA,
    GATEWAY,
    HUB,
    INTERMEDIATE_CA,
    ROOT_CA,
    Done,
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


def test_row_055_a_device_trusts_only_what_it_was_given(story: Story, tmp_path: Path) -> None:
    """Without my_private_root_CA the sensor refuses the gateway, by whatever client it connects."""
    unrelated = tmp_path / "unrelated.pem"
    unrelated.write_text(pem(root("Unrelated Root", now=story.now)))
    seen = story.gateway.look(trust=unrelated)
    assert re.search(r"num=(19|20)\b", " ".join(seen.problems)), seen.problems
    before = len(story.gateway.logged("tls.handshake_failed"))
    mosquitto = story.publish("TempSensor", story.sensor, at=story.gateway, trust=unrelated, message="row 55")
    assert mosquitto.code != 0
    assert "certificate verify failed" in mosquitto.text
    ours = story.send("TempSensor", story.sensor, at=story.gateway, trust=unrelated)
    assert ours.code == 1
    eventually(lambda: len(story.gateway.logged("tls.handshake_failed")) >= before + 2)
    assert "row 55" not in story.messages("TempSensor")


def test_row_056_the_gateway_sends_its_chain(story: Story) -> None:
    """Server certificate, Edge CA and intermediate are sent; the root is the device's own to have."""
    seen = story.gateway.look("-showcerts")
    assert [subject for subject, _ in seen.listing] == [f"CN = {GATEWAY}", f"CN = {EDGE_CA}", f"CN = {INTERMEDIATE_CA}"]
    assert len(seen.certificates) == 3
    assert seen.verified


def test_row_057_the_same_flow_as_with_the_hub(story: Story, tmp_path: Path) -> None:
    """A device asks hub and gateway the same: the same client, the same faults, the same words."""
    unrelated = tmp_path / "unrelated.pem"
    unrelated.write_text(pem(root("Unrelated Root", now=story.now)))
    right = [
        story.send("TempSensor", story.sensor, trust=story.os_store),
        story.send("TempSensor", story.sensor, at=story.gateway, trust=story.trust),
    ]
    assert [done.code for done in right] == [0, 0], right
    untrusted = [
        story.send("TempSensor", story.sensor, trust=unrelated),
        story.send("TempSensor", story.sensor, at=story.gateway, trust=unrelated),
    ]
    other_name = [
        story.send("TempSensor", story.sensor, name="a.b.azure-devices.net", trust=story.os_store),
        story.send("TempSensor", story.sensor, at=story.gateway, name="othergateway.local", trust=story.trust),
    ]
    for pair in (untrusted, other_name):
        assert [done.code for done in pair] == [1, 1]
        assert _fix(pair[0]) == _fix(pair[1]) != ""


def _fix(done: Done) -> str:
    return next((line for line in done.err.splitlines() if line.startswith("fix: ")), "")


def test_row_058_the_certificate_is_for_the_name_that_is_dialled(story: Story) -> None:
    """The gateway's certificate is for its configured name, and for no address that nobody configured."""
    assert story.gateway.look("-verify_hostname", GATEWAY).verified
    address = story.gateway.look("-verify_ip", "127.0.0.1")
    assert any("IP address mismatch" in problem for problem in address.problems)


def test_row_059_the_operating_system_does_not_know_the_root(story: Story) -> None:
    """With the store of the operating system alone the gateway is not trusted; with the private root it is."""
    store = {"SSL_CERT_FILE": str(story.os_store)}
    seen = look(story.gateway.port, "-verify_hostname", GATEWAY, env=store)
    assert not seen.verified
    ours = story.send("TempSensor", story.sensor, at=story.gateway, env=store)
    assert ours.code == 1
    assert story.gateway.look("-verify_hostname", GATEWAY).verified


@pytest.mark.parametrize("intermediates", [0, 1, 2, 3])
def test_row_060_any_number_of_intermediates(story: Story, tmp_path: Path, intermediates: int) -> None:
    """A chain may have none or several intermediates: it is served whole but for the root, and verified."""
    issuer = top = root(ROOT_CA, key_label=f"root of {intermediates}", now=story.now)
    for number in range(intermediates):
        issuer = issuer.authority(f"intermediate {number}", path_length=intermediates - number, now=story.now)
    edge_ca = issuer.authority(EDGE_CA, path_length=0, now=story.now)
    site = story.site(f"Depth{intermediates}", edge_ca=edge_ca, whole=intermediates % 2 == 0)
    site.start()
    try:
        seen = site.look("-showcerts", "-verify_hostname", GATEWAY)
        assert seen.verified
        assert len(seen.listing) == 2 + intermediates
        assert seen.listing[-1][1] == f"CN = {ROOT_CA}"
        files = [tmp_path / name for name in ("root.pem", "chain.pem", "leaf.pem")]
        for file, text in zip(files, (pem(top), "".join(seen.certificates[1:]), seen.certificates[0]), strict=True):
            file.write_text(text)
        done = verify(files[2], "-x509_strict", "-CAfile", files[0], "-untrusted", files[1])
        assert done.code == 0, done.text
    finally:
        site.stop()


def test_row_061_the_common_name_is_the_hostname(story: Story) -> None:
    """Subject of the end entity is the configured hostname."""
    leaf = story.gateway.look("-showcerts").certificates[0]
    assert x509(leaf, "-subject") == f"subject=CN = {GATEWAY}"
    assert f'hostname = "{GATEWAY}"' in story.gateway.config.read_text()


@pytest.fixture(scope="module")
def by_address(story: Story) -> Site:
    """A gateway whose configured hostname is an address."""
    site = story.site("ByAddress", hostname="127.0.0.1")
    site.start()
    return site


def test_row_062_a_hostname_may_be_an_address(story: Story, by_address: Site) -> None:
    """An address as hostname becomes an iPAddress of the certificate, and clients that dial it verify it."""
    seen = by_address.look("-showcerts", "-verify_ip", "127.0.0.1")
    assert seen.verified
    assert "IP Address:127.0.0.1" in x509(seen.certificates[0], "-ext", "subjectAltName")
    assert any("IP address mismatch" in one for one in by_address.look("-verify_ip", "127.0.0.2").problems)
    device = story.device_holder("AtAddress")
    story.register("AtAddress", device, parent="ByAddress")
    certificate, key = story.files(device)
    ours = edgetrust(
        *("device", "send", "AtAddress", "--hub", HUB, "--gateway", f"127.0.0.1:{by_address.port}"),
        *("--trust", story.trust, "--cert", certificate, "--cert-key", key),
    )
    assert ours.code == 0, ours.text
    done = tool(
        *("mosquitto_pub", "-d", "-V", "mqttv311", "-q", "1", "-h", "127.0.0.1", "-p", str(by_address.port)),
        *("--cafile", story.trust, "--cert", certificate, "--key", key, "-i", "AtAddress"),
        *("-u", f"{HUB}/AtAddress/?api-version={API}", "-t", "devices/AtAddress/messages/events/", "-m", "62"),
    )
    assert done.code == 0, done.text


def test_row_063_the_name_comes_from_the_configuration(story: Story) -> None:
    """Another hostname in config.toml, and the next start shows a certificate for it."""
    site = story.site("Renamed", hostname="before.local")
    site.start()
    assert site.look("-verify_hostname", "before.local").verified
    site.stop()
    site.edit('hostname = "before.local"', 'hostname = "after.local"')
    site.start()
    try:
        seen = site.look("-showcerts", "-verify_hostname", "after.local")
        assert seen.verified
        assert x509(seen.certificates[0], "-subject") == "subject=CN = after.local"
        assert not site.look("-verify_hostname", "before.local").verified
    finally:
        site.stop()


def test_row_064_server_certificate_and_edge_ca_are_two(story: Story) -> None:
    """The server certificate is not the Edge CA: other subject, other key, and no CA."""
    leaf, edge_ca = story.gateway.look("-showcerts").certificates[:2]
    assert x509(leaf, "-subject") != x509(edge_ca, "-subject")
    assert public_key(leaf) != public_key(edge_ca)
    assert "CA:TRUE" not in x509(leaf, "-ext", "basicConstraints")
    assert "CA:TRUE, pathlen:0" in x509(edge_ca, "-ext", "basicConstraints")
    assert "critical" in x509(edge_ca, "-ext", "basicConstraints")


def test_row_065_the_sensor_uses_that_name(story: Story) -> None:
    """TempSensor dials edgegateway.local, checks the name and is served; with our client and with mosquitto's."""
    ours = story.send("TempSensor", story.sensor, at=story.gateway, name=GATEWAY, trust=story.trust)
    assert ours.code == 0, ours.text
    done = story.publish("TempSensor", story.sensor, at=story.gateway, name=GATEWAY)
    assert done.code == 0, done.text


def test_row_066_another_name_is_rejected_before_connect(story: Story) -> None:
    """Dialled by another name the sensor aborts: error 62, and no byte of MQTT reaches the gateway."""
    seen = story.gateway.look("-verify_hostname", "alias.local")
    assert "num=62:hostname mismatch" in " ".join(seen.problems)
    with Relay(story.gateway.port) as relay:
        ours = story.send(
            "TempSensor", story.sensor, at=story.gateway, name="alias.local", port=relay.port, trust=story.trust
        )
        assert ours.code == 1
        before = len(story.gateway.logged("tls.handshake_failed"))
        mosquitto = story.publish("TempSensor", story.sensor, at=story.gateway, name="alias.local", message="row 66")
        assert mosquitto.code != 0
        assert "CONNACK" not in mosquitto.text
        eventually(lambda: len(story.gateway.logged("tls.handshake_failed")) > before)
        assert relay.talks
        # TLS 1.3 sends even its alert as "data": what is too short for a CONNECT is an alert
        for talk in relay.talks:
            sent = [record for record in talk.records() if record.sender == "client" and record.kind == DATA]
            assert all(len(record.body) < 40 for record in sent), sent
    assert "row 66" not in story.messages("TempSensor")


def test_row_067_where_there_is_a_san_it_alone_counts(story: Story, tmp_path: Path) -> None:
    """The right common name beside another alternative name is refused; each of several alternative names is good."""
    deceiving = story.edge_ca.issue(
        GATEWAY, key_label="deceiving", hosts=("other.example",), eku=(SERVER,), now=story.now
    )
    with false_server(tmp_path, deceiving, "-quiet") as server:
        seen = look(server.port, "-CAfile", story.trust, "-verify_hostname", GATEWAY)
        assert "num=62:hostname mismatch" in " ".join(seen.problems)
        ours = story.send("TempSensor", story.sensor, at=story.gateway, port=server.port, trust=story.trust)
        assert ours.code == 1
        assert "Traceback" not in ours.text
    leaf = story.gateway.look("-showcerts").certificates[0]
    assert re.search(rf"DNS:{GATEWAY}, DNS:edgeHub$", x509(leaf, "-ext", "subjectAltName"))
    assert story.gateway.look("-verify_hostname", "edgeHub").verified
    done = story.publish("TempSensor", story.sensor, at=story.gateway, name="edgeHub")
    assert done.code == 0, done.text


def test_row_068_only_the_configured_name_verifies(story: Story) -> None:
    """A gateway cannot know its names: of several that lead to it only the configured one is in its certificate."""
    names = ("example-mdns-hostname.local", "gateway.factory.example", GATEWAY)
    codes = [story.publish("TempSensor", story.sensor, at=story.gateway, name=name).code for name in names]
    assert [code == 0 for code in codes] == [False, False, True]
    assert not story.gateway.look("-verify_ip", "10.0.0.2").verified


def test_row_069_one_certificate_for_every_name_asked_for(story: Story) -> None:
    """Whatever name a client indicates, the same certificate is presented."""
    shown = {
        tuple(story.gateway.look("-showcerts", *options).certificates)
        for options in (("-servername", "x.example"), ("-servername", GATEWAY), ("-noservername",))
    }
    assert len(shown) == 1


def test_row_071_the_edge_ca_issues_like_any_ca(story: Story, tmp_path: Path) -> None:
    """The Edge CA's signature on the server certificate holds, up to the root, by strict rules."""
    leaf, *chain = story.gateway.look("-showcerts").certificates
    (tmp_path / "leaf.pem").write_text(leaf)
    (tmp_path / "chain.pem").write_text("".join(chain))
    done = verify(
        tmp_path / "leaf.pem",
        *("-x509_strict", "-purpose", "sslserver", "-verify_hostname", GATEWAY),
        *("-CAfile", story.trust, "-untrusted", tmp_path / "chain.pem"),
    )
    assert done.code == 0, done.text
    assert x509(leaf, "-issuer").partition("=")[2] == f"CN = {EDGE_CA}"
