"""Every reason is given by some case, and every reason is explained."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from edgetrust.limits import FORWARDED_PER_ADDRESS
from edgetrust.pki.chain import Chain, Thumbprint, TrustBundle
from edgetrust.protocol.dps.enrollments import Enrollment
from edgetrust.protocol.sas import derive_key
from edgetrust.trust.attest import Attested, Attesting, Known, attest
from edgetrust.trust.authenticate import authenticate
from edgetrust.trust.authorize import Operation, authorize
from edgetrust.trust.behalf import speak_for
from edgetrust.trust.credential import Credential, MalformedChain, NoCredential, credential_from
from edgetrust.trust.enrollment import CaEntry, Enrolled, Groups
from edgetrust.trust.explain import EXPLANATIONS, explain
from edgetrust.trust.forward import meant_another, pass_on
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import (
    CertificateAuthority,
    Missing,
    MissingWhy,
    NoAuthentication,
    Registration,
)
from edgetrust.trust.verdict import Accepted, How, Reason, Refused, Verdict
from support import pki as wrong
from support.decisions import DEVICE_1, HUB, KEYS, MODULE_1, NOW, POLICY, Pki, by_thumbprint, registered, shown, token
from support.enrollments import PRIMARY, SCOPE, certificates, group, individual, keys, tpm
from support.fakes import Table


def cases() -> Iterator[tuple[Reason, Callable[[], Verdict | str]]]:
    """A way to every reason that is decided about a credential, then those of the door and of authorization."""
    pki, ca = Pki(), CertificateAuthority()
    bundle, device = pki.bundle(), pki.device()
    odd = wrong.Pki(NOW, intermediates=1)

    def decide(
        credential: Credential, registration: Registration | Missing | None, claim: Identity = DEVICE_1, **more: object
    ) -> Callable[[], Verdict]:
        values = {"bundle": bundle, "now": NOW, "policy": POLICY, **more}
        return lambda: authenticate(claim, credential, registration, **values)  # type: ignore[arg-type]

    def by_ca(chain: Chain, anchors: TrustBundle = bundle, **more: object) -> Callable[[], Verdict]:
        return decide(shown(chain), registered(ca, **more), bundle=anchors)

    yield Reason.UNKNOWN_IDENTITY, decide(token(), None)
    yield Reason.NOT_A_CHILD, decide(token(), Missing(MissingWhy.NOT_A_CHILD))
    yield Reason.REGISTRY_UNAVAILABLE, decide(token(), Missing(MissingWhy.UNAVAILABLE))
    yield Reason.REGISTRATION_STALE, decide(token(), registered(KEYS, trusted_until=NOW - timedelta(1)))
    yield Reason.DISABLED, decide(token(), registered(KEYS, enabled=False))
    yield Reason.DEVICE_DISABLED, decide(token(), registered(KEYS, MODULE_1, device_enabled=False), MODULE_1)
    yield Reason.NO_CREDENTIAL, decide(NoCredential(), registered(KEYS))
    yield Reason.WRONG_KIND_OF_CREDENTIAL, decide(shown(device), registered(KEYS))
    yield Reason.NO_AUTHENTICATION_REGISTERED, decide(shown(device), registered(NoAuthentication()))
    gateway = replace(POLICY, module_certificates=False)
    of_module = registered(by_thumbprint(device), MODULE_1)
    yield Reason.MODULE_CERTIFICATE_UNSUPPORTED, decide(shown(device), of_module, MODULE_1, policy=gateway)
    yield Reason.EDGE_DEVICE_BY_CA, by_ca(device, edge=True)
    yield Reason.SAS_MALFORMED, decide(credential_from("cHBwcA==", ()), registered(KEYS))
    yield Reason.SAS_EXPIRED, decide(token(expires_in=-1000), registered(KEYS))
    yield Reason.SAS_OTHER_RESOURCE, decide(token(resource=HUB), registered(KEYS))
    yield Reason.SAS_SIGNATURE_MISMATCH, decide(token(b"x" * 32), registered(KEYS))
    yield Reason.SAS_UNKNOWN_POLICY, decide(token(policy="nobody"), registered(KEYS))
    yield Reason.CERTIFICATE_MALFORMED, decide(MalformedChain("no DER"), registered(KEYS))
    expired, early = pki.expired(), pki.not_yet_valid()
    yield Reason.CERTIFICATE_EXPIRED, decide(shown(expired), registered(by_thumbprint(expired)))
    yield Reason.CERTIFICATE_NOT_YET_VALID, decide(shown(early), registered(by_thumbprint(early)))
    yield Reason.THUMBPRINT_MISMATCH, decide(shown(pki.device("x")), registered(by_thumbprint(device)))
    yield Reason.THUMBPRINT_UNKNOWN_SUBJECT_KNOWN, decide(shown(pki.device()), registered(by_thumbprint(device)))
    yield Reason.CN_MISMATCH, by_ca(pki.device("D1"))
    authority = odd.authority("d1")
    yield Reason.END_ENTITY_IS_A_CA, by_ca(authority.chain, odd.bundle)
    yield Reason.CHAIN_UNTRUSTED, by_ca(Pki().device())
    old = odd.authority("old", **wrong.EXPIRED)
    yield Reason.CHAIN_EXPIRED, by_ca(old.issue("d1", now=NOW).chain, odd.bundle)
    young = odd.authority("young", **wrong.NOT_YET_VALID)
    yield Reason.CHAIN_NOT_YET_VALID, by_ca(young.issue("d1", now=NOW).chain, odd.bundle)
    yield Reason.CHAIN_WRONG_USAGE, by_ca(odd.device("d1", **wrong.SERVER_ONLY).chain, odd.bundle)
    yield Reason.CHAIN_INTERMEDIATE_MISSING, by_ca(Chain((device.end_entity,)))
    impostor = odd.authority("no ca", **wrong.NOT_A_CA)
    yield Reason.CHAIN_BROKEN, by_ca(impostor.issue("d1", now=NOW).chain, odd.bundle)
    revoked = (Thumbprint.of(device.end_entity),)
    yield Reason.REVOKED, decide(shown(device), registered(by_thumbprint(device), revoked=revoked))
    long_ago = datetime(1970, 1, 1, tzinfo=UTC)
    yield Reason.CLOCK_SUSPECT, decide(shown(device), registered(by_thumbprint(device)), now=long_ago)

    def at_the_door(**words: str) -> Callable[[], str]:
        def attempt() -> str:
            table = Table()
            table.connects(**words)
            return table.auditor.records[-1].reason

        return attempt

    def broken_protocol() -> str:
        table = Table()
        table.opens().goes("mqtt-connect-expected: PINGREQ before CONNECT")
        return table.auditor.records[-1].reason

    yield Reason.CLIENT_IDENTIFIER_MISMATCH, at_the_door(client_id="d2")
    yield Reason.USER_NAME_MALFORMED, at_the_door(user_name="bob")
    yield Reason.HUB_NAME_UNKNOWN, at_the_door(user_name="other/d1/?api-version=2021-04-12")
    yield Reason.PROTOCOL_VIOLATION, broken_protocol
    speaker = Accepted(Identity(HUB, "gw", "$edgeHub"), How.SAS_PRIMARY, (), None)
    not_its = (DEVICE_1, Identity(HUB, "other"))
    yield Reason.AUTH_CHAIN_MISMATCH, lambda: speak_for(speaker, DEVICE_1, not_its, [Missing(MissingWhy.UNKNOWN)] * 2)
    yield Reason.FORWARD_LIMIT, lambda: refused(pass_on("dps.example", "above", FORWARDED_PER_ADDRESS, 70))
    yield Reason.FORWARD_NAME_NOT_ALLOWED, lambda: meant_another("est.example", ["dps.example"])
    accepted = Accepted(DEVICE_1, How.SAS_PRIMARY, (), None)
    yield Reason.NOT_AUTHORIZED, lambda: authorize(accepted, Operation.USE_TWIN, Identity(HUB, "d2"))


def refused(verdict: object) -> Refused:
    assert isinstance(verdict, Refused)
    return verdict


def provisioning() -> Iterator[tuple[Reason, Callable[[], Verdict]]]:
    """A way to every reason that only the provisioning service gives."""
    pki = wrong.Pki(NOW, 1)
    root = pki.root.certificate
    by_keys, disabled = group("g", keys()), individual("d1", keys(), provisioningStatus="disabled")

    def decide(
        credential: Credential,
        own: Enrollment | None = None,
        *groups: Enrollment,
        ca: CaEntry | None = None,
        scope: str = SCOPE,
    ) -> Callable[[], Verdict]:
        known = Known(
            None if own is None else Enrolled.of(own),
            Groups([Enrolled.of(one) for one in groups], [] if ca is None else [ca], NOW),
        )

        def attempt() -> Verdict:
            outcome = attest(Identity(scope, "d1"), credential, known, NOW, Attesting(SCOPE))
            return outcome.accepted if isinstance(outcome, Attested) else outcome

        return attempt

    def signed(key: bytes) -> Credential:
        return token(key, f"{SCOPE}/registrations/d1")

    chain = shown(pki.device("d1").chain)
    yield Reason.ID_SCOPE_UNKNOWN, decide(signed(PRIMARY), individual("d1", keys()), scope="0neX")
    yield Reason.ENROLLMENT_UNKNOWN, decide(signed(PRIMARY))
    yield Reason.ENROLLMENT_DISABLED, decide(signed(PRIMARY), disabled)
    own = individual("d1", certificates("clientCertificates", root))
    yield Reason.ENROLLMENT_CERTIFICATE_MISMATCH, decide(chain, own)
    yield Reason.ENROLLMENT_GROUP_MISSING, decide(chain, ca=CaEntry("root", root, True))
    yield Reason.CA_NOT_VERIFIED, decide(chain, ca=CaEntry("root", root, False))
    yield Reason.REGISTRATION_CASE_DIFFERS, decide(signed(derive_key(PRIMARY, "D1")), None, by_keys)
    yield Reason.GROUP_KEY_NOT_DERIVED, decide(signed(PRIMARY), None, by_keys)
    yield Reason.TPM_KEY_MISMATCH, decide(signed(PRIMARY), individual("d1", tpm(b"ek")))


CASES = {**dict(cases()), **dict(provisioning())}


@pytest.mark.parametrize("reason", Reason)
def test_given_by_some_case(reason: Reason) -> None:
    outcome = CASES[reason]()
    if isinstance(outcome, str):
        assert outcome == reason.value
    else:
        assert isinstance(outcome, Refused), outcome
        assert outcome.reason is reason
        assert outcome.detail


@pytest.mark.parametrize("reason", Reason)
def test_explained(reason: Reason) -> None:
    explanation = explain(reason)
    assert len(explanation.text) > 20
    assert explanation.text.endswith(".")
    assert explanation.confirm
    assert explanation.fix
    assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", reason.value)


def test_nothing_else_is_explained() -> None:
    assert set(EXPLANATIONS) == set(Reason)
    assert len({explanation.text for explanation in EXPLANATIONS.values()}) == len(Reason)


def test_no_detail_shows_a_secret() -> None:
    """Whatever is refused, its record holds no key and no signature."""
    secrets = [
        secret for key in (KEYS.primary, KEYS.secondary) for secret in (key.reveal(), key.reveal().hex().encode())
    ]
    for case in CASES.values():
        outcome = case()
        if isinstance(outcome, Refused):
            text = " ".join(check.detail for check in outcome.checks).encode()
            assert not any(secret in text for secret in secrets)
            assert b"sig=" not in text
