"""Words in query strings: numbers, bounded, and flags."""

from __future__ import annotations

import math

from aiohttp import web

from edgetrust.errors import PeerError
from edgetrust.limits import SCOPE_WAIT_SECONDS

_DIGITS = 18  # what fits into the store's integers


def number(request: web.Request, name: str, default: int, most: int) -> int:
    """A whole number from 0; larger ones count as `most`. Raises PeerError 400."""
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdecimal()) or len(text) > _DIGITS:
        raise PeerError(f"{name} must be a whole number", reason="argument-invalid", status=400)
    return min(int(text), most)


def flag(request: web.Request, name: str) -> bool:
    """`true` or `false`, in any case; false when it is not there. Raises PeerError 400."""
    text = request.query.get(name, "false").lower()
    if text not in ("true", "false"):
        raise PeerError(f"{name} must be true or false", reason="argument-invalid", status=400)
    return text == "true"


def wait_seconds(request: web.Request) -> float:
    """How long the answer may be held back; 0 when the caller did not say. Raises PeerError 400."""
    text = request.query.get("wait_seconds", "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise PeerError("wait_seconds must be a number of seconds", reason="argument-invalid", status=400)
    return min(seconds, SCOPE_WAIT_SECONDS)
