"""The way up: one connection to the hub as `$edgeHub`, draining the queue in order.

Rules. A message leaves the queue when the hub has acknowledged it, never before: at least once, in order, nothing
lost. At most a window's worth waits for acknowledgement. A lost connection is made again, quickly at first and then
with growing pauses; what was not acknowledged is sent again, from the oldest on. What may have been sent before is
marked so, and the hub recognises it by its message id. What waits is decided on when its turn comes: what is kept of a
sender that is disabled by then, or not below this gateway any more, is dropped, loudly, and not sent. A message that
ends the connection
and whose sender the hub does not (any more) count below this gateway can never be delivered: it is dropped, loudly,
so that it does not hold up everybody else's. The token of the connection is renewed at half its life by connecting
again. Source: edge specification 6.6, 6.7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

import structlog

from edgetrust.clock import Clock
from edgetrust.errors import Error, UnavailableError
from edgetrust.limits import (
    EVENT_POLL_SECONDS,
    HELD_RETRY_SECONDS,
    UPSTREAM_BATCH,
    UPSTREAM_CAREFUL_TRIES,
    UPSTREAM_DRAIN_SECONDS,
    UPSTREAM_FORGET_SECONDS,
    UPSTREAM_GATHER_SECONDS,
    UPSTREAM_RETRY_SECONDS,
    UPSTREAM_STEADY_SECONDS,
    UPSTREAM_TOKEN_SECONDS,
    UPSTREAM_UNFORGOTTEN,
    UPSTREAM_WINDOW,
    UPSTREAM_WINDOW_BYTES,
)
from edgetrust.protocol.iothub import telemetry_topic
from edgetrust.store.lanes import LeasedMessage, QueuedMessage
from edgetrust.telemetry import (
    EVENT_MESSAGE_DROPPED,
    EVENT_QUEUE_NOT_SHORTENED,
    EVENT_UPSTREAM_CONNECTED,
    EVENT_UPSTREAM_LOST,
)

_log = structlog.get_logger()

Sent = tuple[LeasedMessage, float]  # and when, as monotonic seconds


class Link(Protocol):
    """A connection to the hub, as far as it is used here."""

    acknowledged: Callable[[Sequence[int]], None]

    @property
    def is_open(self) -> bool: ...

    @property
    def cause(self) -> str: ...

    def send(self, topic: str, payload: bytes, *, again: bool = ...) -> int: ...

    async def wait_closed(self) -> str: ...

    async def disconnect(self) -> None: ...

    def abort(self, cause: str = ...) -> None: ...


class Queue(Protocol):
    """The store's forward queue, as far as it is used here."""

    async def lease(self, limit: int = ...) -> tuple[LeasedMessage, ...]: ...

    def release(self) -> None: ...

    async def ack(self, offsets: list[int]) -> None: ...

    async def wait_for_new(self, wait_seconds: float) -> bool: ...


class Observer(Protocol):
    """Who hears how it goes."""

    def connected(self) -> None: ...

    def lost(self) -> None: ...

    def arrived(self, messages: Sequence[Sent]) -> None: ...

    def dropped(self, stored: LeasedMessage, why: str) -> None: ...


class _Nobody:
    def connected(self) -> None:
        pass

    def lost(self) -> None:
        pass

    def arrived(self, messages: Sequence[Sent]) -> None:
        pass

    def dropped(self, stored: LeasedMessage, why: str) -> None:
        pass


