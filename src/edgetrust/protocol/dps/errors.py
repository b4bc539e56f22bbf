"""The provisioning service's errors: a number, a message, and the body that carries them (hub specification 13.4).

The HTTP status is the first three digits of the number. What a device is told is no more than the cloud service says;
the reason is for the operator.
"""

from __future__ import annotations

from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import msgspec

from edgetrust.errors import PeerError

BAD_REQUEST: Final = 400_004
ALLOCATION_FAILED: Final = 400_207
ALLOCATION_WITHOUT_HUB: Final = 400_208
ALLOCATION_UNAUTHORIZED: Final = 400_209
UNAUTHORIZED: Final = 401_000
INVALID_CERTIFICATE: Final = 401_002
FORBIDDEN: Final = 403_000
NOT_FOUND: Final = 404_000
ENROLLMENT_NOT_FOUND: Final = 404_201
REGISTRATION_NOT_FOUND: Final = 404_202
METHOD_NOT_ALLOWED: Final = 405_000
CONFLICT: Final = 409_000
PRECONDITION: Final = 412_000
TOO_LARGE: Final = 413_000
MEDIA_TYPE: Final = 415_000
THROTTLED: Final = 429_001
INTERNAL: Final = 500_000
UNAVAILABLE: Final = 503_000

_STATUS_DIGITS = 1000
_MESSAGES = MappingProxyType(
    {
        UNAUTHORIZED: "Unauthorized",
        INVALID_CERTIFICATE: "Invalid certificate.",
        THROTTLED: "Too many requests.",
    }
)


class DpsError(PeerError):
    """A request to the provisioning service that is answered with an error. `code` is its number; `retry_after` in
    seconds.
    """

    def __init__(
        self, code: int, message: str = "", *, reason: str, fix: str = "", retry_after: int | None = None
    ) -> None:
        text = message or _MESSAGES.get(code, "")
        super().__init__(text, reason=reason, status=code // _STATUS_DIGITS, fix=fix)
        self.code = code
        self.retry_after = retry_after


def dps_error_body(code: int, message: str, tracking_id: str, at: datetime) -> bytes:
    """The body: exactly one of each pair of names, since one client reads no other."""
    body = {"errorCode": code, "trackingId": tracking_id, "message": message, "timestampUtc": dps_time(at)}
    return msgspec.json.encode(body)


def dps_time(at: datetime) -> str:
    """Seven fractional digits and Z (hub specification 1.2)."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}0Z"


def error_values(body: bytes) -> dict[str, Any]:
    """The members of an error body as a client reads them; empty for what is none."""
    try:
        values = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return values if isinstance(values, dict) else {}
