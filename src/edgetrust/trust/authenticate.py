"""The one decision: is this peer who it claims to be?

Rules, in the order they are checked; the first that fails is the reason.

1. There is a registration, it may still be relied on, it is enabled, and so is its device.
2. The credential is of the kind that the registration names. What is registered decides, never "whichever works": a
   password is judged as a password, whatever certificate lies beside it.
3. SAS: the token covers this identity on one of our names, has not expired (five minutes of skew), and is signed with
   the primary or secondary key; a module may also be vouched for by its device's keys, anything by a shared access
   policy.
4. Thumbprint: the end-entity certificate is within its dates and its hash equals a registered one. No chain, no name,
   no usage: the registration pins this one certificate.
5. Certificate authority: common name equal to the identity, byte for byte; within its dates; not a CA itself; and a
   chain, valid in every part, to a CA that the hub has verified. Not for edge devices, unless the policy says so.

Total: for every input it returns a verdict and never raises. Pure: time is an argument. It knows nothing of where a
registration came from, of MQTT or HTTP, or of what the peer will be told. Hub and gateway call it with the same facts
and get the same answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import assert_never

from cryptography import x509
from cryptography.x509.oid import NameOID

from edgetrust.limits import CLOCK_SKEW_SECONDS
from edgetrust.pki.chain import Chain, Thumbprint, TrustBundle
from edgetrust.pki.facts import read
from edgetrust.pki.verify import ChainFailure, ChainReason, Purpose, VerifiedChain, verify_chain
from edgetrust.protocol.sas import SasToken, covers, signature_matches
from edgetrust.trust.credential import ClientChain, Credential, MalformedChain, MalformedToken, NoCredential
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import (
    CertificateAuthority,
    Missing,
    MissingWhy,
    NoAuthentication,
    Registration,
    SasKeys,
    Thumbprints,
)
from edgetrust.trust.verdict import Accepted, Check, How, Reason, Refused, Verdict

_SKEW = timedelta(seconds=CLOCK_SKEW_SECONDS)
# A clock that reads earlier than this software is wrong: every date-based refusal it causes is about the clock.
_NOT_BEFORE_RELEASE = datetime(2026, 1, 1, tzinfo=UTC)

ChainVerifier = Callable[[Chain, TrustBundle, Purpose, datetime], VerifiedChain | ChainFailure]


@dataclass(frozen=True, slots=True)
class Policy:
    """What an actor may choose. The defaults are what the real services do.

    `hosts` are our own names, lower case and without port; a token must be for one of them.
    """

    hosts: frozenset[str]
    module_certificates: bool = True  # the hub accepts X.509 from modules, edgeHub does not
    edge_by_ca: bool = False  # edge devices by X.509 CA straight to the hub
    thumbprint_needs_common_name: bool = False
    verify: ChainVerifier = field(default=verify_chain, compare=False)


@dataclass(frozen=True, slots=True)
class _Yes:
    how: How
    valid_until: datetime | None


@dataclass(frozen=True, slots=True)
class _No:
    reason: Reason


class _Checks:
    """The checks made so far, in order."""

    __slots__ = ("made",)

    def __init__(self) -> None:
        self.made: list[Check] = []

    def passed(self, name: str, detail: str = "") -> None:
        self.made.append(Check(name, True, detail))

    def failed(self, name: str, reason: Reason, detail: str) -> _No:
        self.made.append(Check(name, False, detail))
        return _No(reason)


def authenticate(
    claim: Identity,
    credential: Credential,
    registration: Registration | Missing | None,
    bundle: TrustBundle,
    now: datetime,
    policy: Policy,
) -> Verdict:
    """Decide whether `credential` proves `claim`, given what the registry says and the CAs in `bundle`."""
    checks = _Checks()
    outcome = _decide(checks, claim, credential, registration, bundle, now, policy)
    match outcome:
        case _Yes(how, valid_until):
            return Accepted(claim, how, tuple(checks.made), valid_until)
        case _No(reason):
            return Refused(claim, _blame_clock(reason, registration, now), tuple(checks.made))
        case _:
            assert_never(outcome)


def _decide(
    checks: _Checks,
    claim: Identity,
    credential: Credential,
    registration: Registration | Missing | None,
    bundle: TrustBundle,
    now: datetime,
    policy: Policy,
) -> _Yes | _No:
    if not isinstance(registration, Registration) or registration.identity != claim:
        return _missing(checks, claim, registration)
    checks.passed("registered", f"generation {registration.generation}")
    usable = _usable(checks, registration, now)
    if usable is not None:
        return usable
    match credential:
        case SasToken():
            return _sas(checks, claim, credential, registration, now, policy)
        case MalformedToken(problem):
            return checks.failed("sas-format", Reason.SAS_MALFORMED, problem)
        case ClientChain(chain):
            return _certificate(checks, claim, chain, registration, bundle, now, policy)
        case MalformedChain(problem):
            return checks.failed("certificate-format", Reason.CERTIFICATE_MALFORMED, problem)
        case NoCredential():
            detail = f"registered for {_kind(registration)}; neither password nor certificate came"
            return checks.failed("credential-present", Reason.NO_CREDENTIAL, detail)
        case _:
            assert_never(credential)


def _missing(checks: _Checks, claim: Identity, registration: Registration | Missing | None) -> _No:
    if not isinstance(registration, Missing):
        return checks.failed("registered", Reason.UNKNOWN_IDENTITY, f"{claim} is not registered")
    match registration.why:
        case MissingWhy.UNKNOWN:
            return checks.failed("registered", Reason.UNKNOWN_IDENTITY, f"{claim} is not registered")
        case MissingWhy.NOT_A_CHILD:
            return checks.failed("registered", Reason.NOT_A_CHILD, f"{claim} is not below this gateway")
        case MissingWhy.UNAVAILABLE:
            detail = f"{claim} is not in the copy and the source cannot be asked now"
            return checks.failed("registered", Reason.REGISTRY_UNAVAILABLE, detail)
        case _:
            assert_never(registration.why)


def _usable(checks: _Checks, registration: Registration, now: datetime) -> _No | None:
    if registration.trusted_until is not None and now > registration.trusted_until:
        detail = (
            f"the copy is of {registration.as_of:%Y-%m-%d %H:%M:%SZ} and was good until {registration.trusted_until}"
        )
        return checks.failed("fresh", Reason.REGISTRATION_STALE, detail)
    if not registration.enabled:
        return checks.failed("enabled", Reason.DISABLED, f"{registration.identity} is disabled in the registry")
    if not registration.device_enabled:
        detail = f"its device {registration.identity.device} is disabled in the registry"
        return checks.failed("enabled", Reason.DEVICE_DISABLED, detail)
    checks.passed("enabled")
    return None


# SAS ----------------------------------------------------------------------------------------------------------------


def _sas(
    checks: _Checks, claim: Identity, token: SasToken, registration: Registration, now: datetime, policy: Policy
) -> _Yes | _No:
    candidates = _signing_keys(token, registration)
    if isinstance(candidates, Reason):
        detail = (
            f"policy {token.policy!r} may not connect devices"
            if candidates is Reason.SAS_UNKNOWN_POLICY
            else f"registered for {_kind(registration)}, a SAS token came"
        )
        return checks.failed("credential-kind", candidates, detail)
    checks.passed("credential-kind", "sas")
    if not _covers(token, claim, policy):
        detail = f"the token is for {token.resource[:200]!r}"
        return checks.failed("sas-resource", Reason.SAS_OTHER_RESOURCE, detail)
    checks.passed("sas-resource")
    expires_at = instant_of(token.expires_at)
    if now > expires_at + _SKEW:
        return checks.failed("sas-expiry", Reason.SAS_EXPIRED, f"expired at {expires_at:%Y-%m-%d %H:%M:%SZ}")
    checks.passed("sas-expiry", f"until {expires_at:%Y-%m-%d %H:%M:%SZ}")
    for how, key in candidates:
        if signature_matches(token, key):
            checks.passed("sas-signature", how.value)
            return _Yes(how, expires_at + _SKEW)
    return checks.failed("sas-signature", Reason.SAS_SIGNATURE_MISMATCH, "made with none of the registered keys")


def _signing_keys(token: SasToken, registration: Registration) -> list[tuple[How, bytes]] | Reason:
    if token.policy:
        keys = next((keys for name, keys in registration.policy_keys if name == token.policy), None)
        if keys is None:
            return Reason.SAS_UNKNOWN_POLICY
        return [(How.SAS_POLICY, keys.primary.reveal()), (How.SAS_POLICY, keys.secondary.reveal())]
    found: list[tuple[How, bytes]] = []
    if isinstance(registration.authentication, SasKeys):
        own = registration.authentication
        found += [(How.SAS_PRIMARY, own.primary.reveal()), (How.SAS_SECONDARY, own.secondary.reveal())]
        if registration.device_keys is not None:
            device = registration.device_keys
            found += [(How.SAS_DEVICE_KEY, device.primary.reveal()), (How.SAS_DEVICE_KEY, device.secondary.reveal())]
    return found or Reason.WRONG_KIND_OF_CREDENTIAL


def _covers(token: SasToken, claim: Identity, policy: Policy) -> bool:
    """A token for the hub (of a policy), for the device, or for the module itself covers a claim; a module's never
    its device.
    """
    if token.policy and covers(token, policy.hosts, None, None):
        return True
    if covers(token, policy.hosts, claim.device, claim.module):
        return True
    return claim.module is not None and covers(token, policy.hosts, claim.device, None)


def instant_of(unix_seconds: int) -> datetime:
    """Seconds since 1970 as a time; what lies outside the calendar becomes its nearest end (minus room for the
    skew).
    """
    latest = datetime(9999, 12, 30, tzinfo=UTC)
    if unix_seconds >= latest.timestamp():
        return latest
    return datetime.fromtimestamp(max(unix_seconds, 0), UTC)


# X.509 --------------------------------------------------------------------------------------------------------------


def _certificate(
    checks: _Checks,
    claim: Identity,
    chain: Chain,
    registration: Registration,
    bundle: TrustBundle,
    now: datetime,
    policy: Policy,
) -> _Yes | _No:
    if claim.module is not None and not policy.module_certificates:
        detail = "a gateway takes SAS tokens from modules, not certificates"
        return checks.failed("credential-kind", Reason.MODULE_CERTIFICATE_UNSUPPORTED, detail)
    authentication = registration.authentication
    match authentication:
        case Thumbprints():
            checks.passed("credential-kind", "certificate by thumbprint")
            return _thumbprint(checks, claim, chain, registration, authentication, now, policy)
        case CertificateAuthority():
            return _authority(checks, claim, chain, registration, bundle, now, policy)
        case SasKeys():
            detail = "registered for SAS keys, a certificate came"
            return checks.failed("credential-kind", Reason.WRONG_KIND_OF_CREDENTIAL, detail)
        case NoAuthentication():
            detail = "nothing is registered that could authenticate it"
            return checks.failed("credential-kind", Reason.NO_AUTHENTICATION_REGISTERED, detail)
        case _:
            assert_never(authentication)


def _thumbprint(
    checks: _Checks,
    claim: Identity,
    chain: Chain,
    registration: Registration,
    registered: Thumbprints,
    now: datetime,
    policy: Policy,
) -> _Yes | _No:
    certificate = chain.end_entity
    refused = _dates(checks, certificate, now) or _revoked(checks, certificate, registration)
    if refused is not None:
        return refused
    common_name = common_name_of(certificate)
    for how, wanted in (
        (How.THUMBPRINT_PRIMARY, registered.primary),
        (How.THUMBPRINT_SECONDARY, registered.secondary),
    ):
        if wanted is not None and Thumbprint.of(certificate, wanted.algorithm) == wanted:
            checks.passed("thumbprint", f"{wanted.algorithm} {wanted.hex()}")
            if policy.thumbprint_needs_common_name and common_name != str(claim):
                return _name_differs(checks, claim, common_name)
            return _Yes(how, certificate.not_valid_after_utc)
    shown = Thumbprint.of(certificate, "sha256").hex()
    detail = f"the certificate's SHA-256 is {shown}; registered: {_listed(registered)}"
    if common_name == str(claim):
        return checks.failed("thumbprint", Reason.THUMBPRINT_UNKNOWN_SUBJECT_KNOWN, detail)
    return checks.failed("thumbprint", Reason.THUMBPRINT_MISMATCH, detail)


def _authority(
    checks: _Checks,
    claim: Identity,
    chain: Chain,
    registration: Registration,
    bundle: TrustBundle,
    now: datetime,
    policy: Policy,
) -> _Yes | _No:
    if registration.edge and not policy.edge_by_ca:
        detail = "edge devices authenticate by SAS or thumbprint; X.509 CA goes through provisioning"
        return checks.failed("credential-kind", Reason.EDGE_DEVICE_BY_CA, detail)
    checks.passed("credential-kind", "certificate by authority")
    certificate = chain.end_entity
    common_name = common_name_of(certificate)
    if common_name != str(claim):
        return _name_differs(checks, claim, common_name)
    checks.passed("common-name", common_name)
    refused = _dates(checks, certificate, now) or _revoked(checks, certificate, registration)
    if refused is not None:
        return refused
    verified = policy.verify(chain, bundle, Purpose.DEVICE, now)
    match verified:
        case VerifiedChain():
            checks.passed("chain", f"to {read(verified.anchor).subject}")
            return _Yes(How.CERTIFICATE_AUTHORITY, verified.valid_until)
        case ChainFailure():
            detail = f"{verified.certificate}: {verified.detail}"
            return checks.failed("chain", CHAIN_REASONS.get(verified.reason, Reason.CHAIN_BROKEN), detail)
        case _:
            assert_never(verified)


CHAIN_REASONS = {
    ChainReason.UNTRUSTED: Reason.CHAIN_UNTRUSTED,
    ChainReason.EXPIRED: Reason.CHAIN_EXPIRED,
    ChainReason.NOT_YET_VALID: Reason.CHAIN_NOT_YET_VALID,
    ChainReason.WRONG_USAGE: Reason.CHAIN_WRONG_USAGE,
    ChainReason.INTERMEDIATE_MISSING: Reason.CHAIN_INTERMEDIATE_MISSING,
    ChainReason.LEAF_IS_CA: Reason.END_ENTITY_IS_A_CA,
}


def _dates(checks: _Checks, certificate: x509.Certificate, now: datetime) -> _No | None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        detail = f"valid from {start:%Y-%m-%d %H:%M:%SZ}, it is {now:%Y-%m-%d %H:%M:%SZ}"
        return checks.failed("certificate-dates", Reason.CERTIFICATE_NOT_YET_VALID, detail)
    if now > end:
        return checks.failed("certificate-dates", Reason.CERTIFICATE_EXPIRED, f"expired at {end:%Y-%m-%d %H:%M:%SZ}")
    checks.passed("certificate-dates", f"until {end:%Y-%m-%d %H:%M:%SZ}")
    return None


def _revoked(checks: _Checks, certificate: x509.Certificate, registration: Registration) -> _No | None:
    for thumbprint in registration.revoked:
        if Thumbprint.of(certificate, thumbprint.algorithm) == thumbprint:
            return checks.failed("not-revoked", Reason.REVOKED, f"certificate {thumbprint.hex()} is revoked")
    return None


def _name_differs(checks: _Checks, claim: Identity, common_name: str | None) -> _No:
    detail = f"the certificate's common name is {common_name!r}, claimed is {str(claim)!r}"
    return checks.failed("common-name", Reason.CN_MISMATCH, detail)


def common_name_of(certificate: x509.Certificate) -> str | None:
    """The subject's only common name; None when there is none, several, or the subject cannot be read."""
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return None
    value = names[0].value if len(names) == 1 else None
    return value if isinstance(value, str) else None


# Words --------------------------------------------------------------------------------------------------------------


def _kind(registration: Registration) -> str:
    match registration.authentication:
        case SasKeys():
            return "SAS keys"
        case Thumbprints():
            return "a certificate by thumbprint"
        case CertificateAuthority():
            return "a certificate by authority"
        case NoAuthentication():
            return "no authentication"
        case _:
            assert_never(registration.authentication)


def _listed(registered: Thumbprints) -> str:
    shown = [slot.hex() for slot in (registered.primary, registered.secondary) if slot is not None]
    return " and ".join(shown) or "none"


def _blame_clock(reason: Reason, registration: Registration | Missing | None, now: datetime) -> Reason:
    """A "not yet valid" by a clock that reads earlier than this software, or than the registration, is about the
    clock.
    """
    if reason not in _EARLY:
        return reason
    as_of = registration.as_of if registration is not None else None
    early = now < _NOT_BEFORE_RELEASE or (as_of is not None and now < as_of - _SKEW)
    return Reason.CLOCK_SUSPECT if early else reason


_EARLY = frozenset({Reason.CERTIFICATE_NOT_YET_VALID, Reason.CHAIN_NOT_YET_VALID})
