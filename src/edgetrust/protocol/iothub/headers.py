"""Message properties as HTTP headers, and back (hub specification 7.1 and 7.2).

Names of headers compare without case; application properties are `iothub-app-NAME`, the case of NAME as sent. Values
are taken as they are. Towards a device, what a header cannot carry (control characters, anything but ASCII) is
percent-encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from urllib.parse import quote

APPLICATION = "iothub-app-"

SYSTEM_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "iothub-messageid": "$.mid",
        "iothub-correlationid": "$.cid",
        "iothub-userid": "$.uid",
        "iothub-to": "$.to",
        "iothub-expiry": "$.exp",
        "iothub-contenttype": "$.ct",
        "iothub-contentencoding": "$.ce",
        "iothub-interface-id": "$.ifid",
        "dt-subject": "$.sub",
        "iothub-ack": "iothub-ack",
    }
)
_HEADERS = {name: header for header, name in SYSTEM_HEADERS.items()}
_SAFE = "".join(chr(code) for code in range(0x20, 0x7F))  # what the value of a header may hold


def properties_from(headers: Iterable[tuple[str, str]]) -> dict[str, str | None]:
    """The properties of a message that came with these headers; all others are ignored."""
    properties: dict[str, str | None] = {}
    for header, value in headers:
        name = header.lower()
        if name in SYSTEM_HEADERS:
            properties[SYSTEM_HEADERS[name]] = value
        elif name.startswith(APPLICATION):
            properties[header[len(APPLICATION) :]] = value
    return properties


def headers_from(properties: Mapping[str, str | None]) -> dict[str, str]:
    """The headers that carry `properties`. Names that are no token of HTTP are percent-encoded too."""
    headers: dict[str, str] = {}
    for name, value in properties.items():
        header = _HEADERS.get(name)
        if header is None:
            header = APPLICATION + quote(name, safe="!#$&'*+^`|")
        headers[header] = quote(value or "", safe=_SAFE).strip()
    return headers
