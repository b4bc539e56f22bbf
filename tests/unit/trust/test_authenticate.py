"""The decision, reason by reason."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from edgetrust.pki.chain import Chain, Thumbprint, TrustBundle
from edgetrust.pki.issue import Issuer, self_signed
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import DEVICE, HUB_SERVER, INTERMEDIATE, ISSUING, ROOT
from edgetrust.pki.softkeys import SoftKey
from edgetrust.trust.authenticate import authenticate
from edgetrust.trust.credential import Credential, MalformedChain, MalformedToken, NoCredential, credential_from
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import (
    CertificateAuthority,
    Missing,
    MissingWhy,
    NoAuthentication,
    Registration,
    Thumbprints,
)
from edgetrust.trust.verdict import Accepted, How, Reason, Refused, Verdict
from support.decisions import (
    DEVICE_1,
    DEVICE_KEYS,
    HUB,
    KEYS,
    MODULE_1,
    NOW,
    POLICY,
    Pki,
    by_thumbprint,
    registered,
    shown,
    token,
)


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


def decide(
    credential: Credential,
    registration: Registration | Missing | None,
    *,
    claim: Identity = DEVICE_1,
    bundle: TrustBundle | None = None,
    now: datetime = NOW,
    policy=POLICY,
) -> Verdict:
    return authenticate(claim, credential, registration, bundle or TrustBundle((), as_of=NOW), now, policy)


def refused(verdict: Verdict, reason: Reason) -> Refused:
    assert isinstance(verdict, Refused), verdict
    assert verdict.reason is reason, verdict
    assert not verdict.checks[-1].passed
    assert verdict.detail == verdict.checks[-1].detail != ""
    return verdict


def accepted(verdict: Verdict, how: How) -> Accepted:
    assert isinstance(verdict, Accepted), verdict
    assert verdict.how is how
    assert all(check.passed for check in verdict.checks)
    return verdict


class TestRegistration:
    def test_nobody_knows_it(self):
        refused(decide(token(), None), Reason.UNKNOWN_IDENTITY)
        refused(decide(token(), Missing(MissingWhy.UNKNOWN)), Reason.UNKNOWN_IDENTITY)

    def test_not_below_this_gateway(self):
        refused(decide(token(), Missing(MissingWhy.NOT_A_CHILD, NOW)), Reason.NOT_A_CHILD)

    def test_cannot_be_asked(self):
        refused(decide(token(), Missing(MissingWhy.UNAVAILABLE)), Reason.REGISTRY_UNAVAILABLE)

    def test_of_somebody_else(self):
        refused(decide(token(), registered(KEYS, Identity(HUB, "other"))), Reason.UNKNOWN_IDENTITY)

    def test_disabled(self):
        refused(decide(token(), registered(KEYS, enabled=False)), Reason.DISABLED)

    def test_device_of_the_module_disabled(self):
        registration = registered(KEYS, MODULE_1, device_enabled=False)
        refused(decide(token(), registration, claim=MODULE_1), Reason.DEVICE_DISABLED)

    def test_copy_past_its_deadline(self):
        registration = registered(KEYS, trusted_until=NOW - timedelta(seconds=1))
        refused(decide(token(), registration), Reason.REGISTRATION_STALE)
        accepted(decide(token(), replace(registration, trusted_until=NOW)), How.SAS_PRIMARY)


class TestSas:
    def test_primary_and_secondary(self):
        verdict = accepted(decide(token(), registered(KEYS)), How.SAS_PRIMARY)
        assert verdict.valid_until == NOW + timedelta(seconds=600 + 300)
        accepted(decide(token(b"s" * 32), registered(KEYS)), How.SAS_SECONDARY)

    def test_other_key(self):
        refused(decide(token(b"x" * 32), registered(KEYS)), Reason.SAS_SIGNATURE_MISMATCH)

    def test_expired_after_the_skew(self):
        accepted(decide(token(expires_in=-300), registered(KEYS)), How.SAS_PRIMARY)
        refused(decide(token(expires_in=-301), registered(KEYS)), Reason.SAS_EXPIRED)

    def test_expiry_beyond_the_calendar(self):
        verdict = accepted(decide(token(expires_in=10**15), registered(KEYS)), How.SAS_PRIMARY)
        assert verdict.valid_until is not None
        assert verdict.valid_until.year == 9999

    @pytest.mark.parametrize(
        "resource",
        ["hub.example%2Fdevices%2Fd2", "other.example%2Fdevices%2Fd1", "hub.example%2Fdevices%2Fd1%2Fmodules%2Fm1"],
    )
    def test_other_resource(self, resource: str):
        refused(decide(token(resource=resource), registered(KEYS)), Reason.SAS_OTHER_RESOURCE)

    def test_hub_token_without_policy(self):
        refused(decide(token(resource="hub.example"), registered(KEYS)), Reason.SAS_OTHER_RESOURCE)

    def test_malformed(self):
        refused(decide(MalformedToken("no sr"), registered(KEYS)), Reason.SAS_MALFORMED)

    def test_nothing_shown(self):
        refused(decide(NoCredential(), registered(KEYS)), Reason.NO_CREDENTIAL)

    def test_module_by_its_own_and_its_devices_keys(self):
        registration = registered(KEYS, MODULE_1, device_keys=DEVICE_KEYS)
        resource = "hub.example%2Fdevices%2Fd1%2Fmodules%2Fm1"
        accepted(decide(token(resource=resource), registration, claim=MODULE_1), How.SAS_PRIMARY)
        accepted(decide(token(b"S" * 32), registration, claim=MODULE_1), How.SAS_DEVICE_KEY)

    def test_device_keys_do_not_speak_for_a_module_of_another_kind(self):
        registration = registered(NoAuthentication(), MODULE_1, device_keys=DEVICE_KEYS)
        refused(decide(token(b"P" * 32), registration, claim=MODULE_1), Reason.WRONG_KIND_OF_CREDENTIAL)

    def test_policy(self):
        registration = registered(by_nobody(), policy_keys=(("device", DEVICE_KEYS),))
        for resource in ("hub.example", "hub.example%2Fdevices%2Fd1"):
            accepted(decide(token(b"S" * 32, resource, policy="device"), registration), How.SAS_POLICY)
        refused(decide(token(b"S" * 32, policy="service"), registration), Reason.SAS_UNKNOWN_POLICY)
        refused(decide(token(b"s" * 32, policy="device"), registration), Reason.SAS_SIGNATURE_MISMATCH)

    def test_for_a_device_with_a_certificate(self, pki: Pki):
        refused(decide(token(), registered(by_thumbprint(pki.device()))), Reason.WRONG_KIND_OF_CREDENTIAL)


def by_nobody() -> NoAuthentication:
    return NoAuthentication()


class TestThumbprint:
    @pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
    def test_both_slots_either_algorithm(self, pki: Pki, algorithm: str):
        first, second = pki.device(), pki.device()
        registration = registered(by_thumbprint(first, second, algorithm=algorithm))
        verdict = accepted(decide(shown(first), registration), How.THUMBPRINT_PRIMARY)
        assert verdict.valid_until == first.end_entity.not_valid_after_utc
        accepted(decide(shown(second), registration), How.THUMBPRINT_SECONDARY)

    def test_only_secondary(self, pki: Pki):
        chain = pki.device()
        registration = registered(Thumbprints(None, Thumbprint.of(chain.end_entity)))
        accepted(decide(shown(chain), registration), How.THUMBPRINT_SECONDARY)

    def test_unknown_certificate(self, pki: Pki):
        refused(decide(shown(pki.device("x")), registered(by_thumbprint(pki.device()))), Reason.THUMBPRINT_MISMATCH)

    def test_unknown_certificate_of_the_same_name(self, pki: Pki):
        registration = registered(by_thumbprint(pki.device()))
        refused(decide(shown(pki.device()), registration), Reason.THUMBPRINT_UNKNOWN_SUBJECT_KNOWN)

    def test_none_registered(self, pki: Pki):
        verdict = refused(decide(shown(pki.device("x")), registered(Thumbprints(None))), Reason.THUMBPRINT_MISMATCH)
        assert verdict.detail.endswith("registered: none")

    def test_dates(self, pki: Pki):
        expired, early = pki.expired(), pki.not_yet_valid()
        refused(decide(shown(expired), registered(by_thumbprint(expired))), Reason.CERTIFICATE_EXPIRED)
        refused(decide(shown(early), registered(by_thumbprint(early))), Reason.CERTIFICATE_NOT_YET_VALID)

    def test_neither_name_nor_usage_nor_chain_matter(self, pki: Pki):
        chain = pki.device("whoever", HUB_SERVER)
        alone = Chain((chain.end_entity,))
        accepted(decide(shown(alone), registered(by_thumbprint(alone))), How.THUMBPRINT_PRIMARY)

    def test_name_where_the_policy_asks_for_it(self, pki: Pki):
        strict = replace(POLICY, thumbprint_needs_common_name=True)
        other, own = pki.device("other"), pki.device()
        refused(decide(shown(other), registered(by_thumbprint(other)), policy=strict), Reason.CN_MISMATCH)
        accepted(decide(shown(own), registered(by_thumbprint(own)), policy=strict), How.THUMBPRINT_PRIMARY)

    def test_revoked(self, pki: Pki):
        chain = pki.device()
        revoked = (Thumbprint.of(pki.device().end_entity), Thumbprint.of(chain.end_entity, "sha1"))
        registration = registered(by_thumbprint(chain), revoked=revoked)
        refused(decide(shown(chain), registration), Reason.REVOKED)

    def test_certificate_for_a_sas_device(self, pki: Pki):
        refused(decide(shown(pki.device()), registered(KEYS)), Reason.WRONG_KIND_OF_CREDENTIAL)

    def test_certificate_for_nothing_registered(self, pki: Pki):
        refused(decide(shown(pki.device()), registered(by_nobody())), Reason.NO_AUTHENTICATION_REGISTERED)

    def test_malformed(self):
        refused(decide(MalformedChain("no DER"), registered(KEYS)), Reason.CERTIFICATE_MALFORMED)

    def test_module(self, pki: Pki):
        chain = pki.device("d1/m1")
        registration = registered(by_thumbprint(chain), MODULE_1)
        accepted(decide(shown(chain), registration, claim=MODULE_1), How.THUMBPRINT_PRIMARY)
        gateway = replace(POLICY, module_certificates=False)
        verdict = decide(shown(chain), registration, claim=MODULE_1, policy=gateway)
        refused(verdict, Reason.MODULE_CERTIFICATE_UNSUPPORTED)


class TestAuthority:
    def decide(self, pki: Pki, chain: Chain, **changes: object) -> Verdict:
        return decide(shown(chain), registered(CertificateAuthority(), **changes), bundle=pki.bundle())

    def test_chain_to_a_verified_ca(self, pki: Pki):
        chain = pki.device()
        verdict = accepted(self.decide(pki, chain), How.CERTIFICATE_AUTHORITY)
        assert verdict.valid_until == chain.end_entity.not_valid_after_utc

    def test_intermediate_as_the_registered_ca(self, pki: Pki):
        bundle = TrustBundle((pki.issuing.certificate,), as_of=NOW)
        accepted(
            decide(shown(pki.device()), registered(CertificateAuthority()), bundle=bundle), How.CERTIFICATE_AUTHORITY
        )

    @pytest.mark.parametrize("name", ["D1", "d2", "d1 ", "d1/m1"])
    def test_other_name(self, pki: Pki, name: str):
        refused(self.decide(pki, pki.device(name)), Reason.CN_MISMATCH)

    def test_dates(self, pki: Pki):
        refused(self.decide(pki, pki.expired()), Reason.CERTIFICATE_EXPIRED)
        refused(self.decide(pki, pki.not_yet_valid()), Reason.CERTIFICATE_NOT_YET_VALID)

    def test_other_ca(self, pki: Pki):
        refused(self.decide(pki, Pki().device()), Reason.CHAIN_UNTRUSTED)

    def test_no_ca_registered(self, pki: Pki):
        verdict = decide(shown(pki.device()), registered(CertificateAuthority()))
        assert isinstance(verdict, Refused)
        assert verdict.reason in (Reason.CHAIN_UNTRUSTED, Reason.CHAIN_INTERMEDIATE_MISSING)

    def test_intermediate_not_sent(self, pki: Pki):
        refused(self.decide(pki, Chain((pki.device().end_entity,))), Reason.CHAIN_INTERMEDIATE_MISSING)

    def test_server_certificate(self, pki: Pki):
        refused(self.decide(pki, pki.device("d1", HUB_SERVER)), Reason.CHAIN_WRONG_USAGE)

    def test_ca_certificate_as_a_device(self, pki: Pki):
        ca = pki.below(pki.root, "d1", ISSUING, NOW - timedelta(days=1))
        refused(self.decide(pki, ca.chain), Reason.END_ENTITY_IS_A_CA)

    def test_expired_intermediate(self, pki: Pki):
        old = pki.below(pki.root, "old", ISSUING, NOW - timedelta(days=20), not_after=NOW - timedelta(days=1))
        key = SoftKey.generate("d1")
        chain = old.issue(key.public_key(), DEVICE, Names("d1"), NOW - timedelta(days=10))
        capped = decide(shown(chain), registered(CertificateAuthority()), bundle=pki.bundle())
        refused(capped, Reason.CERTIFICATE_EXPIRED)  # no certificate outlives its issuer

    def test_path_too_long(self, pki: Pki):
        top = pki.below(pki.root, "top", ISSUING, NOW - timedelta(days=2))
        with pytest.raises(Exception, match="path"):
            pki.below(top, "below", INTERMEDIATE, NOW - timedelta(days=2))

    def test_revoked(self, pki: Pki):
        chain = pki.device()
        refused(self.decide(pki, chain, revoked=(Thumbprint.of(chain.end_entity),)), Reason.REVOKED)

    def test_edge_device(self, pki: Pki):
        refused(self.decide(pki, pki.device(), edge=True), Reason.EDGE_DEVICE_BY_CA)
        allowed = replace(POLICY, edge_by_ca=True)
        registration = registered(CertificateAuthority(), edge=True)
        verdict = decide(shown(pki.device()), registration, bundle=pki.bundle(), policy=allowed)
        accepted(verdict, How.CERTIFICATE_AUTHORITY)


class TestClock:
    def test_before_this_software(self, pki: Pki):
        chain = pki.device()
        verdict = decide(shown(chain), registered(by_thumbprint(chain)), now=datetime(1970, 1, 2, tzinfo=UTC))
        refused(verdict, Reason.CLOCK_SUSPECT)

    def test_before_the_registration(self, pki: Pki):
        chain = pki.not_yet_valid()
        registration = registered(by_thumbprint(chain), as_of=NOW + timedelta(hours=1))
        refused(decide(shown(chain), registration), Reason.CLOCK_SUSPECT)

    def test_only_dates_are_blamed_on_it(self):
        verdict = decide(token(b"x" * 32), registered(KEYS), now=datetime(1970, 1, 2, tzinfo=UTC))
        refused(verdict, Reason.SAS_SIGNATURE_MISMATCH)


class TestCredential:
    def test_a_password_is_what_is_judged(self, pki: Pki):
        der = tuple(
            c.public_bytes(__import__("cryptography").hazmat.primitives.serialization.Encoding.DER)
            for c in pki.device().certificates
        )
        assert isinstance(credential_from("wrong", der), MalformedToken)
        assert credential_from(None, der) == credential_from("", der)
        assert isinstance(credential_from(None, ()), NoCredential)
        assert isinstance(credential_from(None, (b"junk",)), MalformedChain)

    def test_wrong_password_is_not_rescued_by_a_good_certificate(self, pki: Pki):
        chain = pki.device()
        registration = registered(by_thumbprint(chain))
        accepted(decide(shown(chain), registration), How.THUMBPRINT_PRIMARY)
        refused(decide(credential_from("wrong", ()), registration), Reason.SAS_MALFORMED)


def test_a_verdict_is_no_truth_value():
    for verdict in (decide(token(), registered(KEYS)), decide(token(), None)):
        with pytest.raises(TypeError, match="match it"):
            bool(verdict)


def test_self_signed_device_with_ca_bit_is_accepted_by_thumbprint_only():
    """openssl's default self-signed certificate is CA:TRUE; as a thumbprint device it is common."""
    key = SoftKey.generate("d1")
    issuer = Issuer(key, self_signed(key, ROOT, Names("d1"), NOW - timedelta(days=1)))
    chain = issuer.chain
    accepted(decide(shown(chain), registered(by_thumbprint(chain))), How.THUMBPRINT_PRIMARY)
    anchored = TrustBundle((issuer.certificate,), as_of=NOW)
    verdict = decide(shown(chain), registered(CertificateAuthority()), bundle=anchored)
    assert isinstance(verdict, Refused)
