"""Who asks a gateway by HTTPS: each request is decided on like a connection.

Rule (edge specification 6.4): a refusal by the copy is decided again when the hub could be asked about this identity,
since the copy may be behind. What the hub cannot mend is refused at once. It must not know what is asked for.
"""

from __future__ import annotations

from typing import assert_never

from aiohttp import web

from edgetrust.broker.ports import Auditor
from edgetrust.clock import Clock
from edgetrust.edge.answering import refuse
from edgetrust.edge.door import MAY_BE_STALE
from edgetrust.edge.scope import ScopeRegistry
from edgetrust.errors import PeerError, UnavailableError
from edgetrust.transport.http import peer_chain
from edgetrust.trust.authenticate import Policy, authenticate
from edgetrust.trust.credential import credential_from
from edgetrust.trust.identity import Identity
from edgetrust.trust.verdict import Accepted, Reason, Refused, Verdict


class Callers:
    """Admits or refuses who asks."""

    def __init__(self, registry: ScopeRegistry, policy: Policy, auditor: Auditor, clock: Clock) -> None:
        self._registry = registry
        self._policy = policy
        self._auditor = auditor
        self._clock = clock

    def decide_by(self, policy: Policy) -> None:
        """Decide by another policy from now on."""
        self._policy = policy

    async def admit(self, request: web.Request, claim: Identity) -> Accepted:
        """Who asks, if that is `claim`. Else it is put on record first; PeerError 401, or UnavailableError when nobody
        knows: that is no refusal.
        """
        verdict = await self._verdict(request, claim)
        if isinstance(verdict, Refused) and verdict.reason in MAY_BE_STALE and await self._registry.refresh(claim):
            verdict = await self._verdict(request, claim)
        match verdict:
            case Accepted():
                return verdict
            case Refused():
                refuse(verdict, request, self._auditor, self._clock.now())
                if verdict.reason is Reason.REGISTRY_UNAVAILABLE:
                    raise UnavailableError("this gateway cannot tell now who that is", reason=verdict.reason.value)
                raise PeerError("the credential is not accepted for this request", reason="unauthorized", status=401)
            case _:
                assert_never(verdict)

    async def _verdict(self, request: web.Request, claim: Identity) -> Verdict:
        credential = credential_from(request.headers.get("Authorization"), peer_chain(request))
        found = await self._registry.find(claim)
        return authenticate(claim, credential, found, self._registry.bundle(), self._clock.now(), self._policy)
