"""Runs jobs: one after the other, each for its devices in portions.

Rules: what came of it is written down after every portion, so that a restart repeats at most one portion; a job that
was cancelled, or has no time left, does no more. What fails for one device is noted with it and stops nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import msgspec
import structlog

from edgetrust.clock import Clock
from edgetrust.errors import Error, PeerError, UnavailableError
from edgetrust.limits import JOB_AT_ONCE
from edgetrust.protocol.jobs import JobStatus, JobType, method_body, targets, twin_draft
from edgetrust.protocol.methods import MethodAnswer, MethodCall, method_answer_body, parse_method_call
from edgetrust.store.jobs import Job, JobStore
from edgetrust.store.queries import Queries
from edgetrust.store.twins import Twins
from edgetrust.telemetry import EVENT_STORE_UNAVAILABLE

_LOOK_SECONDS = 1.0
_log = structlog.get_logger()
Invoke = Callable[[str, MethodCall], Awaitable[MethodAnswer]]


class JobRunner:
    """`run` never ends; `created` wakes it."""

    def __init__(self, store: JobStore, queries: Queries, twins: Twins, invoke: Invoke, clock: Clock) -> None:
        self._store = store
        self._queries = queries
        self._twins = twins
        self._invoke = invoke
        self._clock = clock
        self._woken = asyncio.Event()

    def created(self) -> None:
        """There is a new job."""
        self._woken.set()

    async def run(self) -> None:
        """Run what is due, and look again."""
        while True:
            try:
                while (job := await self._store.due()) is not None:
                    await self._run(job)
            except Error as problem:  # the next look is another attempt
                _log.warning(EVENT_STORE_UNAVAILABLE, reason=problem.reason, detail=problem.message)
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._woken.wait()
            except TimeoutError:
                continue
            self._woken.clear()

    async def _run(self, job: Job) -> None:
        if job.status is not JobStatus.RUNNING:
            found = await self._queries.identities(targets(job.body.query_condition))
            await self._store.begin(job.id, [device for device, _ in found])
        until = job.start_at + timedelta(seconds=job.body.max_execution_time_in_seconds)
        while devices := await self._store.pending(job.id, JOB_AT_ONCE):
            if self._clock.now() >= until:
                await self._store.end(job.id, JobStatus.FAILED, "its time is over")
                return
            outcomes = await asyncio.gather(*(self._outcome(job, device) for device in devices))
            await self._store.done(job.id, dict(zip(devices, outcomes, strict=True)))
        await self._store.end(job.id, JobStatus.COMPLETED)

    async def _outcome(self, job: Job, device: str) -> tuple[bool, Any]:
        try:
            if job.body.type is JobType.UPDATE_TWIN:
                await self._twins.patch(device, twin_draft(job.body))
                return True, {}
            answer = await self._invoke(device, parse_method_call(method_body(job.body)))
            return True, {"deviceMethodResponse": msgspec.json.decode(method_answer_body(answer))}
        except UnavailableError:
            raise  # the hub stops, or its store is away: this portion is done again
        except PeerError as problem:
            return False, {"error": {"code": getattr(problem, "code", problem.reason), "description": problem.message}}
