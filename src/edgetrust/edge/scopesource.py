"""What this gateway asks its hub about its scope, as its module `$edgeHub`.

The answers come as registrations, exactly as they will be decided on; what an answer means for the copy is `scope`'s
business. Sources: edge specification 6.5, hub specification 9.2 to 9.4.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509

from edgetrust.clock import Clock
from edgetrust.edge.hubapi import SCOPE_API, Answer, HubApi, hub_path
from edgetrust.edge.listing import Listing, read_listing
from edgetrust.errors import RefusedError, UnavailableError
from edgetrust.limits import EDGE_DEPTH, ON_DEMAND_SECONDS, SCOPE_PAGE, SCOPE_WAIT_SECONDS
from edgetrust.pki.chain import Chain, ChainError
from edgetrust.trust.authorize import EDGE_HUB
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Missing, MissingWhy, Registration

_OK, _UNAUTHORIZED = 200, 401
_NOT_ALLOWED = (401, 403)
_NOT_THERE = (400, 404)
_PAGES = 10_000  # an answer that never ends is a broken one


class OwnTokenRefusedError(RefusedError):
    """The hub does not accept this gateway's own token. That says nothing about the devices below it."""


class ScopeSource:
    """The hub, asked by `api` in the name of `device`'s module `$edgeHub`."""

    def __init__(self, hub: str, device: str, api: HubApi, clock: Clock) -> None:
        self._hub = hub
        self._device = device
        self._api = api
        self._clock = clock

    # Everything -----------------------------------------------------------------------------------------------------

    async def everything(self) -> list[Registration]:
        """All identities below this gateway, at any depth, and its own. Raises UnavailableError,
        OwnTokenRefusedError.
        """
        found: dict[Identity, Registration] = {}
        waiting: list[tuple[str, ...]] = [(self._device,)]
        while waiting:
            chain = waiting.pop()
            listing = await self._level(";".join(chain))
            for registration in listing.registrations:
                identity = registration.identity
                nested = registration.edge and identity.module is None and identity.device not in chain
                if nested and identity not in found and len(chain) < EDGE_DEPTH:
                    waiting.append((identity.device, *chain))
                found[identity] = registration
        return list(found.values())

    async def _level(self, auth_chain: str) -> Listing:
        registrations: list[Registration] = []
        continuation: str | None = None
        for _ in range(_PAGES):
            body: dict[str, Any] = {"pageSize": SCOPE_PAGE, "authChain": auth_chain}
            if continuation:
                body["continuationLink"] = continuation
            as_of = self._clock.now()
            answer = await self._post("devicesAndModulesInTargetDeviceScope", body)
            if answer.status != _OK:
                raise self._refused(answer, "the device scope")
            page = read_listing(answer.content, self._hub, as_of)
            registrations += page.registrations
            continuation = page.continuation
            if not continuation:
                break
        return Listing(tuple(registrations), None)

    # One ------------------------------------------------------------------------------------------------------------

    async def one(self, identity: Identity) -> tuple[Registration, ...] | Missing:
        """An identity (for a module: with its device), or why there is none. Raises as `everything`."""
        as_of = self._clock.now()
        body = {"targetDeviceId": identity.device, "targetModuleId": identity.module, "authChain": self._device}
        answer = await self._post("getDeviceAndModuleOnBehalfOf", body, ON_DEMAND_SECONDS)
        if answer.status == _UNAUTHORIZED:
            # It may have meant us, and have learnt of us meanwhile: then the answer counts that comes now.
            await self._insist_on_own_token()
            answer = await self._post("getDeviceAndModuleOnBehalfOf", body, ON_DEMAND_SECONDS)
        if answer.status == _OK:
            found = read_listing(answer.content, self._hub, as_of).registrations
            here = any(registration.identity == identity for registration in found)
            return found if here else Missing(MissingWhy.UNKNOWN, as_of)
        if answer.status in _NOT_ALLOWED:
            return Missing(MissingWhy.NOT_A_CHILD, as_of)
        if answer.status in _NOT_THERE:
            return Missing(MissingWhy.UNKNOWN, as_of)
        raise UnavailableError(f"the hub answers {answer.problem} about {identity}", reason="hub-answer-malformed")

    async def _insist_on_own_token(self) -> None:
        """A 401 may mean the asked device or ourselves; a question about ourselves tells which."""
        body = {"targetDeviceId": self._device, "targetModuleId": EDGE_HUB, "authChain": self._device}
        answer = await self._post("getDeviceAndModuleOnBehalfOf", body, ON_DEMAND_SECONDS)
        if answer.status in _NOT_ALLOWED:
            raise self._refused(answer, "its own registration")

    # The rest -------------------------------------------------------------------------------------------------------

    async def authorities(self) -> tuple[x509.Certificate, ...] | None:
        """The CA certificates that the hub has verified; None when this hub does not tell them."""
        answer = await self._api.call("GET", self._path("verifiedCertificates"), api_version=SCOPE_API)
        if answer.status != _OK:
            self._refuse_own_token(answer, "the verified CA certificates")
            return None
        body = answer.body
        listed = body.get("certificates") if isinstance(body, dict) else None
        try:
            return tuple(Chain.from_pem(pem).end_entity for pem in listed) if isinstance(listed, list) else None
        except (ChainError, AttributeError) as problem:
            message = f"the hub's list of CA certificates cannot be read: {problem}"
            raise UnavailableError(message, reason="hub-answer-malformed") from problem

    async def scope_version(self, after: int | None) -> int | None:
        """Which version of the scope the hub has; waits until it is another than `after`, for half a minute at most.

        None when this hub does not tell.
        """
        query = {} if after is None else {"after": str(after), "wait_seconds": str(SCOPE_WAIT_SECONDS)}
        answer = await self._api.call(
            "GET",
            self._path("scopeVersion"),
            api_version=SCOPE_API,
            query=query,
            timeout_seconds=SCOPE_WAIT_SECONDS + ON_DEMAND_SECONDS,
        )
        if answer.status != _OK:
            self._refuse_own_token(answer, "the version of its scope")
            return None
        body = answer.body
        version = body.get("version") if isinstance(body, dict) else None
        return version if isinstance(version, int) else None

    def _refuse_own_token(self, answer: Answer, what: str) -> None:
        if answer.status in _NOT_ALLOWED:
            raise self._refused(answer, what)

    async def _post(self, operation: str, body: dict[str, Any], timeout_seconds: float | None = None) -> Answer:
        path = self._path(operation)
        if timeout_seconds is None:
            return await self._api.call("POST", path, api_version=SCOPE_API, body=body)
        return await self._api.call("POST", path, api_version=SCOPE_API, body=body, timeout_seconds=timeout_seconds)

    def _path(self, operation: str) -> str:
        return hub_path("devices", self._device, "modules", EDGE_HUB, operation)

    def _refused(self, answer: Answer, what: str) -> OwnTokenRefusedError:
        return OwnTokenRefusedError(
            f"the hub refuses {self._device}/{EDGE_HUB} {what}: {answer.problem}",
            reason="gateway-refused",
            fix=f"see that the edge device {self._device!r} exists at the hub and is enabled",
        )
