"""Path validations that need not be repeated: a returning device costs one dictionary look-up, a new one below issuers
that are known one signature.

Rules. Only successes are remembered: chains under the end entity's SHA-256, the bundle's version, the purpose and the
name asked for, issuers under the certificates that were sent with them, the bundle's version and the purpose, so that a
changed bundle forgets everything by itself. A hit counts only while `now` lies within the dates of
the whole path. No end entity is held, only its hash. The number of entries is bounded; the longest unused goes first.
One event loop uses it; it is not for threads.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from edgetrust import limits
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.failures import ChainFailure, Purpose
from edgetrust.pki.verify import RememberedChain, VerifiedChain, VerifiedIssuers, verify_chain

K = TypeVar("K")
V = TypeVar("V")
Intermediates = tuple[x509.Certificate, ...]  # as a peer sent them


class VerifiedChains:
    """A bounded memory of verified chains in front of `verify_chain`.

    `whole`: only the very same chain is recalled. Without it the end entity is enough, whatever was sent along.
    """

    def __init__(self, capacity: int = limits.VERIFIED_CHAINS_KEPT, *, whole: bool = False) -> None:
        self._capacity = capacity
        self._whole = whole
        self._kept: OrderedDict[tuple[bytes, str, Purpose, str | None], RememberedChain] = OrderedDict()
        self._issuers: OrderedDict[tuple[Intermediates, str, Purpose], VerifiedIssuers] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def verify(
        self, chain: Chain, bundle: TrustBundle, purpose: Purpose, now: datetime, *, name: str | None = None
    ) -> VerifiedChain | ChainFailure:
        """As `verify_chain`."""
        key = (self._fingerprint(chain), bundle.version, purpose, name)
        kept = self._kept.get(key)
        known = None if kept is None else kept.recall(chain.end_entity, now)
        if known is not None:
            self._kept.move_to_end(key)
            return known
        outcome = self._below_known(chain, bundle, purpose, now) if name is None else None
        if outcome is None:
            outcome = verify_chain(chain, bundle, purpose, now, name=name)
            if isinstance(outcome, VerifiedChain):
                self._keep_issuers(outcome, (chain.intermediates, bundle.version, purpose))
        if isinstance(outcome, VerifiedChain):
            _keep(self._kept, key, RememberedChain.of(outcome), self._capacity)
        return outcome

    def _fingerprint(self, chain: Chain) -> bytes:
        counted = chain.certificates if self._whole else chain.certificates[:1]
        return b"".join(certificate.fingerprint(hashes.SHA256()) for certificate in counted)

    def _below_known(
        self, chain: Chain, bundle: TrustBundle, purpose: Purpose, now: datetime
    ) -> VerifiedChain | ChainFailure | None:
        issuers = self._issuers.get((chain.intermediates, bundle.version, purpose))
        return None if issuers is None else issuers.verify(chain, bundle, purpose, now)

    def _keep_issuers(self, verified: VerifiedChain, key: tuple[Intermediates, str, Purpose]) -> None:
        issuers = VerifiedIssuers.of(verified)
        if issuers is not None:
            _keep(self._issuers, key, issuers, limits.VERIFIED_ISSUERS_KEPT)


def _keep(kept: OrderedDict[K, V], key: K, value: V, capacity: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > capacity:
        kept.popitem(last=False)
