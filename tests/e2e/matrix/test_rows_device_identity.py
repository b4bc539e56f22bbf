"""Rows 90 to 97: how EdgeGateway knows TempSensor."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from support.pki import Pki, root
from support.relay import Relay
from support.story import Story, contents, eventually, fingerprint, forged_key

CA_DEVICE = "HumiditySensor"


def test_row_090_a_client_certificate_is_asked_for_and_may_be_anybodys(story: Story) -> None:
    """The gateway asks for a client certificate of any CA; neither none nor one of an unknown CA ends the handshake."""
    asked = story.gateway.look("-tls1_2", "-msg")
    assert "CertificateRequest" in asked.text
    assert "No client certificate CA names sent" in asked.text
    assert asked.verified
    stranger = Pki(now=story.now, root_name="Nobody's Root").device("TempSensor")
    certificate, key = story.files(stranger)
    shown = story.gateway.look("-tls1_2", "-msg", "-cert", certificate, "-key", key)
    assert shown.verified
    assert ">>> TLS 1.2, Handshake" in shown.text
    assert "CertificateVerify" in shown.text


def test_row_091_somebody_new_is_asked_about(story: Story) -> None:
    """Who was registered a moment ago is accepted at once: the gateway asks the hub for what its copy has not."""
    with Relay(story.mqtt_port) as mqtt, Relay(story.https_port) as https:
        site = story.site("Asking", ports=(mqtt.port, https.port))
        site.start()
        try:
            site.wait_for_hub()
            before = sum(len(talk.sent("client")) for talk in https.talks)
            holder = story.device_holder("JustRegistered")
            story.register("JustRegistered", holder, parent="Asking")
            done = story.publish("JustRegistered", holder, at=site)
            assert done.code == 0, done.text
            assert sum(len(talk.sent("client")) for talk in https.talks) > before
        finally:
            site.stop()


def test_row_092_another_thumbprint_is_refused(story: Story) -> None:
    """The certificate is compared with the record: another one of the same name gets CONNACK 5."""
    other = story.device_holder("TempSensor", label="not registered")
    done = story.publish("TempSensor", other, at=story.gateway)
    assert done.code != 0
    assert "received CONNACK (5)" in done.text
    assert "not authorised" in done.text
    assert story.gateway.refusals("TempSensor")[-1].startswith("thumbprint-")
    right = story.publish("TempSensor", story.sensor, at=story.gateway)
    assert "received CONNACK (0)" in right.text


def test_row_093_the_hub_is_the_source_of_truth(story: Story) -> None:
    """Disabled at the hub, a device that is connected to the gateway loses its connection."""
    holder = story.device_holder("Disabled")
    story.register("Disabled", holder, parent="EdgeGateway")
    with story.subscribe("Disabled", holder, story.gateway) as device:
        eventually(lambda: "SUBACK" in device.text)
        story.change("Disabled", status="disabled")
        eventually(lambda: "disabled" in story.gateway.refusals("Disabled"))
        eventually(lambda: device.text.count("CONNACK (5)") > 0 or device.ended)
    assert "CONNACK (5)" in story.publish("Disabled", holder, at=story.gateway).text


def test_row_094_a_copy_for_times_without_the_hub(story: Story) -> None:
    """Without the hub a restarted gateway accepts whom its copy knows and refuses others; the copy shows no secret."""
    with Relay(story.mqtt_port) as mqtt, Relay(story.https_port) as https:
        site = story.site("Offline", ports=(mqtt.port, https.port))
        sensor, stranger = story.device_holder("OfflineSensor"), story.device_holder("Stranger")
        story.register("OfflineSensor", sensor, parent="Offline")
        keys = story.register("OfflineKeys", kind="sas", parent="Offline")["authentication"]["symmetricKey"]
        site.start()
        try:
            site.wait_for_hub()
            eventually(lambda: int(site.state()["scope"]["identities"]) >= 3)
            mqtt.cut()
            https.cut()
            site.stop()
            story.register("Stranger", stranger, parent="Offline")
            site.start()
            assert story.publish("OfflineSensor", sensor, at=site, message="kept").code == 0
            refused = story.publish("Stranger", stranger, at=site)
            assert (refused.code != 0, "CONNACK (3)" in refused.text) == (True, True)  # nobody knows now: try later
            assert site.refusals("Stranger")[-1] == "registry-unavailable"
            for content in contents(site.root / "var/lib/edgetrust"):
                for secret in (keys["primaryKey"], keys["secondaryKey"]):
                    assert secret.encode() not in content
                    assert base64.b64decode(secret) not in content
            mqtt.mend()
            https.mend()
            eventually(lambda: "kept" in story.messages("OfflineSensor"))
        finally:
            site.stop()


@pytest.fixture(scope="module")
def uploaded(story: Story) -> None:
    """A CA below which devices authenticate: uploaded, and proven with openssl."""
    story.trust_ca("intermediate", story.intermediate)
    story.register(CA_DEVICE, kind="certificateAuthority", parent="EdgeGateway")
    holder = story.device_holder(CA_DEVICE)
    eventually(lambda: story.publish(CA_DEVICE, holder, at=story.gateway).code == 0)  # the gateway knows of the CA


@pytest.mark.usefixtures("uploaded")
def test_row_095_a_device_below_an_uploaded_ca(story: Story) -> None:
    """A downstream device may authenticate by a CA that was uploaded to the hub, with no certificate registered."""
    holder = story.device_holder(CA_DEVICE)
    assert story.publish(CA_DEVICE, holder, at=story.gateway, message="row 95").code == 0
    eventually(lambda: "row 95" in story.messages(CA_DEVICE))


@pytest.mark.usefixtures("uploaded")
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("another CA", "chain-"),
        ("another case", "cn-mismatch"),
        ("a CA itself", "end-entity-is-a-ca"),
    ],
)
def test_row_095_and_who_is_not(story: Story, fault: str, reason: str) -> None:
    """Below another CA, under a name of another case, or being a CA itself, it is refused."""
    match fault:
        case "another CA":
            other = root("my_private_root_CA", key_label="another", now=story.now)
            holder = story.device_holder(CA_DEVICE, issuer=other)
        case "another case":
            holder = story.device_holder(CA_DEVICE.lower())
        case _:
            holder = story.device_holder(CA_DEVICE, ca=True, usage=("digital_signature", "key_cert_sign"))
    done = story.publish(CA_DEVICE, holder, at=story.gateway)
    assert "CONNACK (5)" in done.text
    eventually(lambda: story.gateway.refusals(CA_DEVICE)[-1].startswith(reason))


def test_row_096_the_claimed_name_selects_the_record(story: Story) -> None:
    """TempSensor's certificate under another identifier is refused: that record has another thumbprint."""
    story.register("Other", story.device_holder("Other"), parent="EdgeGateway")
    done = story.publish("Other", story.sensor, at=story.gateway)
    assert "CONNACK (5)" in done.text
    assert story.gateway.refusals("Other")[-1].startswith("thumbprint-")


