"""azure-iot-device straight to the hub: every kind of credential is accepted, and what is sent arrives unchanged."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import pytest

from support.azure import SdkError
from support.pki import Holder, Pki, self_signed
from support.processes import GATEWAY, HTTPS, HUB, MQTT, Contoso, Device, wait_for
from support.surface import PYTHON_DEVICE, surface


def arrives(contoso: Contoso, device: Device, name: str, method: str, module: str | None = None) -> None:
    """Connect, send, and see it at the hub with who sent it and how it was authenticated."""
    device.connect()
    device.send("21.5")
    device.shutdown()
    event = contoso.events(name)[-1]
    assert (event["device"], event["module"], event["bodyText"]) == (name, module, "21.5")
    assert method in event["authMethod"]


def keys(registered: dict[str, Any]) -> dict[str, str]:
    return dict(registered["authentication"]["symmetricKey"])


@surface(PYTHON_DEVICE, "tls", "connect-sas", "telemetry")
@pytest.mark.parametrize("slot", ["primaryKey", "secondaryKey"])
def test_device_with_a_key(contoso: Contoso, slot: str) -> None:
    name = f"with-{slot}"
    key = keys(contoso.register(name))[slot]
    arrives(contoso, contoso.with_key(name, key), name, '"type":"sas"')


@surface(PYTHON_DEVICE, "connect-thumbprint")
@pytest.mark.parametrize("slot", ["primary", "secondary"])
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_device_with_a_thumbprint(contoso: Contoso, slot: str, algorithm: str) -> None:
    name = f"{slot}-{algorithm}"
    own, other = self_signed(name, now=contoso.pki.now), self_signed(f"{name}-other", now=contoso.pki.now)
    shown, kept = own.chain.thumbprint(algorithm).hex(), other.chain.thumbprint(algorithm).hex()
    contoso.register_thumbprints(name, *((shown, kept) if slot == "primary" else (kept, shown)))
    arrives(contoso, contoso.with_certificate(name, own), name, '"type":"x509Certificate"')


@surface(PYTHON_DEVICE, "connect-ca")
@pytest.mark.parametrize("intermediates", [0, 1, 3])
def test_device_of_a_ca(contoso: Contoso, intermediates: int) -> None:
    name = f"below-{intermediates}"
    pki = Pki(contoso.pki.now, intermediates, root_name=f"Root over {intermediates}")
    contoso.register_ca(f"root-{intermediates}", pki.root.certificate)
    contoso.register(name, authentication={"type": "certificateAuthority"})
    arrives(contoso, contoso.with_certificate(name, pki.device(name)), name, '"type":"x509Authority"')


def test_device_of_an_intermediate_ca_that_is_registered_itself(contoso: Contoso) -> None:
    plant = Pki(contoso.pki.now, 1, root_name="Root that nobody registered").authority("Plant CA")
    contoso.register_ca("plant", plant.certificate)
    contoso.register("of-plant", authentication={"type": "certificateAuthority"})
    holder = plant.issue("of-plant", now=contoso.pki.now)
    arrives(contoso, contoso.with_certificate("of-plant", holder), "of-plant", "x509")


def test_device_with_rsa_keys(contoso: Contoso) -> None:
    pki = Pki(contoso.pki.now, 1, key_kind="rsa-2048", root_name="RSA Root")
    contoso.register_ca("rsa", pki.root.certificate)
    contoso.register("rsa-device", authentication={"type": "certificateAuthority"})
    holder = pki.device("rsa-device", key_kind="rsa-2048")
    arrives(contoso, contoso.with_certificate("rsa-device", holder), "rsa-device", "x509")


@surface(PYTHON_DEVICE, "connect-sas")
def test_module_with_a_key(contoso: Contoso) -> None:
    contoso.register("with-module")
    key = keys(contoso.register("with-module", "m1"))["primaryKey"]
    arrives(contoso, contoso.with_key("with-module", key, module="m1"), "with-module", "sas", "m1")


@surface(PYTHON_DEVICE, "connect-thumbprint")
def test_module_with_a_thumbprint(contoso: Contoso) -> None:
    contoso.register("with-x509-module")
    holder = self_signed("with-x509-module/m1", now=contoso.pki.now)
    contoso.register_thumbprints("with-x509-module", holder.chain.thumbprint().hex(), module="m1")
    client = contoso.with_certificate("with-x509-module", holder, module="m1")
    arrives(contoso, client, "with-x509-module", "x509", "m1")


@surface(PYTHON_DEVICE, "connect-ca")
def test_module_of_a_ca(contoso: Contoso) -> None:
    pki = Pki(contoso.pki.now, 1, root_name="Root of modules")
    contoso.register_ca("modules", pki.root.certificate)
    contoso.register("with-ca-module")
    contoso.register("with-ca-module", "m1", authentication={"type": "certificateAuthority"})
    client = contoso.with_certificate("with-ca-module", pki.device("with-ca-module/m1"), module="m1")
    arrives(contoso, client, "with-ca-module", "x509", "m1")


@surface(PYTHON_DEVICE, "possession")
def test_a_ca_counts_from_its_proof_of_possession_on(contoso: Contoso) -> None:
    pki = Pki(contoso.pki.now, 0, root_name="Root to be proven")
    contoso.register_ca("to-prove", pki.root.certificate, verified=False)
    contoso.register("proven", authentication={"type": "certificateAuthority"})
    etag = contoso.rest("GET", "certificates", "to-prove")["etag"]
    shown = contoso.rest(
        "POST", "certificates", "to-prove", "generateVerificationCode", headers={"If-Match": f'"{etag}"'}
    )
    proof = pki.root.issue(shown["properties"]["verificationCode"], now=contoso.pki.now)
    contoso.rest(
        *("POST", "certificates", "to-prove", "verify"),
        body={"certificate": Holder(proof.certificate, proof.private_key).chain.pem()},
        headers={"If-Match": f'"{shown["etag"]}"'},
    )
    arrives(contoso, contoso.with_certificate("proven", pki.device("proven")), "proven", "x509")


def test_a_device_comes_through_an_http_proxy(contoso: Contoso) -> None:
    key = keys(contoso.register("behind-http"))["primaryKey"]
    client = contoso.with_key("behind-http", key, proxy={"kind": "HTTP", "port": contoso.proxy.port})
    arrives(contoso, client, "behind-http", "sas")


# WebSocket ----------------------------------------------------------------------------------------------------------


@surface(PYTHON_DEVICE, "websocket")
def test_a_device_with_a_key_over_websocket(contoso: Contoso) -> None:
    key = keys(contoso.register("ws-key"))["primaryKey"]
    before = contoso.proxy.asked_for((HUB, HTTPS)), contoso.proxy.asked_for((HUB, MQTT))
    arrives(contoso, contoso.with_key("ws-key", key, websockets=True), "ws-key", "sas")
    assert contoso.proxy.asked_for((HUB, HTTPS)) == before[0] + 1
    assert contoso.proxy.asked_for((HUB, MQTT)) == before[1]


@surface(PYTHON_DEVICE, "websocket")
def test_a_device_with_a_certificate_over_websocket(contoso: Contoso) -> None:
    holder = self_signed("ws-x509", now=contoso.pki.now)
    contoso.register_thumbprints("ws-x509", holder.chain.thumbprint().hex())
    arrives(contoso, contoso.with_certificate("ws-x509", holder, websockets=True), "ws-x509", "x509")


def test_a_large_message_and_a_command_over_websocket(contoso: Contoso) -> None:
    key = keys(contoso.register("ws-large"))["primaryKey"]
    client = contoso.with_key("ws-large", key, websockets=True)
    client.connect()
    client.listen()
    client.send("x" * 200_000)
    contoso.command("ws-large", "y" * 60_000)
    assert client.wait_for("message")[0]["body"] == "y" * 60_000
    assert contoso.bodies("ws-large") == ["x" * 200_000]
    client.shutdown()


# What is sent arrives -----------------------------------------------------------------------------------------------

SYSTEM = {
    "message_id": "m 1/2",
    "correlation_id": "c&=",
    "user_id": "u%41",
    "content_type": "application/json",
    "content_encoding": "utf-8",
}
PROPERTIES = {"a b": "é&", "z": "1", "empty": "", "plus+": "a+b", "ünï/x": "#$%?", "=": "=="}


@surface(PYTHON_DEVICE, "telemetry")
def test_properties_arrive_exactly(contoso: Contoso) -> None:
    key = keys(contoso.register("exact"))["primaryKey"]
    client = contoso.with_key("exact", key)
    client.connect()
    client.send('{"temperature": 21.5, "unit": "°C"}', properties=PROPERTIES, system=SYSTEM)
    client.shutdown()
    (event,) = contoso.events("exact")
    assert event["bodyText"] == '{"temperature": 21.5, "unit": "°C"}'
    assert event["properties"] == PROPERTIES
    assert event["systemProperties"] == {
        "$.mid": "m 1/2",
        "$.cid": "c&=",
        "$.uid": "u%41",
        "$.ct": "application/json",
        "$.ce": "utf-8",
    }


@surface(PYTHON_DEVICE, "outputs")
def test_an_output_of_a_module_arrives(contoso: Contoso) -> None:
    contoso.register("with-output")
    key = keys(contoso.register("with-output", "m1"))["primaryKey"]
    client = contoso.with_key("with-output", key, module="m1")
    client.connect()
    client.send("1", system={"output_name": "out1"})
    client.shutdown()
    assert contoso.events("with-output")[0]["systemProperties"] == {"$.on": "out1"}


def test_messages_arrive_in_order_whatever_their_number(contoso: Contoso) -> None:
    key = keys(contoso.register("many"))["primaryKey"]
    client = contoso.with_key("many", key)
    client.connect()
    client.begin("stream", count=200).result(60)
    client.shutdown()
    assert contoso.bodies("many") == [str(number) for number in range(200)]


def test_twenty_devices_at_once(contoso: Contoso) -> None:
    names = [f"crowd-{number}" for number in range(20)]
    clients = [contoso.with_key(name, keys(contoso.register(name))["primaryKey"]) for name in names]
    for connecting in [client.begin("connect") for client in clients]:
        connecting.result(60)
    counted = "the hub counts them"
    wait_for(lambda: contoso.rest("GET", "statistics", "service")["connectedDeviceCount"] == len(names), counted)
    for sending in [client.begin("send", body=client.name) for client in clients]:
        sending.result(60)
    assert [contoso.bodies(name) for name in names] == [[client.name] for client in clients]
    for ending in [client.begin("shutdown") for client in clients]:
        ending.result(60)


# Cloud to device ----------------------------------------------------------------------------------------------------


@surface(PYTHON_DEVICE, "c2d")
def test_a_command_is_received_with_its_properties(contoso: Contoso) -> None:
    key = keys(contoso.register("commanded"))["primaryKey"]
    contoso.command("commanded", "waiting since before")
    client = contoso.with_key("commanded", key)
    client.connect()
    client.listen()
    client.wait_for("message")
    headers = {"iothub-app-colour": "red", "iothub-messageid": "m/1", "iothub-contenttype": "text/plain"}
    contoso.command("commanded", "blink", headers)
    first, second = client.wait_for("message", 2)
    assert first["body"] == "waiting since before"
    assert (second["body"], second["properties"]) == ("blink", {"colour": "red"})
    assert (second["system"]["message_id"], second["system"]["content_type"]) == ("m/1", "text/plain")
    wait_for(
        lambda: contoso.rest("GET", "devices", "commanded")["cloudToDeviceMessageCount"] == 0, "both are acknowledged"
    )
    client.shutdown()


def test_the_gateways_name_is_not_the_hubs(contoso: Contoso, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name that a client dials must be in the certificate: the hub is no gateway."""
    monkeypatch.setitem(contoso.proxy.routes, (GATEWAY, MQTT), contoso.proxy.routes[HUB, MQTT])
    key = keys(contoso.register("misled"))["primaryKey"]
    client = contoso.with_key("misled", key, gateway=GATEWAY, server_verification_cert=contoso.hub_root)
    with pytest.raises(Exception, match="TLS exchanges"):
        client.connect()
    client.shutdown()


# Files --------------------------------------------------------------------------------------------------------------


@surface(PYTHON_DEVICE, "uploads")
def test_a_file_is_uploaded(contoso: Contoso) -> None:
    """The SDK asks for a place and tells the outcome; the file itself goes there as to a blob storage."""
    key = keys(contoso.register("uploading"))["primaryKey"]
    client = contoso.with_key("uploading", key, proxy={"kind": "HTTP", "port": contoso.proxy.port})
    told = client.sdk.do("upload_address", client=client.name, blob="report.txt")
    assert (told["hostName"], told["blobName"]) == (HUB, "uploading/report.txt")
    address = [told["containerName"], *told["blobName"].split("/")]
    query = dict(parse_qsl(told["sasToken"].removeprefix("?")))
    contoso.rest("PUT", *address, query=query, raw=b"report", headers={"x-ms-blob-type": "BlockBlob"})
    client.sdk.do("upload_done", client=client.name, correlation=told["correlationId"], success=True)
    assert (contoso.world.hub_folder / "uploads" / "uploading" / "report.txt").read_text() == "report"
    with pytest.raises(SdkError):
        client.sdk.do("upload_done", client=client.name, correlation=told["correlationId"], success=True)
    client.shutdown()
