"""Cloud-to-device messages: at least once, in order, at the granted quality, whatever becomes of the connection."""

from __future__ import annotations

import pytest

from edgetrust.broker import delivery
from edgetrust.errors import UnavailableError
from edgetrust.protocol.mqtt.packets import Connack, Packet, Puback, Publish, Suback, Subscribe, Unsubscribe
from support.decisions import DEVICE_1, KEYS, MODULE_1, registered
from support.fakes import Gate, Peer, Table

C2D = "devices/d1/messages/devicebound/#"
TO = "devices/d1/messages/devicebound/%24.to=%2Fdevices%2Fd1%2Fmessages%2Fdevicebound"


@pytest.fixture
def table() -> Table:
    return Table()


def listening(table: Table, qos: int = 1) -> Peer:
    peer = table.arrives()
    peer.says(Subscribe(1, ((C2D, qos),)))
    assert peer.hears()[0] == Suback(1, (qos,))
    peer.seen = 1 + 1
    return peer


def queued(table: Table, *bodies: bytes) -> None:
    table.commands.put("d1", *bodies)
    session = table.sessions.of(DEVICE_1)
    if session is not None:
        session.commands_waiting()
    table.run()


def publishes(packets: list[Packet]) -> list[Publish]:
    return [packet for packet in packets if isinstance(packet, Publish)]


def test_delivered_and_complete_with_its_puback(table: Table) -> None:
    peer = listening(table)
    queued(table, b"a", b"b")
    assert peer.hears() == [Publish(TO, b"a", 1, False, False, 1), Publish(TO, b"b", 1, False, False, 2)]
    peer.says(Puback(2))
    assert table.commands.bodies("d1") == [b"a"]
    peer.says(Puback(1), Puback(1), Puback(99))
    assert table.commands.bodies("d1") == []


def test_what_waited_comes_right_after_suback(table: Table) -> None:
    table.commands.put("d1", b"a", properties="k=v")
    peer = table.arrives()
    assert peer.hears() == []  # not subscribed
    peer.says(Subscribe(1, ((C2D, 1),)))
    first, second = peer.hears()
    assert first == Suback(1, (1,))
    assert isinstance(second, Publish)
    assert second.topic == "devices/d1/messages/devicebound/k=v&%24.to=%2Fdevices%2Fd1%2Fmessages%2Fdevicebound"


def test_quality_0_is_never_exceeded(table: Table) -> None:
    peer = listening(table, qos=0)
    queued(table, b"a", b"b")
    assert peer.hears() == [Publish(TO, b"a"), Publish(TO, b"b")]
    assert table.commands.bodies("d1") == []


def test_nothing_for_whom_has_not_subscribed(table: Table) -> None:
    table.arrives()
    queued(table, b"a")
    assert table.commands.leases == []


def test_nothing_after_unsubscribe(table: Table) -> None:
    peer = listening(table)
    peer.says(Unsubscribe(2, (C2D,)))
    peer.hears()
    queued(table, b"a")
    assert peer.hears() == []
    peer.says(Subscribe(3, ((C2D, 0),)))
    assert peer.hears() == [Suback(3, (0,)), Publish(TO, b"a")]


def test_modules_get_none(table: Table) -> None:
    table.registry.put(registered(KEYS, MODULE_1))
    peer = table.arrives("d1/m1")
    peer.says(Subscribe(1, (("devices/d1/modules/m1/inputs/#", 1),)))
    session = table.sessions.of(MODULE_1)
    assert session is not None
    session.commands_waiting()
    table.run()
    assert table.commands.leases == []
    peer.says(Puback(1))
    assert not peer.closed


def test_lost_before_its_puback_comes_again_with_dup(table: Table) -> None:
    peer = listening(table)
    queued(table, b"a", b"b")
    peer.says(Puback(1))
    peer.goes()
    again = table.connects()
    assert again.stream.sent == [Connack(True, 0), Publish(TO, b"b", 1, False, True, 1)]


def test_a_connection_without_anything_in_hand_gives_nothing_back(table: Table) -> None:
    peer = listening(table)
    queued(table, b"a")
    peer.says(Puback(1))
    peer.goes()
    assert table.commands.released == []


def test_what_a_slow_device_still_holds_is_named_when_more_is_fetched(table: Table) -> None:
    peer = listening(table)
    queued(table, b"a", b"b")
    peer.says(Puback(1))
    queued(table, b"c")
    assert table.commands.holding[0] == []
    assert table.commands.holding[-1] == [2]


class TestTakeOver:
    def test_what_the_old_connection_held_comes_to_the_new_one_at_once(self, table: Table) -> None:
        old = listening(table)
        queued(table, b"a", b"b")
        new = table.connects()
        assert [(p.payload, p.dup) for p in publishes(new.hears())] == [(b"a", True), (b"b", True)]
        old.says(Puback(1))  # too late: it has been given to the other
        assert table.commands.bodies("d1") == [b"a", b"b"]
        old.goes()  # the transport notices later
        assert table.commands.released == ["d1"]
        new.says(Puback(1), Puback(2))
        assert table.commands.bodies("d1") == []
        assert publishes(new.hears()) == []

    def test_a_lease_that_was_under_way(self, table: Table) -> None:
        """The old connection asked the queue, and was replaced before the answer."""
        old = listening(table)
        table.commands.gate = Gate(is_open=False)
        queued(table, b"a")
        new = table.connects()
        assert new.code == 0
        table.commands.gate.is_open = True
        table.run()
        assert publishes(old.hears()) == []
        assert [p.payload for p in publishes(new.hears())] == [b"a"]

    def test_nothing_is_sent_twice_on_one_connection(self, table: Table) -> None:
        """Somebody else's end gives back everything of the device, also what this connection has already sent."""
        peer = listening(table)
        queued(table, b"a")
        table.commands.release("d1")
        queued(table, b"b")
        assert [p.payload for p in publishes(peer.hears())] == [b"a", b"b"]
        peer.says(Puback(1), Puback(2))
        assert table.commands.bodies("d1") == []


