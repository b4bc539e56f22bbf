"""Rows 10 to 22: how a device knows the hub."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from support.pages import ROOT
from support.pki import SERVER, root
from support.ports import free_port
from support.relay import CHANGE_CIPHER, DATA, HANDSHAKE, Relay
from support.story import (
    HUB,
    HUB_AS_TYPED,
    Background,
    Story,
    edgetrust,
    eventually,
    false_server,
    forged_key,
    look,
    pem,
    token,
    tool,
    wait_for_port,
    x509,
)


def test_row_010_the_scenario(story: Story) -> None:
    """EdgeGateway and ContosoIotHub trust each other by X.509 alone, and a reading of TempSensor crosses both."""
    said = tomllib.loads(story.gateway.config.read_text())["provisioning"]
    assert (said["source"], said["device_id"], said["iothub_hostname"]) == ("manual", "EdgeGateway", HUB_AS_TYPED)
    assert said["authentication"]["method"] == "x509"
    sent = story.publish("TempSensor", story.sensor, at=story.gateway, message="row 10")
    assert sent.code == 0, sent.text
    eventually(lambda: "row 10" in story.messages("TempSensor"))
    eventually(lambda: story.gateway.state()["upstream"]["connected"])


def test_row_011_one_handshake_answers_both_questions(story: Story) -> None:
    """The hub proves itself and asks for the device's certificate in the same handshake; if either fails, it ends."""
    certificate, key = story.files(story.sensor)
    both = look(
        *(story.mqtt_port, "-tls1_2", "-msg", "-CAfile", story.os_store, "-verify_hostname", HUB),
        *("-cert", certificate, "-key", key),
    )
    assert both.verified
    assert "CertificateRequest" in both.text
    assert ">>> TLS 1.2, Handshake" in both.text
    assert "CertificateVerify" in both.text
    wrong_hub = look(story.mqtt_port, "-CAfile", story.trust, "-verify_return_error")
    assert not wrong_hub.verified
    assert "certificate verify failed" in wrong_hub.text
    wrong_device = story.publish("TempSensor", story.device_holder("TempSensor", label="wrong"))
    assert wrong_device.code != 0
    assert "CONNACK (5)" in wrong_device.text


def test_row_012_the_hubs_name_has_no_case(story: Story) -> None:
    """A hub name is compared without case: in the certificate, in the configuration, and in a token."""
    certificate = story.hub_certificate
    assert "does match certificate" in x509(certificate, "-checkhost", HUB_AS_TYPED)
    assert f'iothub_hostname = "{HUB_AS_TYPED}"' in story.gateway.config.read_text()
    eventually(lambda: story.gateway.state()["upstream"]["connected"])
    assert look(story.mqtt_port, "-CAfile", story.os_store, "-verify_hostname", HUB_AS_TYPED).verified
    made = story.register("MixedCase", kind="sas")
    secret = made["authentication"]["symmetricKey"]["primaryKey"]
    password = token(f"{HUB_AS_TYPED}/devices/MixedCase", secret)
    done = story.publish("MixedCase", password=password, hub=HUB_AS_TYPED)
    assert done.code == 0, done.text


def test_row_013_an_unknown_authority_is_refused(story: Story, tmp_path: Path) -> None:
    """Without the hub's root in the store nothing is accepted, whoever looks."""
    empty = tmp_path / "store.pem"
    empty.write_text(pem(root("Unrelated Root", now=story.now)))
    seen = look(story.mqtt_port, "-CAfile", empty)
    assert any("unable to get local issuer certificate" in problem for problem in seen.problems)
    curl = story.curl("/edgetrust/health", "--cacert", empty, ca=False)
    assert curl.code == 60
    ours = story.send("TempSensor", story.sensor, env={"SSL_CERT_FILE": str(empty), "SSL_CERT_DIR": str(tmp_path)})
    assert ours.code == 1
    assert "chain-" in ours.text or "issuer" in ours.text
    site = story.site("WithoutTheRoot", store=empty)
    site.launch()
    assert site.wait() == 1
    assert "unable to get local issuer certificate" in site.text()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_row_014_certificate_then_finished_then_data(story: Story, version: str) -> None:
    """The handshake comes first: hello, certificate, finished. Data follows only then."""
    seen = look(story.https_port, version, "-msg", "-CAfile", story.os_store, "-ign_eof", say=_get("/edgetrust/health"))
    assert "HTTP/1.1 200" in seen.text
    lines = [line for line in seen.text.splitlines() if line.startswith(("<<<", ">>>"))]
    hello, certificate, finished = (
        next(number for number, line in enumerate(lines) if line.startswith(f"{side} ") and word in line)
        for side, word in ((">>>", "ClientHello"), ("<<<", ", Certificate"), ("<<<", "Finished"))
    )
    answer = seen.text.index("HTTP/1.1 200")
    assert hello < certificate < finished
    assert seen.text.index(lines[finished]) < answer


