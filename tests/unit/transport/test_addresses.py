"""Addresses of peers."""

from __future__ import annotations

import pytest

from edgetrust.transport.addresses import counted_as, peer_address


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        (("192.0.2.1", 5000), "192.0.2.1:5000"),
        (("2001:db8::1", 5000, 0, 0), "[2001:db8::1]:5000"),
        (None, "unknown"),
        ("/run/socket", "unknown"),
    ],
)
def test_an_address_for_people(peer: object, text: str) -> None:
    assert peer_address(peer) == text


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("unknown", "unknown"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::1", "2001:db8:1:2::"),
        ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ("fe80::1%eth0", "fe80::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ],
)
def test_what_an_address_is_counted_under(host: str, counted: str) -> None:
    assert counted_as(host) == counted
