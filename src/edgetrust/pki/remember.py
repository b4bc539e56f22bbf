"""Path validations that need not be repeated: a returning device costs one dictionary look-up.

Rules. Only successes are remembered, under the end entity's SHA-256, the bundle's version, the purpose and the name
asked for, so that a changed bundle forgets everything by itself. A hit counts only while `now` lies within the dates of
the whole path. No end entity is held, only its hash. The number of entries is bounded; the longest unused goes first.
One event loop uses it; it is not for threads.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime

from cryptography.hazmat.primitives import hashes

from edgetrust import limits
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.failures import ChainFailure, Purpose
from edgetrust.pki.verify import RememberedChain, VerifiedChain, verify_chain


class VerifiedChains:
    """A bounded memory of verified chains in front of `verify_chain`."""

    def __init__(self, capacity: int = limits.VERIFIED_CHAINS_KEPT) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[tuple[bytes, str, Purpose, str | None], RememberedChain] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def verify(
        self, chain: Chain, bundle: TrustBundle, purpose: Purpose, now: datetime, *, name: str | None = None
    ) -> VerifiedChain | ChainFailure:
        """As `verify_chain`."""
        key = (chain.end_entity.fingerprint(hashes.SHA256()), bundle.version, purpose, name)
        kept = self._kept.get(key)
        known = None if kept is None else kept.recall(chain.end_entity, now)
        if known is not None:
            self._kept.move_to_end(key)
            return known
        outcome = verify_chain(chain, bundle, purpose, now, name=name)
        if isinstance(outcome, VerifiedChain):
            self._kept[key] = RememberedChain.of(outcome)
            self._kept.move_to_end(key)
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return outcome
