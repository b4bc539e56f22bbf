"""The hub's own log: one line per event, for trying out a route and for hosts whose logs are collected."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from edgetrust.hub.event_entry import event_entry
from edgetrust.store.events import StoredMessage
from edgetrust.telemetry import EVENT_ROUTED

_log = structlog.get_logger()


class LogEndpoint:
    """`name` is the endpoint's."""

    lanes = 1

    def __init__(self, name: str) -> None:
        self._name = name

    async def deliver(self, events: Sequence[StoredMessage]) -> None:
        """Write a line for each."""
        for stored in events:
            entry = event_entry(stored)
            shown = {key: entry[key] for key in ("offset", "device", "module", "properties", "bodyText")}
            _log.info(EVENT_ROUTED, endpoint=self._name, **shown)

    async def close(self) -> None:
        """Nothing is held."""
