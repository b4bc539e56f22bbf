"""Bodies of the device API: what a device sends to register, and the state it is told (hub specification 13.2 and
13.3).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from edgetrust.limits import DPS_PAYLOAD_BYTES, TPM_KEY_BYTES
from edgetrust.protocol.dps.errors import BAD_REQUEST, TOO_LARGE, DpsError, dps_time


class RegistrationStatus(StrEnum):
    """How far a registration is."""

    UNASSIGNED = "unassigned"
    ASSIGNING = "assigning"
    ASSIGNED = "assigned"
    FAILED = "failed"
    DISABLED = "disabled"


class Substatus(StrEnum):
    """What an assignment meant for the device's data."""

    INITIAL = "initialAssignment"
    MIGRATED = "deviceDataMigrated"
    RESET = "deviceDataReset"
    BACK_TO_INITIAL = "reprovisionedToInitialAssignment"


class _Tpm(msgspec.Struct, rename="camel", frozen=True):
    endorsement_key: str
    storage_root_key: str


class _Register(msgspec.Struct, rename="camel", frozen=True):
    registration_id: str | None = None
    payload: Any = None
    tpm: _Tpm | None = None
    csr: str | None = None


@dataclass(frozen=True, slots=True)
class TpmKeys:
    """The public areas (TPM2B_PUBLIC) of a TPM's endorsement key and storage root key."""

    endorsement: bytes
    storage_root: bytes


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    """What a device sends. `payload` is any JSON value, `csr` a PKCS#10 request in DER."""

    registration_id: str | None = None
    payload: Any = None
    tpm: TpmKeys | None = None
    csr: bytes | None = None


def parse_register(data: bytes) -> RegisterRequest:
    """Read the body of a registration; an empty one says nothing. Raises DpsError 400, 413."""
    if len(data) > DPS_PAYLOAD_BYTES:
        raise DpsError(TOO_LARGE, f"more than {DPS_PAYLOAD_BYTES} bytes", reason="body-too-large")
    if not data.strip():
        return RegisterRequest()
    try:
        body = msgspec.json.decode(data, type=_Register)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise DpsError(BAD_REQUEST, f"the body cannot be read: {problem}", reason="body-malformed") from problem
    tpm = None if body.tpm is None else TpmKeys(_tpm_key(body.tpm.endorsement_key), _tpm_key(body.tpm.storage_root_key))
    return RegisterRequest(body.registration_id, body.payload, tpm, None if body.csr is None else _csr(body.csr))


def _csr(text: str) -> bytes:
    """Base64 of DER, as specified; PEM text is taken too."""
    if text.lstrip().startswith("-----BEGIN"):
        return text.encode()
    return _base64(text, "csr")


def _tpm_key(text: str) -> bytes:
    key = _base64(text, "tpm key")
    if not 0 < len(key) <= TPM_KEY_BYTES:
        raise DpsError(BAD_REQUEST, "a TPM key is 1 to 2048 bytes", reason="body-malformed")
    return key


def _base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as problem:
        raise DpsError(BAD_REQUEST, f"{what} is not base64", reason="body-malformed") from problem


@dataclass(frozen=True, slots=True)
class RegistrationState:
    """A registration as devices and operators see it. `credential` is one of the members x509, symmetricKey and tpm,
    with its value; `payload` comes from custom allocation; `chain` are issued certificates, base64 of DER, the end
    entity first.
    """

    registration_id: str
    status: RegistrationStatus
    created_at: datetime | None = None
    updated_at: datetime | None = None
    substatus: Substatus | None = None
    assigned_hub: str | None = None
    device_id: str | None = None
    etag: str | None = None
    credential: Mapping[str, Any] = field(default_factory=dict)
    payload: Any = None
    chain: tuple[str, ...] = ()
    error_code: int | None = None
    error_message: str | None = None

    def body(self) -> dict[str, Any]:
        """The JSON members, without those that say nothing."""
        failed = self.status is RegistrationStatus.FAILED
        members = {
            "registrationId": self.registration_id,
            "createdDateTimeUtc": None if self.created_at is None else dps_time(self.created_at),
            "assignedHub": self.assigned_hub,
            "deviceId": self.device_id,
            "status": self.status.value,
            "substatus": None if self.substatus is None else self.substatus.value,
            "lastUpdatedDateTimeUtc": None if self.updated_at is None else dps_time(self.updated_at),
            "etag": self.etag,
            **self.credential,
            "payload": self.payload,
            "issuedCertificateChain": list(self.chain) or None,
            "errorCode": self.error_code if failed else None,
            "errorMessage": self.error_message if failed else None,
        }
        return {name: value for name, value in members.items() if value is not None}


def operation_body(operation_id: str, state: RegistrationState, *, brief: bool = False) -> bytes:
    """The answer to a registration (brief) or to a question about its operation."""
    members: dict[str, Any] = {"operationId": operation_id, "status": state.status.value}
    if not brief:
        members["registrationState"] = state.body()
    return msgspec.json.encode(members)