def test_row_014_our_own_device_says_nothing_before_the_hub_is_verified(story: Story, tmp_path: Path) -> None:
    """A device sends its CONNECT as the first data, after the server's last message of the handshake."""
    with false_server(tmp_path, story.hub_holder, "-tls1_2", "-quiet") as server, Relay(server.port) as relay:
        log = tmp_path / "device.log"
        certificate, key = story.files(story.sensor)
        options = ["--hub", f"{HUB}:{relay.port}", "--address", "127.0.0.1", "--trust", story.os_store]
        command = ["-m", "edgetrust.cli", "device", "send", "TempSensor", *options, "--cert", certificate]
        with Background(sys.executable, [*command, "--cert-key", key], log):
            eventually(lambda: any(DATA in talk.kinds("client") for talk in relay.talks))
        records = relay.talks[0].records()
    first_data = next(number for number, record in enumerate(records) if record.kind == DATA)
    assert records[first_data].sender == "client"
    handshake = [
        number
        for number, record in enumerate(records)
        if record.sender == "server" and record.kind in (CHANGE_CIPHER, HANDSHAKE)
    ]
    assert max(handshake) < first_data
    assert CHANGE_CIPHER in {record.kind for record in records[:first_data]}


def test_row_015_a_copied_certificate_is_useless(story: Story, tmp_path: Path) -> None:
    """Only who has the private key can show the hub's certificate: the signature in the handshake proves it."""
    elliptic = story.hub_ca.issue(
        "*.azure-devices.net", key_label="elliptic hub", hosts=("*.azure-devices.net",), eku=(SERVER,), now=story.now
    )
    _, other_key = story.files(story.sensor)
    certificate, _ = story.files(elliptic)
    refused = tool("openssl", "s_server", "-accept", str(free_port()), "-cert", certificate, "-key", other_key)
    assert "key values mismatch" in refused.text
    forged = forged_key(elliptic, tmp_path / "forged.pem")
    with false_server(tmp_path, elliptic, "-quiet", key_file=forged) as server:
        seen = look(server.port, "-CAfile", story.os_store, "-verify_hostname", HUB)
        assert seen.verified  # the chain is good, which is what a copy can show, and all it can show
        assert "bad signature" in seen.text
    with false_server(tmp_path, elliptic, key_file=forged) as server, Relay(server.port) as relay:
        ours = story.send("TempSensor", story.sensor, port=relay.port, trust=story.os_store)
        assert ours.code == 1
        assert "Traceback" not in ours.text
        assert "MQTT" not in server.text


def test_row_016_the_hubs_chain(story: Story) -> None:
    """Root, one intermediate, a wildcard certificate; the root is not sent; the wildcard stands for one label."""
    seen = look(story.mqtt_port, "-showcerts", "-CAfile", story.os_store, "-verify_hostname", HUB)
    depths = dict(re.findall(r"^depth=(\d) (.*)$", seen.text, re.MULTILINE))
    assert depths == {"2": "CN = Contoso Global Root", "1": "CN = Contoso TLS CA 1", "0": "CN = *.azure-devices.net"}
    assert seen.listing == [
        ("CN = *.azure-devices.net", "CN = Contoso TLS CA 1"),
        ("CN = Contoso TLS CA 1", "CN = Contoso Global Root"),
    ]
    assert seen.verified
    assert "does match" in x509(seen.certificates[0], "-checkhost", HUB)
    for name in ("a.b.azure-devices.net", "azure-devices.net"):
        other = look(story.mqtt_port, "-CAfile", story.os_store, "-verify_hostname", name)
        assert any("hostname mismatch" in problem for problem in other.problems), name
        ours = story.send("TempSensor", story.sensor, name=name, trust=story.os_store)
        assert (ours.code, "name-mismatch" in ours.text or "good for" in ours.text) == (1, True), ours.text


