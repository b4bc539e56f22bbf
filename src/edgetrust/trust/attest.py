"""The decision of the provisioning service: is this device enrolled, and by which enrollment?

Rules, in the order they are checked (hub specification 14.1 to 14.4); the first that fails is the reason.

1. What a device shows decides the kind: a token, or a certificate with what it sent along.
2. A token covers this registration in this scope, has not expired (five minutes of skew), and names no policy but
   `registration`. A certificate is within its dates and its common name is the registration identifier, letter case
   ignored.
3. An individual enrollment of this identifier, if there is one, decides alone: its keys, its very certificates, or the
   key that its TPM was given. Otherwise a group does: the key derived from the group's for the identifier as the device
   sent it, or in lower case; or a chain, valid in every part, to a certificate of a group, the first on the way up.
4. Last of all, what decides must be enabled: who cannot prove itself does not learn that.

Total and pure, like `authenticate`. A device is told nothing but a number; the checks are for the operator.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NoReturn, assert_never

from cryptography import x509

from edgetrust.limits import CLOCK_SKEW_SECONDS
from edgetrust.pki.chain import Chain, Thumbprint, TrustBundle
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.verify import ChainFailure, Purpose, VerifiedChain, verify_chain
from edgetrust.protocol.dps.names import covers_registration
from edgetrust.protocol.sas import SasToken, derive_key, signature_matches
from edgetrust.trust.authenticate import CHAIN_REASONS, ChainVerifier, common_name_of, instant_of
from edgetrust.trust.credential import ClientChain, Credential, MalformedChain, MalformedToken, NoCredential
from edgetrust.trust.enrollment import ClientCertificates, Enrolled, Groups, SymmetricKeys, TpmPublic
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import SasKeys
from edgetrust.trust.verdict import Accepted, Check, How, Reason, Refused

_POLICY = "registration"
_SKEW = timedelta(seconds=CLOCK_SKEW_SECONDS)
_NOT_BEFORE_RELEASE = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Known:
    """What the service knows that concerns a claim. `tpm_key` is what this device's TPM was given to prove itself."""

    individual: Enrolled | None
    groups: Groups
    tpm_key: SecretBytes | None = None


@dataclass(frozen=True, slots=True)
class Attesting:
    """How to decide. `grace` is added to a token's expiry: for questions about a registration that it began."""

    id_scope: str
    grace: timedelta = timedelta(0)
    verify: ChainVerifier = field(default=verify_chain, compare=False)


@dataclass(frozen=True, slots=True)
class Attested:
    """The device is who it says, by `enrolled`. With a certificate: `certificate` is it and `signer` what the group
    knows it by; with a token: `keys` are the device's.
    """

    accepted: Accepted
    enrolled: Enrolled
    certificate: x509.Certificate | None = None
    signer: x509.Certificate | None = None
    keys: SasKeys | None = field(default=None, repr=False)

    def __bool__(self) -> NoReturn:
        raise TypeError("a verdict is not a truth value: match it")


@dataclass(frozen=True, slots=True)
class _Yes:
    how: How
    enrolled: Enrolled
    until: datetime
    certificate: x509.Certificate | None = None
    signer: x509.Certificate | None = None
    keys: SasKeys | None = None


@dataclass(frozen=True, slots=True)
class _No:
    reason: Reason


class _Deciding:
    """One decision: what it is about, and the checks made so far."""

    def __init__(self, claim: Identity, known: Known, now: datetime, how: Attesting) -> None:
        self.claim = claim
        self.known = known
        self.now = now
        self.how = how
        self.checks: list[Check] = []

    def passed(self, name: str, detail: str = "") -> None:
        self.checks.append(Check(name, True, detail))

    def failed(self, name: str, reason: Reason, detail: str) -> _No:
        self.checks.append(Check(name, False, detail))
        return _No(reason)