def test_row_096_the_common_name_can_be_asked_for_too(story: Story) -> None:
    """By default a registered thumbprint needs no common name; with the option it must be the device's."""
    holder = story.device_holder("another name")
    story.register("Nameless", holder, parent="EdgeGateway")
    assert story.publish("Nameless", holder, at=story.gateway).code == 0
    site = story.site("Strict", extra="[edgetrust.gateway]\nrequire_cn_match_for_thumbprint = true")
    named = story.device_holder("Named")
    story.register("NamelessToo", holder, parent="Strict")
    story.register("Named", named, parent="Strict")
    site.start()
    try:
        assert "CONNACK (5)" in story.publish("NamelessToo", holder, at=site).text
        assert site.refusals("NamelessToo")[-1] == "cn-mismatch"
        assert story.publish("Named", named, at=site).code == 0
    finally:
        site.stop()


def test_row_097_why_the_gateway_trusts_the_sensor(story: Story, tmp_path: Path) -> None:
    """Thumbprint and key are both needed: a copied certificate ends in the handshake, an expired one at the door."""
    certificate, key = story.files(story.sensor)
    shown = story.get("/devices/TempSensor")["authentication"]["x509Thumbprint"]["primaryThumbprint"]
    assert fingerprint(certificate) == shown
    assert story.gateway.look("-tls1_2", "-cert", certificate, "-key", key).verified
    before = len(story.gateway.logged("tls.handshake_failed"))
    forged = forged_key(story.sensor, tmp_path / "forged.pem")
    copied = story.gateway.look("-tls1_2", "-cert", certificate, "-key", forged)
    assert "alert" in copied.text
    eventually(lambda: len(story.gateway.logged("tls.handshake_failed")) > before)
    expired = story.device_holder("Outdated", seconds=-5)
    story.register("Outdated", expired, parent="EdgeGateway")
    assert "CONNACK (5)" in story.publish("Outdated", expired, at=story.gateway).text
    assert story.gateway.refusals("Outdated")[-1] == "certificate-expired"
