"""Explain: what the hub would decide about a credential now, with all checks and the fix.

The decision is the one that a connection gets, against what is registered at this moment; it has no effect and is not
on record. Whether the peer holds the private key of a certificate is not tested: TLS does that. Only a service may ask:
a stranger would learn what fits.
"""

from __future__ import annotations

from typing import Any, assert_never

import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust.errors import PeerError
from edgetrust.hub.rest.answers import json_value
from edgetrust.hub.rest.parts import PARTS
from edgetrust.hub.rest.reading import body_of
from edgetrust.pki.chain import Chain, ChainError
from edgetrust.protocol.iothub import valid_identifier
from edgetrust.trust.audit import record, refusal_entry
from edgetrust.trust.credential import credential_from
from edgetrust.trust.explain import explain
from edgetrust.trust.policies import Right
from edgetrust.trust.verdict import Accepted, Refused, Verdict

routes = web.RouteTableDef()


class _Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    device: str
    module: str | None = None
    token: str | None = None
    certificates: str | None = None


@routes.post("/edgetrust/explain")
async def explain_credential(request: web.Request) -> web.Response:
    """What would be decided about `token` or `certificates` (PEM, the end entity first) for `device`, `module`."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.SERVICE_CONNECT)
    asked = await body_of(request, _Question)
    for name in (asked.device, asked.module):
        if name is not None and not valid_identifier(name):
            raise PeerError(f"{name[:140]!r} names no identity", reason="argument-invalid", status=400)
    credential = credential_from(asked.token, _der(asked.certificates))
    verdict = await parts.access.decide(credential, asked.device, asked.module)
    entry = refusal_entry(record(verdict, at=parts.clock.now(), place="explain", peer=request.remote or ""))
    return json_value({**entry, **_outcome(verdict)})


def _der(pem: str | None) -> tuple[bytes, ...]:
    if not pem:
        return ()
    try:
        chain = Chain.from_pem(pem)
    except ChainError as problem:
        raise PeerError(f"certificates: {problem}", reason="argument-invalid", status=400) from problem
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in chain.certificates)


def _outcome(verdict: Verdict) -> dict[str, Any]:
    match verdict:
        case Accepted():
            until = verdict.valid_until
            return {"accepted": True, "validUntil": None if until is None else until.isoformat(timespec="seconds")}
        case Refused():
            known = explain(verdict.reason)
            return {"accepted": False, "means": known.text, "confirm": known.confirm, "fix": known.fix}
        case _:
            assert_never(verdict)