@pytest.mark.parametrize("way", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_row_017_the_store_of_the_operating_system(story: Story, tmp_path: Path, way: str) -> None:
    """The hub is trusted through the store of the operating system, a file or a directory of it; nothing is named."""
    folder = tmp_path / "certs"
    folder.mkdir()
    (folder / "contoso.pem").write_text(pem(story.hub_root))
    assert tool("openssl", "rehash", folder).code == 0
    empty = tmp_path / "empty"
    empty.mkdir()
    store = {"SSL_CERT_FILE": str(story.os_store), "SSL_CERT_DIR": str(empty)}
    if way == "SSL_CERT_DIR":
        store = {"SSL_CERT_FILE": "/dev/null", "SSL_CERT_DIR": str(folder)}
    assert look(story.mqtt_port, "-verify_hostname", HUB, env=store).verified
    done = story.send("TempSensor", story.sensor, env=store)
    assert done.code == 0, done.text
    assert "[edgetrust.upstream]\nhost" in story.gateway.config.read_text()
    assert "\nca = " not in story.gateway.config.read_text()  # the gateway has nothing but the store either


def test_row_018_nothing_of_the_hub_is_pinned(story: Story, tmp_path: Path) -> None:
    """A hub with another key and another intermediate is as good, while its root is the trusted one. The hub here is
    mosquitto's broker.
    """
    other_ca = story.hub_root.authority("Contoso TLS CA 2", path_length=0, now=story.now)
    certificate, key = story.files(story.hub_server("*.azure-devices.net", issuer=other_ca, key_label="new key"))
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\ncertfile {certificate}\nkeyfile {key}\nallow_anonymous true\nuser root\n"
    )
    with Background("mosquitto", ["-c", config], tmp_path / "mosquitto.log"):
        wait_for_port(port)
        done = story.send("TempSensor", story.sensor, port=port, env={"SSL_CERT_FILE": str(story.os_store)})
        assert done.code == 0, done.text
        assert look(port, "-CAfile", story.os_store, "-verify_hostname", HUB).verified


def test_row_019_it_is_called_the_iot_hub_server_certificate(tmp_path: Path) -> None:
    """The certificate is named for what it is, where certificates are made and where trust is explained."""
    done = edgetrust("cert", "demo", tmp_path / "set", "--hub", HUB)
    assert done.code == 0, done.text
    assert (tmp_path / "set" / "certs" / "hub-server.pem").exists()
    assert "certificate of the hub" in done.out
    page = (ROOT / "docs" / "explanation" / "how-trust-works.md").read_text()
    assert "*IoT Hub server certificate*" in page


def test_row_020_the_hub_presents_it_on_every_port(story: Story) -> None:
    """MQTT and HTTPS show the same server certificate, made for servers."""
    shown = [look(port, "-showcerts").certificates[0] for port in (story.mqtt_port, story.https_port)]
    assert shown[0] == shown[1] == pem(story.hub_holder)
    assert "TLS Web Server Authentication" in x509(shown[0], "-ext", "extendedKeyUsage")


def test_row_021_curl_trusts_it_through_the_store(story: Story) -> None:
    """Any client of the operating system's store trusts the hub; with another store none does."""
    done = story.curl("/edgetrust/health", env={"SSL_CERT_FILE": str(story.os_store)}, ca=False)
    assert (done.code, done.out.rpartition("\n")[2]) == (0, "200"), done.err
    assert story.curl("/edgetrust/health", env={"SSL_CERT_FILE": str(story.trust)}, ca=False).code == 60


def test_row_022_what_is_encrypted_for_the_hub_only_the_hub_reads(story: Story, tmp_path: Path) -> None:
    """Data encrypted with the key in the hub's certificate is decrypted with the hub's private key alone."""
    certificate = tmp_path / "hub.pem"
    certificate.write_text(look(story.mqtt_port, "-showcerts").certificates[0])
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.write_text("are you ContosoIotHub?")
    encrypt = ("openssl", "pkeyutl", "-encrypt", "-certin", "-inkey", certificate, "-in", plain, "-out", sealed)
    assert tool(*encrypt).code == 0
    opened = tool("openssl", "pkeyutl", "-decrypt", "-inkey", story.hub_key, "-in", sealed)
    assert opened.out == "are you ContosoIotHub?"
    _, other_key = story.files(story.hub_server("*.azure-devices.net", key_label="other"))
    other = tool("openssl", "pkeyutl", "-decrypt", "-inkey", other_key, "-in", sealed)
    assert other.out != "are you ContosoIotHub?"


def _get(path: str) -> str:
    return f"GET {path} HTTP/1.1\r\nHost: {HUB}\r\nConnection: close\r\n\r\n"
