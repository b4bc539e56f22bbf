"""Rows 23 to 35 and 41: how the hub knows EdgeGateway, and any device by its thumbprint."""

from __future__ import annotations

import re
import stat
import time
from pathlib import Path

import pytest

from support.relay import Relay
from support.story import (
    HUB_AS_TYPED,
    Story,
    authentication,
    edgetrust,
    eventually,
    false_server,
    fingerprint,
    forged_key,
    look,
    tool,
    x509,
)


@pytest.mark.parametrize("port", ["mqtt_port", "https_port"])
def test_row_023_the_hub_asks_for_a_client_certificate(story: Story, port: str) -> None:
    """Every TLS port of the hub asks for a client certificate, of any CA."""
    seen = look(getattr(story, port), "-tls1_2", "-msg", "-CAfile", story.os_store)
    assert "CertificateRequest" in seen.text
    assert "No client certificate CA names sent" in seen.text


def test_row_023_the_gateway_shows_its_chain_and_keeps_its_key(story: Story, tmp_path: Path) -> None:
    """Asked for it, the gateway shows its identity certificate with its intermediate; the key lies in the key store,
    open to nobody else.
    """
    options = ("-tls1_2", "-Verify", "3", "-CAfile", story.trust)
    with false_server(tmp_path, story.hub_holder, *options) as server, Relay(server.port) as relay:
        site = story.site("ShowsItself", ports=(relay.port, relay.port))
        site.launch()
        eventually(lambda: "Client certificate" in server.text)
        site.stop()
        assert re.search(r"^subject=.*CN ?= ?ShowsItself$", server.text, re.MULTILINE)
        assert re.search(r"depth=1 .*my_optional_intermediate_CA", server.text)
        assert "verify return:1" in server.text
    gateway = story.gateway
    key = next(gateway.keys.glob("deviceid-*.key"))
    assert tool("stat", "-c", "%a", key).out.strip() == "600"
    for folder in (gateway.keys, gateway.keys.parent):
        assert tool("stat", "-c", "%a", folder).out.strip() == "700"
    secret = "".join(key.read_text().splitlines()[1:-1])
    assert secret not in gateway.text()
    assert stat.S_ISREG(key.stat().st_mode)


def test_row_024_the_thumbprint_is_compared_after_the_handshake(story: Story) -> None:
    """The handshake takes any certificate; then the hub compares the thumbprint, and records what it saw."""
    story.register("Compared", story.device_holder("Compared"))
    other = story.device_holder("Compared", label="other")
    certificate, key = story.files(other)
    seen = look(story.https_port, "-CAfile", story.os_store, "-cert", certificate, "-key", key)
    assert seen.verified
    assert "handshake failure" not in seen.text
    assert story.status_for("Compared", other) == 401
    last = story.wait_for_refusal("Compared")
    assert last["reason"].startswith("thumbprint-")
    names = [check["name"] for check in last["checks"]]
    assert names.index("registered") < names.index("thumbprint")
    assert fingerprint(certificate) in last["checks"][-1]["detail"]


@pytest.mark.parametrize("algorithm", ["sha256", "sha1"])
def test_row_025_one_wrong_digit_is_refused(story: Story, algorithm: str) -> None:
    """The thumbprint must equal the record: one digit off is refused, restored it is accepted; case and separators do
    not count; SHA-256 and SHA-1 both serve.
    """
    device = f"OneDigit-{algorithm}"
    holder = story.device_holder(device)
    certificate, _ = story.files(holder)
    right = fingerprint(certificate, algorithm)
    story.register(device, holder, algorithm=algorithm)
    assert story.status_for(device, holder) == 200
    wrong = ("0" if right[0] != "0" else "1") + right[1:]
    story.change(device, authentication=_by_text(wrong))
    assert story.status_for(device, holder) == 401
    printed = x509(certificate, "-fingerprint", f"-{algorithm}").partition("=")[2]
    story.change(device, authentication=_by_text(printed.lower()))
    assert story.status_for(device, holder) == 200


def test_row_026_without_the_private_key_there_is_no_handshake(story: Story, tmp_path: Path) -> None:
    """The registered certificate with another key is not even sent; with a forged one the hub ends the handshake."""
    certificate, _ = story.files(story.sensor)
    _, other_key = story.files(story.device_holder("Thief"))
    refused = look(story.mqtt_port, "-cert", certificate, "-key", other_key)
    assert "key values mismatch" in refused.text
    forged = forged_key(story.sensor, tmp_path / "forged.pem")
    before = len(story.hub.logged("tls.handshake_failed"))
    tried = look(story.mqtt_port, "-tls1_2", "-cert", certificate, "-key", forged, "-CAfile", story.os_store)
    assert "alert" in tried.text, tried.text
    eventually(lambda: len(story.hub.logged("tls.handshake_failed")) > before)


def test_row_027_the_thumbprint_is_given_at_registration(story: Story) -> None:
    """A device is registered with its thumbprints, and the registry shows them."""
    shown = story.get("/devices/TempSensor")["authentication"]
    assert shown["type"] == "selfSigned"
    first, second = (story.files(holder)[0] for holder in (story.sensor, story.sensor_second))
    assert shown["x509Thumbprint"] == {
        "primaryThumbprint": fingerprint(first),
        "secondaryThumbprint": fingerprint(second),
    }


@pytest.mark.parametrize("slot", ["primaryThumbprint", "secondaryThumbprint"])
def test_row_028_an_edge_device_needs_both_thumbprints(story: Story, slot: str) -> None:
    """An edge device with one thumbprint is not registered; with two it is."""
    said = authentication("selfSigned", *[story.device_holder("OneThumbprint")] * 2)
    both = dict(said["x509Thumbprint"])
    said["x509Thumbprint"] = {slot: both[slot]}
    status, answer = story.put("OneThumbprint", said, edge=True)
    assert status == 400, answer
    assert story.rest("GET", "/devices/OneThumbprint")[0] == 404
    status, answer = story.put(f"Both-{slot}", {"type": "selfSigned", "x509Thumbprint": both}, edge=True)
    assert status == 200, answer


