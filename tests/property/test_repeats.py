"""The law of repetitions: whatever is sent again, by whomever and after whatever, each message with an id arrives at
the hub once, in the order of its device.

A device, its gateway and the hub as MQTT has them: what was sent and not acknowledged is sent again, marked so, after a
cut and after a crash. Storing is a transaction: what happens at its moment lets all of it be there or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from edgetrust.protocol.iothub import add_property
from edgetrust.protocol.messages import Message
from edgetrust.protocol.repeats import Recognition, mark_of, sift


@dataclass
class Store:
    """What is durable at one end of a connection."""

    recognition: Recognition
    rows: list[Message] = field(default_factory=list)
    known: set[str] = field(default_factory=set)

    def take(self, messages: list[Message]) -> None:
        sifted = sift([mark_of(one) for one in messages], self.known, self.recognition)
        self.rows += [messages[place] for place in sifted.taken]
        self.known |= set(sifted.remember.values())


@dataclass
class Sender:
    """Sends what waits, at most a window of it, and forgets what is acknowledged."""

    waiting: list[Message]
    sent: int = 0  # how many of `waiting` were sent over this connection or an earlier one
    in_flight: int = 0

    def send(self, count: int) -> list[Message]:
        batch = self.waiting[self.in_flight : self.in_flight + count]
        marked = [
            one._replace(properties=add_property(one.properties, "mqtt-dup", "true"))
            if self.in_flight + place < self.sent
            else one
            for place, one in enumerate(batch)
        ]
        self.in_flight += len(batch)
        self.sent = max(self.sent, self.in_flight)
        return marked

    def acknowledged(self, count: int) -> None:
        del self.waiting[:count]
        self.sent -= count
        self.in_flight -= count

    def cut(self) -> None:
        self.in_flight = 0


def message(number: int, name: str | None) -> Message:
    properties = "" if name is None else f"%24.mid={name}"
    return Message("sensor", None, properties, b"%d" % number, 0, "{}", "Telemetry")


STEP = st.tuples(
    st.sampled_from(["device", "gateway"]),
    st.integers(1, 4),  # how many are sent
    st.sampled_from(["arrives", "lost before", "lost after", "sender crashes"]),
)


@given(
    st.lists(st.sampled_from("abc"), max_size=8),
    st.lists(STEP, max_size=30),
    st.sampled_from([Recognition.RESENT, Recognition.SAME_ID]),
)
def test_each_arrives_once_and_in_order(
    names: list[str], steps: list[tuple[str, int, str]], recognition: Recognition
) -> None:
    """Also where a device gives several messages one id."""
    sent = [message(number, name) for number, name in enumerate(names)]
    gateway, hub = Store(recognition), Store(Recognition.RESENT)
    device, up = Sender(list(sent)), Sender(gateway.rows)
    for who, count, course in [*steps, *[("device", 4, "arrives"), ("gateway", 4, "arrives")] * (2 * len(names) + 2)]:
        sender, store = (device, gateway) if who == "device" else (up, hub)
        batch = sender.send(count)
        if course != "lost before":
            store.take(batch)
        if course == "arrives":
            sender.acknowledged(sender.in_flight)
        else:
            sender.cut()
        if course == "sender crashes":  # it does not know any more what it has sent: all of it, for all it knows
            sender.sent = len(sender.waiting)
    assert device.waiting == up.waiting == []
    assert [one.body for one in hub.rows] == [one.body for one in sent]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1)), max_size=8), st.integers(1, 4))
def test_what_is_not_marked_as_sent_again_is_another_message(messages: list[tuple[str, int]], size: int) -> None:
    """Equal in every way, and yet each is taken: their device meant it."""
    store = Store(Recognition.RESENT)
    made = [message(number, name) for name, number in messages]
    for start in range(0, len(made), size):
        store.take(made[start : start + size])
    assert store.rows == made


@given(st.lists(st.none(), max_size=5), st.sampled_from(list(Recognition)))
def test_nothing_without_an_id_is_ever_left_out(names: list[None], recognition: Recognition) -> None:
    store = Store(recognition)
    made = [message(0, name) for name in names]
    resent = [one._replace(properties="mqtt-dup=true") for one in made]
    store.take(made)
    store.take(resent)
    assert store.rows == [*made, *resent]
