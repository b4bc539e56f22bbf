"""Pages that go on: an opaque word in the header `x-ms-continuation`, both ways (hub specification 6.4).

The word is where the page ended, in base64, so that pages neither overlap nor miss what was there all the time, and
the hub remembers nothing between them.
"""

from __future__ import annotations

import base64
import binascii

from aiohttp import web

from edgetrust.errors import PeerError
from edgetrust.limits import PAGE_ITEMS

CONTINUATION = "x-ms-continuation"
MAX_ITEMS = "x-ms-max-item-count"


def continuing(place: str) -> str:
    """The word that leads behind `place`."""
    return base64.urlsafe_b64encode(place.encode()).decode()


def continued(request: web.Request) -> str:
    """Where the page before ended, "" for the first one. Raises PeerError 400."""
    word = request.headers.get(CONTINUATION, "")
    try:
        place = base64.b64decode(word.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as problem:
        raise _not_ours() from problem
    if "\0" in place:
        raise _not_ours()
    return place


def page_size(request: web.Request, default: int) -> int:
    """How many items the caller wants at most; more than the most we give counts as that. Raises PeerError 400."""
    text = request.headers.get(MAX_ITEMS, "").strip()
    if not text or text == "-1":
        return default
    if not (text.isascii() and text.isdecimal()) or int(text[:9]) == 0:
        raise PeerError(f"{MAX_ITEMS} must be a whole number from 1", reason="argument-invalid", status=400)
    return min(int(text[:9]), PAGE_ITEMS)


def _not_ours() -> PeerError:
    return PeerError(f"{CONTINUATION} is none of ours", reason="argument-invalid", status=400)
