"""Scheduled jobs over HTTPS (hub specification 6.6)."""

from __future__ import annotations

from typing import Any, TypeVar

from aiohttp import web

from edgetrust.errors import PeerError
from edgetrust.hub.rest.answers import json_value
from edgetrust.hub.rest.bodies import zulu
from edgetrust.hub.rest.continuation import CONTINUATION, continued, continuing, page_size
from edgetrust.hub.rest.parts import PARTS, Parts
from edgetrust.hub.rest.queries import ITEM_TYPE
from edgetrust.limits import QUERY_PAGE_ITEMS
from edgetrust.protocol.jobs import JobStatus, JobType, parse_job
from edgetrust.store.jobs import FAILED, PENDING, SUCCEEDED, Job
from edgetrust.trust.policies import Right

routes = web.RouteTableDef()
E = TypeVar("E", JobType, JobStatus)


@routes.get("/jobs/v2/query")
async def query_jobs(request: web.Request) -> web.Response:
    """Jobs of a `jobType` and `jobStatus`, page by page."""
    parts = await _parts(request)
    kind, status = _word(request, "jobType", JobType), _word(request, "jobStatus", JobStatus)
    limit = page_size(request, QUERY_PAGE_ITEMS)
    found = await parts.jobs.find(kind, status, continued(request), limit + 1)
    answer = json_value([_body(job) for job in found[:limit]])
    answer.headers[ITEM_TYPE] = "jobResponse"
    if len(found) > limit:
        answer.headers[CONTINUATION] = continuing(found[limit - 1].id)
    return answer


@routes.put("/jobs/v2/{name}")
async def create_job(request: web.Request) -> web.Response:
    """A job for all devices that its condition takes when it starts."""
    parts, name = await _parts(request), request.match_info["name"]
    job = await parts.jobs.create(name, parse_job(name, await request.read()))
    parts.job_runner.created()
    return json_value(_body(job))


@routes.get("/jobs/v2/{name}")
async def get_job(request: web.Request) -> web.Response:
    """A job, and how far it has come."""
    return json_value(_body(await (await _parts(request)).jobs.get(request.match_info["name"])))


@routes.post("/jobs/v2/{name}/cancel")
async def cancel_job(request: web.Request) -> web.Response:
    """End a job: what was not done for a device is not done any more."""
    parts = await _parts(request)
    job = await parts.jobs.get(request.match_info["name"])
    return json_value(_body(await parts.jobs.end(job.id, JobStatus.CANCELLED, "cancelled")))


async def _parts(request: web.Request) -> Parts:
    parts = request.app[PARTS]
    await parts.access.service(request, Right.SERVICE_CONNECT)
    return parts


def _word(request: web.Request, name: str, kind: type[E]) -> str | None:
    text = request.query.get(name)
    if not text:
        return None
    known = {member.value.lower(): member.value for member in kind}
    if text.lower() not in known:
        raise PeerError(f"{name} is one of {', '.join(kind)}", reason="argument-invalid", status=400)
    return known[text.lower()]


def _body(job: Job) -> dict[str, Any]:
    body = job.body
    return {
        "jobId": job.id,
        "type": body.type,
        "status": job.status,
        "queryCondition": body.query_condition or "*",
        "cloudToDeviceMethod": body.cloud_to_device_method,
        "updateTwin": body.update_twin,
        "createdTime": zulu(job.created_at),
        "startTime": zulu(job.start_at),
        "endTime": None if job.end_at is None else zulu(job.end_at),
        "maxExecutionTimeInSeconds": body.max_execution_time_in_seconds,
        "failureReason": job.problem or None,
        "statusMessage": job.problem or None,
        "deviceJobStatistics": {
            "deviceCount": sum(job.counts.values()),
            "succeededCount": job.counts.get(SUCCEEDED, 0),
            "failedCount": job.counts.get(FAILED, 0),
            "runningCount": 0,
            "pendingCount": job.counts.get(PENDING, 0),
        },
    }
