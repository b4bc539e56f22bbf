"""Housekeeping of a gateway: messages that have waited longer than their route, or its configuration, says leave the
queues.

Without either they wait as long as there is room. What is dropped is counted and logged: it was acknowledged to
a device and never reaches the hub.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from edgetrust.clock import Clock
from edgetrust.errors import Error
from edgetrust.limits import HOUSEKEEPING_SECONDS
from edgetrust.store.queue_accounts import Dropped
from edgetrust.store.queues import ForwardQueue
from edgetrust.telemetry import EVENT_QUEUE_EXPIRED, EVENT_QUEUE_NOT_SHORTENED, REMOVED

Expired = Callable[[Sequence[Dropped]], None]
_log = structlog.get_logger()


async def keep_house(queue: ForwardQueue, age: timedelta | None, clock: Clock, expired: Expired) -> None:
    """Once a minute, for ever. `expired` is called with what was dropped."""
    while True:
        await drop_old(queue, age, clock, expired)
        await asyncio.sleep(HOUSEKEEPING_SECONDS)


async def drop_old(queue: ForwardQueue, age: timedelta | None, clock: Clock, expired: Expired) -> None:
    """One round. Never raises the store's errors: there is always another round."""
    try:
        await queue.forget_repeats()
        dropped = await queue.expire_due()
        if age is not None:
            dropped += await queue.expire(clock.now() - age)
    except Error as problem:
        _log.warning(EVENT_QUEUE_NOT_SHORTENED, reason=problem.reason, detail=problem.message)
        return
    if dropped:
        REMOVED.labels("queued-message").inc(len(dropped))
        expired(dropped)
        _log.warning(EVENT_QUEUE_EXPIRED, messages=len(dropped))
