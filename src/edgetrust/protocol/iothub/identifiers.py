"""Names of devices and modules, alone and in chains (hub specification 1.1 and 9.4).

1 to 128 ASCII letters, digits and `- : . + % _ # * ? ! ( ) , = @ $ '`. Letter case counts. Over MQTT `+` and `#` cannot
be used: they are wildcards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgetrust.errors import PeerError
from edgetrust.limits import AUTH_CHAIN_DEPTH, IDENTIFIER_CHARACTERS

_IDENTIFIER = re.compile(rf"[A-Za-z0-9\-:.+%_#*?!(),=@$']{{1,{IDENTIFIER_CHARACTERS}}}")


class AuthChainError(PeerError):
    """A text that is no chain of identities."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="auth-chain-malformed", status=400)


def valid_identifier(text: str) -> bool:
    """Whether `text` can name a device or a module."""
    return _IDENTIFIER.fullmatch(text) is not None


def mqtt_usable(text: str) -> bool:
    """Whether `text` can name a device or a module that connects by MQTT."""
    return valid_identifier(text) and "+" not in text and "#" not in text


def client_id_for(device: str, module: str | None = None) -> str:
    """The MQTT client identifier: `device` or `device/module`."""
    return device if module is None else f"{device}/{module}"


def parse_auth_chain(text: str) -> tuple[str, ...]:
    """Read `target;parent;...;actor`, each `device` or `device/module`. Raises AuthChainError."""
    elements = tuple(text.split(";"))
    if len(elements) > AUTH_CHAIN_DEPTH:
        raise AuthChainError(f"an auth-chain of {len(elements)} identities, at most {AUTH_CHAIN_DEPTH} are accepted")
    for element in elements:
        device, slash, module = element.partition("/")
        if not valid_identifier(device) or (slash and not valid_identifier(module)):
            raise AuthChainError(f"{element[:140]!r} in an auth-chain names no device or module")
    return elements


def format_auth_chain(elements: Sequence[str]) -> str:
    """The text of a chain, target first."""
    return ";".join(elements)
