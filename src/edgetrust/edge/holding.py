"""Holding back: what the queues cannot take now waits in memory, unacknowledged, until they can.

Rules. A full queue or disk is no reason to close connections: whoever sends at QoS 1 gets no PUBACK and soon waits by
itself. Batches are stored in the order of `append`, those that were held before those that came later. What is held is
bounded by HELD_BYTES; above that a batch is refused, and its connection closes. It is tried again when something has
left a queue, and every HELD_RETRY_SECONDS. It is said once when it begins and once when it is over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from edgetrust.broker.ports import Done, Tasks
from edgetrust.errors import UnavailableError
from edgetrust.limits import HELD_BYTES, HELD_RETRY_SECONDS
from edgetrust.store.appending import size_of
from edgetrust.store.lanes import QueuedMessage
from edgetrust.store.queues import ForwardQueue
from edgetrust.telemetry import EVENT_QUEUE_REFUSES, EVENT_QUEUE_TAKES_AGAIN

_NEVER_HELD = ("append-backlog", "store-closed")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Batch:
    messages: Sequence[QueuedMessage]
    done: Done
    size: int


class Holding:
    """Stands before a queue. `refused` is called with the reason and number of messages that were not taken at once."""

    def __init__(self, queue: ForwardQueue, tasks: Tasks, refused: Callable[[str, int], None]) -> None:
        self._queue = queue
        self._tasks = tasks
        self._refused = refused
        self._in_flight = 0
        self._failed: deque[_Batch] = deque()  # were in flight; before all those that are held
        self._held: deque[_Batch] = deque()
        self._bytes = 0
        self._storing = False
        self.problem: UnavailableError | None = None

    def append(self, messages: Sequence[QueuedMessage], done: Done) -> None:
        """As the queue's."""
        if self.problem is None:
            self._in_flight += 1
            self._queue.append(messages, partial(self._answered, messages, done))
            return
        self._refused(self.problem.reason, len(messages))
        batch = _Batch(messages, done, size_of(messages))
        if self._bytes + batch.size > HELD_BYTES:
            asyncio.get_running_loop().call_soon(done, self.problem)
        else:
            self._bytes += batch.size
            self._held.append(batch)

    def _answered(self, messages: Sequence[QueuedMessage], done: Done, error: BaseException | None) -> None:
        self._in_flight -= 1
        if isinstance(error, UnavailableError) and error.reason not in _NEVER_HELD:
            self._begin(error)
            batch = _Batch(messages, done, size_of(messages))
            self._bytes += batch.size
            self._refused(error.reason, len(messages))
            self._failed.append(batch)
        else:
            done(error)
        if self.problem is not None and not self._in_flight and not self._storing:
            self._storing = True
            self._tasks.start(self._store())

    def _begin(self, error: UnavailableError) -> None:
        if self.problem is None:
            _log.error(EVENT_QUEUE_REFUSES, reason=error.reason, detail=error.message, fix=error.fix)
        self.problem = error

    async def _store(self) -> None:
        self._held.extendleft(reversed(self._failed))
        self._failed.clear()
        while self._held:
            await self._queue.wait_for_room(HELD_RETRY_SECONDS)
            await self._try_again()
        self.problem, self._storing = None, False
        _log.info(EVENT_QUEUE_TAKES_AGAIN)

    async def _try_again(self) -> None:
        """Store what is held, as much as the queue takes; what came meanwhile stays behind it."""
        batches = [self._held.popleft() for _ in range(len(self._held))]
        self._queue.resume()
        errors = await asyncio.gather(*(self._stored(batch) for batch in batches))
        left: list[_Batch] = []
        for batch, error in zip(batches, errors, strict=True):
            if isinstance(error, UnavailableError) and error.reason not in _NEVER_HELD:
                self.problem = error
                left.append(batch)
            else:
                self._bytes -= batch.size
                batch.done(error)
        self._held.extendleft(reversed(left))

    def _stored(self, batch: _Batch) -> asyncio.Future[BaseException | None]:
        outcome: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self._queue.append(batch.messages, lambda error: None if outcome.done() else outcome.set_result(error))
        return outcome
