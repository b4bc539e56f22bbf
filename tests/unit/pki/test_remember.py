"""Path validations that need not be repeated, and those that must."""

from __future__ import annotations

import pytest

from edgetrust.pki import remember
from edgetrust.pki.chain import Chain
from edgetrust.pki.remember import VerifiedChains
from edgetrust.pki.verify import ChainFailure, Purpose, RememberedChain, VerifiedChain, verify_chain
from support.pki import DAY, NOW, Pki, root

Counted = list[object]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    calls: Counted = []

    def count(*arguments: object, **named: object) -> object:
        calls.append(arguments)
        return verify_chain(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(remember, "verify_chain", count)
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


def test_the_longest_unused_goes_first(counted: Counted) -> None:
    pki, memory = Pki(), VerifiedChains(capacity=2)
    one, two, three = (pki.device(name).chain for name in ("one", "two", "three"))
    for chain in (one, two, one, three):
        memory.verify(chain, pki.bundle, Purpose.DEVICE, NOW)
    assert (len(counted), len(memory)) == (3, 2)
    memory.verify(one, pki.bundle, Purpose.DEVICE, NOW)
    assert len(counted) == 3
    memory.verify(two, pki.bundle, Purpose.DEVICE, NOW)
    assert len(counted) == 4
