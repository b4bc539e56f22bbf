"""The metrics of a gateway: what Prometheus' parser reads in them, and that the dashboard asks for what there is."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgetrust.clock import ManualClock
from edgetrust.edge.metrics import STRANGER, GatewayMetrics
from edgetrust.edge.observing import CountingAuditor, UpstreamObserver
from edgetrust.limits import METRIC_OBSERVATIONS
from edgetrust.store.lanes import LeasedMessage, QueuedMessage
from edgetrust.trust.audit import Record
from support.decisions import NOW

DASHBOARD = Path(__file__).parents[3] / "dashboards" / "gateway.json"


def read(metrics: GatewayMetrics) -> dict[str, dict[tuple[str, ...], float]]:
    """The samples by name and by their own labels, which come in the order of the alphabet."""
    page = prometheus_client.generate_latest(metrics.registry).decode()
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert (labels.pop("iothub"), labels.pop("edge_device")) == ("hub.example", "gw")
            assert labels.pop("instance_number")
            samples.setdefault(sample.name, {})[tuple(labels.values())] = sample.value
    return samples


@pytest.fixture
def metrics() -> GatewayMetrics:
    return GatewayMetrics("hub.example", "gw")


def test_counters_gauges_and_summaries(metrics: GatewayMetrics) -> None:
    metrics.received.add("out", "gw/m")
    metrics.received.add("out", "gw/m", count=2)
    metrics.received.add("", 'od"d\n')
    metrics.queue_length.set({("iothub", "5"): 3})
    for value in range(100):
        metrics.size.observe(value, "leaf")
    samples = read(metrics)
    assert samples["edgehub_messages_received_total"] == {("gw/m", "out"): 3, ('od"d\n', ""): 1}
    assert samples["edgehub_queue_length"] == {("iothub", "5"): 3}
    assert samples["edgehub_message_size_bytes_count"] == {("leaf",): 100}
    assert samples["edgehub_message_size_bytes_sum"] == {("leaf",): sum(range(100))}
    assert samples["edgehub_message_size_bytes"][("leaf", "0.5")] == 50
    assert samples["edgehub_message_size_bytes"][("leaf", "0.9999")] == 99


def test_quantiles_are_of_the_last_observations(metrics: GatewayMetrics) -> None:
    for value in (1, 2):
        for _ in range(METRIC_OBSERVATIONS):
            metrics.size.observe(value, "leaf")
    samples = read(metrics)
    assert samples["edgehub_message_size_bytes"][("leaf", "0.5")] == 2
    assert samples["edgehub_message_size_bytes_count"] == {("leaf",): 2 * METRIC_OBSERVATIONS}


class Kept:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record) -> None:
        self.records.append(record)


def test_decisions_name_only_whom_the_copy_knows(metrics: GatewayMetrics) -> None:
    kept = Kept()
    auditor = CountingAuditor(kept, metrics, lambda text: text == "leaf")
    auditor.record(Record(NOW, "gateway-mqtt", "", "leaf", True, "sas-primary", ()))
    auditor.record(Record(NOW, "gateway-mqtt", "", "leaf", False, "sas-expired", ()))
    for number in range(3):
        auditor.record(Record(NOW, "gateway-mqtt", "", f"stranger-{number}", False, "unknown-identity", ()))
    assert len(kept.records) == 5
    samples = read(metrics)
    assert samples["edgehub_client_connect_success_total"] == {("leaf",): 1}
    assert samples["edgehub_client_connect_failed_total"] == {
        ("leaf", "sas-expired"): 1,
        (STRANGER, "unknown-identity"): 3,
    }
    assert samples["edgetrust_gateway_decisions_total"][("refused", "unknown-identity")] == 3


def test_the_way_up(metrics: GatewayMetrics) -> None:
    clock = ManualClock(NOW)
    observer = UpstreamObserver("gw", metrics, clock)
    message = QueuedMessage("gw", "m", "%24.on=high", b"1", clock.milliseconds(), "", "Telemetry", priority=5)
    sent_at = clock.monotonic() + 29.75
    observer.lost()
    observer.lost()
    clock.advance(timedelta(seconds=30).total_seconds())
    observer.connected()
    observer.arrived([(LeasedMessage(1, message), sent_at), (LeasedMessage(2, message), sent_at)])
    observer.dropped(LeasedMessage(3, message), "undeliverable")
    samples = read(metrics)
    assert samples["edgehub_offline_count_total"] == {("gw/$edgeHub",): 1}
    assert samples["edgehub_operation_retry_total"] == {("gw/$edgeHub", "connect"): 1}
    assert samples["edgehub_offline_duration_seconds_sum"] == {("gw/$edgeHub",): 30}
    assert samples["edgehub_messages_sent_total"] == {("gw/m", "high", "5", "iothub", ""): 2}
    assert samples["edgehub_message_send_duration_seconds_sum"] == {("gw/m", "iothub"): 0.5}
    assert samples["edgehub_message_process_duration_seconds_sum"] == {("gw/m", "5", "iothub"): 60}
    assert samples["edgehub_messages_dropped_total"] == {("gw/m", "high", "undeliverable"): 1}


def test_the_dashboard_asks_for_metrics_that_there_are(metrics: GatewayMetrics) -> None:
    offered = set()
    for family in metrics.describe():
        offered |= {f"{family.name}_total"} if family.type == "counter" else {family.name}
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [one["query"]["query"] for one in dashboard["templating"]["list"] if isinstance(one["query"], dict)]
    names = {name for text in asked for name in re.findall(r"\b(?:edgehub|edgetrust)_[a-z_]+", text)}
    assert len(names) > 15
    assert names <= offered
