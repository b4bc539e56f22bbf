"""Direct methods: called when the client is there, answered once, whatever becomes of connection and caller."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from edgetrust.broker.methods import PlacedCall
from edgetrust.limits import METHODS_IN_FLIGHT
from edgetrust.protocol.methods import MethodAnswer, MethodCall, MethodError
from edgetrust.protocol.mqtt.packets import Connack, Puback, Publish, Suback, Subscribe, Unsubscribe
from edgetrust.trust.identity import Identity
from support.decisions import DEVICE_1, KEYS, MODULE_1, registered
from support.fakes import Gate, Peer, Table

METHODS = "$iothub/methods/POST/#"
ANSWER = "$iothub/methods/res/{}/?$rid={}"


@dataclass
class Caller:
    """A service that has called; what it was told."""

    table: Table
    placed: PlacedCall | None = None
    sent: int = 0
    answers: list[MethodAnswer] = field(default_factory=list)

    def calls(self, method: str = "reboot", payload: bytes = b"null", who: Identity = DEVICE_1) -> Caller:
        assert self.table.methods is not None
        self.placed = self.table.methods.place(who, MethodCall(method, payload), self._was_sent, self.answers.append)
        return self

    def _was_sent(self) -> None:
        self.sent += 1

    def gives_up(self) -> None:
        assert self.table.methods is not None
        assert self.placed is not None
        self.table.methods.withdraw(self.placed)


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def caller(table: Table) -> Caller:
    return Caller(table)


def listening(table: Table, qos: int = 0) -> Peer:
    peer = table.arrives()
    peer.says(Subscribe(1, ((METHODS, qos),)))
    assert peer.hears() == [Suback(1, (qos,))]
    return peer


def test_called_and_answered(table: Table, caller: Caller) -> None:
    peer = listening(table, qos=1)
    caller.calls("reboot", b'{"delay":5}')
    assert peer.hears() == [Publish("$iothub/methods/POST/reboot/?$rid=a", b'{"delay":5}', 0)]
    assert (caller.sent, caller.answers) == (1, [])
    peer.says(Publish(ANSWER.format(200, "a"), b'{"ok":true}', 1, packet_id=9))
    assert peer.hears() == [Puback(9)]
    assert caller.answers == [MethodAnswer(200, b'{"ok":true}')]


def test_an_answer_at_quality_0_and_any_status(table: Table, caller: Caller) -> None:
    peer = listening(table)
    caller.calls()
    peer.says(Publish(ANSWER.format(-7, "a"), b""))
    assert caller.answers == [MethodAnswer(-7, b"")]


def test_who_is_away_is_called_when_it_comes(table: Table, caller: Caller) -> None:
    caller.calls()
    assert caller.sent == 0
    peer = table.arrives()
    assert (peer.hears(), caller.sent) == ([], 0)  # connected, but not subscribed
    peer.says(Subscribe(1, ((METHODS, 0),)))
    assert peer.hears() == [Suback(1, (0,)), Publish("$iothub/methods/POST/reboot/?$rid=a", b"null")]
    assert caller.sent == 1


def test_a_stored_session_can_be_called_without_a_new_subscribe(table: Table, caller: Caller) -> None:
    listening(table).goes()
    caller.calls()
    again = table.connects()
    assert again.hears() == [Connack(True, 0), Publish("$iothub/methods/POST/reboot/?$rid=a", b"null")]
    Caller(table).calls("second")
    assert again.hears() == [Publish("$iothub/methods/POST/second/?$rid=b", b"null")]


def test_who_has_unsubscribed_is_not_called(table: Table, caller: Caller) -> None:
    peer = listening(table)
    peer.says(Unsubscribe(2, (METHODS,)))
    peer.hears()
    caller.calls()
    assert (peer.hears(), caller.sent) == ([], 0)


def test_who_is_still_being_decided_on_is_not_called(table: Table, caller: Caller) -> None:
    listening(table).goes()
    table.subscriptions.gate = Gate(is_open=False)
    peer = table.connects()
    caller.calls()
    assert caller.sent == 0
    table.subscriptions.gate.is_open = True
    table.run()
    assert peer.hears() == [Connack(True, 0), Publish("$iothub/methods/POST/reboot/?$rid=a", b"null")]


def test_a_late_answer_is_acknowledged_and_forgotten(table: Table, caller: Caller) -> None:
    peer = listening(table)
    caller.calls().gives_up()
    peer.hears()
    peer.says(Publish(ANSWER.format(200, "a"), b"{}", 1, packet_id=3))
    assert peer.hears() == [Puback(3)]
    assert caller.answers == []
    assert not peer.closed


def test_an_answer_counts_once(table: Table, caller: Caller) -> None:
    peer = listening(table)
    caller.calls()
    peer.says(Publish(ANSWER.format(200, "a"), b"1"), Publish(ANSWER.format(201, "a"), b"2"))
    assert caller.answers == [MethodAnswer(200, b"1")]


def test_nobody_answers_for_another(table: Table, caller: Caller) -> None:
    table.registry.put(registered(KEYS, MODULE_1))
    listening(table)
    module = table.arrives("d1/m1")
    caller.calls()
    module.says(Publish(ANSWER.format(200, "a"), b"stolen"))
    assert caller.answers == []


def test_a_module_is_called_by_itself(table: Table, caller: Caller) -> None:
    table.registry.put(registered(KEYS, MODULE_1))
    device = listening(table)
    module = table.arrives("d1/m1")
    module.says(Subscribe(1, ((METHODS, 0),)))
    module.hears()
    caller.calls(who=MODULE_1)
    assert (len(module.hears()), device.hears()) == (1, [])
    module.says(Publish(ANSWER.format(200, "a"), b"{}"))
    assert len(caller.answers) == 1


def test_who_renews_its_connection_may_answer_on_the_new_one(table: Table, caller: Caller) -> None:
    old = listening(table)
    caller.calls()
    new = table.arrives()
    assert old.closed
    assert new.hears() == []  # it was sent once already
    new.says(Publish(ANSWER.format(200, "a"), b"{}"))
    assert caller.answers == [MethodAnswer(200, b"{}")]


def test_gone_in_the_middle_the_call_waits_for_its_caller_to_give_up(table: Table, caller: Caller) -> None:
    peer = listening(table)
    caller.calls()
    peer.goes()
    caller.gives_up()
    caller.gives_up()  # more than once is nothing
    again = table.arrives()
    again.says(Publish(ANSWER.format(200, "a"), b"{}"))
    assert caller.answers == []


def test_too_many_at_once_are_refused_until_one_is_done(table: Table, caller: Caller) -> None:
    peer = listening(table)
    callers = [Caller(table).calls() for _ in range(METHODS_IN_FLIGHT)]
    with pytest.raises(MethodError) as caught:
        caller.calls()
    assert (caught.value.reason, caught.value.code) == (
        "method-too-many-in-flight",
        "DeviceMaximumInflightMethodExceeded",
    )
    assert len(peer.hears()) == METHODS_IN_FLIGHT
    callers[0].gives_up()
    caller.calls()
    assert len(peer.hears()) == 1


def test_those_that_wait_for_a_device_to_come_count_too_and_others_are_not_disturbed(
    table: Table, caller: Caller
) -> None:
    table.registry.put(registered(KEYS, MODULE_1))
    waiting = [Caller(table).calls() for _ in range(METHODS_IN_FLIGHT)]
    with pytest.raises(MethodError):
        caller.calls()
    caller.calls(who=MODULE_1)
    waiting[0].gives_up()
    peer = table.arrives()
    peer.says(Subscribe(1, ((METHODS, 0),)))
    assert len(peer.hears()) == 1 + METHODS_IN_FLIGHT - 1


def test_nothing_is_sent_to_who_has_left(table: Table, caller: Caller) -> None:
    peer = listening(table)
    session = table.sessions.of(DEVICE_1)
    assert session is not None
    session.end("deleted")
    caller.calls()
    assert (peer.hears(), caller.sent) == ([], 0)


def test_without_methods_their_topic_is_not_offered() -> None:
    peer = Table(with_methods=False).arrives()
    peer.says(Publish(ANSWER.format(200, "a"), b"{}"))
    assert peer.closed.startswith("protocol-violation: '$iothub/methods/res/200/?$rid=a' is not offered here")
