"""Who asks, and may they? For every request the same decision as for a connection, made before anything is read.

Rules: a token that names a shared access policy is a service's and is judged by the right the route needs; anything
else is a device's or module's and is judged against its registration. What is refused is recorded with all its checks
and answered 401 with no more than the cloud service says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from aiohttp import web

from edgetrust.broker.ports import Auditor
from edgetrust.clock import Clock
from edgetrust.errors import PeerError
from edgetrust.hub.registry import HubRegistry
from edgetrust.transport.http import peer_chain
from edgetrust.trust.audit import record
from edgetrust.trust.authenticate import Policy, authenticate
from edgetrust.trust.authorize import EDGE_HUB
from edgetrust.trust.credential import Credential, SasToken, credential_from
from edgetrust.trust.identity import Identity
from edgetrust.trust.policies import Right, SharedAccessPolicy, authenticate_service
from edgetrust.trust.verdict import Accepted, Check, Reason, Refused, Verdict


class UnauthorizedError(PeerError):
    """The request is refused; its reason is on record and not in the answer."""

    def __init__(self) -> None:
        super().__init__("the credential is not accepted for this request", reason="unauthorized", status=401)


class Access:
    """Decides who may use a route."""

    def __init__(
        self,
        hub: str,
        registry: HubRegistry,
        policies: Mapping[str, SharedAccessPolicy[Right]],
        policy: Policy,
        auditor: Auditor,
        clock: Clock,
    ) -> None:
        self._hub = hub
        self._registry = registry
        self._policies = policies
        self._policy = policy
        self._auditor = auditor
        self._clock = clock

    async def service(self, request: web.Request, *rights: Right) -> Accepted:
        """The request must carry a policy's token with one of `rights`. Raises UnauthorizedError."""
        return self._settle(request, self._service(_credential(request), *map(_alone, rights)))

    async def owner(self, request: web.Request) -> Accepted:
        """The request must carry a token of a policy with every right: it may give them. Raises UnauthorizedError."""
        return self._settle(request, self._service(_credential(request), frozenset(Right)))

    async def identity(self, request: web.Request, device: str, module: str | None = None) -> Accepted:
        """The request must come from this device or module itself. Raises UnauthorizedError."""
        return self._settle(request, await self._identity(_credential(request), device, module))

    async def service_or_device(self, request: web.Request, right: Right, device: str) -> Accepted:
        """A service with `right`, or the device itself (the edge runtime manages its own modules)."""
        credential = _credential(request)
        if isinstance(credential, SasToken) and credential.policy:
            return self._settle(request, self._service(credential, _alone(right)))
        return self._settle(request, await self._identity(credential, device, None))

    def beyond(self, request: web.Request, gateway: str, reason: Reason, detail: str) -> None:
        """Put on record that the `$edgeHub` of `gateway`, which was accepted, asked for what is not its business."""
        actor = Identity(self._hub, gateway, EDGE_HUB)
        self._record(request, Refused(actor, reason, (Check("auth-chain", False, detail),)))

    async def decide(self, credential: Credential, device: str, module: str | None) -> Verdict:
        """What would be decided about this credential for this identity now. Nothing is recorded."""
        return await self._identity(credential, device, module)

    def _service(self, credential: Credential, *needed: frozenset[Right]) -> Verdict:
        return authenticate_service(credential, self._policies, needed, self._clock.now(), self._policy)

    async def _identity(self, credential: Credential, device: str, module: str | None) -> Verdict:
        claim = Identity(self._hub, device, module)
        found = await self._registry.find(claim)
        return authenticate(claim, credential, found, self._registry.bundle(), self._clock.now(), self._policy)

    def _settle(self, request: web.Request, verdict: Verdict) -> Accepted:
        match verdict:
            case Accepted():
                return verdict
            case Refused():
                self._record(request, verdict)
                raise UnauthorizedError
            case _:
                assert_never(verdict)

    def _record(self, request: web.Request, refused: Refused) -> None:
        place = f"{request.method} {request.path}"[:200]
        self._auditor.record(record(refused, at=self._clock.now(), place=place, peer=request.remote or "", claimed=""))


def _alone(right: Right) -> frozenset[Right]:
    return frozenset({right})


def _credential(request: web.Request) -> Credential:
    return credential_from(request.headers.get("Authorization"), peer_chain(request))
