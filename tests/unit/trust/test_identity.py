"""Names: parsing refuses and never repairs."""

from __future__ import annotations

import pytest

from edgetrust.trust.identity import Identity, IdentityError

HUB = "hub.example"


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("d1", Identity(HUB, "d1")),
        ("D1", Identity(HUB, "D1")),
        ("d1/$edgeHub", Identity(HUB, "d1", "$edgeHub")),
        ("a-:.+%_#*?!(),=@$'", Identity(HUB, "a-:.+%_#*?!(),=@$'")),
        ("x" * 128, Identity(HUB, "x" * 128)),
    ],
)
def test_parsed(text: str, identity: Identity) -> None:
    assert Identity.parse(HUB, text) == identity
    assert str(identity) == text


@pytest.mark.parametrize(
    "text", ["", "/", "d1/", "/m1", "d1/m1/x", " d1", "d1\n", "dé", "d\0", "x" * 129, "a;b", 'a"b']
)
def test_refused(text: str) -> None:
    with pytest.raises(IdentityError) as caught:
        Identity.parse(HUB, text)
    assert (caught.value.reason, caught.value.status) == ("identifier-malformed", 400)


def test_of_device() -> None:
    device = Identity(HUB, "d1")
    assert device.of_device is device
    assert Identity(HUB, "d1", "m1").of_device == device


def test_names_of_two_hubs_are_two_names() -> None:
    assert Identity("a", "d1") != Identity("b", "d1")
