"""What a client publishes: stored as its own, acknowledged when it is on disk, and not a moment before."""

from __future__ import annotations

import pytest

from edgetrust import limits
from edgetrust.broker import session as sessions_module
from edgetrust.errors import UnavailableError
from edgetrust.protocol.mqtt.packets import (
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Subscribe,
    Unsubscribe,
    Will,
)
from edgetrust.telemetry import METRICS
from support.decisions import KEYS, MODULE_1, NOW, registered
from support.fakes import FakeStream, Table, acknowledged

TOPIC = "devices/d1/messages/events/"
SAS = '{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}'


@pytest.fixture
def table() -> Table:
    return Table()


def test_one_append_for_what_came_together(table: Table) -> None:
    peer = table.arrives()
    table.endpoint.at_once = False
    peer.says(*(Publish(TOPIC, b"%d" % n, 1, packet_id=n) for n in (1, 2, 3)))
    assert [message.body for message in table.endpoint.messages] == [b"1", b"2", b"3"]
    assert len(table.endpoint.batches) == 1
    assert peer.hears() == []  # not on disk yet
    table.endpoint.answer()
    assert peer.hears() == [Puback(1), Puback(2), Puback(3)]


def test_a_message_is_stamped_with_who_sent_it(table: Table) -> None:
    peer = table.arrives()
    peer.says(Publish(TOPIC + "%24.ct=text%2Fplain&k=v", b"body", 1, packet_id=1))
    (message,) = table.endpoint.messages
    assert message.device == "d1"
    assert message.module is None
    assert (message.properties, message.body) == ("%24.ct=text%2Fplain&k=v", b"body")
    assert message.enqueued_ms == int(NOW.timestamp() * 1000)
    assert (message.auth_method, message.message_source) == (SAS, "Telemetry")


def test_of_a_module(table: Table) -> None:
    table.registry.put(registered(KEYS, MODULE_1))
    peer = table.arrives("d1/m1")
    peer.says(Publish("devices/d1/modules/m1/messages/events/", b"x", 1, packet_id=1))
    (message,) = table.endpoint.messages
    assert (message.device, message.module) == ("d1", "m1")
    assert message.auth_method == SAS.replace('"device"', '"module"')


def test_quality_0_is_stored_without_an_answer(table: Table) -> None:
    peer = table.arrives()
    peer.says(Publish(TOPIC, b"0"), Publish(TOPIC, b"1", 1, packet_id=5))
    assert [message.body for message in table.endpoint.messages] == [b"0", b"1"]
    assert peer.hears() == [Puback(5)]


@pytest.mark.parametrize(
    ("flags", "properties"),
    [
        ({"retain": True}, "a=b&mqtt-retain=true"),
        ({"dup": True}, "a=b&mqtt-dup=true"),
        ({"retain": True, "dup": True}, "a=b&mqtt-retain=true&mqtt-dup=true"),
    ],
)
def test_retain_and_dup_become_properties(table: Table, flags: dict[str, bool], properties: str) -> None:
    peer = table.arrives()
    peer.says(Publish(TOPIC + "a=b", b"x", 1, packet_id=1, **flags), Publish(TOPIC + "a=b", b"y", 1, packet_id=2))
    assert [message.properties for message in table.endpoint.messages] == [properties, "a=b"]


def test_a_duplicate_is_stored_twice_and_acknowledged_twice(table: Table) -> None:
    peer = table.arrives()
    peer.says(Publish(TOPIC, b"x", 1, packet_id=1), Publish(TOPIC, b"x", 1, dup=True, packet_id=1))
    assert len(table.endpoint.messages) == 2
    assert acknowledged(peer.hears()) == [1, 1]


def test_what_cannot_be_stored_is_never_acknowledged(table: Table) -> None:
    peer = table.arrives()
    table.endpoint.fault = UnavailableError("the disk is full")
    peer.says(Publish(TOPIC, b"x", 1, packet_id=1))
    assert peer.hears() == []
    assert peer.closed == "not stored: the disk is full"


def test_nothing_is_sent_to_a_client_that_left_before_the_disk_answered(table: Table) -> None:
    peer = table.arrives()
    table.endpoint.at_once = False
    peer.says(Publish(TOPIC, b"x", 1, packet_id=1))
    peer.goes()
    table.endpoint.answer()
    assert peer.hears() == []
    assert [message.body for message in table.endpoint.messages] == [b"x"]


