"""Bodies of the service API: what is an enrollment and what is none."""

from __future__ import annotations

from typing import Any

import pytest

from edgetrust.protocol.dps.enrollments import AllocationPolicy, Kind, parse_enrollment
from edgetrust.protocol.dps.errors import DpsError

KEYS = {"type": "symmetricKey"}
PAIR = {"primary": {"certificate": "AQI="}}


def individual(**fields: Any) -> dict[str, Any]:
    return {"registrationId": "e1", "attestation": KEYS, **fields}


def group(**fields: Any) -> dict[str, Any]:
    return {"enrollmentGroupId": "g1", "attestation": KEYS, **fields}


def test_the_smallest_one_that_an_sdk_sends() -> None:
    body = parse_enrollment(b'{"registrationId":"e1","attestation":{"type":"symmetricKey"}}', "individual", "E1")
    assert (body.kind, body.name, body.provisioning_status) == ("individual", "e1", "enabled")
    assert (body.reprovision_policy.update_hub_assignment, body.reprovision_policy.migrate_device_data) == (True, True)


def test_everything_at_once() -> None:
    body = parse_enrollment(
        group(
            attestation={"type": "x509", "x509": {"caReferences": {"primary": "root", "secondary": None}}},
            capabilities={"iotEdge": True},
            allocationPolicy="geoLatency",
            iotHubs=["a", "b"],
            initialTwin={"tags": {"gone": None}, "properties": {"desired": {"x": 1}}},
            reprovisionPolicy={"updateHubAssignment": False, "migrateDeviceData": False},
            provisioningStatus="disabled",
            etag='"x"',
            createdDateTimeUtc="2020-01-01T00:00:00Z",
        ),
        "group",
    )
    assert (body.capabilities.iot_edge, body.allocation_policy) == (True, AllocationPolicy.GEO_LATENCY)
    assert body.initial_twin is not None
    assert body.initial_twin.tags == {"gone": None}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("individual", []),
        ("individual", {"registrationId": "e1"}),
        ("individual", group()),
        ("group", individual()),
        ("individual", individual(enrollmentGroupId="g1")),
        ("individual", individual(registrationId="e1_")),
        ("individual", individual(registrationId="e2")),
        ("individual", individual(deviceId="d/1")),
        ("individual", individual(attestation={"type": "none"})),
        ("individual", individual(attestation={"type": "tpm"})),
        ("individual", individual(attestation={"type": "tpm", "tpm": {"endorsementKey": "?"}})),
        ("individual", individual(attestation={"type": "symmetricKey", "symmetricKey": {"primaryKey": "AAAA"}})),
        ("individual", individual(attestation={"type": "x509"})),
        ("individual", individual(attestation={"type": "x509", "x509": {"signingCertificates": PAIR}})),
        ("individual", individual(attestation={"type": "x509", "x509": {"clientCertificates": {}}})),
        ("individual", individual(provisioningStatus="perhaps")),
        ("individual", individual(allocationPolicy="random")),
        ("individual", individual(allocationPolicy="custom")),
        ("individual", individual(allocationPolicy="static", iotHubs=["a", "b"])),
        ("group", group(deviceId="d1")),
        ("group", group(attestation={"type": "tpm", "tpm": {"endorsementKey": "AQI="}})),
        ("group", group(attestation={"type": "x509", "x509": {"clientCertificates": PAIR}})),
        ("group", group(attestation={"type": "x509", "x509": {"caReferences": {}}})),
        (
            "group",
            group(
                attestation={"type": "x509", "x509": {"signingCertificates": PAIR, "caReferences": {"primary": "a"}}}
            ),
        ),
    ],
)
def test_what_is_no_enrollment(kind: Kind, body: Any) -> None:
    with pytest.raises(DpsError) as raised:
        parse_enrollment(body, kind, "e1" if kind == "individual" else "g1")
    assert raised.value.status == 400
    assert raised.value.reason


def test_no_json() -> None:
    for text in (b"", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(DpsError):
            parse_enrollment(text, "individual")
