"""The tables of jobs, beside those of `schema`."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, String, Table, Text

from edgetrust.store.schema import METADATA, devices

_NAME = devices.c.device.type

jobs = Table(
    "jobs",
    METADATA,
    Column("id", _NAME, primary_key=True),
    Column("type", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("body", Text, nullable=False),  # JSON as it was sent
    Column("created_ms", BigInteger, nullable=False),
    Column("start_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger, nullable=False),
    Column("problem", Text, nullable=False),
    Index("ix_jobs_status", "status", "start_ms"),
)

# What a job has to do, and did, for each device. A device may go meanwhile: then it failed for it.
job_devices = Table(
    "job_devices",
    METADATA,
    Column("job", _NAME, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("device", _NAME, primary_key=True),
    Column("status", String(16), nullable=False),  # pending, succeeded, failed
    Column("outcome", Text, nullable=False),  # JSON: the method's answer, or the error
)