def test_stored_messages_are_counted(table: Table) -> None:
    def count() -> float:
        return METRICS.get_sample_value("edgetrust_messages_received_total", {"kind": "telemetry"}) or 0.0

    before = count()
    peer = table.arrives()
    peer.says(Publish(TOPIC, b"x"), Publish(TOPIC, b"y"))
    assert count() - before == 2
    table.endpoint.fault = UnavailableError("away")
    peer.says(Publish(TOPIC, b"z"))
    assert count() - before == 2


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("devices/d2/messages/events/", "not-authorized"),
        ("devices/d1/modules/m1/messages/events/", "not-authorized"),
        ("devices/d1/messages/devicebound/", "protocol-violation"),
        ("sensors/d1", "protocol-violation"),
        ("$iothub/methods/res/ok/?$rid=1", "protocol-violation"),
        ("$SYS/broker", "protocol-violation"),
    ],
)
def test_a_topic_that_is_not_its_own_ends_the_connection(table: Table, topic: str, reason: str) -> None:
    peer = table.arrives()
    peer.says(Publish(TOPIC, b"before"), Publish(topic, b"x", 1, packet_id=1), Publish(TOPIC, b"after"))
    assert peer.closed.startswith(f"{reason}: ")
    assert peer.hears() == []
    assert [message.body for message in table.endpoint.messages] == [b"before"]
    record = table.auditor.records[-1]
    assert (record.accepted, record.identity, record.reason) == (False, "d1", reason)
    assert record.checks[-1].detail
    assert (record.peer, record.place) == ("192.0.2.7:40000", "test")


def test_a_topic_is_judged_anew_after_another(table: Table) -> None:
    """The last topic is remembered; a foreign one in between must not profit from that."""
    peer = table.arrives()
    peer.says(Publish(TOPIC, b"1"), Publish("devices/d10/messages/events/", b"2"))
    assert peer.closed
    assert len(table.endpoint.messages) == 1


def test_nothing_after_the_end_counts(table: Table) -> None:
    peer = table.arrives()
    peer.says(Disconnect(), Publish(TOPIC, b"late"))
    peer.says(Publish(TOPIC, b"later"))
    assert table.endpoint.batches == []


def test_what_came_before_disconnect_counts(table: Table) -> None:
    peer = table.arrives()
    peer.says(Publish(TOPIC, b"x", 1, packet_id=1), Disconnect(), Pingreq())
    assert [message.body for message in table.endpoint.messages] == [b"x"]
    assert peer.closed == "the client disconnected"


def test_ping(table: Table) -> None:
    peer = table.arrives()
    peer.says(Pingreq())
    assert peer.hears() == [Pingresp()]


def test_a_packet_without_meaning(table: Table) -> None:
    peer = table.arrives()
    peer.says(Pingresp())
    assert peer.closed == "protocol-violation: Pingresp has no meaning here"
    assert table.auditor.refusals[0].reason == "protocol-violation"


class TestBackPressure:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sessions_module, "UNACKED_IN", 4)
        assert limits.UNACKED_IN > 4

    @pytest.mark.parametrize("qos", [0, 1])
    def test_too_many_waiting_stop_reading_until_the_disk_has_caught_up(self, table: Table, qos: int) -> None:
        peer = table.arrives()
        table.endpoint.at_once = False

        def publishes(*numbers: int) -> None:
            peer.says(*(Publish(TOPIC, b"x", qos, packet_id=n if qos else None) for n in numbers))

        publishes(1, 2, 3)
        assert peer.stream.reading
        publishes(4, 5)
        assert not peer.stream.reading
        publishes(6)  # was on its way
        table.endpoint.answer()  # three of six
        assert peer.stream.reading
        table.endpoint.answer()
        table.endpoint.answer()
        assert peer.stream.reading
        assert acknowledged(peer.hears()) == ([1, 2, 3, 4, 5, 6] if qos else [])

    def test_large_messages_count_for_more_than_small_ones(self, table: Table) -> None:
        peer = table.arrives()
        table.endpoint.at_once = False
        peer.says(Publish(TOPIC, bytes(2 * limits.UNACKED_UNIT_BYTES), 1, packet_id=1))
        assert peer.stream.reading
        peer.says(Publish(TOPIC, b"x", 1, packet_id=2))
        assert not peer.stream.reading
        table.endpoint.answer()
        assert peer.stream.reading

    def test_reading_goes_on_only_below_the_bound(self, table: Table) -> None:
        peer = table.arrives()
        table.endpoint.at_once = False
        peer.says(Publish(TOPIC, b"x", 1, packet_id=1))
        peer.says(*(Publish(TOPIC, b"x", 1, packet_id=n) for n in range(2, 8)))
        table.endpoint.answer()
        assert not peer.stream.reading
        table.endpoint.answer()
        assert peer.stream.reading

    def test_not_for_who_has_left(self, table: Table) -> None:
        peer = table.arrives()
        table.endpoint.at_once = False
        peer.says(*(Publish(TOPIC, b"x", 1, packet_id=n) for n in range(1, 8)))
        peer.goes()
        table.endpoint.answer()
        assert not peer.stream.reading


