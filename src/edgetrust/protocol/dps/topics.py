"""The topics of provisioning over MQTT (hub specification 13.1).

The answer's topic has exactly two `$`, with `$rid=` first behind the question mark: one SDK splits it there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

RESPONSE_FILTER = "$dps/registrations/res/#"
_REGISTER = "$dps/registrations/PUT/iotdps-register/?"
_STATUS = "$dps/registrations/GET/iotdps-get-operationstatus/?"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._~%\-]{1,128}")  # goes into the answer's topic as it came


@dataclass(frozen=True, slots=True)
class RegisterTopic:
    """A registration; `request_id` as it stood in the topic."""

    request_id: str


@dataclass(frozen=True, slots=True)
class StatusTopic:
    """A question how an operation is going."""

    request_id: str
    operation_id: str


def parse_dps_topic(topic: str) -> RegisterTopic | StatusTopic | None:
    """What a publish asks for; None for every topic that is none of the two."""
    for prefix in (_REGISTER, _STATUS):
        if topic.startswith(prefix):
            parameters = dict(_pairs(topic.removeprefix(prefix)))
            request_id = parameters.get("$rid", "")
            if not _REQUEST_ID.fullmatch(request_id):
                return None
            if prefix == _REGISTER:
                return RegisterTopic(request_id)
            return StatusTopic(request_id, unquote(parameters.get("operationId", "")))
    return None


def response_topic(status: int, request_id: str, retry_after: int | None = None) -> str:
    """Where an answer is published."""
    topic = f"$dps/registrations/res/{status}/?$rid={request_id}"
    return topic if retry_after is None else f"{topic}&retry-after={retry_after}"


def _pairs(query: str) -> list[tuple[str, str]]:
    found = []
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        found.append((name, value))
    return found