def test_row_029_two_certificates_allow_rotation(story: Story) -> None:
    """Either registered certificate is accepted; when the first has expired, the second still works."""
    first = story.device_holder("Rotating", label="A", seconds=10)
    second = story.device_holder("Rotating", label="B")
    story.register("Rotating", first, second)
    assert [story.status_for("Rotating", one) for one in (first, second, first, second)] == [200] * 4
    ends = first.certificate.not_valid_after_utc.timestamp()
    time.sleep(max(0.0, ends + 1 - time.time()))
    assert story.status_for("Rotating", first) == 401
    assert story.refusals("Rotating")[0]["reason"] == "certificate-expired"
    assert story.status_for("Rotating", second) == 200
    assert story.publish("Rotating", second).code == 0


def test_row_030_one_certificate_in_both_slots(story: Story) -> None:
    """The same thumbprint may stand in both fields."""
    holder = story.device_holder("SameTwice")
    made = story.register("SameTwice", holder, holder, edge=True)["authentication"]["x509Thumbprint"]
    assert made["primaryThumbprint"] == made["secondaryThumbprint"]
    assert story.status_for("SameTwice", holder) == 200


def test_row_031_the_command_on_the_device_file(story: Story) -> None:
    """The identity certificate is one file whose name begins with `deviceid-`, the end entity first in it."""
    done = tool(
        "bash",
        "-c",
        f"openssl x509 -in {story.gateway.certificates}/deviceid-*.cer -noout -nocert -fingerprint -sha256",
    )
    assert done.code == 0, done.text
    assert story.gateway.identity is not None
    certificate, _ = story.files(story.gateway.identity)
    assert done.out.strip() == x509(certificate, "-fingerprint", "-sha256")
    assert story.gateway.file("deviceid-").read_text().startswith("-----BEGIN CERTIFICATE-----")


def test_row_032_the_form_of_a_fingerprint(story: Story) -> None:
    """32 pairs of hexadecimal digits behind the name of the hash; our own command prints the same."""
    file = story.gateway.file("deviceid-")
    printed = x509(file, "-fingerprint", "-sha256")
    assert re.fullmatch(r"sha256 Fingerprint=([0-9A-F]{2}:){31}[0-9A-F]{2}", printed, re.IGNORECASE)
    ours = edgetrust("cert", "thumbprint", file)
    assert ours.out.strip().lower() == printed.lower()


def test_row_033_the_registry_has_the_same_value(story: Story) -> None:
    """Cut at the sign of equality and without colons, it is what the registry shows."""
    pipe = f"openssl x509 -in {story.gateway.file('deviceid-')} -noout -fingerprint -sha256 | cut -d= -f2 | tr -d :"
    value = tool("bash", "-c", pipe).out.strip()
    shown = story.get("/devices/EdgeGateway")["authentication"]["x509Thumbprint"]
    assert shown["primaryThumbprint"] == value


@pytest.mark.parametrize(
    ("fault", "dates"),
    [("certificate-expired", {"seconds": -5}), ("certificate-not-yet-valid", {"begin_in_days": 1})],
)
def test_row_034_a_thumbprint_is_not_enough(story: Story, fault: str, dates: dict[str, float]) -> None:
    """A certificate outside its dates is refused, though its thumbprint is registered."""
    from datetime import timedelta

    device = f"Dated-{fault}"
    fields = {"begin": timedelta(days=1)} if "begin_in_days" in dates else {}
    holder = story.device_holder(device, seconds=dates.get("seconds"), **fields)
    story.register(device, holder)
    assert story.status_for(device, holder) == 401
    assert story.wait_for_refusal(device)["reason"] == fault
    assert "CONNACK (5)" in story.publish(device, holder).text


def test_row_035_the_configuration_of_1_2(story: Story, tmp_path: Path) -> None:
    """Manual X.509 provisioning is configured with the keys of 1.2, and a misspelt key is named, not ignored."""
    text = story.gateway.config.read_text()
    for line in (
        'source = "manual"',
        f'iothub_hostname = "{HUB_AS_TYPED}"',
        'device_id = "EdgeGateway"',
        'method = "x509"',
        'identity_cert = "file://',
        'identity_pk = "file://',
    ):
        assert line in text
    assert story.gateway.state()["identity"]["device"] == "EdgeGateway"
    wrong = tmp_path / "config.toml"
    wrong.write_text(text.replace("identity_pk", "identity_key"))
    done = edgetrust("edge", "serve", "-c", wrong, "--root", tmp_path / "root")
    assert done.code == 2
    assert "identity_key" in done.err
    assert "identity_pk" in done.err


def test_row_041_no_ca_authentication_for_edge_devices(story: Story) -> None:
    """The hub refuses to register an edge device for X.509 CA authentication, now or later."""
    status, answer = story.put("EdgeByCa", {"type": "certificateAuthority"}, edge=True)
    assert status == 400, answer
    holder = story.device_holder("EdgeByCa")
    made = story.register("EdgeByCa", holder, holder, edge=True)
    status, answer = story.put("EdgeByCa", {"type": "certificateAuthority"}, edge=True, etag=made["etag"])
    assert status == 400, answer
    shown = story.get("/devices/EdgeByCa")
    assert (shown["authentication"]["type"], shown["capabilities"]["iotEdge"]) == ("selfSigned", True)


def _by_text(thumbprint: str) -> dict[str, object]:
    return {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": thumbprint, "secondaryThumbprint": None}}
