"""What the names in a routing query mean for one message.

    $body.a.b, $body.list[0]       the body as JSON
    $contentType, $messageId...    system properties, stamps of the hub, and `$`-names as they stand in the bag
    anything else                  application properties; exact name first, then without regard to case

The body is read as JSON when the content type says so or nothing, and the encoding is UTF-8 or not said; otherwise
`$body` is undefined. Azure insists on both being said.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import msgspec

from edgetrust.protocol.iothub.properties import parse_properties
from edgetrust.protocol.messages import Message
from edgetrust.protocol.values import UNDEFINED, Path, member

_SYSTEM: Mapping[str, str] = MappingProxyType(
    {
        "$messageid": "$.mid",
        "$correlationid": "$.cid",
        "$userid": "$.uid",
        "$to": "$.to",
        "$expirytime": "$.exp",
        "$contenttype": "$.ct",
        "$contentencoding": "$.ce",
        "$outputname": "$.on",
        "$interfaceid": "$.ifid",
        "$dt-subject": "$.sub",
        "$dt-dataschema": "$.schema",
        "$schema": "$.schema",
        "$creationtime": "$.ctime",
    }
)
_STAMPS = ("$connectionDeviceId", "$connectionModuleId", "$messageSource", "$enqueuedTime", "$body")
_UNREAD: Any = object()


def system_names() -> tuple[str, ...]:
    """The names with a meaning of their own; they compare without case."""
    return (*_STAMPS, *_SYSTEM)


def is_system_name(name: str) -> bool:
    """Whether a `$`-name means something for every message, or stands in its bag as it is."""
    return name.startswith("$.") or name.lower() in {one.lower() for one in system_names()}


class MessageQuery:
    """Resolves the paths of an expression for one message; the body is read when it is first asked for."""

    __slots__ = ("_body", "_folded", "_message", "_properties")

    def __init__(self, message: Message) -> None:
        self._message = message
        self._properties: dict[str, str | None] | None = None
        self._folded: dict[str, str | None] = {}
        self._body: Any = _UNREAD

    def __call__(self, path: Path) -> Any:
        """The value at `path`."""
        name = str(path[0])
        if name.lower() == "$body":
            return member(self._json(), path[1:])
        value = self._system(name.lower()) if name.startswith("$") else self._property(name)
        return value if len(path) == 1 else UNDEFINED

    def _system(self, name: str) -> Any:
        message = self._message
        match name:
            case "$connectiondeviceid":
                return message.device
            case "$connectionmoduleid":
                return UNDEFINED if message.module is None else message.module
            case "$messagesource":
                return message.message_source
            case "$enqueuedtime":
                return datetime.fromtimestamp(message.enqueued_ms / 1000, UTC).isoformat(timespec="milliseconds")
            case _:
                return self._property(_SYSTEM.get(name, name))

    def _property(self, name: str) -> Any:
        if self._properties is None:
            self._properties = parse_properties(self._message.properties)
            self._folded = {one.lower(): value for one, value in self._properties.items()}
        if name in self._properties:
            return self._properties[name]
        return self._folded.get(name.lower(), UNDEFINED)

    def _json(self) -> Any:
        if self._body is _UNREAD:
            self._body = self._read() if self._is_json() else UNDEFINED
        return self._body

    def _is_json(self) -> bool:
        kind, encoding = self._said("$.ct").partition(";")[0].strip(), self._said("$.ce")
        return kind in ("", "application/json") and encoding in ("", "utf-8", "utf8")

    def _said(self, name: str) -> str:
        value = self._property(name)
        return value.lower() if isinstance(value, str) else ""

    def _read(self) -> Any:
        try:
            return msgspec.json.decode(self._message.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return UNDEFINED
