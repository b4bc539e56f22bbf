"""How often one address may ask."""

from __future__ import annotations

from edgetrust import limits
from edgetrust.ca.rates import Accounts, Rate


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


def test_a_good_credential_has_an_account_of_its_own_at_each_address() -> None:
    accounts = Accounts()
    stranger, known = accounts.of("10.0.0.1", None), accounts.of("10.0.0.1", "certificate:ab")
    for _ in range(limits.EST_REFUSALS_PER_ADDRESS):
        stranger.refused(0.0)
        known.refused(0.0)
    for _ in range(limits.EST_BURST_PER_ADDRESS):
        known.asked(0.0)
    assert accounts.of("10.0.0.1", None).wait(0.0) == 1 / limits.EST_REFUSAL_RECOVERY
    assert (known.wait(0.0), accounts.of("10.0.0.2", None).wait(0.0)) == (0, 0)
    assert accounts.of("10.0.0.1", "password:ab").wait(0.0) == 0
    for _ in range(limits.EST_REFUSALS_PER_CREDENTIAL):
        known.refused(0.0)
    assert accounts.of("10.0.0.1", "certificate:ab").wait(0.0) == 1 / limits.EST_CREDENTIAL_REFUSAL_RECOVERY
    assert accounts.of("10.0.0.2", "certificate:ab").wait(0.0) == 0


def test_a_plant_that_shares_a_credential_starts_at_once() -> None:
    known = Accounts().of("10.0.0.1", "certificate:batch")
    for _ in range(limits.EST_BURST_PER_CREDENTIAL):
        assert known.wait(0.0) == 0
        known.asked(0.0)
    assert known.wait(0.0) == 1 / limits.EST_RATE_PER_CREDENTIAL
