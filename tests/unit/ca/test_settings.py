"""`ca.toml`: how long certificates live."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from edgetrust.ca.settings import parse_settings
from edgetrust.errors import ConfigError
from edgetrust.pki.profiles import DEVICE
from support.ca import CaWorld, csr

WHERE = Path("ca.toml")


def test_lifetimes_are_read() -> None:
    settings = parse_settings('[lifetimes]\ndevice = "30 day"\nedge-ca = "90 min"\n', WHERE)
    assert settings.lifetimes == {"device": timedelta(days=30), "edge-ca": timedelta(minutes=90)}


@pytest.mark.parametrize(
    "line",
    [
        'device = "80%"',
        'device = "soon"',
        'device = "91 day"',
        'dvice = "1 day"',
        'root = "1 day"',
        'issuing = "1 day"',
    ],
)
def test_lifetimes_that_cannot_be(line: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        parse_settings(f"[lifetimes]\n{line}\n", WHERE)
    assert wrong.value.reason == "config-wrong-value"
    assert line.partition(" ")[0] in wrong.value.message


async def test_a_lifetime_takes_the_place_of_the_profiles(ca: CaWorld) -> None:
    peer = await ca.password("dev1")
    usual = await ca.issued(csr("dev1"), peer)
    assert usual.row.not_after - ca.clock.now() == DEVICE.validity
    ca.use(lifetimes={"device": timedelta(minutes=5)})
    assert (await ca.issued(csr("dev1"), peer)).row.not_after - ca.clock.now() == timedelta(minutes=5)


def test_when_and_how_cas_are_renewed() -> None:
    usual = parse_settings("", WHERE)
    assert (usual.renew_authorities, str(usual.renew_authorities_at)) == ("same-key", "80%")
    said = parse_settings('[authorities]\nrenew = "new-key"\nrenew_at = "90 day"\n', WHERE)
    assert (said.renew_authorities, str(said.renew_authorities_at)) == ("new-key", "90 day")


@pytest.mark.parametrize("line", ['renew = "sometimes"', 'renew_at = "soon"', 'renew_at = "100%"'])
def test_renewals_of_cas_that_cannot_be(line: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        parse_settings(f"[authorities]\n{line}\n", WHERE)
    assert wrong.value.reason == "config-wrong-value"


def test_the_grace_of_a_rule() -> None:
    (rule,) = parse_settings('[[rule]]\ncredential = "identity"\ngrace = "7 day"\n', WHERE).rules
    assert rule.grace == timedelta(days=7)
    for text in ("soon", "80%"):
        with pytest.raises(ConfigError) as wrong:
            parse_settings(f'[[rule]]\ncredential = "identity"\ngrace = "{text}"\n', WHERE)
        assert wrong.value.reason == "config-wrong-value"
