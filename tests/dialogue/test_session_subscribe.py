"""Subscriptions: what is granted, what is kept, and what a client finds when it comes back."""

from __future__ import annotations

import pytest

from edgetrust.broker.filters import Filters
from edgetrust.errors import UnavailableError
from edgetrust.limits import SUBSCRIPTIONS_PER_SESSION
from edgetrust.protocol.mqtt.packets import Suback, Subscribe, Unsuback, Unsubscribe
from edgetrust.trust.verdict import Accepted, How
from support.decisions import KEYS, MODULE_1, registered
from support.fakes import Table

C2D = "devices/d1/messages/devicebound/#"
METHODS = "$iothub/methods/POST/#"
TWIN = "$iothub/twin/res/#"
DESIRED = "$iothub/twin/PATCH/properties/desired/#"


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.mark.parametrize(("asked", "given"), [(0, 0), (1, 1), (2, 1)])
def test_at_most_quality_1(table: Table, asked: int, given: int) -> None:
    peer = table.arrives()
    peer.says(Subscribe(7, ((C2D, asked), (METHODS, 0))))
    assert peer.hears() == [Suback(7, (given, 0))]


@pytest.mark.parametrize("text", [C2D, METHODS, TWIN, DESIRED])
def test_what_a_device_may_ask_for(table: Table, text: str) -> None:
    peer = table.arrives()
    peer.says(Subscribe(1, ((text, 1),)))
    assert peer.hears() == [Suback(1, (1,))]
    assert table.subscriptions.stored == {"d1": {text: 1}}


def test_what_a_module_may_ask_for(table: Table) -> None:
    table.registry.put(registered(KEYS, MODULE_1))
    peer = table.arrives("d1/m1")
    peer.says(Subscribe(1, (("devices/d1/modules/m1/inputs/#", 1), ("devices/d1/modules/m1/#", 1), (METHODS, 1))))
    assert peer.hears() == [Suback(1, (1, 1, 1))]
    assert set(table.subscriptions.stored) == {"d1/m1"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#", "protocol-violation"),
        ("+/d1/messages/devicebound/#", "protocol-violation"),
        ("devices/+/messages/devicebound/#", "protocol-violation"),
        ("devices/d1/messages/events/#", "protocol-violation"),
        ("$SYS/#", "protocol-violation"),
        ("devices/d2/messages/devicebound/#", "not-authorized"),
        ("devices/d1/modules/m1/inputs/#", "not-authorized"),
    ],
)
def test_what_it_may_not_ask_for_ends_the_connection(table: Table, text: str, reason: str) -> None:
    peer = table.arrives()
    peer.says(Subscribe(1, ((C2D, 1), (text, 1))))
    assert peer.hears() == []
    assert peer.closed.startswith(f"{reason}: ")
    assert table.auditor.records[-1].reason == reason
    assert table.subscriptions.stored == {}  # not even what was in order


def test_too_many(table: Table) -> None:
    peer = table.arrives()
    names = [f"devices/d1/modules/m{n}/#" for n in range(SUBSCRIPTIONS_PER_SESSION)]
    table.registry.put(registered(KEYS, MODULE_1))
    peer.says(Subscribe(1, tuple((name, 0) for name in names)))
    assert peer.closed  # not its own
    session = table.arrives("d1")
    found = table.sessions.of(registered(KEYS).identity)
    assert found is not None
    found.filters = Filters(Accepted(found.identity, How.SAS_PRIMARY, (), None), dict.fromkeys(names, 0))
    session.says(Subscribe(2, ((C2D, 1),)))
    assert session.closed == f"protocol-violation: more than {SUBSCRIPTIONS_PER_SESSION} subscriptions"
    assert found.filters.granted == dict.fromkeys(names, 0)


def test_asking_twice_replaces(table: Table) -> None:
    peer = table.arrives()
    peer.says(Subscribe(1, ((C2D, 1),)), Subscribe(2, ((C2D, 0),)))
    assert peer.hears() == [Suback(1, (1,)), Suback(2, (0,))]
    assert table.subscriptions.stored == {"d1": {C2D: 0}}


def test_acknowledged_only_when_kept(table: Table) -> None:
    peer = table.arrives()
    table.subscriptions.at_once = False
    peer.says(Subscribe(1, ((C2D, 1),)))
    assert peer.hears() == []
    table.subscriptions.held.pop()(None)
    assert peer.hears() == [Suback(1, (1,))]
    peer.says(Unsubscribe(2, (C2D,)))
    assert peer.hears() == []
    table.subscriptions.held.pop()(None)
    assert peer.hears() == [Unsuback(2)]


@pytest.mark.parametrize("packet", [Subscribe(1, ((C2D, 1),)), Unsubscribe(1, (C2D,))])
def test_what_cannot_be_kept_ends_the_connection(table: Table, packet: Subscribe | Unsubscribe) -> None:
    peer = table.arrives()
    table.subscriptions.fault = UnavailableError("the disk is full")
    peer.says(packet)
    assert peer.hears() == []
    assert peer.closed == "subscription not stored: the disk is full"


def test_unsubscribe(table: Table) -> None:
    peer = table.arrives()
    peer.says(Subscribe(1, ((C2D, 1), (METHODS, 0))), Unsubscribe(2, (C2D, "never/asked/for")))
    assert peer.hears() == [Suback(1, (1, 0)), Unsuback(2)]
    assert table.subscriptions.stored == {"d1": {METHODS: 0}}


class TestComingBack:
    def test_a_kept_session_is_there(self, table: Table) -> None:
        first = table.arrives()
        first.says(Subscribe(1, ((C2D, 1),)))
        first.goes()
        table.commands.put("d1", b"hello")
        second = table.connects()
        assert second.present
        assert [body for _, body in second.gets()] == [b"hello"]  # without SUBSCRIBE

    def test_a_clean_session_keeps_nothing(self, table: Table) -> None:
        first = table.arrives(clean_session=True)
        first.says(Subscribe(1, ((C2D, 1),)))
        assert first.hears() == [Suback(1, (1,))]
        assert table.subscriptions.stored == {}
        first.goes()
        assert not table.connects().present

    def test_a_clean_session_forgets_what_was_kept(self, table: Table) -> None:
        table.subscriptions.stored["d1"] = {C2D: 1}
        table.commands.put("d1", b"hello")
        clean = table.connects(clean_session=True)
        assert not clean.present
        assert clean.gets() == []
        assert table.subscriptions.stored == {}
        assert not table.connects().present

    def test_a_session_without_subscriptions_is_one_too(self, table: Table) -> None:
        table.subscriptions.stored["d1"] = {}
        assert table.connects().present

    def test_of_another_device_is_not(self, table: Table) -> None:
        table.subscriptions.stored["d2"] = {C2D: 1}
        assert not table.connects().present
