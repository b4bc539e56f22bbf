"""Scheduled jobs: twins changed, or a method called, for all devices that a condition takes (hub specification 6.6)."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from edgetrust.errors import PeerError
from edgetrust.limits import JOB_SECONDS, JOB_SECONDS_MAX
from edgetrust.protocol.iothub.identifiers import valid_identifier
from edgetrust.protocol.methods import parse_method_call
from edgetrust.protocol.query import parse_condition
from edgetrust.protocol.query.syntax import Query, Source
from edgetrust.protocol.registry import WordInAnyCase, decode_body
from edgetrust.protocol.twin import TwinDraft, draft_from


class JobType(WordInAnyCase):
    """What is done to each device."""

    UPDATE_TWIN = "scheduleUpdateTwin"
    CALL_METHOD = "scheduleDeviceMethod"


class JobStatus(StrEnum):
    """Where a job is."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobBody(msgspec.Struct, rename="camel", frozen=True):
    """A job as a client asks for it."""

    type: JobType
    job_id: str | None = None
    cloud_to_device_method: dict[str, Any] | None = None
    update_twin: dict[str, Any] | None = None
    query_condition: str | None = None
    start_time: datetime | None = None
    max_execution_time_in_seconds: Annotated[int, msgspec.Meta(ge=1, le=JOB_SECONDS_MAX)] = JOB_SECONDS


class JobError(PeerError):
    """A job that cannot be. `code` is the name for the error answer (hub specification 12.2)."""

    def __init__(self, message: str, *, code: str = "ArgumentInvalid") -> None:
        super().__init__(message, reason="job-malformed", status=400)
        self.code = code


def parse_job(name: str, data: bytes) -> JobBody:
    """A job that can be run. Raises BodyError, JobError, QueryError, and what its method or twin raises."""
    body = decode_body(data, JobBody)
    if not valid_identifier(name) or (body.job_id or name) != name:
        raise JobError(f"{name[:140]!r} cannot name this job")
    targets(body.query_condition)
    if body.type is JobType.CALL_METHOD:
        parse_method_call(method_body(body))
    else:
        twin_draft(body)
    return body


def targets(condition: str | None) -> Query:
    """The devices a job is for: `*` or nothing said is all of them. Raises QueryError."""
    text = (condition or "*").strip()
    return Query(Source.DEVICES, condition=None if text in ("", "*") else parse_condition(text))


def method_body(body: JobBody) -> bytes:
    """The body of the method call. Raises JobError."""
    if body.cloud_to_device_method is None:
        raise JobError(f"{body.type} needs cloudToDeviceMethod", code="ArgumentNull")
    return msgspec.json.encode(body.cloud_to_device_method)


def twin_draft(body: JobBody) -> TwinDraft:
    """The patch of the twins. Raises JobError, TwinError."""
    draft = draft_from(body.update_twin or {})
    if not draft.tags and not draft.desired:
        raise JobError(f"{body.type} needs updateTwin with tags or desired properties", code="ArgumentNull")
    return draft


def start_of(body: JobBody, now: datetime) -> datetime:
    """When it starts; a time without a zone is UTC."""
    start = body.start_time or now
    return start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)
