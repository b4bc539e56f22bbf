"""Names in certificates. Which names a certificate covers is tested with path validation."""

from __future__ import annotations

import pytest

from edgetrust.errors import UsageError
from edgetrust.pki.names import Names, as_ip, dns_fault


def test_hosts_go_where_they_belong() -> None:
    names = Names.for_hosts("gw.local", "192.0.2.1", "edgeHub", "2001:db8::1", organization="O")
    assert names == Names("gw.local", dns=("gw.local", "edgeHub"), ips=("192.0.2.1", "2001:db8::1"), organization="O")
    assert Names.for_hosts("gw.local", common_name="").common_name == ""
    assert names.subject().rfc4514_string() == "CN=gw.local,O=O"
    assert Names("d").alternative() is None


@pytest.mark.parametrize("good", ["a", "gw-01.local", "under_score.example", "*.hub.example", "x" * 63 + ".example"])
def test_dns_names(good: str) -> None:
    assert dns_fault(good) is None


NOT_DNS = ["", "192.0.2.1", "::1", "*.example", "*", "a.*.example", "f*.hub.example", "a..b", "a b", "-a", "a-", "ä"]
NOT_DNS += ["x" * 64, ".".join(["abcdefg"] * 33), "a.b.", "URI: azureiot://x", "a\n"]


@pytest.mark.parametrize("bad", NOT_DNS)
def test_not_dns_names(bad: str) -> None:
    assert dns_fault(bad) is not None
    with pytest.raises(UsageError) as caught:
        Names("x", dns=(bad,))
    assert caught.value.reason == "name-malformed"


def test_other_faults() -> None:
    for fields in ({"ips": ("gw",)}, {"ips": ("fe80::1%eth0",)}, {"uris": ("no-colon",)}, {"uris": ("https://ä/",)}):
        with pytest.raises(UsageError):
            Names("x", **fields)
    for too_long in (
        {"common_name": "x" * 65},
        {"common_name": "ä" * 33},
        {"common_name": "x", "organization": "x" * 65},
    ):
        with pytest.raises(UsageError) as caught:
            Names(**too_long)
        assert caught.value.reason == "common-name-too-long"
    assert as_ip("::ffff:192.0.2.1") is not None
