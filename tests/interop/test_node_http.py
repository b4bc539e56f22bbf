"""azure-iot-device-http: telemetry, messages to the device and uploads over HTTPS on 443, its only port."""

from __future__ import annotations

import pytest

from support.azure import SdkError
from support.node import NodeContoso
from support.pki import Pki, self_signed
from support.processes import Device, wait_for
from support.surface import NODE_DEVICE, surface
from support.wrong_credentials import WRONG_KEY, expired, key_of


def over_https(node: NodeContoso, device: str) -> Device:
    client = node.with_key(device, key_of(node, device), transport="http")
    client.connect()
    return client


@surface(NODE_DEVICE, "http-telemetry")
def test_telemetry_with_its_properties(node: NodeContoso) -> None:
    """The body comes in chunks, without a length."""
    client = over_https(node, "h-key")
    system = {"message_id": "m 1/2", "correlation_id": "c", "user_id": "u"}
    client.send('{"temperature": 21.5}', properties={"a": "b", "colour": "red"}, system=system)
    client.shutdown()
    (event,) = node.events("h-key")
    assert (event["device"], event["module"], event["bodyText"]) == ("h-key", None, '{"temperature": 21.5}')
    assert event["properties"] == {"a": "b", "colour": "red"}
    assert event["systemProperties"] == {
        "$.mid": "m 1/2",
        "$.cid": "c",
        "$.uid": "u",
        "$.to": "/devices/h-key/messages/events",
    }
    assert '"type":"sas"' in event["authMethod"]


@surface(NODE_DEVICE, "http-telemetry")
def test_a_device_with_a_thumbprint(node: NodeContoso) -> None:
    own = self_signed("h-x509", now=node.pki.now)
    node.register_thumbprints("h-x509", own.chain.thumbprint().hex())
    client = node.with_certificate("h-x509", own, transport="http")
    client.connect()
    client.send("1")
    client.shutdown()
    (event,) = node.events("h-x509")
    assert '"type":"x509Certificate"' in event["authMethod"]


@surface(NODE_DEVICE, "http-telemetry")
def test_a_device_of_a_ca(node: NodeContoso) -> None:
    pki = Pki(node.pki.now, 1, root_name="Root of h-ca")
    node.register_ca("h-ca", pki.root.certificate)
    node.register("h-ca", authentication={"type": "certificateAuthority"})
    client = node.with_certificate("h-ca", pki.device("h-ca"), transport="http")
    client.connect()
    client.send("1")
    client.shutdown()
    assert '"type":"x509Authority"' in node.events("h-ca")[0]["authMethod"]


@surface(NODE_DEVICE, "http-telemetry")
def test_many_messages_in_one_request(node: NodeContoso) -> None:
    client = over_https(node, "h-batch")
    client.sdk.do("send_batch", client=client.name, bodies=["1", "zwei €", "3"], properties={"k": "v"})
    client.shutdown()
    assert [(one["bodyText"], one["properties"]) for one in node.events("h-batch")] == [
        (body, {"k": "v"}) for body in ("1", "zwei €", "3")
    ]


@surface(NODE_DEVICE, "http-c2d")
def test_messages_to_the_device_are_completed_rejected_and_abandoned(node: NodeContoso) -> None:
    client = over_https(node, "h-c2d")
    client.sdk.do("listen", client=client.name, complete=False)
    headers = {"iothub-app-colour": "red", "iothub-messageid": "m-1", "iothub-correlationid": "c-1"}
    node.command("h-c2d", "first", headers)
    (told,) = client.wait_for("message")
    assert (told["body"], told["system"]["message_id"]) == ("first", "m-1")
    assert told["properties"]["iothub-app-colour"] == "red", "this transport keeps the names of headers"

    def waiting() -> int:
        return int(node.rest("GET", "devices", "h-c2d")["cloudToDeviceMessageCount"])

    client.sdk.do("settle", client=client.name, how="abandon", body="first")
    client.wait_for("message", 2)  # it comes again
    client.sdk.do("settle", client=client.name, how="complete", body="first")
    wait_for(lambda: waiting() == 0, "it is completed")
    node.command("h-c2d", "second")
    client.wait_for("message", 3)
    client.sdk.do("settle", client=client.name, how="reject", body="second")
    wait_for(lambda: waiting() == 0, "it is rejected")
    client.shutdown()


@pytest.mark.parametrize("registered", [True, False])
def test_a_wrong_key(node: NodeContoso, registered: bool) -> None:
    name = f"h-wrong-{registered}"
    if registered:
        node.register(name)
    client = node.with_key(name, WRONG_KEY, transport="http")
    client.connect()
    with pytest.raises(SdkError) as raised:
        client.send("1")
    assert raised.value.kind == "UnauthorizedError"
    assert node.refusals(name) == ["sas-signature-mismatch" if registered else "unknown-identity"]
    client.shutdown()


def test_an_expired_certificate(node: NodeContoso) -> None:
    client = expired(node, "h-expired", transport="http")
    client.connect()
    with pytest.raises(SdkError) as raised:
        client.send("1")
    assert raised.value.kind == "UnauthorizedError"
    assert node.refusals("h-expired") == ["certificate-expired"]
    client.shutdown()


@surface(NODE_DEVICE, "uploads")
@pytest.mark.parametrize("transport", ["http", "mqtt"])
def test_a_file_is_uploaded(node: NodeContoso, transport: str) -> None:
    """Its place is asked for and given back over HTTPS, whatever the device's transport is."""
    name = f"h-file-{transport}"
    client = node.with_key(name, key_of(node, name), transport=transport)
    client.sdk.do("upload", client=client.name, name="logs/report 1.txt", text="report\n" * 1000)
    client.shutdown()
    (stored,) = (node.world.hub_folder / "uploads" / name).iterdir()
    assert stored.read_text() == "report\n" * 1000
