"""The direct methods of the gateway itself, those of its module `$edgeHub` (edge specification 6.5):

    RefreshDeviceScopeIdentityCache {"deviceIds": [...]}   200 when the copy of the scope is as new as the call
    ping                                                   200

Rules: other methods are answered 404, a payload without identifiers 400, and 503 when the hub did not say what it has.
The whole copy is made new, whoever is named: that is one question to the hub, and it tells of those who are gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from edgetrust.errors import RefusedError, UnavailableError
from edgetrust.protocol.methods import MethodAnswer

_OK: Final = 200
_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404
_TRY_LATER: Final = 503


class _Refresh(msgspec.Struct, rename="camel"):
    device_ids: list[str]


async def answer(method: str, payload: bytes, synchronise: Callable[[], Awaitable[None]]) -> MethodAnswer:
    """What the caller is told; never raises the hub's errors. `synchronise` makes the copy of the scope new."""
    match method.lower():
        case "ping":
            return MethodAnswer(_OK, b"null")
        case "refreshdevicescopeidentitycache":
            return await _refresh(payload, synchronise)
        case _:
            detail = "there are RefreshDeviceScopeIdentityCache and ping"
            return _failed(_NOT_FOUND, f"there is no method {method[:80]!r}: {detail}")


async def _refresh(payload: bytes, synchronise: Callable[[], Awaitable[None]]) -> MethodAnswer:
    try:
        msgspec.json.decode(payload, type=_Refresh)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _failed(_BAD_REQUEST, 'the payload has to be like {"deviceIds": ["TempSensor"]}')
    try:
        await synchronise()
    except (UnavailableError, RefusedError) as problem:
        return _failed(_TRY_LATER, problem.message)
    return MethodAnswer(_OK, b"null")


def _failed(status: int, message: str) -> MethodAnswer:
    return MethodAnswer(status, msgspec.json.encode({"message": message}))
