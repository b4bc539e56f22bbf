"""Path validations that need not be repeated, and those that must."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509

from edgetrust.pki import remember
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.failures import ChainReason
from edgetrust.pki.remember import VerifiedChains
from edgetrust.pki.verify import (
    ChainFailure,
    Purpose,
    RememberedChain,
    VerifiedChain,
    VerifiedIssuers,
    verify_chain,
)
from support.pki import (
    DAY,
    EXPIRED,
    NOT_YET_VALID,
    NOW,
    SERVER_ONLY,
    UNKNOWN_CRITICAL,
    Pki,
    certificate,
    key,
    root,
)

Counted = list[object]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    calls: Counted = []

    def count(*arguments: object, **named: object) -> object:
        calls.append(arguments)
        return verify_chain(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(remember, "verify_chain", count)
    return calls


@pytest.fixture
def below(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Chains that were verified below known issuers."""
    calls: Counted = []

    class Counting:
        @staticmethod
        def of(verified: VerifiedChain) -> Counting | None:
            issuers = VerifiedIssuers.of(verified)
            return None if issuers is None else Counting(issuers)

        def __init__(self, issuers: VerifiedIssuers) -> None:
            self._issuers = issuers

        def verify(self, *arguments: Any) -> VerifiedChain | None:
            calls.append(arguments)
            return self._issuers.verify(*arguments)

    monkeypatch.setattr(remember, "VerifiedIssuers", Counting)
    return calls


def test_a_returning_device_is_not_verified_again(counted: Counted) -> None:
    pki, memory = Pki(), VerifiedChains()
    chain = pki.device().chain
    first = memory.verify(chain, pki.bundle, Purpose.DEVICE, NOW)
    assert memory.verify(Chain(chain.certificates[:1]), pki.bundle, Purpose.DEVICE, NOW) == first
    assert (len(counted), len(memory)) == (1, 1)


def test_only_its_own_end_entity_recalls_a_chain() -> None:
    pki = Pki()
    one, other = pki.device("one").chain, pki.device("other").chain
    verified = verify_chain(one, pki.bundle, Purpose.DEVICE, NOW)
    assert isinstance(verified, VerifiedChain)
    remembered = RememberedChain.of(verified)
    assert remembered.recall(one.end_entity, NOW) == verified
    assert remembered.recall(other.end_entity, NOW) is None
    assert remembered.recall(one.end_entity, verified.valid_until + DAY) is None


def test_another_purpose_name_or_bundle_is_another_question(counted: Counted) -> None:
    pki, memory = Pki(), VerifiedChains()
    chain = pki.server("gw").chain
    assert isinstance(memory.verify(chain, pki.bundle, Purpose.SERVER, NOW, name="gw"), VerifiedChain)
    assert isinstance(memory.verify(chain, pki.bundle, Purpose.SERVER, NOW, name="other"), ChainFailure)
    assert isinstance(memory.verify(chain, pki.bundle, Purpose.DEVICE, NOW), ChainFailure)
    wider = pki.bundle.with_(anchors=[root("Other").certificate])
    assert isinstance(memory.verify(chain, wider, Purpose.SERVER, NOW, name="gw"), VerifiedChain)
    assert len(counted) == 4


def test_failures_are_not_remembered(counted: Counted) -> None:
    pki, memory = Pki(), VerifiedChains()
    bare = Chain(pki.device().path[:1])
    for _ in range(2):
        assert isinstance(memory.verify(bare, pki.bundle, Purpose.DEVICE, NOW), ChainFailure)
    assert (len(counted), len(memory)) == (2, 0)


def test_dates_are_looked_at_on_a_hit() -> None:
    pki, memory = Pki(), VerifiedChains()
    chain = pki.device(end=DAY).chain
    assert isinstance(memory.verify(chain, pki.bundle, Purpose.DEVICE, NOW), VerifiedChain)
    assert isinstance(memory.verify(chain, pki.bundle, Purpose.DEVICE, NOW + 2 * DAY), ChainFailure)
    assert isinstance(memory.verify(chain, pki.bundle, Purpose.DEVICE, NOW - 2 * DAY), ChainFailure)


def test_the_longest_unused_goes_first(counted: Counted, below: Counted) -> None:
    pki, memory = Pki(), VerifiedChains(capacity=2)
    one, two, three = (pki.device(name).chain for name in ("one", "two", "three"))
    for chain in (one, two, one, three):
        memory.verify(chain, pki.bundle, Purpose.DEVICE, NOW)
    assert (len(counted), len(below), len(memory)) == (1, 2, 2)
    memory.verify(one, pki.bundle, Purpose.DEVICE, NOW)
    assert len(below) == 2
    memory.verify(two, pki.bundle, Purpose.DEVICE, NOW)
    assert (len(counted), len(below)) == (1, 3)


# Issuers that are known --------------------------------------------------------------------------------------------


