"""When certificates are renewed: the arithmetic of edge specification 3.6."""

from __future__ import annotations

from datetime import timedelta

import pytest

from edgetrust.edge.renewal import AutoRenew, Period, is_due, renew_at, retry_after
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
