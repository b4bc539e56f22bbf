"""The property bag: message properties in a topic or a query (hub specification 3.8).

`name=value` pairs joined by `&`, both sides percent-encoded (`+` is a plus). A name without `=` has no value, `name=`
has the empty one. The last of several equal names counts. Every text is a bag: what is not a valid escape stays as it
is, what is not UTF-8 becomes U+FFFD.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote


def parse_properties(text: str) -> dict[str, str | None]:
    """The properties in `text`, in order. Never fails."""
    properties: dict[str, str | None] = {}
    for pair in text.split("&"):
        if pair:
            name, equals, value = pair.partition("=")
            properties[unquote(name)] = unquote(value) if equals else None
    return properties


def format_properties(properties: Mapping[str, str | None]) -> str:
    """The bag of `properties`, everything encoded but letters, digits and `-._~`."""
    return "&".join(_pair(name, value) for name, value in properties.items())


def add_property(text: str, name: str, value: str) -> str:
    """The bag `text` with one more property; it counts instead of an earlier one of the same name."""
    return f"{text}&{_pair(name, value)}" if text else _pair(name, value)


def _pair(name: str, value: str | None) -> str:
    encoded = quote(name, safe="")
    return encoded if value is None else f"{encoded}={quote(value, safe='')}"
