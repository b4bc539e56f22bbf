"""The gateway's door: the broker's, which asks the hub once more before a refusal that its copy may be to blame for.

Rule (edge specification 6.4): a refusal by the copy is decided again when the hub could be asked about this identity;
how often it is asked is the registry's business. What the hub cannot mend (no credential, an expired or unreadable
one) is refused at once.
"""

from __future__ import annotations

from edgetrust.broker.claim import Claim, House
from edgetrust.broker.door import Door
from edgetrust.broker.ports import Auditor, Stream
from edgetrust.broker.session import Surroundings
from edgetrust.edge.scope import ScopeRegistry
from edgetrust.protocol.sas import SasToken
from edgetrust.trust.authenticate import Policy
from edgetrust.trust.verdict import Reason, Refused, Verdict

MAY_BE_STALE = frozenset(
    {
        Reason.REGISTRATION_STALE,
        Reason.DISABLED,
        Reason.DEVICE_DISABLED,
        Reason.WRONG_KIND_OF_CREDENTIAL,
        Reason.NO_AUTHENTICATION_REGISTERED,
        Reason.EDGE_DEVICE_BY_CA,
        Reason.SAS_SIGNATURE_MISMATCH,
        Reason.THUMBPRINT_MISMATCH,
        Reason.THUMBPRINT_UNKNOWN_SUBJECT_KNOWN,
        Reason.CHAIN_UNTRUSTED,
        Reason.CHAIN_INTERMEDIATE_MISSING,
    }
)


class GatewayDoor(Door):
    """Admits or refuses clients of a gateway."""

    def __init__(
        self, house: House, around: Surroundings, policy: Policy, auditor: Auditor, registry: ScopeRegistry
    ) -> None:
        super().__init__(house, around, policy, auditor)
        self._scope = registry

    async def _decide(self, claim: Claim, password: bytes | None, stream: Stream) -> tuple[Verdict, SasToken | None]:
        verdict, credential = await super()._decide(claim, password, stream)
        match verdict:
            case Refused(reason=reason) if reason in MAY_BE_STALE and await self._scope.refresh(claim.speaker):
                return await super()._decide(claim, password, stream)
            case _:
                return verdict, credential