def test_a_new_device_below_known_issuers_gets_the_same_answer(counted: Counted, below: Counted) -> None:
    pki, memory = Pki(intermediates=2), VerifiedChains()
    memory.verify(pki.device("first").chain, pki.bundle, Purpose.DEVICE, NOW)
    chain = pki.device("second", end=3 * DAY).chain
    found = memory.verify(chain, pki.bundle, Purpose.DEVICE, NOW)
    assert found == verify_chain(chain, pki.bundle, Purpose.DEVICE, NOW)
    assert isinstance(found, VerifiedChain)
    assert (len(counted), len(below), len(found.path)) == (1, 1, 4)


@pytest.mark.parametrize(
    "fields", [EXPIRED, NOT_YET_VALID, SERVER_ONLY, UNKNOWN_CRITICAL, {"ca": True}, {"usage": ("crl_sign",)}]
)
def test_what_is_wrong_with_a_device_below_known_issuers_is_named_as_ever(fields: dict[str, Any]) -> None:
    pki, memory = Pki(), VerifiedChains()
    memory.verify(pki.device("right").chain, pki.bundle, Purpose.DEVICE, NOW)
    chain = pki.device("wrong", **fields).chain
    refused = memory.verify(chain, pki.bundle, Purpose.DEVICE, NOW)
    assert isinstance(refused, ChainFailure)
    assert refused == verify_chain(chain, pki.bundle, Purpose.DEVICE, NOW)


def test_a_known_issuer_vouches_for_what_it_has_signed_only() -> None:
    pki, memory = Pki(), VerifiedChains()
    memory.verify(pki.device("right").chain, pki.bundle, Purpose.DEVICE, NOW)
    forged = certificate("forged", key("forged"), pki.issuing.certificate, key("forger"))
    chain = Chain((forged, *pki.issuing.chain.certificates))
    refused = memory.verify(chain, pki.bundle, Purpose.DEVICE, NOW)
    assert refused == verify_chain(chain, pki.bundle, Purpose.DEVICE, NOW)
    assert isinstance(refused, ChainFailure)


def test_dates_of_known_issuers_are_looked_at() -> None:
    pki, memory = Pki(), VerifiedChains()
    below = root("Short", end=10 * DAY)
    issuing = below.authority("Short issuing", end=5 * DAY)
    bundle = TrustBundle((below.certificate,), as_of=NOW)
    assert isinstance(memory.verify(issuing.issue("one").chain, bundle, Purpose.DEVICE, NOW), VerifiedChain)
    later = memory.verify(issuing.issue("two").chain, bundle, Purpose.DEVICE, NOW + 6 * DAY)
    assert isinstance(later, ChainFailure)
    assert later.reason is ChainReason.EXPIRED
    assert isinstance(memory.verify(pki.device().chain, pki.bundle, Purpose.DEVICE, NOW), VerifiedChain)


def test_a_changed_bundle_forgets_issuers(counted: Counted) -> None:
    pki, memory = Pki(), VerifiedChains()
    memory.verify(pki.device("one").chain, pki.bundle, Purpose.DEVICE, NOW)
    nobody = TrustBundle((root("Other").certificate,), as_of=NOW)
    assert isinstance(memory.verify(pki.device("two").chain, nobody, Purpose.DEVICE, NOW), ChainFailure)
    assert len(counted) == 2


def test_issuers_that_constrain_names_are_asked_every_time(counted: Counted, below: Counted) -> None:
    permitted = x509.NameConstraints([x509.DNSName("site.example")], None)
    top, memory = root("Constraining", extra=((permitted, True),)), VerifiedChains()
    issuing = top.authority("Below constraints")
    bundle = TrustBundle((top.certificate,), as_of=NOW)
    right, wrong = (issuing.issue(host, hosts=(host,)).chain for host in ("a.site.example", "a.elsewhere.example"))
    assert isinstance(memory.verify(right, bundle, Purpose.DEVICE, NOW), VerifiedChain)
    refused = memory.verify(wrong, bundle, Purpose.DEVICE, NOW)
    assert isinstance(refused, ChainFailure)
    assert refused.reason is ChainReason.NAME_CONSTRAINTS
    assert (len(counted), len(below)) == (2, 0)


def test_a_device_that_is_listed_as_an_anchor_is_refused_below_known_issuers_too() -> None:
    pki, memory = Pki(), VerifiedChains()
    listed = pki.device("listed").chain
    bundle = pki.bundle.with_(anchors=[listed.end_entity])
    memory.verify(pki.device("other").chain, bundle, Purpose.DEVICE, NOW)
    assert memory.verify(listed, bundle, Purpose.DEVICE, NOW) == verify_chain(listed, bundle, Purpose.DEVICE, NOW)


def test_a_memory_of_whole_chains_recalls_no_other_chain_of_the_same_device() -> None:
    pki = Pki(NOW, intermediates=1)
    chain = pki.device().chain
    memory = VerifiedChains(whole=True)
    assert isinstance(memory.verify(chain, pki.bundle, Purpose.DEVICE, NOW), VerifiedChain)
    assert isinstance(memory.verify(chain, pki.bundle, Purpose.DEVICE, NOW), VerifiedChain)
    assert len(memory) == 1
    alone = Chain((chain.end_entity,))
    assert isinstance(memory.verify(alone, pki.bundle, Purpose.DEVICE, NOW), ChainFailure)