def attest(claim: Identity, credential: Credential, known: Known, now: datetime, how: Attesting) -> Attested | Refused:
    """Decide whether `credential` proves the registration `claim` (its `hub` is the identifier scope)."""
    deciding = _Deciding(claim, known, now, how)
    outcome = _enabled(deciding, _decide(deciding, credential))
    match outcome:
        case _Yes():
            accepted = Accepted(claim, outcome.how, tuple(deciding.checks), outcome.until)
            return Attested(accepted, outcome.enrolled, outcome.certificate, outcome.signer, outcome.keys)
        case _No(reason):
            early = reason in _EARLY and now < _NOT_BEFORE_RELEASE
            return Refused(claim, Reason.CLOCK_SUSPECT if early else reason, tuple(deciding.checks))
        case _:
            assert_never(outcome)


def _decide(deciding: _Deciding, credential: Credential) -> _Yes | _No:
    if deciding.claim.hub != deciding.how.id_scope:
        detail = f"{deciding.claim.hub[:80]!r} is not the scope of this service"
        return deciding.failed("id-scope", Reason.ID_SCOPE_UNKNOWN, detail)
    match credential:
        case SasToken():
            return _token(deciding, credential)
        case MalformedToken(problem):
            return deciding.failed("sas-format", Reason.SAS_MALFORMED, problem)
        case ClientChain(chain):
            return _certificate(deciding, chain)
        case MalformedChain(problem):
            return deciding.failed("certificate-format", Reason.CERTIFICATE_MALFORMED, problem)
        case NoCredential():
            return deciding.failed("credential-present", Reason.NO_CREDENTIAL, "neither token nor certificate came")
        case _:
            assert_never(credential)


def _enabled(deciding: _Deciding, outcome: _Yes | _No) -> _Yes | _No:
    if isinstance(outcome, _No):
        return outcome
    if not outcome.enrolled.enabled:
        return deciding.failed("enabled", Reason.ENROLLMENT_DISABLED, f"{outcome.enrolled} is disabled")
    deciding.passed("enabled")
    return outcome


def _unknown(deciding: _Deciding, what: str) -> _No:
    detail = f"{deciding.claim} has no enrollment, and there is no group that takes {what}"
    return deciding.failed("enrolled", Reason.ENROLLMENT_UNKNOWN, detail)


def _other_kind(deciding: _Deciding, enrolled: Enrolled, came: str) -> _No:
    detail = f"{enrolled} is for {enrolled.body.attestation.type}, {came} came"
    return deciding.failed("credential-kind", Reason.WRONG_KIND_OF_CREDENTIAL, detail)


# Tokens -------------------------------------------------------------------------------------------------------------


def _token(deciding: _Deciding, token: SasToken) -> _Yes | _No:
    if token.policy not in (None, _POLICY):
        detail = f"the token names policy {str(token.policy)[:80]!r}; a device's names {_POLICY!r} or none"
        return deciding.failed("sas-policy", Reason.SAS_UNKNOWN_POLICY, detail)
    if not covers_registration(token, deciding.claim.hub, deciding.claim.device):
        detail = f"the token is for {token.resource[:200]!r}"
        return deciding.failed("sas-resource", Reason.SAS_OTHER_RESOURCE, detail)
    deciding.passed("sas-resource")
    expires_at = instant_of(token.expires_at)
    if deciding.now > expires_at + _SKEW + deciding.how.grace:
        return deciding.failed("sas-expiry", Reason.SAS_EXPIRED, f"expired at {expires_at:%Y-%m-%d %H:%M:%SZ}")
    deciding.passed("sas-expiry", f"until {expires_at:%Y-%m-%d %H:%M:%SZ}")
    if deciding.known.individual is not None:
        return _own_key(deciding, token, deciding.known.individual, expires_at)
    return _group_key(deciding, token, expires_at)


