"""The module $edgeHub publishes for the devices below its gateway, and for nobody else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgetrust.errors import UnavailableError
from edgetrust.protocol.mqtt.packets import Puback, Publish, Subscribe, Will
from edgetrust.trust.identity import Identity
from support.decisions import HUB, KEYS, registered
from support.fakes import Gate, Peer, Table, acknowledged

EDGE_HUB = Identity(HUB, "gw", "$edgeHub")


def of(device: str, module: str | None = None) -> str:
    between = f"/modules/{module}" if module else ""
    return f"devices/{device}{between}/messages/events/"


@pytest.fixture
def table() -> Table:
    table = Table()
    table.registry.put(registered(KEYS, EDGE_HUB))
    table.registry.below = {("leaf", "gw"), ("other", "gw")}
    return table


@pytest.fixture
def gateway(table: Table) -> Peer:
    return table.arrives("gw/$edgeHub")


def senders(table: Table) -> list[tuple[str, str | None, bytes]]:
    return [(m.device, m.module, m.body) for m in table.endpoint.messages]


def test_for_a_child_and_its_module(table: Table, gateway: Peer) -> None:
    gateway.says(Publish(of("leaf"), b"a", 1, packet_id=1), Publish(of("leaf", "m"), b"b", 1, packet_id=2))
    assert senders(table) == [("leaf", None, b"a"), ("leaf", "m", b"b")]
    assert gateway.hears() == [Puback(1), Puback(2)]
    assert not gateway.closed


def test_for_its_own_device_nobody_is_asked(table: Table, gateway: Peer) -> None:
    gateway.says(Publish(of("gw"), b"a"), Publish(of("gw", "$edgeHub"), b"b"), Publish(of("gw", "m"), b"c"))
    assert senders(table) == [("gw", None, b"a"), ("gw", "$edgeHub", b"b"), ("gw", "m", b"c")]
    assert table.registry.asked_below == []


def test_asked_once(table: Table, gateway: Peer) -> None:
    for number in range(3):
        gateway.says(Publish(of("leaf"), b"%d" % number), Publish(of("other"), b"%d" % number))
    assert table.registry.asked_below == ["leaf", "other"]
    assert len(table.endpoint.messages) == 6


def test_order_is_kept_while_asking(table: Table, gateway: Peer) -> None:
    gate = table.registry.gate = Gate(is_open=False)
    gateway.says(
        Publish(of("gw"), b"1", 1, packet_id=1),
        Publish(of("leaf"), b"2", 1, packet_id=2),
        Publish(of("gw"), b"3", 1, packet_id=3),
        Publish(of("other"), b"4", 1, packet_id=4),
    )
    assert [m.body for m in table.endpoint.messages] == [b"1"]  # what came before does not wait
    assert not gateway.stream.reading
    gateway.says(Publish(of("gw"), b"5", 1, packet_id=5))  # was on its way
    assert [m.body for m in table.endpoint.messages] == [b"1"]
    gate.is_open = True
    table.run()
    assert [m.body for m in table.endpoint.messages] == [b"1", b"2", b"3", b"4", b"5"]
    assert acknowledged(gateway.hears()) == [1, 2, 3, 4, 5]
    assert gateway.stream.reading


def test_back_pressure_does_not_start_reading_while_asking(table: Table, gateway: Peer) -> None:
    table.endpoint.at_once = False
    gateway.says(*(Publish(of("gw"), b"x", 1, packet_id=n) for n in range(1, 1025)))
    assert not gateway.stream.reading
    table.registry.gate = Gate(is_open=False)
    gateway.says(Publish(of("leaf"), b"y", 1, packet_id=2000))
    table.endpoint.answer()
    assert not gateway.stream.reading
    table.registry.gate.is_open = True
    table.run()
    assert gateway.stream.reading


def test_not_below_ends_the_connection(table: Table, gateway: Peer) -> None:
    gateway.says(Publish(of("stranger"), b"x", 1, packet_id=1), Publish(of("gw"), b"y"))
    assert gateway.closed.startswith("not-authorized: ")
    assert senders(table) == []
    assert gateway.hears() == []
    record = table.auditor.records[-1]
    assert (record.identity, record.reason) == ("gw/$edgeHub", "not-authorized")


def test_what_it_brings_of_a_disabled_device_is_not_taken_and_cuts_nobody_off(table: Table, gateway: Peer) -> None:
    leaf = registered(KEYS, Identity(HUB, "leaf"), enabled=False)
    table.registry.put(leaf)
    gateway.says(
        Publish(of("other"), b"a", 1, packet_id=1),
        Publish(of("leaf"), b"x", 1, packet_id=2),
        Publish(of("leaf", "m"), b"y"),
        Publish(of("other"), b"b", 1, packet_id=3),
        Publish(of("leaf"), b"z", 1, packet_id=4),
    )
    gateway.says(Publish(of("leaf"), b"alone", 1, packet_id=5))
    assert senders(table) == [("other", None, b"a"), ("other", None, b"b")]
    assert acknowledged(gateway.hears()) == [1, 2, 3, 4, 5]  # in order, or its queue would stand still
    assert not gateway.closed
    (record,) = table.auditor.refusals
    assert (record.identity, record.reason) == ("leaf", "disabled")
    assert "gw/$edgeHub sends for it" in record.checks[-1].detail
    table.registry.put(replace(leaf, enabled=True))
    table.sessions.forget_scopes()
    gateway.says(Publish(of("leaf"), b"again", 1, packet_id=6))
    assert senders(table)[-1] == ("leaf", None, b"again")


def test_what_is_not_taken_is_acknowledged_after_what_came_before(table: Table, gateway: Peer) -> None:
    table.registry.put(registered(KEYS, Identity(HUB, "leaf"), enabled=False))
    table.endpoint.at_once = False
    gateway.says(Publish(of("other"), b"a", 1, packet_id=1))
    gateway.says(Publish(of("leaf"), b"x", 1, packet_id=2))
    assert gateway.hears() == []
    table.endpoint.answer()
    assert acknowledged(gateway.hears()) == [1, 2]


def test_a_registry_that_cannot_tell_ends_the_connection(table: Table, gateway: Peer) -> None:
    table.registry.fault = UnavailableError("the database does not answer")
    gateway.says(Publish(of("leaf"), b"x", 1, packet_id=1))
    assert gateway.closed == "cannot tell whether 'leaf' is below this gateway: the database does not answer"
    assert senders(table) == []
    assert table.tasks.failed == []


def test_gone_while_asking(table: Table, gateway: Peer) -> None:
    table.registry.gate = Gate(is_open=False)
    gateway.says(Publish(of("leaf"), b"x", 1, packet_id=1))
    gateway.goes()
    table.registry.gate.is_open = True
    table.run()
    assert senders(table) == []
    assert not gateway.stream.reading


def test_asked_again_after_a_change(table: Table, gateway: Peer) -> None:
    gateway.says(Publish(of("leaf"), b"1"))
    table.registry.below.discard(("leaf", "gw"))
    table.registry.version += 1
    table.sessions.forget_scopes()
    gateway.says(Publish(of("leaf"), b"2", 1, packet_id=1))
    assert gateway.closed.startswith("not-authorized: ")
    assert [m.body for m in table.endpoint.messages] == [b"1"]
    assert table.registry.asked_below == ["leaf", "leaf"]


def test_a_change_while_asking_is_not_missed(table: Table, gateway: Peer) -> None:
    """The answer was read before the child was taken away and arrives after everybody was told."""
    table.registry.gate = Gate(is_open=False)
    gateway.says(Publish(of("leaf"), b"1", 1, packet_id=1))
    table.registry.below.discard(("leaf", "gw"))
    table.registry.version += 1
    table.sessions.forget_scopes()
    table.registry.gate.is_open = True
    table.run()
    assert gateway.closed.startswith("not-authorized: ")
    assert senders(table) == []
    assert table.registry.asked_below == ["leaf", "leaf"]


def test_a_will_for_a_child_known_to_be_below(table: Table) -> None:
    gateway = table.arrives("gw/$edgeHub", will=Will(of("leaf"), b"gone"))
    gateway.says(Publish(of("leaf"), b"1"))
    gateway.goes()
    assert [m.body for m in table.endpoint.messages] == [b"1", b"gone"]


def test_a_will_for_a_child_nobody_asked_about_is_not_sent(table: Table) -> None:
    table.arrives("gw/$edgeHub", will=Will(of("leaf"), b"gone")).goes()
    assert senders(table) == []


@pytest.mark.parametrize("who", ["gw", "gw/$edgeAgent", "gw/m"])
def test_nobody_else_may(table: Table, who: str) -> None:
    table.registry.put(registered(KEYS, Identity.parse(HUB, who)))
    peer = table.arrives(who)
    peer.says(Publish(of("leaf"), b"x"))
    assert peer.closed.startswith("not-authorized: ")
    assert table.registry.asked_below == []


def test_it_does_not_listen_for_its_children(table: Table, gateway: Peer) -> None:
    gateway.says(Subscribe(1, (("devices/leaf/messages/devicebound/#", 1),)))
    assert gateway.closed.startswith("not-authorized: ")
