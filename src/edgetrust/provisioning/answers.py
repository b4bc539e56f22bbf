"""Errors as the provisioning service answers them, over MQTT and HTTPS alike: number, identifier, message, time.

What nobody foresaw is logged where it was caught; the device learns that it may try again.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from edgetrust.errors import Error, PeerError, UnavailableError
from edgetrust.protocol.dps.errors import INTERNAL, UNAVAILABLE, DpsError, dps_error_body

_STATUS_DIGITS = 1000


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error on its way. `tracking_id` stands in the body too."""

    status: int
    body: bytes
    retry_after: int | None
    tracking_id: str


def error_of(problem: Error, at: datetime) -> ErrorAnswer:
    """What a peer is told about `problem`."""
    match problem:
        case DpsError():
            return answer(problem.code, problem.message, at, problem.retry_after)
        case PeerError():
            return answer(problem.status * _STATUS_DIGITS, problem.message, at)
        case UnavailableError():
            return answer(UNAVAILABLE, problem.message, at, max(1, round(problem.retry_after)))
        case _:
            return answer(INTERNAL, "the request could not be completed", at)


def answer(code: int, message: str, at: datetime, retry_after: int | None = None) -> ErrorAnswer:
    """An error by its number."""
    tracking = str(uuid.uuid4())
    return ErrorAnswer(code // _STATUS_DIGITS, dps_error_body(code, message, tracking, at), retry_after, tracking)
