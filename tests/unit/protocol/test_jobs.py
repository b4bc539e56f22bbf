"""Jobs as clients ask for them, and what is refused before anything is stored."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from edgetrust.errors import PeerError
from edgetrust.limits import JOB_SECONDS
from edgetrust.protocol.jobs import JobType, parse_job, start_of, targets, twin_draft

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TWIN: dict[str, Any] = {"type": "scheduleUpdateTwin", "updateTwin": {"etag": "*", "tags": {"a": 1}}}
METHOD: dict[str, Any] = {"type": "ScheduleDeviceMethod", "cloudToDeviceMethod": {"methodName": "reboot"}}


def test_a_change_of_twins_and_a_method() -> None:
    body = parse_job("j", json.dumps(TWIN).encode())
    assert (body.type, body.max_execution_time_in_seconds) == (JobType.UPDATE_TWIN, JOB_SECONDS)
    assert twin_draft(body).tags == {"a": 1}
    assert start_of(body, NOW) == NOW
    assert targets(body.query_condition).condition is None
    later = {**METHOD, "jobId": "j", "startTime": "2026-01-02T00:00:00Z", "queryCondition": "deviceId = 'd1'"}
    body = parse_job("j", json.dumps(later).encode())
    assert body.type is JobType.CALL_METHOD
    assert start_of(body, NOW) == datetime(2026, 1, 2, tzinfo=UTC)
    assert targets(body.query_condition).condition is not None


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("j", {}),
        ("j", []),
        ("j", {"type": "export"}),
        ("j", {"type": "scheduleUpdateTwin"}),
        ("j", {**TWIN, "updateTwin": {}}),
        ("j", {**TWIN, "updateTwin": {"tags": 1}}),
        ("j", {"type": "scheduleDeviceMethod"}),
        ("j", {**METHOD, "cloudToDeviceMethod": {}}),
        ("j", {**TWIN, "queryCondition": "deviceId ="}),
        ("j", {**TWIN, "jobId": "other"}),
        ("j", {**TWIN, "startTime": "soon"}),
        ("j", {**TWIN, "maxExecutionTimeInSeconds": 0}),
        ("a b", TWIN),
    ],
)
def test_what_is_no_job(name: str, body: Any) -> None:
    with pytest.raises(PeerError) as raised:
        parse_job(name, json.dumps(body).encode())
    assert raised.value.status == 400
