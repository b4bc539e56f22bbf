"""Names of devices and modules, and chains of them."""

from __future__ import annotations

import pytest

from edgetrust.limits import AUTH_CHAIN_DEPTH, IDENTIFIER_CHARACTERS
from edgetrust.protocol.iothub import (
    AuthChainError,
    client_id_for,
    format_auth_chain,
    mqtt_usable,
    parse_auth_chain,
    valid_identifier,
)


@pytest.mark.parametrize("text", ["d", "Edge-1", "$edgeHub", "a:b.c%d_e*f?g!h(i),j=k@l'm", "x" * IDENTIFIER_CHARACTERS])
def test_identifiers(text: str) -> None:
    assert valid_identifier(text)
    assert mqtt_usable(text)


@pytest.mark.parametrize("text", ["a+b", "#", "+"])
def test_identifiers_that_mqtt_cannot_use(text: str) -> None:
    assert valid_identifier(text)
    assert not mqtt_usable(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b",
        "a/b",
        "a;b",
        "a&b",
        'a"b',
        "a\n",
        "\n",
        "a\0",
        "é",
        "\uff41",
        "٣",
        "a~",
        "x" * (IDENTIFIER_CHARACTERS + 1),
    ],
)
def test_no_identifiers(text: str) -> None:
    assert not valid_identifier(text)
    assert not mqtt_usable(text)


def test_client_identifiers() -> None:
    assert client_id_for("d") == "d"
    assert client_id_for("d", "m") == "d/m"


@pytest.mark.parametrize("text", ["leaf", "leaf;child;edge", "child/$edgeHub;child;edge", ";".join("abcdef")])
def test_chains(text: str) -> None:
    assert parse_auth_chain(text) == tuple(text.split(";"))
    assert format_auth_chain(parse_auth_chain(text)) == text


@pytest.mark.parametrize(
    "text", ["", ";", "a;", ";a", "a;;b", "a/", "/a", "a/b/c", "a b", "a;b c", ";".join("x" * (AUTH_CHAIN_DEPTH + 1))]
)
def test_no_chains(text: str) -> None:
    with pytest.raises(AuthChainError) as caught:
        parse_auth_chain(text)
    assert caught.value.reason == "auth-chain-malformed"
