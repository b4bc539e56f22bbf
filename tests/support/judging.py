"""Path validation in one word: `verified` and `refused` insist on an outcome and hand it on."""

from __future__ import annotations

from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.verify import ChainFailure, Purpose, VerifiedChain, verify_chain
from support.pki import NOW, Holder


def verified(chain: Chain, bundle: TrustBundle, purpose: Purpose = Purpose.DEVICE, **more: str) -> VerifiedChain:
    outcome = verify_chain(chain, bundle, purpose, NOW, name=more.get("name"))
    assert isinstance(outcome, VerifiedChain), outcome
    return outcome


def refused(chain: Chain, bundle: TrustBundle, purpose: Purpose = Purpose.DEVICE, **more: str) -> ChainFailure:
    outcome = verify_chain(chain, bundle, purpose, NOW, name=more.get("name"))
    assert isinstance(outcome, ChainFailure), outcome
    assert outcome.certificate
    assert outcome.detail
    return outcome


def trust(*holders: Holder) -> TrustBundle:
    return TrustBundle(tuple(holder.certificate for holder in holders), as_of=NOW)
