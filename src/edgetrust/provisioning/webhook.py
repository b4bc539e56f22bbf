"""Custom allocation: the operator's webhook chooses the hub (hub specification 14.7).

Rules: it is asked by HTTPS, or by HTTP on this machine only, with the enrollment, what is known of the device, and the
hubs to choose from; no key is sent. An answer of 429 or more is asked for again, a few times, with a growing pause;
what it names must be a hub that is linked and allowed. Its own failures become the numbers that devices know: 400207
to 400209.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from edgetrust.limits import ALLOCATION_PAUSE_SECONDS, ALLOCATION_SECONDS, ALLOCATION_TRIES, DPS_PAYLOAD_BYTES
from edgetrust.protocol.dps.enrollments import InitialTwin
from edgetrust.protocol.dps.errors import ALLOCATION_FAILED, ALLOCATION_UNAUTHORIZED, ALLOCATION_WITHOUT_HUB, DpsError
from edgetrust.transport.http import https_session

_OK, _REDIRECT, _RETRY, _UNAUTHORIZED = 200, 300, 429, (401, 403)
_HERE = ("localhost", "127.0.0.1", "::1")


class _Body(msgspec.Struct, frozen=True, rename="camel"):
    iot_hub_host_name: str | None = None
    initial_twin: InitialTwin | None = None
    payload: Any = None


@dataclass(frozen=True, slots=True)
class Allocated:
    """What the webhook chose. `payload` goes to the device; `twin` replaces the enrollment's."""

    hub: str
    twin: InitialTwin | None = None
    payload: Any = None


class Webhooks:
    """Asks webhooks; one session for all."""

    def __init__(self, pause: float = ALLOCATION_PAUSE_SECONDS) -> None:
        self._pause = pause
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, url: str, question: dict[str, Any]) -> Allocated:
        """DpsError 400207 to 400209."""
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _HERE):
            raise _failed("the webhook's address must be https://")
        if self._session is None:
            self._session = https_session(None, timeout=ALLOCATION_SECONDS)
        status = 0
        for attempt in range(ALLOCATION_TRIES):
            if attempt:
                await asyncio.sleep(self._pause * attempt)
            status, content = await self._post(self._session, url, question)
            if status < _RETRY:
                return _allocated(status, content)
        raise _failed(f"the webhook answered {status} at {ALLOCATION_TRIES} attempts")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _post(self, session: aiohttp.ClientSession, url: str, question: dict[str, Any]) -> tuple[int, bytes]:
        try:
            async with session.post(url, json=question, allow_redirects=False) as answer:
                return answer.status, await answer.content.read(DPS_PAYLOAD_BYTES)
        except (aiohttp.ClientError, TimeoutError, ValueError) as problem:
            return 599, str(problem).encode()  # as good as a server that fails: another attempt


def _allocated(status: int, content: bytes) -> Allocated:
    if status in _UNAUTHORIZED:
        raise DpsError(
            ALLOCATION_UNAUTHORIZED, f"the webhook refused this service ({status})", reason="allocation-unauthorized"
        )
    if not _OK <= status < _REDIRECT:
        raise _failed(f"the webhook answered {status}")
    try:
        body = msgspec.json.decode(content, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise _failed(f"the webhook's answer cannot be read: {problem}") from problem
    if not body.iot_hub_host_name:
        raise DpsError(ALLOCATION_WITHOUT_HUB, "the webhook named no hub", reason="allocation-without-hub")
    return Allocated(body.iot_hub_host_name, body.initial_twin, body.payload)


def _failed(why: str) -> DpsError:
    return DpsError(ALLOCATION_FAILED, why, reason="allocation-failed", fix="look at the webhook's own log")