def _own_key(deciding: _Deciding, token: SasToken, enrolled: Enrolled, expires_at: datetime) -> _Yes | _No:
    match enrolled.attestation:
        case SymmetricKeys(keys):
            how = _signed(token, keys)
            if how is not None:
                deciding.passed("sas-signature", f"{how.value} of {enrolled}")
                return _Yes(how, enrolled, expires_at + _SKEW, keys=keys)
        case TpmPublic():
            key = deciding.known.tpm_key
            if key is None:
                detail = "the TPM has not been asked to prove itself, or the answer came too late"
                return deciding.failed("tpm-challenge", Reason.TPM_KEY_MISMATCH, detail)
            if signature_matches(token, key.reveal()):
                deciding.passed("sas-signature", f"the key that only the TPM of {enrolled} can decrypt")
                return _Yes(How.TPM, enrolled, expires_at + _SKEW)
            detail = "signed with another key than the TPM was given"
            return deciding.failed("sas-signature", Reason.TPM_KEY_MISMATCH, detail)
        case _:
            return _other_kind(deciding, enrolled, "a token")
    detail = f"made with neither key of {enrolled}"
    return deciding.failed("sas-signature", Reason.SAS_SIGNATURE_MISMATCH, detail)


def _group_key(deciding: _Deciding, token: SasToken, expires_at: datetime) -> _Yes | _No:
    if not deciding.known.groups.symmetric:
        return _unknown(deciding, "tokens")
    name = deciding.claim.device
    for group in deciding.known.groups.symmetric:
        for spelling in dict.fromkeys((name, name.lower())):
            keys = derived_keys(group, spelling)
            how = _signed(token, keys)
            if how is not None:
                deciding.passed("sas-signature", f"derived from the {how.value} of {group} for {spelling!r}")
                return _Yes(how, group, expires_at + _SKEW, keys=keys)
    return _no_group_key(deciding, token)


def _no_group_key(deciding: _Deciding, token: SasToken) -> _No:
    """Which of the usual mistakes was it?"""
    name = deciding.claim.device
    for group in deciding.known.groups.symmetric:
        if _signed(token, group_keys(group)) is not None:
            detail = f"signed with the key of {group} itself"
            return deciding.failed("sas-signature", Reason.GROUP_KEY_NOT_DERIVED, detail)
        for spelling in (name.upper(), name.capitalize()):
            if _signed(token, derived_keys(group, spelling)) is not None:
                detail = f"derived from the key of {group} for {spelling!r}, the device calls itself {name!r}"
                return deciding.failed("sas-signature", Reason.REGISTRATION_CASE_DIFFERS, detail)
    tried = ", ".join(group.name for group in deciding.known.groups.symmetric[:5])
    detail = f"derived from no group's key (tried: {tried}), and {name} has no enrollment of its own"
    return deciding.failed("sas-signature", Reason.SAS_SIGNATURE_MISMATCH, detail)


def group_keys(group: Enrolled) -> SasKeys:
    """The keys of a symmetric group."""
    assert isinstance(group.attestation, SymmetricKeys)
    return group.attestation.keys


def derived_keys(group: Enrolled, registration_id: str) -> SasKeys:
    """The keys of a device of a symmetric group (hub specification 14.2)."""
    keys = group_keys(group)
    return SasKeys(
        SecretBytes(derive_key(keys.primary.reveal(), registration_id)),
        SecretBytes(derive_key(keys.secondary.reveal(), registration_id)),
    )


def _signed(token: SasToken, keys: SasKeys) -> How | None:
    if signature_matches(token, keys.primary.reveal()):
        return How.SAS_PRIMARY
    return How.SAS_SECONDARY if signature_matches(token, keys.secondary.reveal()) else None


# Certificates -------------------------------------------------------------------------------------------------------


