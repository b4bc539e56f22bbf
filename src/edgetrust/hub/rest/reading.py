"""JSON bodies of our own routes, read into what they must be."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from aiohttp import web

from edgetrust.errors import PeerError

T = TypeVar("T")


async def body_of(request: web.Request, kind: type[T]) -> T:
    """The body as a `kind`. Raises PeerError 400 for everything that is none."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise PeerError(f"the body cannot be read: {problem}", reason="body-malformed", status=400) from problem
