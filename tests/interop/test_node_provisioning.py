"""The Node SDKs of provisioning: devices register by MQTT, WebSocket and HTTPS, services manage enrollments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgetrust.protocol.sas import decode_key, derive_key
from support.azure import SdkError
from support.edge_world import write_holder
from support.enrollments import certificates, text_of
from support.node import NodeContoso
from support.pki import Holder, Pki, self_signed
from support.processes import HUB
from support.surface import NODE_ENROLLMENTS, NODE_PROVISIONING, surface

TRANSPORTS = ("mqtt", "websocket", "http")


def service(node: NodeContoso, method: str, *arguments: Any) -> Any:
    words = str(node.world.hub.ready["dps"]["service_connection_string"]).split(";")
    owner = ";".join(["HostName=localhost", *words[1:]])
    return node.sdk.do("provisioning", connection_string=owner, method=method, arguments=arguments)


def query(node: NodeContoso, method: str, page_size: int, of: str | None = None) -> list[list[dict[str, Any]]]:
    words = str(node.world.hub.ready["dps"]["service_connection_string"]).split(";")
    owner = ";".join(["HostName=localhost", *words[1:]])
    return list(node.sdk.do("provisioning_query", connection_string=owner, method=method, page_size=page_size, of=of))


def register(node: NodeContoso, name: str, holder: Holder | None = None, **options: Any) -> dict[str, Any]:
    if holder is not None:
        certificate, key = write_holder(node.folder, f"{name}-{options['transport']}", holder)
        options["x509"] = {"certificate": Path(certificate).read_text(), "key": Path(key).read_text()}
    scope = node.world.hub.ready["dps"]["id_scope"]
    return dict(node.sdk.do("register", host="localhost", registration=name, **{"scope": scope, **options}))


@surface(NODE_PROVISIONING, "dps-mqtt", "dps-https", "dps-websocket")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_device_with_a_key(node: NodeContoso, transport: str) -> None:
    name = f"n-dps-{transport}"
    service(
        node, "createOrUpdateIndividualEnrollment", {"registrationId": name, "attestation": {"type": "symmetricKey"}}
    )
    held = service(node, "getIndividualEnrollmentAttestationMechanism", name)["symmetricKey"]
    state = register(node, name, transport=transport, key=held["primaryKey"], payload={"a": 1})
    assert (state["assignedHub"], state["deviceId"]) == (HUB, name)
    shown = service(node, "getDeviceRegistrationState", name)
    assert (shown["status"], shown["substatus"]) == ("assigned", "initialAssignment")
    with pytest.raises(SdkError):
        register(node, name, transport=transport, key=text_of(b"x" * 32))


@surface(NODE_PROVISIONING, "dps-mqtt", "dps-https", "dps-websocket")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_device_with_a_certificate(node: NodeContoso, transport: str) -> None:
    name = f"n-dps-x509-{transport}"
    own = self_signed(name, now=node.pki.now)
    body = {"registrationId": name, "attestation": certificates("clientCertificates", own.certificate)}
    service(node, "createOrUpdateIndividualEnrollment", body)
    state = register(node, name, own, transport=transport)
    assert (state["assignedHub"], state["deviceId"]) == (HUB, name)
    stored = node.rest("GET", "devices", name)["authentication"]["x509Thumbprint"]
    assert set(stored.values()) == {own.chain.thumbprint().hex()}
    with pytest.raises(SdkError):
        other = self_signed(name, now=node.pki.now, serial=7)
        register(node, name, other, transport=transport)


@surface(NODE_PROVISIONING, "reprovisioning", "dps-https")
def test_a_device_that_registers_again(node: NodeContoso) -> None:
    """Its twin is kept or made anew as the enrollment says; a disabled enrollment ends it."""
    body = {
        "registrationId": "n-again",
        "attestation": {"type": "symmetricKey"},
        "initialTwin": {"tags": {"site": "Oslo"}, "properties": {"desired": {"rate": 1}}},
        "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": True},
    }
    made = service(node, "createOrUpdateIndividualEnrollment", body)
    key = service(node, "getIndividualEnrollmentAttestationMechanism", "n-again")["symmetricKey"]["primaryKey"]

    def again() -> Any:
        register(node, "n-again", transport="http", key=key)
        return node.rest("GET", "twins", "n-again")["tags"]

    assert again() == {"site": "Oslo"}
    node.ask("registry", "updateTwin", "n-again", {"tags": {"site": "Rome"}}, "*")
    assert again() == {"site": "Rome"}
    reset = {**made, "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": False}}
    made = service(node, "createOrUpdateIndividualEnrollment", reset)
    assert again() == {"site": "Oslo"}
    service(node, "createOrUpdateIndividualEnrollment", {**made, "provisioningStatus": "disabled"})
    with pytest.raises(SdkError):
        again()
    assert node.refusals("n-again") == ["enrollment-disabled"]


@surface(NODE_PROVISIONING, "dps-https")
def test_a_device_of_a_group(node: NodeContoso) -> None:
    made = service(
        node, "createOrUpdateEnrollmentGroup", {"enrollmentGroupId": "n-fleet", "attestation": {"type": "symmetricKey"}}
    )
    assert "symmetricKey" not in made["attestation"] or not made["attestation"]["symmetricKey"].get("primaryKey")
    held = service(node, "getEnrollmentGroupAttestationMechanism", "n-fleet")["symmetricKey"]
    for number in range(3):
        name = f"n-fleet-{number}"
        key = text_of(derive_key(decode_key(held["secondaryKey"]), name))
        assert register(node, name, transport="http", key=key)["deviceId"] == name
    pages = query(node, "createEnrollmentGroupDeviceRegistrationStateQuery", 2, "n-fleet")
    assert [[state["registrationId"] for state in page] for page in pages] == [
        ["n-fleet-0", "n-fleet-1"],
        ["n-fleet-2"],
    ]


@surface(NODE_ENROLLMENTS, "enrollments")
def test_enrollments_one_by_one_and_many_at_once(node: NodeContoso) -> None:
    body = {"registrationId": "n-one", "attestation": {"type": "symmetricKey"}}
    made = service(node, "createOrUpdateIndividualEnrollment", body)
    with pytest.raises(SdkError) as raised:
        service(node, "createOrUpdateIndividualEnrollment", body)
    assert raised.value.status == 409
    changed = service(node, "createOrUpdateIndividualEnrollment", {**made, "provisioningStatus": "disabled"})
    assert changed["provisioningStatus"] == "disabled"
    with pytest.raises(SdkError) as raised:
        service(node, "createOrUpdateIndividualEnrollment", made)
    assert raised.value.status == 412
    bodies = [{"registrationId": f"n-bulk-{number}", "attestation": {"type": "symmetricKey"}} for number in range(3)]
    many = {"mode": "create", "enrollments": bodies}
    assert service(node, "runBulkEnrollmentOperation", many) == {"isSuccessful": True, "errors": []}
    again = service(node, "runBulkEnrollmentOperation", many)
    assert not again["isSuccessful"]
    assert [error["errorCode"] // 1000 for error in again["errors"]] == [409, 409, 409]
    found = [one["registrationId"] for page in query(node, "createIndividualEnrollmentQuery", 2) for one in page]
    assert {"n-one", "n-bulk-0", "n-bulk-1", "n-bulk-2"} <= set(found)
    assert len(found) == len(set(found))
    service(node, "deleteIndividualEnrollment", "n-one")
    with pytest.raises(SdkError) as raised:
        service(node, "getIndividualEnrollment", "n-one")
    assert raised.value.status == 404


@surface(NODE_ENROLLMENTS, "enrollments")
def test_a_group_of_a_ca(node: NodeContoso) -> None:
    pki = Pki(node.pki.now, 1, root_name="Node fleet root")
    body = {
        "enrollmentGroupId": "n-ca",
        "attestation": certificates("signingCertificates", pki.root.certificate),
    }
    made = service(node, "createOrUpdateEnrollmentGroup", body)
    shown = made["attestation"]["x509"]["signingCertificates"]["primary"]["info"]
    assert shown["subjectName"] == "CN=Node fleet root"
    with pytest.raises(SdkError):  # nobody has verified the CA
        register(node, "n-of-ca", pki.device("n-of-ca"), transport="mqtt")
    assert node.refusals("n-of-ca") == ["ca-not-verified"]
