"""What routes bring to the inputs of this gateway's modules: from their queues to their connections, and forgotten when
they have said that they have it.

Rules: durable and at least once. What a module had when its connection ended it gets again, marked so. A module that is
not connected, or is not subscribed to its inputs, misses nothing: its messages wait, as long as their route says. The
properties name the sender as it was authenticated, whatever it said (edge specification 6.7).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import structlog

from edgetrust.broker.ports import Done, Tasks
from edgetrust.clock import Clock
from edgetrust.edge.metrics import GatewayMetrics
from edgetrust.edge.routing import endpoint_name, output_of, sender
from edgetrust.errors import Error
from edgetrust.limits import DELIVERY_BATCH
from edgetrust.protocol.iothub import add_property
from edgetrust.store.lanes import Lane, QueuedMessage
from edgetrust.store.queues import ForwardQueue
from edgetrust.telemetry import EVENT_QUEUE_NOT_SHORTENED
from edgetrust.trust.identity import Identity

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RoutedMessage:
    """A message for one input; `sequence`, `properties`, `body` and `deliveries` as the broker's Command."""

    sequence: int
    input: str
    properties: str
    body: bytes
    deliveries: int
    message: QueuedMessage


class ModuleInputs:
    """The broker's Inputs port; `gateway` is its edge device."""

    def __init__(
        self, gateway: Identity, queue: ForwardQueue, tasks: Tasks, clock: Clock, metrics: GatewayMetrics
    ) -> None:
        self._gateway = gateway
        self._queue = queue
        self._tasks = tasks
        self._clock = clock
        self._metrics = metrics
        self._out: dict[str, dict[int, RoutedMessage]] = {}
        self._arrived: dict[str, list[int]] = {}  # acknowledged by the module, still in the queue
        self._forgetting: set[str] = set()

    async def lease(self, identity: Identity, limit: int, holding: Collection[int] = ()) -> Sequence[RoutedMessage]:
        """The next messages for a module; none for those of other devices."""
        lane = self._lane(identity)
        if lane is None or identity.module is None:
            return ()
        out, arrived = self._out.setdefault(identity.module, {}), self._arrived.get(identity.module, ())
        found = [
            RoutedMessage(
                one.offset, one.message.input, _signed(one.message), one.message.body, 1 + one.again, one.message
            )
            for one in await lane.lease(min(limit, DELIVERY_BATCH))
            if one.offset not in arrived
        ]
        out.update((one.sequence, one) for one in found)
        return found

    def complete(self, identity: Identity, sequence: int, done: Done) -> None:
        """The module has it."""
        module = identity.module or ""
        self._arrived.setdefault(module, []).append(sequence)
        one = self._out.get(module, {}).pop(sequence, None)
        if one is not None:
            self._count(module, one)
        done(None)
        self._forget_soon(module)

    def release(self, identity: Identity) -> None:
        """The connection is gone: what it held is delivered again."""
        lane = self._lane(identity)
        if lane is not None:
            self._out.pop(identity.module or "", None)
            lane.release()

    def _lane(self, identity: Identity) -> Lane | None:
        if identity.module is None or identity.of_device != self._gateway:
            return None
        return self._queue.lane(identity.module)

    def _count(self, module: str, one: RoutedMessage) -> None:
        source, to = sender(one.message), endpoint_name(self._gateway.device, module, one.input)
        self._metrics.sent.add(source, to, output_of(one.message.properties), one.input, str(one.message.priority))
        seconds = max(0, self._clock.milliseconds() - one.message.enqueued_ms) / 1000
        self._metrics.process_seconds.observe(seconds, source, to, str(one.message.priority))

    def _forget_soon(self, module: str) -> None:
        if module not in self._forgetting:
            self._forgetting.add(module)
            self._tasks.start(self._forget(module))

    async def _forget(self, module: str) -> None:
        try:
            while offsets := tuple(self._arrived.get(module, ())):
                await self._queue.lane(module).ack(offsets)
                self._arrived[module] = [one for one in self._arrived[module] if one not in set(offsets)]
        except Error as problem:  # the next acknowledgement is another attempt; after a restart they come again
            _log.warning(EVENT_QUEUE_NOT_SHORTENED, reason=problem.reason, detail=problem.message)
        finally:
            self._forgetting.discard(module)


def _signed(message: QueuedMessage) -> str:
    """The properties with who sent it; what counts is the last of several equal names."""
    bag = add_property(message.properties, "$.cdid", message.device)
    return bag if message.module is None else add_property(bag, "$.cmid", message.module)
