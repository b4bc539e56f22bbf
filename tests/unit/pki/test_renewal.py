"""When certificates are renewed: the arithmetic of edge specification 3.6."""

from __future__ import annotations

from datetime import timedelta

import pytest

from edgetrust.pki.renewal import (
    AutoRenew,
    Period,
    RenewalState,
    effective_end,
    is_due,
    next_attempt,
    renew_at,
    retry_after,
)
from support.pki import NOW, Pki

DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("80%", Period(percent=80)),
        ("4 %", Period(percent=4)),
        ("30 min", Period(time=timedelta(minutes=30))),
        ("10day", Period(time=10 * DAY)),
        *((text, None) for text in ("0%", "100%", "60m", "10d", "1.5 day", "-1 min", "", "day")),
    ],
)
def test_the_grammar(text: str, period: Period | None) -> None:
    assert Period.parse(text) == period


def test_a_ninety_day_certificate_renews_on_day_72_and_retries_after_3_6_days() -> None:
    certificate = Pki().device(begin=timedelta(0), end=90 * DAY).certificate
    policy = AutoRenew()
    assert renew_at(certificate, policy) == NOW + 72 * DAY
    assert retry_after(certificate, policy) == 3.6 * DAY
    assert not is_due(certificate, policy, NOW + 71 * DAY)
    assert is_due(certificate, policy, NOW + 72 * DAY)


def test_a_time_counts_from_the_end() -> None:
    certificate = Pki().device(begin=timedelta(0), end=30 * DAY).certificate
    policy = AutoRenew(threshold=Period(time=10 * DAY), retry=Period(time=timedelta(minutes=5)))
    assert renew_at(certificate, policy) == NOW + 20 * DAY
    assert retry_after(certificate, policy) == timedelta(minutes=5)
    always = AutoRenew(threshold=Period(time=40 * DAY))
    assert renew_at(certificate, always) == NOW


def test_there_is_always_a_second_between_attempts() -> None:
    certificate = Pki().device(begin=timedelta(0), end=timedelta(seconds=10)).certificate
    assert retry_after(certificate, AutoRenew()) == timedelta(seconds=1)


def test_an_expired_certificate_is_due() -> None:
    certificate = Pki().device(begin=-2 * DAY, end=-DAY).certificate
    assert is_due(certificate, AutoRenew(), NOW)


# The next attempt -----------------------------------------------------------------------------------------------------


def test_renewals_of_a_fleet_spread_and_each_keeps_its_moment() -> None:
    pki, policy = Pki(), AutoRenew()
    chains = [
        pki.device(f"d{number}", key_label="one", begin=timedelta(0), end=100 * DAY).chain for number in range(40)
    ]
    at = [next_attempt(chain, policy, RenewalState(), NOW) for chain in chains]
    assert at == [next_attempt(chain, policy, RenewalState(), NOW + 50 * DAY) for chain in chains]
    assert min(at) >= NOW + 80 * DAY
    assert max(at) <= NOW + 82 * DAY
    assert len(set(at)) > 20


def test_a_failure_waits_for_the_retry_period_and_never_ends() -> None:
    chain, policy = Pki().device(begin=timedelta(0), end=100 * DAY).chain, AutoRenew()
    now = NOW + 90 * DAY
    state = RenewalState().failed(now, "est-unavailable")
    assert 3.5 * DAY < next_attempt(chain, policy, state, now) - now < 4.5 * DAY
    late = NOW + 200 * DAY
    state = state.failed(late, "est-unavailable")
    assert state.failures == 2
    assert next_attempt(chain, policy, state, late) - late < timedelta(hours=1.2)


@pytest.mark.parametrize("jump", [365 * DAY, -365 * DAY])
def test_a_clock_that_jumps_postpones_nothing(jump: timedelta) -> None:
    chain, policy = Pki().device(begin=timedelta(0), end=100 * DAY).chain, AutoRenew()
    now = NOW + 90 * DAY
    failed = RenewalState().failed(now + jump, "certificate-not-valid-now")
    assert next_attempt(chain, policy, failed, now) <= now


def test_the_end_that_counts_is_the_first_of_the_chain() -> None:
    pki = Pki()
    issuer = pki.authority("short", end=10 * DAY)
    chain = issuer.issue("sensor", now=NOW, end=30 * DAY).full_chain
    assert effective_end(chain) == NOW + 10 * DAY
    assert effective_end(pki.device(end=30 * DAY).full_chain) == NOW + 30 * DAY
    assert next_attempt(chain, AutoRenew(), RenewalState(), NOW) <= NOW + 10 * DAY
