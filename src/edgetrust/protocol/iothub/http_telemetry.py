"""Telemetry in the body of a request: one message with its properties as headers, or a batch as JSON (hub specification
7.1). Pure; who sent it was decided before.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Final

import msgspec

from edgetrust.errors import PeerError
from edgetrust.limits import BATCH_MESSAGES, MESSAGE_BYTES
from edgetrust.protocol.iothub.headers import properties_from
from edgetrust.protocol.iothub.properties import format_properties

BATCH: Final = "application/vnd.microsoft.iothub.json"


class _BatchEntry(msgspec.Struct, frozen=True):
    body: str
    properties: dict[str, str | None] = {}
    base64_encoded: bool = msgspec.field(default=True, name="base64Encoded")


def read_telemetry(content_type: str, headers: Iterable[tuple[str, str]], body: bytes) -> list[tuple[str, bytes]]:
    """Property bag and body of each message. Raises PeerError 400, and 413 for too much at once."""
    if content_type == BATCH:
        entries = [_entry(entry) for entry in _batch(body)]
        if not 0 < len(entries) <= BATCH_MESSAGES:
            detail = f"a batch holds 1 to {BATCH_MESSAGES} messages"
            raise PeerError(detail, reason="argument-invalid", status=400)
    else:
        entries = [(format_properties(properties_from(headers)), body)]
    if sum(len(properties) + len(content) for properties, content in entries) > MESSAGE_BYTES:
        detail = f"a message or batch has at most {MESSAGE_BYTES} bytes, properties included"
        raise PeerError(detail, reason="message-too-large", status=413)
    return entries


def _batch(body: bytes) -> list[_BatchEntry]:
    try:
        return msgspec.json.decode(body, type=list[_BatchEntry])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise PeerError(f"the body cannot be read: {problem}", reason="body-malformed", status=400) from problem


def _entry(entry: _BatchEntry) -> tuple[str, bytes]:
    properties = {**_plain(entry.properties), **properties_from(_texts(entry.properties))}
    return format_properties(properties), _body(entry)


def _plain(properties: dict[str, str | None]) -> dict[str, str | None]:
    """Those that are not named like headers: they are application properties as they stand."""
    return {name: value for name, value in properties.items() if not properties_from([(name, "")])}


def _texts(properties: dict[str, str | None]) -> list[tuple[str, str]]:
    return [(name, value or "") for name, value in properties.items()]


def _body(entry: _BatchEntry) -> bytes:
    if not entry.base64_encoded:
        return entry.body.encode()
    try:
        return base64.b64decode(entry.body, validate=True)
    except (binascii.Error, ValueError) as problem:
        detail = "the body of a message in a batch is no base64"
        raise PeerError(detail, reason="body-malformed", status=400) from problem
