"""Shared access policies: the credential of services and operators, and what each may do (hub specification 4.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar, assert_never

from edgetrust.pki.chain import TrustBundle
from edgetrust.trust.authenticate import Policy, authenticate
from edgetrust.trust.credential import Credential, SasToken
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import NoAuthentication, Registration, SasKeys
from edgetrust.trust.verdict import Accepted, Check, Reason, Refused, Verdict


class Right(StrEnum):
    """What a policy may hold."""

    REGISTRY_READ = "RegistryRead"
    REGISTRY_WRITE = "RegistryWrite"
    SERVICE_CONNECT = "ServiceConnect"
    DEVICE_CONNECT = "DeviceConnect"


class DpsRight(StrEnum):
    """What a policy of a provisioning service may hold."""

    SERVICE_CONFIG = "ServiceConfig"
    ENROLLMENT_READ = "EnrollmentRead"
    ENROLLMENT_WRITE = "EnrollmentWrite"
    REGISTRATION_STATUS_READ = "RegistrationStatusRead"
    REGISTRATION_STATUS_WRITE = "RegistrationStatusWrite"


R_co = TypeVar("R_co", bound=StrEnum, covariant=True)


@dataclass(frozen=True, slots=True)
class SharedAccessPolicy(Generic[R_co]):
    """A named pair of keys with rights, of a hub (Right) or of a provisioning service (DpsRight)."""

    name: str
    keys: SasKeys
    rights: frozenset[R_co]


def authenticate_service(
    credential: Credential,
    policies: Mapping[str, SharedAccessPolicy[StrEnum]],
    needed: Sequence[frozenset[StrEnum]],
    now: datetime,
    policy: Policy,
) -> Verdict:
    """Decide whether a service's token carries the rights of one of the sets in `needed`.

    The same decision as for a device: the claim is the hub itself, registered with the policies as its only keys.
    """
    claim = Identity(next(iter(sorted(policy.hosts)), ""), "")
    registration = Registration(
        identity=claim,
        authentication=NoAuthentication(),
        enabled=True,
        edge=False,
        generation="",
        etag="",
        scope=None,
        parents=(),
        as_of=now,
        policy_keys=tuple((name, entry.keys) for name, entry in policies.items()),
    )
    verdict = authenticate(claim, credential, registration, TrustBundle((), as_of=now), now, policy)
    match verdict:
        case Refused():
            return verdict
        case Accepted():
            name = credential.policy if isinstance(credential, SasToken) else None
            if name is not None and any(rights <= policies[name].rights for rights in needed):
                return verdict
            wanted = " or ".join(" and ".join(sorted(rights)) for rights in needed)
            check = Check("right", False, f"policy {name!r} does not hold {wanted}")
            return Refused(claim, Reason.NOT_AUTHORIZED, (*verdict.checks, check))
        case _:
            assert_never(verdict)
