"""How often one address may ask."""

from __future__ import annotations

from edgetrust.ca.rates import Rate


def test_so_many_at_once_then_so_many_a_second() -> None:
    rate = Rate(3, 0.5)
    for _ in range(3):
        assert rate.wait("a", 0.0) == 0
        rate.take("a", 0.0)
    assert rate.wait("a", 0.0) == 2
    assert rate.wait("b", 0.0) == 0, "others are not disturbed"
    assert rate.wait("a", 1.0) == 1
    assert rate.wait("a", 2.0) == 0
    rate.take("a", 2.0)
    assert rate.wait("a", 2.0) == 2
    assert rate.wait("a", 100.0) == 0


def test_a_long_silence_fills_no_more_than_the_bucket() -> None:
    rate = Rate(2, 1)
    rate.take("a", 0.0)
    for _ in range(2):
        assert rate.wait("a", 1000.0) == 0
        rate.take("a", 1000.0)
    assert rate.wait("a", 1000.0) == 1


def test_addresses_are_forgotten_oldest_first() -> None:
    rate = Rate(1, 1, kept=2)
    for address in ("a", "b", "c"):
        rate.take(address, 0.0)
    assert [rate.wait(address, 0.0) for address in ("a", "b", "c")] == [0, 1, 1]
