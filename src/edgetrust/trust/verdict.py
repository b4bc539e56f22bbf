"""Verdict: what was decided, from which checks, for which reason.

Both verdicts refuse to be a truth value: `match` them. A session can only be built from an `Accepted`.
`Reason` is a stable slug: log field, metric label, documentation anchor. The peer is told only what its protocol
allows; the operator is told everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NoReturn

from edgetrust.trust.identity import Identity


class Reason(StrEnum):
    """Why a peer was refused."""

    UNKNOWN_IDENTITY = "unknown-identity"
    NOT_A_CHILD = "not-a-child"
    REGISTRY_UNAVAILABLE = "registry-unavailable"
    REGISTRATION_STALE = "registration-stale"
    DISABLED = "disabled"
    DEVICE_DISABLED = "device-disabled"
    NO_CREDENTIAL = "no-credential"
    WRONG_KIND_OF_CREDENTIAL = "wrong-kind-of-credential"
    NO_AUTHENTICATION_REGISTERED = "no-authentication-registered"
    MODULE_CERTIFICATE_UNSUPPORTED = "module-certificate-unsupported"
    EDGE_DEVICE_BY_CA = "edge-device-by-ca"
    SAS_MALFORMED = "sas-malformed"
    SAS_EXPIRED = "sas-expired"
    SAS_OTHER_RESOURCE = "sas-other-resource"
    SAS_SIGNATURE_MISMATCH = "sas-signature-mismatch"
    SAS_UNKNOWN_POLICY = "sas-unknown-policy"
    CERTIFICATE_MALFORMED = "certificate-malformed"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_NOT_YET_VALID = "certificate-not-yet-valid"
    THUMBPRINT_MISMATCH = "thumbprint-mismatch"
    THUMBPRINT_UNKNOWN_SUBJECT_KNOWN = "thumbprint-unknown-subject-known"
    CN_MISMATCH = "cn-mismatch"
    END_ENTITY_IS_A_CA = "end-entity-is-a-ca"
    CHAIN_UNTRUSTED = "chain-untrusted"
    CHAIN_EXPIRED = "chain-expired"
    CHAIN_NOT_YET_VALID = "chain-not-yet-valid"
    CHAIN_WRONG_USAGE = "chain-wrong-usage"
    CHAIN_INTERMEDIATE_MISSING = "chain-intermediate-missing"
    CHAIN_BROKEN = "chain-broken"
    REVOKED = "revoked"
    CLOCK_SUSPECT = "clock-suspect"
    CLIENT_IDENTIFIER_MISMATCH = "client-identifier-mismatch"
    USER_NAME_MALFORMED = "user-name-malformed"
    HUB_NAME_UNKNOWN = "hub-name-unknown"
    PROTOCOL_VIOLATION = "protocol-violation"
    AUTH_CHAIN_MISMATCH = "auth-chain-mismatch"
    NOT_AUTHORIZED = "not-authorized"
    ID_SCOPE_UNKNOWN = "id-scope-unknown"
    ENROLLMENT_UNKNOWN = "enrollment-unknown"
    ENROLLMENT_DISABLED = "enrollment-disabled"
    ENROLLMENT_CERTIFICATE_MISMATCH = "enrollment-certificate-mismatch"
    ENROLLMENT_GROUP_MISSING = "enrollment-group-missing"
    CA_NOT_VERIFIED = "ca-not-verified"
    REGISTRATION_CASE_DIFFERS = "registration-case-differs"
    GROUP_KEY_NOT_DERIVED = "group-key-not-derived"
    TPM_KEY_MISMATCH = "tpm-key-mismatch"
    FORWARD_NAME_NOT_ALLOWED = "forward-name-not-allowed"
    FORWARD_LIMIT = "forward-limit"


class How(StrEnum):
    """What convinced us."""

    SAS_PRIMARY = "sas-primary-key"
    SAS_SECONDARY = "sas-secondary-key"
    SAS_DEVICE_KEY = "sas-device-key"
    SAS_POLICY = "sas-policy"
    THUMBPRINT_PRIMARY = "thumbprint-primary"
    THUMBPRINT_SECONDARY = "thumbprint-secondary"
    CERTIFICATE_AUTHORITY = "certificate-authority"
    ON_BEHALF = "on-behalf-of"
    TPM = "tpm"


@dataclass(frozen=True, slots=True)
class Check:
    """One check, in the order made. `detail` holds no secret."""

    name: str
    passed: bool
    detail: str = ""


class _NotATruthValue:
    __slots__ = ()

    def __bool__(self) -> NoReturn:
        raise TypeError("a verdict is not a truth value: match it")


@dataclass(frozen=True, slots=True)
class Accepted(_NotATruthValue):
    """The peer is `identity`. `valid_until` is when that must be decided again, None when nothing expires."""

    identity: Identity
    how: How
    checks: tuple[Check, ...]
    valid_until: datetime | None


@dataclass(frozen=True, slots=True)
class Refused(_NotATruthValue):
    """The peer is not, or may not be, `claim`; None when it claimed nothing readable."""

    claim: Identity | None
    reason: Reason
    checks: tuple[Check, ...]

    @property
    def detail(self) -> str:
        """What the failing check saw."""
        return next((check.detail for check in reversed(self.checks) if not check.passed), "")


Verdict = Accepted | Refused
