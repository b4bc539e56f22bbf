"""Housekeeping of a hub: once a minute, what is old enough leaves the store.

Old events by the retention policy; changes of the registry beyond those that another process may catch up with; expired
cloud-to-device messages of devices that never came for them, and feedback that nobody read; uploads that were never
finished. The audit trail bounds itself. What fails is reported and tried again a minute later; nothing else stops.
"""

from __future__ import annotations

from datetime import datetime

import structlog

from edgetrust.clock import Clock
from edgetrust.errors import Error
from edgetrust.store.c2d import C2dQueues
from edgetrust.store.events import EventLog
from edgetrust.store.feedback import Feedback
from edgetrust.store.files import UploadedFiles
from edgetrust.store.identities import Identities
from edgetrust.store.retention import EventTrimmer
from edgetrust.store.uploads import Uploads
from edgetrust.telemetry import EVENT_STORE_UNAVAILABLE, EVENT_TRIMMED, LOG_BYTES, REMOVED

_log = structlog.get_logger()


class Housekeeping:
    """`await tidy()` once in a while."""

    def __init__(
        self,
        clock: Clock,
        log: EventLog,
        events: EventTrimmer,
        identities: Identities,
        commands: C2dQueues,
        feedback: Feedback,
        uploads: Uploads,
        files: UploadedFiles,
    ) -> None:
        self._clock = clock
        self._log = log
        self._events = events
        self._identities = identities
        self._commands = commands
        self._feedback = feedback
        self._uploads = uploads
        self._files = files

    async def tidy(self) -> None:
        """One round. Never raises the store's errors."""
        for work in (self._old_events, self._old_changes, self._old_commands, self._old_uploads):
            try:
                await work(self._clock.now())
            except Error as problem:
                _log.warning(EVENT_STORE_UNAVAILABLE, reason=problem.reason, detail=problem.message)

    async def _old_events(self, now: datetime) -> None:
        removed = await self._events.trim(now)
        await self._log.forget_repeats(now)
        LOG_BYTES.set(self._events.bytes)
        if removed.by_age or removed.by_size:
            REMOVED.labels("event").inc(removed.by_age + removed.by_size)
            _log.info(EVENT_TRIMMED, by_age=removed.by_age, by_size=removed.by_size)

    async def _old_changes(self, _now: datetime) -> None:
        REMOVED.labels("registry-change").inc(await self._identities.trim_changes())

    async def _old_commands(self, _now: datetime) -> None:
        REMOVED.labels("command").inc(await self._commands.expire())
        REMOVED.labels("feedback").inc(await self._feedback.trim())

    async def _old_uploads(self, now: datetime) -> None:
        expired = await self._uploads.forget_expired(now)
        for correlation in expired:
            await self._files.forget(correlation)
        REMOVED.labels("upload").inc(len(expired))
