"""Which names a gateway passes on and where to, what it counts, and what is on record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from edgetrust.clock import ManualClock
from edgetrust.edge import forwarding
from edgetrust.edge.forwarding import Forwarding, Names
from edgetrust.edge.metrics import GatewayMetrics
from edgetrust.edge.reaching import Forward, UpstreamAddress
from edgetrust.edge.settings import Settings
from edgetrust.errors import PeerError, UnavailableError
from edgetrust.limits import FORWARDED_PER_ADDRESS
from edgetrust.transport.forward import Target
from edgetrust.trust import forward as decision
from edgetrust.trust.audit import Record
from support.pki import NOW

from .conftest import PLAIN

PEER = ("10.0.0.7", 5000)
OWN = frozenset({"edgegateway.local"})


@dataclass
class Bench:
    """What a gateway passes on, with what it wrote down."""

    settings: Settings
    own: Callable[[], frozenset[str]] = lambda: OWN
    records: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.metrics = GatewayMetrics("hub", "gw")
        self.forwarding = Forwarding(self.settings, self.own, self, self.metrics, ManualClock(NOW))

    def record(self, record: Record) -> None:
        self.records.append(record)

    @property
    def https(self) -> Names:
        found = self.forwarding.on_https()
        assert found is not None
        return found


def bench(*, parent: bool = False, direct: frozenset[str] = frozenset()) -> Bench:
    forward = Forward({"dps.example": 443, "est.example": 8085}, {"dps.example": 8883})
    above = UpstreamAddress("above.local", "10.1.1.1", 18883, 18443, None, is_parent=parent, direct=direct)
    return Bench(replace(PLAIN, forward=forward, upstream=above))


def test_the_top_dials_the_service_and_the_others_the_gateway_above() -> None:
    top, below, near = bench(), bench(parent=True), bench(parent=True, direct=frozenset({"est.example"}))
    assert top.https.target("est.example", PEER) == Target("est.example", "est.example", 8085)
    assert below.https.target("est.example", PEER) == Target("est.example", "10.1.1.1", 18443)
    assert near.https.target("est.example", PEER) == Target("est.example", "est.example", 8085)
    mqtt = below.forwarding.on_mqtt()
    assert mqtt is not None
    assert mqtt.target("dps.example", PEER) == Target("dps.example", "10.1.1.1", 18883)
    assert mqtt.target("est.example", PEER) is None


@pytest.mark.parametrize("name", [None, "", "edgegateway.local", "other.example", "dps.example.evil", "10.0.0.1"])
def test_everything_else_is_served_here_and_leaves_no_trace(name: str | None) -> None:
    here = bench()
    assert here.https.target(name, PEER) is None
    assert here.records == []


def test_a_name_of_its_own_stays_here_also_when_it_became_one_later() -> None:
    names = set(OWN)
    here = Bench(bench().settings, own=lambda: frozenset(names))
    assert here.https.target("dps.example", PEER) is not None
    names.add("dps.example")
    assert here.https.target("dps.example", PEER) is None


def test_without_names_nobody_reads_hellos() -> None:
    here = Bench(PLAIN)
    assert (here.forwarding.on_https(), here.forwarding.on_mqtt()) == (None, None)


def test_what_is_passed_on_is_on_record_and_counted() -> None:
    here = bench()
    target = here.https.target("dps.example", PEER)
    assert target is not None
    (one,) = here.records
    assert (one.accepted, one.reason, one.identity, one.place) == (True, "forwarded", "dps.example", "forward-https")
    assert one.peer == "10.0.0.7:5000"
    assert [check.name for check in one.checks] == ["name", "limit"]
    here.https.moved(target, 10, 0)
    here.https.moved(target, 0, 7)
    assert here.metrics.forwarded_bytes.values == {("dps.example", "up"): 10, ("dps.example", "down"): 7}
    assert here.metrics.forwarded_open.values == {(): 1}
    assert here.forwarding.state() == {"https": ["dps.example", "est.example"], "mqtt": ["dps.example"], "open": 1}
    here.https.ended(target, PEER)
    assert here.metrics.forwarded_open.values == {(): 0}
    assert here.metrics.forwarded.values == {("dps.example", "forwarded"): 1}


def test_one_address_has_so_many_and_others_are_not_concerned() -> None:
    here = bench()
    mqtt = here.forwarding.on_mqtt()
    assert mqtt is not None
    for number in range(FORWARDED_PER_ADDRESS):
        assert (here.https, mqtt)[number % 2].target("dps.example", ("10.0.0.7", number)) is not None
    with pytest.raises(PeerError) as caught:
        here.https.target("dps.example", PEER)
    assert caught.value.reason == "forward-limit"
    assert (here.records[-1].accepted, here.records[-1].reason) == (False, "forward-limit")
    assert here.https.target("dps.example", ("10.0.0.8", 1)) is not None
    assert here.https.target("edgegateway.local", PEER) is None
    here.https.ended(Target("dps.example", "x", 1), PEER)
    assert here.https.target("dps.example", PEER) is not None


def test_one_network_of_ipv6_is_one_address() -> None:
    here = bench()
    for number in range(FORWARDED_PER_ADDRESS):
        here.https.target("dps.example", (f"2001:db8::{number:x}", 1))
    with pytest.raises(PeerError):
        here.https.target("dps.example", ("2001:db8::ffff", 1))


def test_all_addresses_together_have_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision, "FORWARDED_AT_ONCE", 3)
    here = bench()
    for number in range(3):
        here.https.target("dps.example", (f"10.0.0.{number}", 1))
    with pytest.raises(PeerError, match="3 of 3 altogether"):
        here.https.target("dps.example", ("10.0.0.9", 1))


def test_who_meant_another_name_is_on_record_with_the_names_there_are() -> None:
    here = bench()
    here.https.left_at_once("EdgeGateway.local", PEER)
    assert here.records == []  # that is a device that does not trust us
    here.https.left_at_once("evil.example", PEER)
    (one,) = here.records
    assert (one.accepted, one.reason, one.identity) == (False, "forward-name-not-allowed", "evil.example")
    assert "dps.example, est.example" in one.checks[0].detail
    assert here.metrics.forwarded.values == {("", "forward-name-not-allowed"): 1}


def test_a_service_that_is_away_is_counted() -> None:
    here = bench()
    target = here.https.target("dps.example", PEER)
    assert target is not None
    here.https.unreachable(target, PEER, UnavailableError("away", reason="forward-unreachable"))
    assert here.metrics.forwarded.values[("dps.example", "forward-unreachable")] == 1
    assert forwarding.FORWARDED == "forwarded"
