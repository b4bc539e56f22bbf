"""The provisioning service's decision: which enrollment, or why none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from edgetrust.pki.chain import Chain
from edgetrust.pki.keys import SecretBytes
from edgetrust.protocol.dps.enrollments import Enrollment
from edgetrust.protocol.sas import derive_key, parse_token, sign
from edgetrust.trust.attest import Attested, Attesting, Known, attest
from edgetrust.trust.credential import ClientChain, Credential, MalformedChain, MalformedToken, NoCredential
from edgetrust.trust.enrollment import CaEntry, Enrolled, Groups
from edgetrust.trust.identity import Identity
from edgetrust.trust.verdict import How, Reason, Refused
from support.enrollments import (
    PRIMARY,
    SCOPE,
    SECONDARY,
    authority,
    certificates,
    group,
    individual,
    keys,
    references,
    tpm,
)
from support.pki import EXPIRED, NOT_YET_VALID, NOW, SERVER_ONLY, Pki, self_signed

PKI = Pki(NOW, 2, root_name="Fleet Root")
ROOT, UPPER, LOWER = (holder.certificate for holder in PKI.issuers)
DEVICE = PKI.device("reg-1")


@dataclass
class World:
    """What the service knows."""

    own: Enrollment | None = None
    groups: tuple[Enrollment, ...] = ()
    authorities: tuple[CaEntry, ...] = ()
    tpm_key: bytes | None = None

    def known(self, now: datetime = NOW) -> Known:
        groups = Groups([Enrolled.of(one) for one in self.groups], self.authorities, now)
        own = None if self.own is None else Enrolled.of(self.own)
        return Known(own, groups, None if self.tpm_key is None else SecretBytes(self.tpm_key))

    def decide(
        self, credential: Credential, name: str = "reg-1", *, scope: str = SCOPE, now: datetime = NOW, **how: Any
    ) -> Attested | Refused:
        return attest(Identity(scope, name), credential, self.known(now), now, Attesting(SCOPE, **how))

    def accepts(self, credential: Credential, name: str = "reg-1", **how: Any) -> Attested:
        outcome = self.decide(credential, name, **how)
        assert isinstance(outcome, Attested), outcome
        return outcome

    def refuses(self, reason: Reason, credential: Credential, name: str = "reg-1", **how: Any) -> str:
        outcome = self.decide(credential, name, **how)
        assert isinstance(outcome, Refused), outcome
        assert outcome.reason is reason, outcome.checks
        assert outcome.detail
        return outcome.detail


def token(
    key: bytes = PRIMARY, name: str = "reg-1", seconds: int = 60, policy: str | None = "registration"
) -> Credential:
    return parse_token(sign(key, f"{SCOPE}%2Fregistrations%2F{name}", int(NOW.timestamp()) + seconds, policy))


def shown(*chain: x509.Certificate) -> Credential:
    return ClientChain(Chain(chain))


# Keys ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "how"), [(PRIMARY, How.SAS_PRIMARY), (SECONDARY, How.SAS_SECONDARY)])
@pytest.mark.parametrize("policy", [None, "registration"])
def test_own_keys(key: bytes, how: How, policy: str | None) -> None:
    outcome = World(individual("REG-1", keys())).accepts(token(key, policy=policy))
    assert (outcome.accepted.how, outcome.enrolled.name, str(outcome.accepted.identity)) == (how, "REG-1", "reg-1")
    assert outcome.keys is not None


@pytest.mark.parametrize("key", [PRIMARY, SECONDARY])
@pytest.mark.parametrize(("name", "derived_for"), [("reg-1", "reg-1"), ("REG-1", "REG-1"), ("REG-1", "reg-1")])
def test_keys_derived_from_a_groups(key: bytes, name: str, derived_for: str) -> None:
    world = World(groups=(group("other", keys(b"o" * 32, b"O" * 32)), group("g", keys())))
    outcome = world.accepts(token(derive_key(key, derived_for), name.lower()), name)
    assert outcome.enrolled.name == "g"
    assert outcome.keys is not None
    assert outcome.keys.primary.reveal() == derive_key(PRIMARY, derived_for)


def test_usual_mistakes_with_a_groups_key_have_names() -> None:
    world = World(groups=(group("g", keys()),))
    world.refuses(Reason.GROUP_KEY_NOT_DERIVED, token(PRIMARY))
    assert "'REG-1'" in world.refuses(Reason.REGISTRATION_CASE_DIFFERS, token(derive_key(PRIMARY, "REG-1")))
    assert "tried: g" in world.refuses(Reason.SAS_SIGNATURE_MISMATCH, token(b"x" * 32))


def test_an_individual_enrollment_decides_alone() -> None:
    world = World(individual("reg-1", keys(b"a" * 32, b"b" * 32)), (group("g", keys()),))
    world.refuses(Reason.SAS_SIGNATURE_MISMATCH, token(derive_key(PRIMARY, "reg-1")))
    world.accepts(token(b"b" * 32))
    world.refuses(Reason.WRONG_KIND_OF_CREDENTIAL, shown(DEVICE.certificate))


def test_tokens_that_are_not_good() -> None:
    world = World(individual("reg-1", keys()))
    world.refuses(Reason.SAS_EXPIRED, token(seconds=-301))
    world.accepts(token(seconds=-299))
    world.accepts(token(seconds=-301), grace=timedelta(seconds=600))
    world.refuses(Reason.SAS_EXPIRED, token(seconds=-1000), grace=timedelta(seconds=600))
    world.refuses(Reason.SAS_OTHER_RESOURCE, token(name="reg-2"))
    world.refuses(Reason.SAS_UNKNOWN_POLICY, token(policy="iothubowner"))
    world.refuses(Reason.SAS_MALFORMED, MalformedToken("no"))
    world.refuses(Reason.NO_CREDENTIAL, NoCredential())


def test_nobody_enrolled_it() -> None:
    World().refuses(Reason.ENROLLMENT_UNKNOWN, token())
    World().refuses(Reason.ENROLLMENT_UNKNOWN, shown(DEVICE.certificate))
    World(individual("reg-1", keys())).refuses(Reason.ID_SCOPE_UNKNOWN, token(), scope="0neOTHER")


def test_that_it_is_disabled_learns_only_who_proves_itself() -> None:
    world = World(individual("reg-1", keys(), provisioningStatus="disabled"))
    world.refuses(Reason.ENROLLMENT_DISABLED, token())
    world.refuses(Reason.SAS_SIGNATURE_MISMATCH, token(b"x" * 32))
    blocked = World(world.own, (group("g", keys()),))
    blocked.refuses(Reason.ENROLLMENT_DISABLED, token())
    World(groups=(group("g", keys(), provisioningStatus="disabled"),)).refuses(
        Reason.ENROLLMENT_DISABLED, token(derive_key(PRIMARY, "reg-1"))
    )


# Certificates -------------------------------------------------------------------------------------------------------


def test_the_very_certificate_of_an_enrollment() -> None:
    first, second = self_signed("reg-1"), self_signed("REG-1", key_ids=False)
    world = World(individual("reg-1", certificates("clientCertificates", first.certificate, second.certificate)))
    assert world.accepts(shown(first.certificate)).accepted.how is How.THUMBPRINT_PRIMARY
    outcome = world.accepts(shown(second.certificate))
    assert (outcome.accepted.how, outcome.certificate) == (How.THUMBPRINT_SECONDARY, second.certificate)
    third = self_signed("reg-1", key_ids=False).certificate
    world.refuses(Reason.ENROLLMENT_CERTIFICATE_MISMATCH, shown(third))
    world.refuses(Reason.WRONG_KIND_OF_CREDENTIAL, token())
    other = self_signed("reg-2").certificate
    World(individual("reg-1", certificates("clientCertificates", other))).refuses(Reason.CN_MISMATCH, shown(other))


@pytest.mark.parametrize(("when", "reason"), [
    (EXPIRED, Reason.CERTIFICATE_EXPIRED), (NOT_YET_VALID, Reason.CERTIFICATE_NOT_YET_VALID),
])  # fmt: skip
def test_dates_count_also_for_an_enrolled_certificate(when: dict[str, Any], reason: Reason) -> None:
    certificate = self_signed("reg-1", **when).certificate
    World(individual("reg-1", certificates("clientCertificates", certificate))).refuses(reason, shown(certificate))


def below(*groups: Enrollment, verified: bool = True) -> World:
    return World(groups=groups, authorities=(authority("root", ROOT, verified=verified),))


@pytest.mark.parametrize("anchor", [ROOT, UPPER, LOWER])
@pytest.mark.parametrize("sent", ["intermediates", "everything", "shuffled", "twice"])
def test_a_group_of_a_root_or_an_intermediate(anchor: x509.Certificate, sent: str) -> None:
    world = below(group("g", certificates("signingCertificates", anchor)))
    if anchor is LOWER:  # its CA must be known for it to count
        world = World(groups=world.groups, authorities=(authority("upper", UPPER),))
    leaf, *rest = DEVICE.chain.certificates
    orders = {
        "intermediates": (leaf, *rest),
        "everything": (leaf, *rest, ROOT),
        "shuffled": (leaf, ROOT, *reversed(rest)),
        "twice": (leaf, *rest, *rest, leaf),
    }
    outcome = world.accepts(shown(*orders[sent]))
    assert (outcome.enrolled.name, outcome.accepted.how) == ("g", How.CERTIFICATE_AUTHORITY)
    assert outcome.certificate == DEVICE.certificate
    assert outcome.signer is not None


def test_a_group_that_names_a_ca_certificate() -> None:
    world = below(group("g", references("root")))
    assert world.accepts(shown(*DEVICE.chain.certificates)).enrolled.name == "g"
    renewed = below(group("g", references("gone", "root")))
    assert renewed.accepts(shown(*DEVICE.chain.certificates)).enrolled.name == "g"


def test_the_first_group_on_the_way_up_decides_also_when_it_is_disabled() -> None:
    upper = group("upper", references("root"))
    lower = certificates("signingCertificates", UPPER)
    world = below(upper, group("lower", lower))
    assert world.accepts(shown(*DEVICE.chain.certificates)).enrolled.name == "lower"
    blocked = below(upper, group("lower", lower, provisioningStatus="disabled"))
    blocked.refuses(Reason.ENROLLMENT_DISABLED, shown(*DEVICE.chain.certificates))


def test_of_two_groups_with_one_ca_the_first_by_name_decides() -> None:
    world = below(group("a", references("root")), group("b", references("root")))
    assert world.accepts(shown(*DEVICE.chain.certificates)).enrolled.name == "a"


def test_the_name_in_the_certificate_is_the_registration_identifier_in_any_case() -> None:
    world = below(group("g", references("root")))
    outcome = world.accepts(shown(*DEVICE.chain.certificates), "REG-1")
    assert str(outcome.accepted.identity) == "REG-1"
    detail = world.refuses(Reason.CN_MISMATCH, shown(*DEVICE.chain.certificates), "reg-2")
    assert "'reg-1'" in detail
    assert "'reg-2'" in detail
    world.refuses(Reason.CN_MISMATCH, shown(*PKI.device("").chain.certificates))


def test_why_a_chain_is_not_good() -> None:
    world = below(group("g", references("root")))
    world.refuses(Reason.CHAIN_INTERMEDIATE_MISSING, shown(DEVICE.certificate))
    world.refuses(Reason.CHAIN_INTERMEDIATE_MISSING, shown(DEVICE.certificate, UPPER))
    world.refuses(Reason.CERTIFICATE_EXPIRED, shown(*PKI.device("reg-1", **EXPIRED).chain.certificates))
    world.refuses(Reason.CERTIFICATE_NOT_YET_VALID, shown(*PKI.device("reg-1", **NOT_YET_VALID).chain.certificates))
    world.refuses(Reason.CHAIN_WRONG_USAGE, shown(*PKI.device("reg-1", **SERVER_ONLY).chain.certificates))
    world.refuses(Reason.END_ENTITY_IS_A_CA, shown(*PKI.authority("reg-1").chain.certificates))
    old = PKI.authority("old", **EXPIRED).issue("reg-1", now=NOW)
    world.refuses(Reason.CHAIN_EXPIRED, shown(*old.chain.certificates))
    stranger = Pki(NOW, 1, root_name="Stranger").device("reg-1")
    world.refuses(Reason.CHAIN_UNTRUSTED, shown(*stranger.full_chain.certificates))
    impostor = PKI.impostor().device("reg-1")
    world.refuses(Reason.CHAIN_BROKEN, shown(*impostor.chain.certificates))
    world.refuses(Reason.CERTIFICATE_MALFORMED, MalformedChain("no DER"))


def test_a_clock_before_this_software_is_wrong() -> None:
    world = below(group("g", references("root")))
    early = datetime(2020, 1, 1, tzinfo=NOW.tzinfo)
    world.refuses(Reason.CLOCK_SUSPECT, shown(*DEVICE.chain.certificates), now=early)


def test_a_ca_counts_only_when_it_or_one_above_it_is_verified() -> None:
    chain = shown(*DEVICE.chain.certificates)
    detail = below(group("g", references("root")), verified=False).refuses(Reason.CA_NOT_VERIFIED, chain)
    assert "Fleet Root" in detail
    World(groups=(group("g", certificates("signingCertificates", UPPER)),)).refuses(Reason.CA_NOT_VERIFIED, chain)
    below(group("g", certificates("signingCertificates", UPPER)), verified=False).refuses(Reason.CA_NOT_VERIFIED, chain)
    below(verified=False).refuses(Reason.CA_NOT_VERIFIED, chain)


def test_a_verified_ca_that_no_group_names() -> None:
    chain = shown(*DEVICE.chain.certificates)
    assert "Fleet Root" in below().refuses(Reason.ENROLLMENT_GROUP_MISSING, chain)
    other = Pki(NOW, 0, root_name="Other Root")
    world = World(
        groups=(group("g", references("other")),),
        authorities=(authority("other", other.root.certificate), authority("root", ROOT)),
    )
    world.refuses(Reason.ENROLLMENT_GROUP_MISSING, chain)


def endless() -> Iterator[tuple[x509.Certificate, ...]]:
    """Chains that a peer might send to keep us busy."""
    deep = Pki(NOW, 5, root_name="Deep Root")
    holder = deep.authority("six").authority("seven", now=NOW).authority("eight", now=NOW).authority("nine", now=NOW)
    yield (holder.authority("ten", now=NOW).issue("reg-1", now=NOW).full_chain.certificates)
    a = Pki(NOW, 0, root_name="A").root
    b = a.authority("B", now=NOW)
    again = b.issue("A", key_label="A", now=NOW, ca=True, usage=("key_cert_sign",), eku=None)
    loop = b.issue("reg-1", now=NOW)
    yield (loop.certificate, b.certificate, again.certificate, b.certificate, again.certificate)
    yield (DEVICE.certificate, *([UPPER, LOWER] * 20))


@pytest.mark.parametrize("chain", list(endless()), ids=["depth 10", "loop", "41 certificates"])
def test_odd_chains_end_in_a_refusal(chain: tuple[x509.Certificate, ...]) -> None:
    world = below(group("g", references("root")))
    outcome = world.decide(shown(*chain))
    assert isinstance(outcome, Refused)
    assert outcome.reason in {
        Reason.CHAIN_BROKEN,
        Reason.CHAIN_UNTRUSTED,
        Reason.CHAIN_INTERMEDIATE_MISSING,
    }, outcome.checks


# TPM ----------------------------------------------------------------------------------------------------------------


def test_the_key_that_only_the_tpm_can_decrypt() -> None:
    enrollment = individual("reg-1", tpm(b"ek", b"srk"))
    World(enrollment).refuses(Reason.TPM_KEY_MISMATCH, token(b"n" * 32))
    world = World(enrollment, tpm_key=b"n" * 32)
    assert world.accepts(token(b"n" * 32)).accepted.how is How.TPM
    world.refuses(Reason.TPM_KEY_MISMATCH, token(b"m" * 32))
    world.refuses(Reason.WRONG_KIND_OF_CREDENTIAL, shown(DEVICE.certificate))


def test_a_verdict_is_no_truth_value() -> None:
    with pytest.raises(TypeError):
        bool(World(individual("reg-1", keys())).accepts(token()))
