"""A subject of NATS JetStream: an event is delivered when a stream has stored it.

Each event carries `Nats-Msg-Id`, so that a stream drops what is delivered again within its window. Placeholders in the
subject are filled from the event; what would split or widen a subject is percent-encoded. Imported only when it is
configured: nats-py is an extra.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client

from edgetrust.errors import UnavailableError
from edgetrust.hub.event_entry import event_entry
from edgetrust.limits import ROUTE_TIMEOUT_SECONDS
from edgetrust.store.events import StoredMessage


@dataclass(frozen=True, slots=True)
class NatsPlace:
    """Where to publish. `tls` None is for this machine only; `credentials` is a NATS credentials file."""

    servers: tuple[str, ...]
    subject: str
    stream: str | None
    tls: ssl.SSLContext | None
    credentials: Path | None


class NatsEndpoint:
    """Publishes to a subject; `hub` makes the identifiers of messages."""

    def __init__(self, hub: str, place: NatsPlace, *, lanes: int = 16) -> None:
        self.lanes = lanes
        self._hub = hub
        self._place = place
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._heard: Exception | None = None

    async def deliver(self, events: Sequence[StoredMessage]) -> None:
        """UnavailableError `endpoint-nats` unless a stream has stored each."""
        try:
            client = await self._connected()
            for stored in events:
                await self._publish(client, stored)
        except (TimeoutError, nats.errors.Error, OSError) as problem:
            cause = self._heard if isinstance(problem, nats.errors.NoServersError) and self._heard else problem
            raise UnavailableError(
                f"NATS did not take the event for {self._place.subject}: {str(cause) or type(cause).__name__}",
                reason="endpoint-nats",
                fix="see that the server runs with JetStream, and that a stream takes this subject",
            ) from problem

    async def close(self) -> None:
        """End the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _connected(self) -> Client:
        async with self._connecting:
            if self._client is None or self._client.is_closed:
                options: dict[str, Any] = {"tls": self._place.tls} if self._place.tls is not None else {}
                if self._place.credentials is not None:
                    options["user_credentials"] = str(self._place.credentials)
                self._client = await nats.connect(
                    servers=list(self._place.servers),
                    connect_timeout=ROUTE_TIMEOUT_SECONDS,
                    allow_reconnect=False,  # the route tries again, and says so
                    max_reconnect_attempts=1,  # without a bound, connecting would never come back
                    reconnect_time_wait=0,
                    error_cb=self._hear,
                    **options,
                )
            return self._client

    async def _hear(self, problem: Exception) -> None:
        """The client says only later, and in other words, that it cannot connect."""
        self._heard = problem

    async def _publish(self, client: Client, stored: StoredMessage) -> None:
        message = stored.message
        subject = self._place.subject.format(
            hub=_token(self._hub), device=_token(message.device), module=_token(message.module or "-")
        )
        await client.jetstream().publish(
            subject,
            msgspec.json.encode(event_entry(stored)),
            timeout=ROUTE_TIMEOUT_SECONDS,
            stream=self._place.stream,
            headers={"Nats-Msg-Id": f"{self._hub}:{stored.offset}"},
        )


def _token(text: str) -> str:
    """`text` as one token of a subject."""
    return quote(text, safe="").replace(".", "%2E")