def _certificate(deciding: _Deciding, chain: Chain) -> _Yes | _No:
    certificate = chain.end_entity
    common_name = common_name_of(certificate)
    name = deciding.claim.device
    if common_name is None or common_name.lower() != name.lower():
        detail = f"the certificate's common name is {common_name!r}, the registration identifier is {name!r}"
        return deciding.failed("common-name", Reason.CN_MISMATCH, detail)
    deciding.passed("common-name", common_name if common_name == name else f"{common_name} (case differs: ignored)")
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if deciding.now < start:
        detail = f"valid from {start:%Y-%m-%d %H:%M:%SZ}, it is {deciding.now:%Y-%m-%d %H:%M:%SZ}"
        return deciding.failed("certificate-dates", Reason.CERTIFICATE_NOT_YET_VALID, detail)
    if deciding.now > end:
        detail = f"expired at {end:%Y-%m-%d %H:%M:%SZ}"
        return deciding.failed("certificate-dates", Reason.CERTIFICATE_EXPIRED, detail)
    deciding.passed("certificate-dates", f"until {end:%Y-%m-%d %H:%M:%SZ}")
    if deciding.known.individual is not None:
        return _own_certificate(deciding, certificate, deciding.known.individual)
    return _group_certificate(deciding, chain)


def _own_certificate(deciding: _Deciding, certificate: x509.Certificate, enrolled: Enrolled) -> _Yes | _No:
    held = enrolled.attestation
    if not isinstance(held, ClientCertificates):
        return _other_kind(deciding, enrolled, "a certificate")
    for how, wanted in ((How.THUMBPRINT_PRIMARY, held.primary), (How.THUMBPRINT_SECONDARY, held.secondary)):
        if wanted is not None and wanted == certificate:
            deciding.passed("certificate", f"{how.value} of {enrolled}")
            return _Yes(how, enrolled, certificate.not_valid_after_utc, certificate)
    shown, wanted_print = Thumbprint.of(certificate).hex(), Thumbprint.of(held.primary).hex()
    detail = f"the certificate's SHA-256 is {shown}; {enrolled} has {wanted_print}"
    if held.secondary is not None:
        detail += f" and {Thumbprint.of(held.secondary).hex()}"
    return deciding.failed("certificate", Reason.ENROLLMENT_CERTIFICATE_MISMATCH, detail)


def _group_certificate(deciding: _Deciding, chain: Chain) -> _Yes | _No:
    groups = deciding.known.groups
    verified = deciding.how.verify(chain, groups.trusted, Purpose.DEVICE, deciding.now)
    match verified:
        case VerifiedChain():
            group = groups.of(verified.path[1:])
            assert group is not None  # every anchor belongs to one
            deciding.passed("chain", f"to {_subject(verified.anchor)}, of {group}")
            return _Yes(How.CERTIFICATE_AUTHORITY, group, verified.valid_until, chain.end_entity, verified.anchor)
        case ChainFailure():
            return _no_group(deciding, chain, verified)
        case _:
            assert_never(verified)


def _no_group(deciding: _Deciding, chain: Chain, failure: ChainFailure) -> _No:
    """Why no group takes this chain: its CA is not verified, or of no group, or the chain itself is at fault."""
    groups = deciding.known.groups
    found = _anchor(deciding, chain, groups.unverified)
    if found is not None:
        group = groups.of((found,))
        owner = "no group" if group is None else str(group)
        detail = f"{_subject(found)}, of {owner}, is not verified here, nor is a CA above it"
        return deciding.failed("chain", Reason.CA_NOT_VERIFIED, detail)
    found = _anchor(deciding, chain, groups.ungrouped)
    if found is not None:
        detail = f"the chain leads to {_subject(found)}, which is verified, but no group names it"
        return deciding.failed("chain", Reason.ENROLLMENT_GROUP_MISSING, detail)
    if not groups.trusted.anchors:
        return _unknown(deciding, "certificates")
    detail = f"{failure.certificate}: {failure.detail}"
    return deciding.failed("chain", CHAIN_REASONS.get(failure.reason, Reason.CHAIN_BROKEN), detail)


def _anchor(deciding: _Deciding, chain: Chain, bundle: TrustBundle) -> x509.Certificate | None:
    if not bundle.anchors:
        return None
    outcome = deciding.how.verify(chain, bundle, Purpose.DEVICE, deciding.now)
    return outcome.anchor if isinstance(outcome, VerifiedChain) else None


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()


_EARLY = frozenset({Reason.CERTIFICATE_NOT_YET_VALID, Reason.CHAIN_NOT_YET_VALID})
