"""Laws of acknowledgements: in the order of arrival, each once, none before it is ready."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgetrust.broker.acknowledging import Acknowledgements
from edgetrust.protocol.mqtt.codec import encode_pubacks
from support.fakes import FakeStream


class Sent(FakeStream):
    """Keeps the bytes as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def send(self, data: bytes) -> None:
        self.data += data


@given(st.lists(st.integers(1, 3), max_size=12), st.randoms(use_true_random=False))
def test_whatever_is_ready_first_the_order_is_that_of_arrival(sizes: list[int], chance: object) -> None:
    stream = Sent()
    acknowledgements = Acknowledgements(stream)
    numbers = iter(range(1, 100))
    expected = [acknowledgements.expect([next(numbers) for _ in range(size)]) for size in sizes]
    came = [packet_id for one in expected for packet_id in one.packet_ids]
    order = list(range(len(expected)))
    chance.shuffle(order)  # type: ignore[attr-defined]
    done: set[int] = set()
    for index in order:
        acknowledgements.ready(expected[index])
        done.add(index)
        first_open = next((one for one in range(len(expected)) if one not in done), len(expected))
        behind = [packet_id for one in expected[:first_open] for packet_id in one.packet_ids]
        assert stream.data == (encode_pubacks(behind) if behind else b"")
    assert stream.data == (encode_pubacks(came) if came else b"")
