"""A web service that takes events by POST, over HTTPS that is verified.

One event per request, as JSON; any status below 300 is its receipt. The header `Idempotency-Key` is the same whenever
the same event is delivered again. Redirects are not followed: the address that was configured is what is verified.
"""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp
import msgspec

from edgetrust.errors import UnavailableError
from edgetrust.hub.event_entry import event_entry
from edgetrust.limits import ROUTE_TIMEOUT_SECONDS
from edgetrust.pki.chain import TrustBundle
from edgetrust.pki.keys import SecretText
from edgetrust.store.events import StoredMessage
from edgetrust.transport.http import https_session

_RECEIVED_BELOW = 300


class WebhookEndpoint:
    """POSTs to `url`. `authorization` is that header's value; `bundle` verifies the server, None: the system's."""

    def __init__(
        self,
        hub: str,
        url: str,
        *,
        bundle: TrustBundle | None = None,
        authorization: SecretText | None = None,
        lanes: int = 4,
    ) -> None:
        self.lanes = lanes
        self._hub = hub
        self._url = url
        self._bundle = bundle
        self._authorization = authorization
        self._session: aiohttp.ClientSession | None = None

    async def deliver(self, events: Sequence[StoredMessage]) -> None:
        """UnavailableError `endpoint-webhook` unless each is received."""
        for stored in events:
            await self._post(stored)

    async def close(self) -> None:
        """End the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _post(self, stored: StoredMessage) -> None:
        if self._session is None:
            self._session = https_session(self._bundle, timeout=ROUTE_TIMEOUT_SECONDS)
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"{self._hub}:{stored.offset}"}
        if self._authorization is not None:
            headers["Authorization"] = self._authorization.reveal()
        body = msgspec.json.encode(event_entry(stored))
        try:
            try:
                status = await self._status(self._session, body, headers)
            except aiohttp.ServerDisconnectedError:  # it had closed an idle connection, which is no failure
                status = await self._status(self._session, body, headers)
        except (TimeoutError, aiohttp.ClientError, OSError) as problem:
            raise self._unavailable(str(problem) or type(problem).__name__) from problem
        if status >= _RECEIVED_BELOW:
            raise self._unavailable(f"it answered {status}")

    async def _status(self, session: aiohttp.ClientSession, body: bytes, headers: dict[str, str]) -> int:
        async with session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
            return answer.status

    def _unavailable(self, problem: str) -> UnavailableError:
        return UnavailableError(
            f"{self._url} did not take the event: {problem}",
            reason="endpoint-webhook",
            fix="see that the service runs, that its certificate is for this name and from a CA named in `ca`",
        )
