"""What a gateway counts, under the names of the real edgeHub where there is one (edge specification 6.8).

Counting is adding to a number: it happens for every message. The families are made when somebody asks. Every sample has
the labels `iothub`, `edge_device` and `instance_number` besides its own; `id` is a device or `device/module` of the
copy, and STRANGER for whoever is not in it, so that strangers cannot make any.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily

from edgetrust.limits import METRIC_OBSERVATIONS

STRANGER: Final = "unknown"
HUB_ENDPOINT: Final = "iothub"  # edgeHub's name for $upstream
_COMMON: Final = ("iothub", "edge_device", "instance_number")
_QUANTILES: Final = (0.5, 0.9, 0.95, 0.99, 0.999, 0.9999)


@dataclass(slots=True)
class Counts:
    """A counter: one number for each combination of its labels."""

    name: str
    text: str
    labels: tuple[str, ...]
    values: dict[tuple[str, ...], float] = field(default_factory=dict)

    def add(self, *labels: str, count: float = 1) -> None:
        self.values[labels] = self.values.get(labels, 0) + count

    def family(self, common: tuple[str, ...]) -> Metric:
        family = CounterMetricFamily(self.name, self.text, labels=(*_COMMON, *self.labels))
        for labels, value in self.values.items():
            family.add_metric((*common, *labels), value)
        return family


@dataclass(slots=True)
class Levels(Counts):
    """A gauge: numbers that are set, all of them at once."""

    def set(self, values: dict[tuple[str, ...], float]) -> None:
        self.values = values

    def family(self, common: tuple[str, ...]) -> Metric:
        family = GaugeMetricFamily(self.name, self.text, labels=(*_COMMON, *self.labels))
        for labels, value in self.values.items():
            family.add_metric((*common, *labels), value)
        return family


@dataclass(slots=True)
class Observed:
    """What was observed under one combination of labels."""

    count: int = 0
    total: float = 0.0
    last: deque[float] = field(default_factory=lambda: deque(maxlen=METRIC_OBSERVATIONS))

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.last.append(value)


@dataclass(slots=True)
class Summary:
    """Number and sum of what was observed, and quantiles of the last METRIC_OBSERVATIONS."""

    name: str
    text: str
    labels: tuple[str, ...]
    observed: dict[tuple[str, ...], Observed] = field(default_factory=dict)

    def observe(self, value: float, *labels: str) -> None:
        self.of(*labels).add(value)

    def of(self, *labels: str) -> Observed:
        """To be kept by who observes the same again and again."""
        one = self.observed.get(labels)
        if one is None:
            one = self.observed[labels] = Observed()
        return one

    def family(self, common: tuple[str, ...]) -> Metric:
        names = (*_COMMON, *self.labels)
        family = SummaryMetricFamily(self.name, self.text, labels=names)
        for labels, one in self.observed.items():
            own = (*common, *labels)
            family.add_metric(own, one.count, one.total)
            ordered = sorted(one.last)
            for quantile in _QUANTILES:
                place = min(len(ordered) - 1, int(quantile * len(ordered)))
                sample = {**dict(zip(names, own, strict=True)), "quantile": str(quantile)}
                family.add_sample(self.name, sample, ordered[place])
        return family


class GatewayMetrics:
    """The metrics of one gateway; `registry` is what is served."""

    def __init__(self, hub: str, device: str) -> None:
        self._common = (hub, device, str(uuid.uuid4()))
        self.received = Counts(
            "edgehub_messages_received", "Messages from devices and modules.", ("route_output", "id")
        )
        self.sent = Counts(
            "edgehub_messages_sent",
            "Messages that have arrived where they were to go.",
            ("from", "to", "from_route_output", "to_route_input", "priority"),
        )
        self.dropped = Counts(
            "edgehub_messages_dropped",
            "Messages given up: no_route, ttl_expiry, queue_full, undeliverable; sender: disabled, not-a-child.",
            ("reason", "from", "from_route_output"),
        )
        self.repeated = Counts(
            "edgetrust_gateway_messages_repeated", "Messages that came again and were not stored again.", ("id",)
        )
        self.unack = Counts(
            "edgehub_messages_unack", "Messages that were not stored, and not acknowledged, at first.", ("reason",)
        )
        self.twin_reads = Counts("edgehub_gettwin", "Twins that were read, by who answered.", ("source", "id"))
        self.reports = Counts("edgehub_reported_properties", "Reports of properties, by target.", ("target", "id"))
        self.methods = Counts("edgehub_direct_methods", "Direct methods that were answered.", ("from", "to"))
        self.offline_count = Counts("edgehub_offline_count", "How often the connection upstream was lost.", ("id",))
        self.retries = Counts("edgehub_operation_retry", "Attempts after the first.", ("id", "operation"))
        self.connected = Counts("edgehub_client_connect_success", "Clients that were accepted.", ("id",))
        self.refused = Counts("edgehub_client_connect_failed", "Clients that were refused.", ("id", "reason"))
        self.disconnected = Counts("edgehub_client_disconnect", "Connections of clients that ended.", ("id",))
        self.queue_length = Levels(
            "edgehub_queue_length", "Messages that wait, by destination and priority.", ("endpoint", "priority")
        )
        self.connected_clients = Levels("edgehub_connected_clients", "Clients that are connected.", ())
        self.size = Summary("edgehub_message_size_bytes", "Size of messages from clients.", ("id",))
        self.send_seconds = Summary(
            "edgehub_message_send_duration_seconds",
            "From the sending of a message to its acknowledgement.",
            ("from", "to"),
        )
        self.process_seconds = Summary(
            "edgehub_message_process_duration_seconds",
            "From the acceptance of a message to the end of its way.",
            ("from", "to", "priority"),
        )
        self.method_seconds = Summary(
            "edgehub_direct_method_duration_seconds", "From a call to its answer.", ("from", "to")
        )
        self.twin_seconds = Summary("edgehub_gettwin_duration_seconds", "Reading a twin.", ("source", "id"))
        self.report_seconds = Summary(
            "edgehub_reported_properties_update_duration_seconds", "Taking a report.", ("target", "id")
        )
        self.offline_seconds = Summary(
            "edgehub_offline_duration_seconds", "How long the connection upstream was away.", ("id",)
        )
        self.decisions = Counts(
            "edgetrust_gateway_decisions", "Trust decisions, by outcome and reason.", ("outcome", "reason")
        )
        self.queue_bytes = Levels(
            "edgetrust_gateway_queue_bytes", "Bytes that wait, by destination and priority.", ("endpoint", "priority")
        )
        self.queue_age = Levels(
            "edgetrust_gateway_queue_age_seconds", "How long the oldest message waits.", ("endpoint", "priority")
        )
        self.queue_limit = Levels("edgetrust_gateway_queue_limit_bytes", "What all queues may hold.", ())
        self.cache_age = Levels("edgetrust_gateway_cache_age_seconds", "How old the copy of the scope is.", ())
        self.cache_size = Levels("edgetrust_gateway_cache_identities", "Identities in the copy of the scope.", ())
        self.certificate_ends = Levels(
            "edgetrust_gateway_certificate_not_after_seconds",
            "When a certificate in use ends, seconds since 1970.",
            ("certificate",),
        )
        self.upstream_up = Levels("edgetrust_gateway_upstream_connected", "1 while the hub is connected.", ())
        self.ready = Levels("edgetrust_gateway_ready", "1 while devices are served.", ())
        self.forwarded = Counts(
            "edgetrust_gateway_forwarded",
            "Connections for services elsewhere, by name and what became of them.",
            ("name", "outcome"),
        )
        self.forwarded_bytes = Counts(
            "edgetrust_gateway_forwarded_bytes",
            "Bytes that were passed on, by name and direction.",
            ("name", "direction"),
        )
        self.forwarded_open = Levels("edgetrust_gateway_forwarded_open", "Connections that are passed on.", ())
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def describe(self) -> list[Metric]:
        """What there is, with or without samples."""
        return [one.family(self._common) for one in self.all()]

    def collect(self) -> Iterator[Metric]:
        """All families, as they are now."""
        yield from self.describe()

    def all(self) -> list[Counts | Summary]:
        """Every metric."""
        return [one for one in vars(self).values() if isinstance(one, Counts | Summary)]
