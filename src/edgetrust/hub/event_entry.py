"""A stored event as JSON, the same for readers of the log and for the endpoints of routes."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

from edgetrust.protocol.iothub import parse_properties
from edgetrust.store.events import StoredMessage


def event_entry(stored: StoredMessage) -> dict[str, Any]:
    """`offset`, sender, time, properties, and the body: base64, and as text when it is UTF-8."""
    message = stored.message
    bag = parse_properties(message.properties)
    return {
        "offset": stored.offset,
        "device": message.device,
        "module": message.module,
        "enqueuedAt": datetime.fromtimestamp(message.enqueued_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "properties": {name: value for name, value in bag.items() if not name.startswith("$.")},
        "systemProperties": {name: value for name, value in bag.items() if name.startswith("$.")},
        "authMethod": message.auth_method,
        "messageSource": message.message_source,
        "body": base64.b64encode(message.body).decode(),
        "bodyText": _text(message.body),
    }


def _text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