def test_a_lease_that_comes_too_late_is_given_back(table: Table) -> None:
    peer = listening(table)
    table.commands.gate = Gate(is_open=False)
    queued(table, b"a")
    peer.goes()
    table.commands.gate.is_open = True
    table.run()
    assert table.commands.released == ["d1"]
    assert [p.payload for p in publishes(table.connects().stream.sent)] == [b"a"]


def test_an_empty_lease_that_comes_too_late_is_nothing(table: Table) -> None:
    peer = listening(table)
    table.commands.gate = Gate(is_open=False)
    queued(table)
    peer.goes()
    table.commands.gate.is_open = True
    table.run()
    assert table.commands.released == []


def test_one_lease_at_a_time(table: Table) -> None:
    peer = listening(table)
    table.commands.leases.clear()
    table.commands.gate = Gate(is_open=False)
    queued(table, b"a")
    queued(table, b"b")
    queued(table, b"c")
    assert len(table.commands.leases) == 1
    table.commands.gate.is_open = True
    table.run()
    assert len(table.commands.leases) == 2  # what came meanwhile, together
    assert [p.payload for p in publishes(peer.hears())] == [b"a", b"b", b"c"]


def test_unsubscribed_while_leasing(table: Table) -> None:
    peer = listening(table)
    table.commands.gate = Gate(is_open=False)
    queued(table, b"a")
    peer.says(Unsubscribe(2, (C2D,)))
    table.commands.gate.is_open = True
    table.run()
    assert table.commands.bodies("d1") == [b"a"]  # still there for whoever subscribes next
    assert publishes(peer.hears()) == []


def test_a_queue_that_is_away_is_asked_again_later(table: Table) -> None:
    peer = listening(table)
    table.commands.fault = UnavailableError("the database does not answer")
    queued(table, b"a")
    assert len(table.tasks.failed) == 1
    assert not peer.closed
    table.commands.fault = None
    table.commands.release("d1")
    queued(table, b"b")
    assert [p.payload for p in publishes(peer.hears())] == [b"a", b"b"]


class TestBound:
    @pytest.fixture(autouse=True)
    def three(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(delivery, "INFLIGHT_OUT", 3)

    def test_no_more_than_the_bound_waits_for_pubacks(self, table: Table) -> None:
        peer = listening(table)
        queued(table, b"a", b"b", b"c", b"d", b"e")
        assert [p.payload for p in publishes(peer.hears())] == [b"a", b"b", b"c"]
        queued(table, b"f")
        assert publishes(peer.hears()) == []
        peer.says(Puback(2))
        assert [(p.payload, p.packet_id) for p in publishes(peer.hears())] == [(b"d", 4)]
        peer.says(Puback(1), Puback(3), Puback(4))
        assert [p.payload for p in publishes(peer.hears())] == [b"e", b"f"]

    def test_a_puback_asks_for_more_only_when_there_may_be_more(self, table: Table) -> None:
        peer = listening(table)
        queued(table, b"a", b"b")
        leases = len(table.commands.leases)
        peer.says(Puback(1), Puback(2))
        assert len(table.commands.leases) == leases

    def test_quality_0_goes_on_until_the_queue_is_empty(self, table: Table) -> None:
        peer = listening(table, qos=0)
        queued(table, *(b"%d" % n for n in range(8)))
        assert [p.payload for p in publishes(peer.hears())] == [b"%d" % n for n in range(8)]

    def test_packet_identifiers_wrap_around_those_in_use(self, table: Table) -> None:
        peer = listening(table)
        queued(table, b"a")
        session = table.sessions.of(DEVICE_1)
        assert session is not None
        assert session._delivery is not None
        session._delivery._next_id = 65_535
        queued(table, b"b", b"c")
        assert [p.packet_id for p in publishes(peer.hears())] == [1, 65_535, 2]


def test_nothing_is_fetched_before_the_door_is_done(table: Table) -> None:
    table.subscriptions.stored["d1"] = {C2D: 1}
    table.subscriptions.gate = Gate(is_open=False)
    peer = table.connects()
    table.registry.put(registered(KEYS))
    table.registry.gate = Gate(is_open=False)
    table.subscriptions.gate.is_open = True
    table.run()
    assert peer.code == 0
    queued(table, b"a")
    assert table.commands.leases == []  # it is being decided again
    table.registry.gate.is_open = True
    table.run()
    assert [p.payload for p in publishes(peer.stream.sent)] == [b"a"]


def test_after_the_end_nothing_is_fetched(table: Table) -> None:
    peer = listening(table)
    session = table.sessions.of(DEVICE_1)
    assert session is not None
    assert session._delivery is not None
    peer.goes()
    leases = len(table.commands.leases)
    session.commands_waiting()
    session._delivery.fetch()
    session._delivery.stop()
    table.run()
    assert len(table.commands.leases) == leases
