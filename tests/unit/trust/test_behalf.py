"""A gateway speaks for whom it may, and for nobody else; each refusal says which part of the chain failed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetrust.trust.behalf import speak_for
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Missing, MissingWhy, Registration
from edgetrust.trust.verdict import Accepted, Check, How, Reason, Refused, Verdict
from support.decisions import HUB, KEYS, NOW, registered

LEAF, MODULE, CHILD, PARENT = (Identity(HUB, *names) for names in (("leaf",), ("leaf", "m"), ("child",), ("parent",)))
ACTOR = Accepted(Identity(HUB, "parent", "$edgeHub"), How.SAS_PRIMARY, (Check("sas-signature", True),), NOW)


def scope(identity: Identity) -> str:
    return f"ms-azure-iot-edge://{identity.device}-1"


LINKS: dict[Identity, Registration] = {
    PARENT: registered(KEYS, PARENT, edge=True, scope=scope(PARENT)),
    CHILD: registered(KEYS, CHILD, edge=True, scope=scope(CHILD), parents=(scope(PARENT),)),
    LEAF: registered(KEYS, LEAF, scope=scope(CHILD), parents=(scope(CHILD),)),
    MODULE: registered(KEYS, MODULE),
}


def decide(*chain: Identity, actor: Accepted = ACTOR, **changed: Registration | Missing) -> Verdict:
    links = [changed.get(identity.module or identity.device, LINKS[identity]) for identity in chain]
    return speak_for(actor, chain[0], chain, links)


def refused(verdict: Verdict) -> tuple[Reason, str]:
    assert isinstance(verdict, Refused)
    assert verdict.checks[0].name == "sas-signature"  # what the gateway proved comes first
    return verdict.reason, verdict.checks[-1].name


@pytest.mark.parametrize("chain", [(CHILD, PARENT), (LEAF, CHILD, PARENT), (MODULE, LEAF, CHILD, PARENT)])
def test_accepted(chain: tuple[Identity, ...]) -> None:
    verdict = decide(*chain)
    assert isinstance(verdict, Accepted)
    assert (verdict.identity, verdict.how, verdict.valid_until) == (chain[0], How.ON_BEHALF, NOW)
    assert verdict.checks[-1] == Check("auth-chain", True, " < ".join(map(str, chain)))


def test_a_link_is_left_out() -> None:
    assert refused(decide(LEAF, PARENT)) == (Reason.NOT_A_CHILD, "auth-chain-children")


def test_not_its_chain() -> None:
    assert refused(decide(LEAF, CHILD)) == (Reason.AUTH_CHAIN_MISMATCH, "auth-chain")
    verdict = speak_for(ACTOR, MODULE, (LEAF, CHILD, PARENT), [LINKS[each] for each in (LEAF, CHILD, PARENT)])
    assert refused(verdict) == (Reason.AUTH_CHAIN_MISMATCH, "auth-chain")


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        (MissingWhy.UNKNOWN, Reason.UNKNOWN_IDENTITY),
        (MissingWhy.NOT_A_CHILD, Reason.NOT_A_CHILD),
        (MissingWhy.UNAVAILABLE, Reason.REGISTRY_UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("who", ["leaf", "child", "parent"])
def test_nothing_known(who: str, why: MissingWhy, reason: Reason) -> None:
    verdict = decide(LEAF, CHILD, PARENT, **{who: Missing(why)})
    assert refused(verdict) == (reason, "auth-chain-registered")


def test_a_registration_of_somebody_else() -> None:
    verdict = decide(LEAF, CHILD, PARENT, leaf=LINKS[CHILD])
    assert refused(verdict) == (Reason.UNKNOWN_IDENTITY, "auth-chain-registered")


@pytest.mark.parametrize("who", [LEAF, CHILD, PARENT])
def test_disabled_on_the_way(who: Identity) -> None:
    verdict = decide(LEAF, CHILD, PARENT, **{who.device: replace(LINKS[who], enabled=False)})
    assert refused(verdict) == (Reason.DISABLED, "auth-chain-enabled")


def test_a_module_of_a_disabled_device() -> None:
    verdict = decide(MODULE, LEAF, CHILD, PARENT, m=replace(LINKS[MODULE], device_enabled=False))
    assert refused(verdict) == (Reason.DEVICE_DISABLED, "auth-chain-enabled")


def test_a_parent_that_is_no_gateway() -> None:
    verdict = decide(LEAF, CHILD, PARENT, child=replace(LINKS[CHILD], edge=False))
    assert refused(verdict) == (Reason.NOT_A_CHILD, "auth-chain-children")


IDENTITIES = st.sampled_from(list(LINKS))
FACTS = st.sampled_from(
    [*LINKS.values(), *(replace(link, enabled=False) for link in LINKS.values()), *map(Missing, MissingWhy)]
)


@given(st.lists(IDENTITIES, min_size=2, max_size=6), st.data())
def test_total_and_never_beyond_the_children(chain: list[Identity], data: st.DataObject) -> None:
    """Whatever the chain and the facts: a verdict, and accepted only along registered, enabled children."""
    links = data.draw(st.lists(FACTS, min_size=len(chain), max_size=len(chain)))
    verdict = speak_for(ACTOR, chain[0], chain, links)
    match verdict:
        case Accepted():
            assert chain[-1] == PARENT
            assert [LINKS[each] for each in chain] == links
            assert tuple(chain) in {(CHILD, PARENT), (LEAF, CHILD, PARENT), (MODULE, LEAF, CHILD, PARENT)}
        case Refused():
            assert not verdict.checks[-1].passed
