"""CA certificates in the shape of the cloud's management plane, of hubs and of provisioning services (hub
specification 11).
"""

from __future__ import annotations

import base64
from datetime import datetime
from email.utils import format_datetime
from typing import Any, Protocol

import msgspec

OF_HUB = "Microsoft.Devices/IotHubs/Certificates"
OF_DPS = "Microsoft.Devices/ProvisioningServices/Certificates"


class _Properties(msgspec.Struct, frozen=True, rename="camel"):
    certificate: str
    is_verified: bool = False


class Upload(msgspec.Struct, frozen=True):
    """What is put: the certificate as text, and whether it counts as verified without proof."""

    properties: _Properties


class Proof(msgspec.Struct, frozen=True):
    """A certificate that the CA has issued for the verification code."""

    certificate: str


class _Digest(Protocol):
    def hex(self) -> str: ...


class Registered(Protocol):
    """A CA certificate as it is registered."""

    @property
    def name(self) -> str: ...

    @property
    def etag(self) -> str: ...

    @property
    def subject(self) -> str: ...

    @property
    def thumbprint(self) -> _Digest: ...

    @property
    def expires_at(self) -> datetime: ...

    @property
    def created_at(self) -> datetime: ...

    @property
    def updated_at(self) -> datetime: ...

    @property
    def verified(self) -> bool: ...

    @property
    def verification_code(self) -> str | None: ...


def body(record: Registered, pem: str, *, kind: str, code: bool = False) -> dict[str, Any]:
    """What is answered. `kind` is OF_HUB or OF_DPS; `code`: with the verification code, for who has asked for one."""
    properties: dict[str, Any] = {
        "subject": record.subject,
        "thumbprint": record.thumbprint.hex(),
        "expiry": format_datetime(record.expires_at, usegmt=True),
        "created": format_datetime(record.created_at, usegmt=True),
        "updated": format_datetime(record.updated_at, usegmt=True),
        "isVerified": record.verified,
        "certificate": base64.b64encode(pem.encode()).decode(),
    }
    if code and record.verification_code is not None:
        properties["verificationCode"] = record.verification_code
    return {
        "id": f"/certificates/{record.name}",
        "name": record.name,
        "type": kind,
        "etag": record.etag,
        "properties": properties,
    }
