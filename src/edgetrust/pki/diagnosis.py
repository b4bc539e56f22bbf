"""Why no path was found. Runs only after path validation has failed, and can only name a failure, never accept
anything.

It follows names and signatures upwards from the end entity, ignoring everything else, and looks at the best path it
meets. Does it end at a trust anchor, then the checks say what is wrong on it. Does it not, then the topmost certificate
tells: a self-signed one is a root that nobody trusts; a known issuer name whose key did not sign is a bad signature;
otherwise an intermediate is missing. The number of issuers looked at is bounded, whatever a peer sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from edgetrust import limits
from edgetrust.pki.chain import Chain, Thumbprint, TrustBundle
from edgetrust.pki.checks import first_fault
from edgetrust.pki.facts import Facts, read
from edgetrust.pki.failures import ChainFailure, ChainReason, Purpose


@dataclass(slots=True)
class _Search:
    """The certificates that may be issuers, and what is left of the budget. `deepest` is the longest path that led
    nowhere.
    """

    anchors: frozenset[object]
    known: tuple[Facts, ...]
    now: datetime
    steps: int = limits.PATH_STEPS
    deepest: tuple[Facts, ...] = field(default=())

    def paths(self, path: tuple[Facts, ...]) -> Iterator[tuple[Facts, ...]]:
        """Every way from the last certificate of `path` to an anchor, the likeliest first."""
        if len(path) > len(self.deepest):
            self.deepest = path
        if len(path) > limits.CHAIN_INTERMEDIATES + 1:
            return
        for issuer in self._issuers(path):
            if issuer.certificate in self.anchors:
                yield (*path, issuer)
            yield from self.paths((*path, issuer))

    def _issuers(self, path: tuple[Facts, ...]) -> Iterator[Facts]:
        top = path[-1]
        for candidate in sorted(named_issuers(top, self.known), key=lambda facts: self._unlikeliness(facts, top)):
            if candidate in path:
                continue
            if self.steps == 0:
                return
            self.steps -= 1
            if _signed(top, candidate):
                yield candidate

    def _unlikeliness(self, issuer: Facts, top: Facts) -> tuple[bool, bool, bool]:
        other_key = None not in (top.authority_key_id, issuer.key_id) and top.authority_key_id != issuer.key_id
        out_of_date = not issuer.not_before <= self.now <= issuer.not_after
        return other_key, out_of_date, issuer.certificate not in self.anchors


def diagnose(chain: Chain, bundle: TrustBundle, purpose: Purpose, now: datetime, refusal: str) -> ChainFailure:
    """Name the failure of a chain that path building refused with the words `refusal`."""
    end_entity = read(chain.end_entity)
    held = dict.fromkeys((*bundle.anchors, *chain.intermediates, *bundle.intermediates))
    search = _Search(frozenset(bundle.anchors), tuple(read(certificate) for certificate in held), now)
    whole: tuple[Facts, ...] = ()
    for path in search.paths((end_entity,)):
        fault = first_fault(path, purpose, now)
        if fault is not None:
            return fault[1]
        whole = whole or path
    if whole:
        return _unexplained(whole, refusal)
    return _dead_end(search)


def _unexplained(path: Sequence[Facts], refusal: str) -> ChainFailure:
    """A path that all checks here let through: what remains are name constraints and the path builder's own bounds."""
    constrained = next((facts for facts in path if facts.constrains_names), None)
    if constrained is not None:
        return ChainFailure(ChainReason.NAME_CONSTRAINTS, constrained.subject, refusal)
    return ChainFailure(ChainReason.UNTRUSTED, path[0].subject, refusal)


def _dead_end(search: _Search) -> ChainFailure:
    top = search.deepest[-1]
    if len(search.deepest) > limits.CHAIN_INTERMEDIATES + 1:
        return ChainFailure(
            ChainReason.TOO_LONG, top.subject, f"no trust anchor within {limits.CHAIN_INTERMEDIATES} intermediates"
        )
    if top.self_issued and _signed(top, top):
        shown = Thumbprint.of(top.certificate).openssl()
        return ChainFailure(
            ChainReason.UNTRUSTED,
            top.subject,
            f"the chain ends at this self-signed certificate, which is not in the trust bundle (SHA-256 {shown})",
        )
    if any(named_issuers(top, search.known)):
        return ChainFailure(
            ChainReason.SIGNATURE,
            top.subject,
            f"a certificate named {top.issuer!r} is known, but its key did not sign this one",
        )
    return ChainFailure(
        ChainReason.INTERMEDIATE_MISSING,
        top.subject,
        f"its issuer {top.issuer!r} was not sent and is not in the trust bundle",
    )


def named_issuers(child: Facts, known: Iterable[Facts]) -> list[Facts]:
    """The certificates that bear the name of the child's issuer."""
    return [facts for facts in known if facts.subject_der == child.issuer_der and facts is not child]


def _signed(child: Facts, issuer: Facts) -> bool:
    """Whether the issuer's key made the child's signature. Counts as yes if the key is unfit: the checks will name
    that.
    """
    if issuer.key_fault is not None or child.signature_fault is not None:
        return True
    try:
        child.certificate.verify_directly_issued_by(issuer.certificate)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True