class TestWill:
    def test_sent_when_the_connection_is_lost(self, table: Table) -> None:
        peer = table.arrives(will=Will(TOPIC + "a=b", b"gone", 1))
        peer.goes()
        (message,) = table.endpoint.messages
        assert (message.device, message.body) == ("d1", b"gone")
        assert message.properties == "a=b&iothub-MessageType=Will"

    def test_not_after_disconnect(self, table: Table) -> None:
        peer = table.arrives(will=Will(TOPIC, b"gone"))
        peer.says(Disconnect())
        peer.goes("the client disconnected", clean=True)
        assert table.endpoint.batches == []

    def test_not_when_the_transport_saw_the_disconnect(self, table: Table) -> None:
        peer = table.arrives(will=Will(TOPIC, b"gone"))
        peer.goes(clean=True)
        assert table.endpoint.batches == []

    def test_sent_once(self, table: Table) -> None:
        old = table.arrives(will=Will(TOPIC, b"gone"))
        table.arrives()
        old.goes()
        old.goes()
        assert len(table.endpoint.messages) == 1

    def test_sent_after_a_fault_of_the_client(self, table: Table) -> None:
        peer = table.arrives(will=Will(TOPIC, b"gone"))
        peer.says(Unsubscribe(1, ("x",)), Subscribe(2, (("$SYS/#", 0),)))
        peer.goes()
        assert [message.body for message in table.endpoint.messages] == [b"gone"]

    def test_of_another_device_is_not_sent(self, table: Table) -> None:
        peer = table.arrives(will=Will("devices/d2/messages/events/", b"gone"))
        peer.goes()
        assert table.endpoint.batches == []
        assert table.auditor.records[-1].reason == "not-authorized"

    def test_that_cannot_be_stored_hurts_nobody(self, table: Table) -> None:
        peer = table.arrives(will=Will(TOPIC, b"gone"))
        table.endpoint.fault = UnavailableError("the disk is full")
        peer.goes()
        assert len(table.sessions) == 0


class TestFaultsOfTheTransport:
    """The transport ends a connection whose client broke MQTT; its cause begins with the fault's slug."""

    def test_before_connect(self, table: Table) -> None:
        peer = table.opens()
        peer.goes("mqtt-connect-expected: PUBLISH before CONNECT")
        (record,) = table.auditor.records
        assert (record.reason, record.peer, record.identity) == ("protocol-violation", "192.0.2.7:40000", "")
        assert record.checks[-1].detail == "mqtt-connect-expected: PUBLISH before CONNECT"

    def test_without_a_stream(self, table: Table) -> None:
        table.opens(attached=False).goes("mqtt-packet-type: 0 is no packet")
        assert table.auditor.records[0].peer == ""

    def test_of_an_accepted_client(self, table: Table) -> None:
        peer = table.arrives(will=Will(TOPIC, b"gone"))
        peer.goes("mqtt-second-connect: a second CONNECT")
        assert (table.auditor.records[-1].reason, table.auditor.records[-1].identity) == ("protocol-violation", "d1")
        assert len(table.sessions) == 0
        assert [message.body for message in table.endpoint.messages] == [b"gone"]

    @pytest.mark.parametrize(
        "cause", ["the connection was closed", "no CONNECT in 60 seconds", "refused: disabled", ""]
    )
    def test_an_ordinary_end_is_no_fault(self, table: Table, cause: str) -> None:
        table.opens().goes(cause)
        assert table.auditor.records == []

    def test_packets_before_connect_go_nowhere(self, table: Table) -> None:
        table.opens().says(Publish(TOPIC, b"x"))
        assert table.endpoint.batches == []
        assert isinstance(table.opens().stream, FakeStream)
