"""Who hears what happens in a gateway, and counts it: decisions, sessions, the way up, twins.

Counting never changes what happens. An identity is named in a label only when it is in the copy of the scope.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgetrust.broker.ports import Auditor
from edgetrust.clock import Clock
from edgetrust.edge.metrics import HUB_ENDPOINT, STRANGER, GatewayMetrics, Observed
from edgetrust.edge.routing import Router, output_of, sender
from edgetrust.edge.upstream import Sent
from edgetrust.protocol.twin import Json
from edgetrust.store.lanes import LeasedMessage, QueuedMessage
from edgetrust.trust.audit import Record
from edgetrust.trust.identity import Identity


class CountingAuditor:
    """An auditor that counts before it passes on. `knows` tells whether an identity, as text, is in the copy."""

    def __init__(self, auditor: Auditor, metrics: GatewayMetrics, knows: Callable[[str], bool]) -> None:
        self._auditor = auditor
        self._metrics = metrics
        self._knows = knows

    def record(self, record: Record) -> None:
        """Count one decision, then keep it."""
        self._metrics.decisions.add("accepted" if record.accepted else "refused", record.reason)
        who = record.identity if self._knows(record.identity) else STRANGER
        if record.accepted:
            self._metrics.connected.add(who)
        else:
            self._metrics.refused.add(who, record.reason)
        self._auditor.record(record)


_Counted = tuple[tuple[str, ...], Observed, Observed]  # labels of `sent`; seconds of sending, of processing


class UpstreamObserver:
    """What the way up tells. `device` is the gateway."""

    def __init__(self, device: str, metrics: GatewayMetrics, clock: Clock) -> None:
        self._id = f"{device}/$edgeHub"
        self._metrics = metrics
        self._clock = clock
        self._lost_at: float | None = None
        self._ways: dict[tuple[str, str | None, str, int], _Counted] = {}

    def connected(self) -> None:
        """The connection stands."""
        if self._lost_at is not None:
            self._metrics.offline_seconds.observe(self._clock.monotonic() - self._lost_at, self._id)
            self._lost_at = None

    def lost(self) -> None:
        """It has ended, or could not be made."""
        if self._lost_at is None:
            self._lost_at = self._clock.monotonic()
            self._metrics.offline_count.add(self._id)
        else:
            self._metrics.retries.add(self._id, "connect")

    def arrived(self, messages: Sequence[Sent]) -> None:
        """The hub has acknowledged these just now."""
        now, now_ms, ways, sent = self._clock.monotonic(), self._clock.milliseconds(), self._ways, self._metrics.sent
        for stored, sent_at in messages:
            message = stored.message
            way = message.device, message.module, output_of(message.properties), message.priority
            counted = ways.get(way)
            if counted is None:
                counted = ways[way] = self._counted(message)
            labels, sending, processing = counted
            sent.add(*labels)
            sending.add(now - sent_at)
            processing.add(max(0, now_ms - message.enqueued_ms) / 1000)

    def _counted(self, message: QueuedMessage) -> _Counted:
        who, level, metrics = sender(message), str(message.priority), self._metrics
        labels = (who, HUB_ENDPOINT, output_of(message.properties), "", level)
        sending = metrics.send_seconds.of(who, HUB_ENDPOINT)
        return labels, sending, metrics.process_seconds.of(who, HUB_ENDPOINT, level)

    def dropped(self, stored: LeasedMessage, why: str) -> None:
        """It is given up: the hub will never take it, or nothing of its sender is sent any more."""
        self._metrics.dropped.add(why, sender(stored.message), output_of(stored.message.properties))


class TwinObserver:
    """What those below do with their twins; what they report is a message for the modules that ask for it."""

    def __init__(self, metrics: GatewayMetrics, router: Router, clock: Clock) -> None:
        self._metrics = metrics
        self._router = router
        self._clock = clock

    def now(self) -> float:
        """When something begins, for `read` and `reported`."""
        return self._clock.monotonic()

    def read(self, identity: Identity, since: float, *, from_hub: bool) -> None:
        """A twin was read."""
        source = "upstream" if from_hub else "edge_hub"
        self._metrics.twin_reads.add(source, str(identity))
        self._metrics.twin_seconds.observe(self.now() - since, source, str(identity))

    def reported(self, identity: Identity, patch: Json, since: float, *, to_hub: bool) -> None:
        """Properties were reported."""
        target = "upstream" if to_hub else "edge_hub"
        self._metrics.reports.add(target, str(identity))
        self._metrics.report_seconds.observe(self.now() - since, target, str(identity))
        self._router.twin_reported(identity, patch)
