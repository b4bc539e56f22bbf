"""How the gateway's HTTPS interface answers: its errors as statuses, its refusals on record and without details.

It must not know routes nor what is asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from aiohttp import web

from edgetrust.broker.ports import Auditor
from edgetrust.errors import PeerError, UnavailableError
from edgetrust.trust.audit import record
from edgetrust.trust.verdict import Refused

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def said(status: int, text: str) -> web.Response:
    """An answer that is a sentence, as the hub gives it."""
    return web.json_response({"Message": text}, status=status)


def answering(handler: Handler, unavailable: int) -> Handler:
    """`handler`, with the status of its PeerError, and `unavailable` for an UnavailableError."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except PeerError as problem:
            return said(problem.status, problem.message)
        except UnavailableError as problem:
            return said(unavailable, problem.message)

    return answer


def refuse(refused: Refused, request: web.Request, auditor: Auditor, at: datetime) -> None:
    """Put on record that a request was refused."""
    place = f"{request.method} {request.path}"[:200]
    auditor.record(record(refused, at=at, place=place, peer=request.remote or ""))