class Upstream:
    """Keeps the connection and drains the queue.

    `connect` makes a connection or raises Error. `connected` is called after each. `undeliverable` tells whether the
    hub will never take a message of this sender, `withheld` why none of it is sent now ("" for nothing).
    """

    def __init__(
        self,
        queue: Queue,
        connect: Callable[[], Awaitable[Link]],
        *,
        connected: Callable[[], None],
        undeliverable: Callable[[QueuedMessage], Awaitable[bool]],
        withheld: Callable[[QueuedMessage], str],
        clock: Clock,
        observer: Observer | None = None,
    ) -> None:
        self._observer = observer or _Nobody()
        self._queue = queue
        self._connect = connect
        self._connected = connected
        self._undeliverable = undeliverable
        self._withheld = withheld
        self._said_of: set[tuple[str, str]] = set()  # senders and why: once for each connection
        self._clock = clock
        self._arrived: list[int] = []  # acknowledged by the hub, still in the queue
        self._waiting: dict[int, Sent] = {}  # by packet identifier: not acknowledged
        self._waiting_bytes = 0
        self._room_made = asyncio.Event()
        self._something_arrived = asyncio.Event()
        self._over = asyncio.Event()  # the connection has ended, or shall
        self._closing = False
        self._leaving = False  # we say DISCONNECT: the end of the connection is no loss
        self._progress = 0
        self._stuck = 0  # connections in a row that ended without one acknowledgement
        self._wake = asyncio.Event()
        self.link: Link | None = None
        self.connected_at: datetime | None = None
        self.problem: str = "not connected yet"

    @property
    def is_connected(self) -> bool:
        """Whether the hub is there now."""
        return self.link is not None and self.link.is_open

    def retry_now(self) -> None:
        """Do not wait any longer before the next attempt: something says that the hub is there."""
        self._wake.set()

    def close(self) -> None:
        """Let what is under way arrive, then end `run`."""
        self._closing = True
        self._over.set()
        self._room_made.set()
        self._wake.set()

    async def run(self) -> None:
        """Connect and drain, until `close`."""
        attempt = 0
        while not self._closing:
            steady = False
            try:
                steady = await self._use(await self._connect())
            except Error as problem:  # of the hub, or of the store: there is always another attempt
                self._lost(problem.message, problem.reason, problem.fix)
            attempt = 0 if steady else attempt + 1
            if not self._closing:
                await self._pause(UPSTREAM_RETRY_SECONDS[min(attempt, len(UPSTREAM_RETRY_SECONDS) - 1)])

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _use(self, link: Link) -> bool:
        """Drain over one connection to its end. Whether it was good for anything, so that the next may come at once."""
        self.link, self.connected_at, self.problem = link, self._clock.now(), ""
        self._progress = 0
        self._leaving = False
        self._said_of.clear()
        self._over.clear()
        link.acknowledged = self._acknowledged
        since = self._clock.monotonic()
        _log.info(EVENT_UPSTREAM_CONNECTED)
        self._observer.connected()
        self._connected()
        forgetting = asyncio.create_task(self._forget_arrived(link))
        watching = asyncio.create_task(self._watch(link))
        try:
            await self._drain(link, until=since + UPSTREAM_TOKEN_SECONDS / 2)
        finally:
            self.link = None
            link.abort("drained")
            self._something_arrived.set()
            await asyncio.gather(forgetting, watching)
            await self._settle()
        return self._progress > 0 or self._clock.monotonic() - since > UPSTREAM_STEADY_SECONDS

    # Sending --------------------------------------------------------------------------------------------------------

    async def _drain(self, link: Link, until: float) -> None:
        while self._may_send(link) and self._clock.monotonic() < until:
            batch = await self._queue.lease(UPSTREAM_BATCH)
            sent = 0
            while sent < len(batch) and (room := await self._room(link)):
                sent += self._send(link, batch[sent : sent + room])
            if len(batch) < UPSTREAM_BATCH:
                await self._idle()
        if link.is_open:
            await self._finish(link)

    async def _idle(self) -> None:
        """Wait for something to send and a moment for more, or for the end of the connection."""
        if not await self._queue.wait_for_new(0):  # no tasks while there is much to do
            await self._news_or_end()
        await asyncio.sleep(UPSTREAM_GATHER_SECONDS)

    async def _news_or_end(self) -> None:
        ended = asyncio.create_task(self._over.wait())
        news = asyncio.create_task(self._queue.wait_for_new(EVENT_POLL_SECONDS))
        try:
            await asyncio.wait((ended, news), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (ended, news):
                task.cancel()
            await asyncio.gather(ended, news, return_exceptions=True)

    async def _room(self, link: Link) -> int:
        """Wait until something may be sent, and how many; one at a time while it is unclear what ended the last
        connection. 0: nothing any more.
        """
        while self._may_send(link):
            room = min(self._window(), UPSTREAM_UNFORGOTTEN - len(self._arrived)) - len(self._waiting)
            if room > 0 and self._waiting_bytes < UPSTREAM_WINDOW_BYTES:
                return room
            self._room_made.clear()
            await self._room_made.wait()
        return 0

    def _window(self) -> int:
        return 1 if self._stuck and not self._progress else UPSTREAM_WINDOW

    def _may_send(self, link: Link) -> bool:
        return link.is_open and not self._closing

    def _send(self, link: Link, messages: Sequence[LeasedMessage]) -> int:
        """Send, until they are too large together or the connection ends; how many are done with."""
        now = self._clock.monotonic()
        for done, stored in enumerate(messages):
            if self._waiting_bytes >= UPSTREAM_WINDOW_BYTES:
                return done
            message = stored.message
            if why := self._withheld(message):
                self._withhold(stored, why)
                continue
            topic = telemetry_topic(message.device, message.module, message.properties)
            try:
                packet_id = link.send(topic, message.body, again=stored.again)
            except Error as problem:
                if not link.is_open:  # it went in this very moment
                    return done
                self._dropped(stored, problem.message)
                self._forget_soon(stored.offset)
            else:
                self._waiting[packet_id] = stored, now
                self._waiting_bytes += len(message.body)
        return len(messages)

    def _withhold(self, stored: LeasedMessage, why: str) -> None:
        self._forget_soon(stored.offset)
        of = (stored.message.device, why)
        if of in self._said_of:
            self._observer.dropped(stored, why)
            return
        self._said_of.add(of)
        self._dropped(stored, "what is kept of this sender is not sent any more", why)

    def _forget_soon(self, *offsets: int) -> None:
        self._arrived += offsets
        self._something_arrived.set()

    def _acknowledged(self, packet_ids: Sequence[int]) -> None:
        answered = [self._waiting.pop(packet_id) for packet_id in packet_ids]
        self._waiting_bytes -= sum([len(stored.message.body) for stored, _ in answered])
        self._observer.arrived(answered)
        self._progress += len(answered)
        self._stuck = 0
        self._forget_soon(*[stored.offset for stored, _ in answered])
        self._room_made.set()

    async def _finish(self, link: Link) -> None:
        """The token is half through: let what is under way arrive, then connect again."""
        try:
            async with asyncio.timeout(UPSTREAM_DRAIN_SECONDS):
                while self._waiting and link.is_open:
                    self._room_made.clear()
                    await self._room_made.wait()
                self._leaving = True
                await link.disconnect()
        except TimeoutError:
            return

    # Forgetting -----------------------------------------------------------------------------------------------------

    async def _forget_arrived(self, link: Link) -> None:
        """Many at once, since a transaction for one costs the same. Who is killed meanwhile sends them again."""
        while link.is_open:
            await self._something_arrived.wait()
            self._something_arrived.clear()
            await asyncio.sleep(UPSTREAM_FORGET_SECONDS)
            if not await self._forget():
                await asyncio.sleep(HELD_RETRY_SECONDS)
                self._something_arrived.set()

    async def _forget(self) -> bool:
        arrived = self._arrived.copy()
        if not arrived:
            return True
        try:
            await self._queue.ack(arrived)
        except UnavailableError as problem:  # they are sent twice if that lasts until the connection ends
            _log.warning(EVENT_QUEUE_NOT_SHORTENED, reason=problem.reason, detail=problem.message)
            return False
        del self._arrived[: len(arrived)]
        self._room_made.set()
        return True

    async def _watch(self, link: Link) -> None:
        cause = await link.wait_closed()
        if not self._leaving:
            self._lost(cause, "connection-lost", "")
        self._over.set()
        self._room_made.set()

    def _lost(self, problem: str, reason: str, fix: str) -> None:
        self._observer.lost()
        if problem != self.problem:
            _log.warning(EVENT_UPSTREAM_LOST, reason=reason, detail=problem, fix=fix)
        self.problem = problem

    # After a connection ---------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Forget what arrived; what did not is sent again. Drop the one message that the hub will never take."""
        await self._forget()
        if self._waiting and not self._progress:
            self._stuck += 1
        culprit, _ = next(iter(self._waiting.values())) if len(self._waiting) == 1 else (None, 0.0)
        self._waiting.clear()
        self._waiting_bytes = 0
        if culprit is not None and self._stuck >= UPSTREAM_CAREFUL_TRIES:
            await self._drop_if_undeliverable(culprit)
        self._queue.release()

    async def _drop_if_undeliverable(self, culprit: LeasedMessage) -> None:
        if not await self._undeliverable(culprit.message):
            return
        self._dropped(culprit, "the hub does not take messages of this sender from this gateway")
        await self._queue.ack([culprit.offset])
        self._stuck = 0

    def _dropped(self, stored: LeasedMessage, detail: str, why: str = "undeliverable") -> None:
        message = stored.message
        self._observer.dropped(stored, why)
        of = {"device": message.device, "module": message.module, "offset": stored.offset}
        _log.error(EVENT_MESSAGE_DROPPED, **of, reason=why, detail=detail)
