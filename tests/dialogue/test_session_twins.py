"""Twins over MQTT: asked, reported, told of changes, whatever else goes on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from edgetrust.errors import IntegrityError, PeerError, UnavailableError
from edgetrust.limits import TWIN_PATCH_BYTES, TWIN_REQUESTS_WAITING
from edgetrust.protocol.mqtt.packets import Connack, Packet, Puback, Publish, Suback, Subscribe, Unsubscribe, Will
from edgetrust.protocol.twin import DesiredChange, TwinDraft, created_twin
from edgetrust.store.records import RegistryError
from edgetrust.telemetry import METRICS
from support.decisions import DEVICE_1, HUB, KEYS, MODULE_1, NOW, registered
from support.fakes import Gate, Peer, Table, acknowledged

GET = "$iothub/twin/GET/?$rid={}"
PATCH = "$iothub/twin/PATCH/properties/reported/?$rid={}"
EVENTS = "devices/d1/messages/events/"
DESIRED = "$iothub/twin/PATCH/properties/desired/#"
EMPTY = {"desired": {"$version": 1}, "reported": {"$version": 1}}


@pytest.fixture
def table() -> Table:
    return Table()


def asks(rid: str, qos: int = 0) -> Publish:
    return Publish(GET.format(rid), b" ", qos, packet_id=(qos and 7) or None)


def reports(rid: str, patch: object, qos: int = 0, packet_id: int = 8) -> Publish:
    body = patch if isinstance(patch, bytes) else json.dumps(patch).encode()
    return Publish(PATCH.format(rid), body, qos, packet_id=packet_id if qos else None)


def answers(packets: list[Packet]) -> list[tuple[str, Any]]:
    """Topic and JSON of the publishes; "" for an empty body."""
    found = [packet for packet in packets if isinstance(packet, Publish)]
    assert all(packet.qos == 0 and not packet.retain for packet in found)
    return [(packet.topic, json.loads(packet.payload) if packet.payload else "") for packet in found]


def changed(table: Table, patch: dict[str, Any], version: int) -> None:
    session = table.sessions.of(DEVICE_1)
    if session is not None:
        session.desired_changed(DesiredChange(patch, version))
    table.run()


def test_a_twin_is_answered_without_a_subscription(table: Table) -> None:
    table.twins.twins["d1", None] = created_twin(NOW, TwinDraft({"tag": 1}, {"rate": 5}))
    peer = table.arrives()
    peer.says(asks("r-1"))
    assert answers(peer.hears()) == [
        ("$iothub/twin/res/200/?$rid=r-1", {"desired": {"rate": 5, "$version": 1}, "reported": {"$version": 1}})
    ]


def test_a_report_is_answered_with_its_version(table: Table) -> None:
    peer = table.arrives()
    peer.says(reports("a", {"t": 1}), reports("b", {"t": None}))
    assert answers(peer.hears()) == [
        ("$iothub/twin/res/204/?$rid=a&$version=2", ""),
        ("$iothub/twin/res/204/?$rid=b&$version=3", ""),
    ]


def test_acknowledged_when_it_is_on_disk_and_before_the_answer(table: Table) -> None:
    peer = table.arrives()
    table.twins.gate.is_open = False
    peer.says(reports("a", {"t": 1}, qos=1))
    assert peer.hears() == []
    table.twins.gate.is_open = True
    table.run()
    assert peer.hears() == [Puback(8), Publish("$iothub/twin/res/204/?$rid=a&$version=2", b"")]


def test_a_question_at_quality_1_is_acknowledged_too(table: Table) -> None:
    peer = table.arrives()
    peer.says(asks("a", qos=1))
    assert acknowledged(peer.hears()) == [7]


def test_answers_come_in_the_order_of_the_requests(table: Table) -> None:
    peer = table.arrives()
    table.twins.gate.is_open = False
    peer.says(reports("a", {"t": 1}), asks("b"), reports("c", {"t": 2}))
    assert table.twins.order == ["report"]  # one at a time
    table.twins.gate.is_open = True
    table.run()
    got = answers(peer.hears())
    assert [topic.partition("$rid=")[2].partition("&")[0] for topic, _ in got] == ["a", "b", "c"]
    assert got[1][1]["reported"] == {"t": 1, "$version": 2}


def test_the_request_identifier_comes_back_as_it_is(table: Table) -> None:
    peer = table.arrives()
    peer.says(asks("%7b3F2504E0-4F89%7d"))
    assert answers(peer.hears())[0][0] == "$iothub/twin/res/200/?$rid=%7b3F2504E0-4F89%7d"


@pytest.mark.parametrize(
    ("patch", "status", "code"),
    [
        (b"{", 400, 400006),
        (b"[1]", 400, 400004),
        ({"a b": 1}, 400, 400004),
        ({"a": "x" * 5000}, 400, 400004),
        ({"a": 1, "$version": 9}, 412, 412001),
    ],
)
def test_what_cannot_be_reported_is_answered_and_disturbs_nothing(
    table: Table, patch: object, status: int, code: int
) -> None:
    peer = table.arrives()
    peer.says(reports("a", patch, qos=1), asks("b"))
    packets = peer.hears()
    assert acknowledged(packets) == [8]
    (topic, error), (_, twin) = answers(packets)
    assert topic == f"$iothub/twin/res/{status}/?$rid=a"
    assert error.keys() == {"errorCode", "trackingId", "message", "timestampUtc"}
    assert error["errorCode"] == code
    assert twin == EMPTY
    assert not peer.closed


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (RegistryError("device d1 is not registered", code="DeviceNotFound", status=404), 404),
        (UnavailableError("the store is away"), 503),
        (IntegrityError("a row contradicts itself"), 503),
    ],
)
def test_what_the_store_cannot_do_is_answered(table: Table, fault: Exception, status: int) -> None:
    peer = table.arrives()
    table.twins.fault = fault
    peer.says(asks("a"), reports("b", {"t": 1}, qos=1))
    packets = peer.hears()
    assert [topic for topic, _ in answers(packets)] == [
        f"$iothub/twin/res/{status}/?$rid=a",
        f"$iothub/twin/res/{status}/?$rid=b",
    ]
    assert acknowledged(packets) == [8]
    assert not peer.closed


def test_too_many_at_once_are_told_so(table: Table) -> None:
    peer = table.arrives()
    table.twins.gate.is_open = False
    peer.says(asks("first"))  # under way
    peer.says(*(asks(str(number)) for number in range(TWIN_REQUESTS_WAITING + 1)))
    ((topic, error),) = answers(peer.hears())
    assert topic == f"$iothub/twin/res/429/?$rid={TWIN_REQUESTS_WAITING}"
    assert error["errorCode"] == 429001
    table.twins.gate.is_open = True
    table.run()
    assert len(answers(peer.hears())) == TWIN_REQUESTS_WAITING + 1


def test_what_is_larger_than_any_patch_is_not_even_read(table: Table) -> None:
    peer = table.arrives()
    peer.says(reports("a", b" " * (TWIN_PATCH_BYTES + 1), qos=1), reports("b", {"t": 1}))
    packets = peer.hears()
    assert acknowledged(packets) == [8]
    assert [topic for topic, _ in answers(packets)] == [
        "$iothub/twin/res/413/?$rid=a",
        "$iothub/twin/res/204/?$rid=b&$version=2",
    ]


def test_an_error_without_a_name_of_the_hubs_is_answered_too(table: Table) -> None:
    peer = table.arrives()
    table.twins.fault = PeerError("something else", reason="other")
    peer.says(asks("a"))
    ((topic, error),) = answers(peer.hears())
    assert (topic, error["errorCode"]) == ("$iothub/twin/res/400/?$rid=a", 400000)


def test_requests_are_counted(table: Table) -> None:
    def count(kind: str, status: str) -> float:
        labels = {"kind": kind, "status": status}
        return METRICS.get_sample_value("edgetrust_twin_requests_total", labels) or 0.0

    before = count("get", "200"), count("report", "204"), count("report", "400")
    table.arrives().says(asks("a"), reports("b", {"t": 1}), reports("c", b"{"))
    assert (count("get", "200"), count("report", "204"), count("report", "400")) == tuple(n + 1 for n in before)


def test_a_module_has_its_own(table: Table) -> None:
    table.registry.put(registered(KEYS, MODULE_1))
    table.arrives("d1/m1").says(reports("a", {"t": 1}))
    assert table.twins.twins["d1", "m1"].reported.values == {"t": 1}
    assert ("d1", None) not in table.twins.twins


def test_what_was_reported_before_a_disconnect_counts(table: Table) -> None:
    peer = table.arrives()
    table.twins.gate.is_open = False
    peer.says(reports("a", {"t": 1}), reports("b", {"t": 2}))
    peer.goes(clean=True)
    table.twins.gate.is_open = True
    table.run()
    assert table.twins.twins["d1", None].reported.values == {"t": 2}
    assert peer.hears() == []


def test_nothing_more_is_taken_from_who_is_not_accepted_any_more(table: Table) -> None:
    peer = table.arrives()
    table.twins.gate.is_open = False
    peer.says(reports("a", {"t": 1}), reports("b", {"t": 2}))
    session = table.sessions.of(DEVICE_1)
    assert session is not None
    session.refuse("disabled")
    table.twins.gate.is_open = True
    table.run()
    assert table.twins.twins["d1", None].reported.values == {"t": 1}  # was under way already


def test_a_cancelled_request_is_not_acknowledged_and_ends_the_connection(table: Table) -> None:
    peer = table.arrives()
    table.twins.gate.is_open = False
    peer.says(reports("a", {"t": 1}, qos=1), asks("b"))
    (work,) = table.tasks.waiting
    with pytest.raises(asyncio.CancelledError):
        work.throw(asyncio.CancelledError())
    table.tasks.waiting.clear()
    assert peer.hears() == []
    assert peer.closed == "a twin request was not finished"
    peer.goes()
    table.twins.gate.is_open = True
    again = table.arrives()
    again.says(reports("a", {"t": 1}, qos=1), asks("b"))
    packets = again.hears()
    assert acknowledged(packets) == [8]
    assert [topic for topic, _ in answers(packets)] == [
        "$iothub/twin/res/204/?$rid=a&$version=2",
        "$iothub/twin/res/200/?$rid=b",
    ]


class TestOrderOfAcknowledgements:
    """MQTT 3.1.1, 4.6: PUBACKs come in the order of the PUBLISHes, whatever is on disk first."""

    def test_telemetry_waits_for_the_report_before_it(self, table: Table) -> None:
        peer = table.arrives()
        table.twins.gate.is_open = False
        peer.says(reports("a", {"t": 1}, qos=1), Publish(EVENTS, b"x", 1, packet_id=9), Publish(EVENTS, b"y"))
        assert [message.body for message in table.endpoint.messages] == [b"x", b"y"]  # stored at once
        assert peer.hears() == []
        table.twins.gate.is_open = True
        table.run()
        assert acknowledged(peer.hears()) == [8, 9]

    def test_a_report_waits_for_the_telemetry_before_it_and_its_answer_does_not(self, table: Table) -> None:
        peer = table.arrives()
        table.endpoint.at_once = False
        peer.says(Publish(EVENTS, b"x", 1, packet_id=7), reports("a", {"t": 1}, qos=1))
        packets = peer.hears()
        assert acknowledged(packets) == []
        assert len(answers(packets)) == 1
        table.endpoint.answer()
        assert acknowledged(peer.hears()) == [7, 8]

    def test_an_answer_to_a_method_waits_its_turn_too(self, table: Table) -> None:
        peer = table.arrives()
        table.twins.gate.is_open = False
        peer.says(reports("a", {"t": 1}, qos=1), Publish("$iothub/methods/res/200/?$rid=1", b"", 1, packet_id=9))
        assert peer.hears() == []
        table.twins.gate.is_open = True
        table.run()
        assert acknowledged(peer.hears()) == [8, 9]

    def test_what_is_at_quality_0_holds_nothing_back(self, table: Table) -> None:
        peer = table.arrives()
        table.twins.gate.is_open = False
        peer.says(asks("a"), Publish(EVENTS, b"x", 1, packet_id=9))
        assert acknowledged(peer.hears()) == [9]


@pytest.mark.parametrize("topic", ["$iothub/twin/GET/", "$iothub/twin/GET/?$rid=", "$iothub/twin/POST/?$rid=1", "$x"])
def test_other_topics_of_the_hub_end_the_connection(table: Table, topic: str) -> None:
    peer = table.arrives()
    peer.says(Publish(topic, b" "))
    assert peer.closed.startswith("protocol-violation: ")
    assert table.auditor.records[-1].reason == "protocol-violation"


def test_a_will_is_telemetry_and_nothing_else(table: Table) -> None:
    peer = table.arrives(will=Will(PATCH.format("w"), b'{"t":1}'))
    peer.goes()
    assert table.twins.twins == {}
    assert table.endpoint.messages == []
    assert table.auditor.records[-1].reason == "protocol-violation"


def test_without_twins_their_topics_are_not_offered() -> None:
    table = Table(twins=None)
    peer = table.arrives()
    peer.says(asks("a"))
    assert peer.closed.startswith("protocol-violation: '$iothub/twin/GET/?$rid=a' is not offered here")


class TestDesired:
    def subscribed(self, table: Table, qos: int = 1) -> Peer:
        peer = table.arrives()
        peer.says(Subscribe(1, ((DESIRED, qos),)))
        assert peer.hears() == [Suback(1, (qos,))]
        return peer

    def test_who_has_subscribed_is_told_at_quality_0(self, table: Table) -> None:
        peer = self.subscribed(table)
        changed(table, {"rate": 5, "old": None}, 3)
        (said,) = peer.hears()
        assert said == Publish(
            "$iothub/twin/PATCH/properties/desired/?$version=3", b'{"rate":5,"old":null,"$version":3}'
        )

    def test_who_has_not_is_not(self, table: Table) -> None:
        peer = table.arrives()
        changed(table, {"rate": 5}, 2)
        assert peer.hears() == []

    def test_nor_who_has_unsubscribed(self, table: Table) -> None:
        peer = self.subscribed(table)
        peer.says(Unsubscribe(2, (DESIRED,)))
        peer.hears()
        changed(table, {"rate": 5}, 2)
        assert peer.hears() == []

    def test_a_stored_session_needs_no_new_subscribe_and_misses_what_came_meanwhile(self, table: Table) -> None:
        self.subscribed(table).goes()
        changed(table, {"rate": 5}, 2)
        again = table.connects()
        assert again.hears() == [Connack(True, 0)]
        changed(table, {"rate": 6}, 3)
        assert answers(again.hears()) == [
            ("$iothub/twin/PATCH/properties/desired/?$version=3", {"rate": 6, "$version": 3})
        ]

    def test_after_a_take_over_only_the_new_connection_is_told(self, table: Table) -> None:
        old = self.subscribed(table)
        new = table.arrives()
        changed(table, {"rate": 5}, 2)
        assert (len(old.hears()), len(new.hears())) == (0, 1)

    def test_who_is_still_being_decided_on_is_not_told(self, table: Table) -> None:
        self.subscribed(table).goes()
        table.subscriptions.gate = Gate(is_open=False)
        peer = table.connects()
        changed(table, {"rate": 5}, 2)
        table.subscriptions.gate.is_open = True
        table.run()
        assert peer.hears() == [Connack(True, 0)]


class TestWhatAClientSaysOfItself:
    def test_model_and_product_are_kept(self, table: Table) -> None:
        said = "DeviceClientType=py%2F2.14%00&model-id=dtmi%3Acom%3Aexample%3AThermostat%3B1"
        table.arrives(user_name=f"{HUB}/d1/?api-version=2020-09-30&{said}")
        assert table.twins.clients == {("d1", None): ("dtmi:com:example:Thermostat;1", "py/2.14\ufffd")}

    def test_nothing_said_is_kept_as_nothing(self, table: Table) -> None:
        table.arrives()
        assert table.twins.clients == {("d1", None): ("", "")}

    def test_nothing_is_kept_of_who_is_refused(self, table: Table) -> None:
        assert table.connects(password="wrong").code == 5
        assert table.twins.clients == {}
