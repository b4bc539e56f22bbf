"""What devices send and are told."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from edgetrust.limits import DPS_PAYLOAD_BYTES
from edgetrust.protocol.dps.bodies import (
    RegisterRequest,
    RegistrationState,
    RegistrationStatus,
    Substatus,
    operation_body,
    parse_register,
)
from edgetrust.protocol.dps.errors import DpsError, dps_error_body, error_values

AT = datetime(2020, 4, 10, 3, 11, 13, 27699, UTC)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"", RegisterRequest()),
        (b" ", RegisterRequest()),
        (b"{}", RegisterRequest()),
        (b'{"payload": null, "registrationId": "Reg1"}', RegisterRequest("Reg1")),
        (b'{"registrationId":"Reg1","payload":{"a":[1]}}', RegisterRequest("Reg1", {"a": [1]})),
        (b'{"registrationId":"r","payload":"text","later":1}', RegisterRequest("r", "text")),
        (b'{"csr":"AQI="}', RegisterRequest(csr=b"\x01\x02")),
    ],
)
def test_registrations(text: bytes, wanted: RegisterRequest) -> None:
    assert parse_register(text) == wanted


def test_keys_of_a_tpm() -> None:
    request = parse_register(b'{"registrationId":"r","tpm":{"endorsementKey":"AQI=","storageRootKey":"Aw=="}}')
    assert request.tpm is not None
    assert (request.tpm.endorsement, request.tpm.storage_root) == (b"\x01\x02", b"\x03")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"[]", 400),
        (b"{", 400),
        (b'"x"', 400),
        (b"\xff", 400),
        (b'{"registrationId":1}', 400),
        (b'{"tpm":{"endorsementKey":"AQI="}}', 400),
        (b'{"tpm":{"endorsementKey":"?","storageRootKey":"Aw=="}}', 400),
        (b'{"tpm":{"endorsementKey":"","storageRootKey":"Aw=="}}', 400),
        (b'{"csr":"no base64"}', 400),
        (b"[" * 100_000, 413),
        (b"[" * 60_000, 400),
        (b" " * (DPS_PAYLOAD_BYTES + 1), 413),
    ],
)
def test_what_is_no_registration(text: bytes, status: int) -> None:
    with pytest.raises(DpsError) as raised:
        parse_register(text)
    assert raised.value.status == status
    assert raised.value.reason in {"body-malformed", "body-too-large"}


def test_a_state_says_what_its_status_needs() -> None:
    assigned = RegistrationState(
        "Reg1", RegistrationStatus.ASSIGNED, AT, AT, Substatus.INITIAL, "localhost", "Reg1", "IjEi", {"x509": {}}, "p"
    )
    assert json.loads(operation_body("5.1", assigned)) == {
        "operationId": "5.1",
        "status": "assigned",
        "registrationState": {
            "registrationId": "Reg1",
            "createdDateTimeUtc": "2020-04-10T03:11:13.0276990Z",
            "lastUpdatedDateTimeUtc": "2020-04-10T03:11:13.0276990Z",
            "assignedHub": "localhost",
            "deviceId": "Reg1",
            "status": "assigned",
            "substatus": "initialAssignment",
            "etag": "IjEi",
            "x509": {},
            "payload": "p",
        },
    }
    assert json.loads(operation_body("5.1", assigned, brief=True)) == {"operationId": "5.1", "status": "assigned"}
    failed = RegistrationState("r", RegistrationStatus.FAILED, error_code=400_207, error_message="no hub")
    said = json.loads(operation_body("5.1", failed))["registrationState"]
    assert (said["errorCode"], said["errorMessage"]) == (400_207, "no hub")


def test_an_error_has_one_name_for_each_thing() -> None:
    body = dps_error_body(401_002, "Invalid certificate.", "t", AT)
    assert error_values(body) == {
        "errorCode": 401_002,
        "trackingId": "t",
        "message": "Invalid certificate.",
        "timestampUtc": "2020-04-10T03:11:13.0276990Z",
    }
    assert error_values(b"[]") == error_values(b"{") == {}
    assert DpsError(401_002, reason="x").status == 401
