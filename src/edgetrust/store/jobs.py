"""Jobs, what they are for, and how far they have come (hub specification 6.6).

Rules: a job's devices are written down when it starts, so that a hub that was restarted goes on where it was, and does
nothing twice that it knows to be done. The oldest jobs that have ended are forgotten when there are too many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, Select, delete, func, insert, select, update

from edgetrust.clock import Clock
from edgetrust.limits import JOBS
from edgetrust.protocol.jobs import JobBody, JobStatus, start_of
from edgetrust.store.engine import Database
from edgetrust.store.job_tables import job_devices, jobs
from edgetrust.store.records import RegistryError, at_moment, milliseconds, moment

PENDING, SUCCEEDED, FAILED = "pending", "succeeded", "failed"
_ENDED = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
_OPEN = (JobStatus.SCHEDULED, JobStatus.QUEUED, JobStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class Job:
    """A job; `counts` has how many of its devices are in which state."""

    id: str
    body: JobBody
    status: JobStatus
    created_at: datetime
    start_at: datetime
    end_at: datetime | None
    problem: str
    counts: Mapping[str, int]


class JobStore:
    """All jobs of a hub. Methods may raise RegistryError and the store's errors."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(self, name: str, body: JobBody) -> Job:
        """RegistryError 409."""
        now = self._clock.now()
        start = start_of(body, now)
        row = {
            "id": name,
            "type": body.type.value,
            "status": JobStatus.SCHEDULED if start > now else JobStatus.QUEUED,
            "body": msgspec.json.encode(body).decode(),
            "created_ms": milliseconds(now),
            "start_ms": milliseconds(start),
            "end_ms": 0,
            "problem": "",
        }

        def work(connection: Connection) -> Job:
            if connection.execute(select(jobs.c.id).where(jobs.c.id == name)).first() is not None:
                raise RegistryError(f"job {name} exists", code="GenericConflict", status=409)
            _make_room(connection)
            connection.execute(insert(jobs), row)
            return _stored(connection, name)

        return await self._database.write(work)

    async def get(self, name: str) -> Job:
        """RegistryError 404."""
        return await self._database.read(lambda connection: _stored(connection, name))

    async def find(self, kind: str | None, status: str | None, after: str, limit: int) -> tuple[Job, ...]:
        """Those of a type and status, behind `after` in byte order of their names."""
        query = select(jobs).where(jobs.c.id > after).order_by(jobs.c.id).limit(limit)
        if kind is not None:
            query = query.where(jobs.c.type == kind)
        if status is not None:
            query = query.where(jobs.c.status == status)
        return await self._database.read(lambda connection: _found(connection, query))

    async def due(self) -> Job | None:
        """The next one to run, or to go on with; None when it is not yet time for any."""
        now = milliseconds(self._clock.now())
        query = select(jobs).where(jobs.c.status.in_(_OPEN), jobs.c.start_ms <= now).order_by(jobs.c.start_ms).limit(1)
        found = await self._database.read(lambda connection: _found(connection, query))
        return found[0] if found else None

    async def begin(self, name: str, devices: Sequence[str]) -> None:
        """It runs, for these devices."""
        rows = [{"job": name, "device": device, "status": PENDING, "outcome": "null"} for device in devices]

        def work(connection: Connection) -> None:
            if rows:
                connection.execute(insert(job_devices), rows)
            connection.execute(
                update(jobs).where(jobs.c.id == name, jobs.c.status.in_(_OPEN)).values(status=JobStatus.RUNNING)
            )

        await self._database.write(work)

    async def pending(self, name: str, limit: int) -> tuple[str, ...]:
        """The next devices that nothing was done for; none when the job does not run any more."""
        running = select(jobs.c.id).where(jobs.c.id == name, jobs.c.status == JobStatus.RUNNING).exists()
        query = (
            select(job_devices.c.device)
            .where(job_devices.c.job == name, job_devices.c.status == PENDING, running)
            .order_by(job_devices.c.device)
            .limit(limit)
        )
        return await self._database.read(lambda connection: tuple(connection.execute(query).scalars()))

    async def done(self, name: str, outcomes: Mapping[str, tuple[bool, Any]]) -> None:
        """What came of it for some devices: whether it succeeded, and its answer or error as JSON."""

        def work(connection: Connection) -> None:
            for device, (succeeded, outcome) in outcomes.items():
                values = {
                    "status": SUCCEEDED if succeeded else FAILED,
                    "outcome": msgspec.json.encode(outcome).decode(),
                }
                of_device = (job_devices.c.job == name, job_devices.c.device == device)
                connection.execute(update(job_devices).where(*of_device).values(**values))

        await self._database.write(work)

    async def end(self, name: str, status: JobStatus, problem: str = "") -> Job:
        """It has ended, unless it had already."""
        now = milliseconds(self._clock.now())

        def work(connection: Connection) -> Job:
            ending = update(jobs).where(jobs.c.id == name, jobs.c.status.in_(_OPEN))
            connection.execute(ending.values(status=status, end_ms=now, problem=problem))
            return _stored(connection, name)

        return await self._database.write(work)


def _make_room(connection: Connection) -> None:
    count = connection.execute(select(func.count()).select_from(jobs)).scalar_one()
    if count < JOBS:
        return
    oldest = select(jobs.c.id).where(jobs.c.status.in_(_ENDED)).order_by(jobs.c.end_ms).limit(1)
    name = connection.execute(oldest).scalar()
    if name is None:
        detail = f"{JOBS} jobs wait, and there can be no more"
        raise RegistryError(detail, code="ThrottlingException", status=429)
    connection.execute(delete(job_devices).where(job_devices.c.job == name))
    connection.execute(delete(jobs).where(jobs.c.id == name))


def _stored(connection: Connection, name: str) -> Job:
    found = _found(connection, select(jobs).where(jobs.c.id == name))
    if not found:
        raise RegistryError(f"there is no job {name[:140]}", code="JobNotFound", status=404)
    return found[0]


def _found(connection: Connection, query: Select[Any]) -> tuple[Job, ...]:
    rows = connection.execute(query).mappings().all()
    counting = (
        select(job_devices.c.job, job_devices.c.status, func.count())
        .where(job_devices.c.job.in_([row["id"] for row in rows]))
        .group_by(job_devices.c.job, job_devices.c.status)
    )
    counts: dict[str, dict[str, int]] = {}
    for name, status, count in connection.execute(counting):
        counts.setdefault(name, {})[status] = count
    return tuple(_job(row, counts.get(row["id"], {})) for row in rows)


def _job(row: RowMapping, counts: Mapping[str, int]) -> Job:
    return Job(
        row["id"],
        msgspec.json.decode(row["body"], type=JobBody),
        JobStatus(row["status"]),
        at_moment(row["created_ms"]),
        at_moment(row["start_ms"]),
        moment(row["end_ms"]),
        row["problem"],
        counts,
    )
