"""Path validation. Decides whether a chain leads from its end entity to a trust anchor for a purpose, now, and if not,
why.

Rules. Any anchor of the bundle, root or intermediate, may end the path. What a peer sends may be unordered and may hold
roots and certificates of no use; the bundle's intermediates help. `cryptography`'s path builder finds the path and
verifies signatures and name constraints, with its policies for web sites switched off, since the certificates of real
fleets do not meet them; the checks of `checks` then decide everything else. Certificates that could never be issuers
are not even shown to the builder. If a check fails because of an intermediate, another path is tried without it. When
no path is left, `diagnosis` names the reason.

A DEVICE's own certificate is never its own anchor: whoever lists one as trusted has made a mistake. A server's or CA's
may be.

`verify_chain` is total: whatever the certificates hold, it returns a VerifiedChain or a ChainFailure. Only this module
can make a VerifiedChain. It must not know devices, registrations or thumbprint authentication.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from datetime import datetime
from typing import Final, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from edgetrust import limits
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.checks import first_fault
from edgetrust.pki.diagnosis import diagnose
from edgetrust.pki.facts import Facts, read, read_once
from edgetrust.pki.failures import ChainFailure, ChainReason, Purpose
from edgetrust.pki.names import as_ip, covers

__all__ = [
    "ChainFailure",
    "ChainReason",
    "Purpose",
    "RememberedChain",
    "VerifiedChain",
    "VerifiedIssuers",
    "verify_chain",
]

_MADE_HERE: Final = object()
_END_ENTITY_POLICY: Final = ExtensionPolicy.permit_all()
_CA_POLICY: Final = _END_ENTITY_POLICY.require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
_DETOURS: Final = 4  # other paths tried after a check failed; cross-signed hierarchies need one


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """A verified path: `path` goes from the end entity to the anchor, valid in [`valid_from`, `valid_until`]."""

    path: tuple[x509.Certificate, ...]
    purpose: Purpose
    valid_from: datetime
    valid_until: datetime
    made_by: InitVar[object] = None

    def __post_init__(self, made_by: object) -> None:
        if made_by is not _MADE_HERE:
            raise TypeError("a VerifiedChain comes from verify_chain only")

    @property
    def end_entity(self) -> x509.Certificate:
        return self.path[0]

    @property
    def anchor(self) -> x509.Certificate:
        return self.path[-1]

    def __bool__(self) -> NoReturn:
        raise TypeError("match on the outcome of a path validation; it has no truth value")


@dataclass(frozen=True, slots=True)
class RememberedChain:
    """A verified chain without its end entity, of which only the SHA-256 is kept: one per device of a fleet is held."""

    fingerprint: bytes
    issuers: tuple[x509.Certificate, ...]
    purpose: Purpose
    valid_from: datetime
    valid_until: datetime

    @classmethod
    def of(cls, verified: VerifiedChain) -> RememberedChain:
        fingerprint = verified.end_entity.fingerprint(hashes.SHA256())
        return cls(fingerprint, verified.path[1:], verified.purpose, verified.valid_from, verified.valid_until)

    def recall(self, end_entity: x509.Certificate, now: datetime) -> VerifiedChain | None:
        """The verified chain again, if this is its end entity and `now` lies within the dates of the whole path."""
        if (
            end_entity.fingerprint(hashes.SHA256()) != self.fingerprint
            or not self.valid_from <= now <= self.valid_until
        ):
            return None
        return VerifiedChain((end_entity, *self.issuers), self.purpose, self.valid_from, self.valid_until, _MADE_HERE)


@dataclass(frozen=True, slots=True)
class VerifiedIssuers:
    """What stands above the end entity of a verified chain, the nearest issuer first. Good for the same trust bundle.

    `nearest` holds the nearest issuer alone, so that the builder verifies one signature, by its usual rules.
    """

    path: tuple[Facts, ...]
    nearest: Store

    @classmethod
    def of(cls, verified: VerifiedChain) -> VerifiedIssuers | None:
        """None if what is above cannot be taken as it stands: nothing, or CAs that constrain names below them."""
        path = tuple(read(certificate) for certificate in verified.path[1:])
        if not path or any(facts.constrains_names for facts in path):
            return None
        return cls(path, Store([path[0].certificate]))

    def verify(self, chain: Chain, bundle: TrustBundle, purpose: Purpose, now: datetime) -> VerifiedChain | None:
        """The chain verified; None when only `verify_chain` can tell."""
        if chain.end_entity in bundle.anchors:
            return None
        end_entity = read_once(chain.end_entity)
        path = (end_entity, *self.path)
        if end_entity.unreadable is not None or isinstance(_build(chain.end_entity, [], self.nearest, now), str):
            return None
        return _verified(path, purpose) if first_fault(path, purpose, now) is None else None


def verify_chain(
    chain: Chain, bundle: TrustBundle, purpose: Purpose, now: datetime, *, name: str | None = None
) -> VerifiedChain | ChainFailure:
    """Verify a chain for a purpose at the time `now` (aware). Never raises for what certificates hold.

    `name` is the server's host name or IP literal that the end entity must cover; the common name is not looked at (RFC
    9525).
    """
    end_entity = read_once(chain.end_entity)
    if len(chain.intermediates) > limits.PEER_CHAIN_CERTIFICATES:
        sent, most = len(chain.certificates), limits.PEER_CHAIN_CERTIFICATES + 1
        return ChainFailure(
            ChainReason.TOO_LONG, end_entity.subject, f"{sent} certificates were sent, at most {most} are read"
        )
    if end_entity.unreadable is not None:  # neither its names nor its extensions can be followed
        return ChainFailure(ChainReason.UNKNOWN_CRITICAL, end_entity.subject, f"unreadable: {end_entity.unreadable}")
    outcome = _verify_path(chain, end_entity, bundle, purpose, now)
    if isinstance(outcome, ChainFailure) or name is None:
        return outcome
    fault = _name_fault(end_entity, name)
    return outcome if fault is None else fault


def _verify_path(
    chain: Chain, end_entity: Facts, bundle: TrustBundle, purpose: Purpose, now: datetime
) -> VerifiedChain | ChainFailure:
    candidates = _possible_issuers((*chain.intermediates, *bundle.intermediates))
    first: ChainFailure | None = None
    for _ in range(_DETOURS):
        built = _build(chain.end_entity, candidates, bundle.store, now)
        if isinstance(built, str):
            return diagnose(chain, bundle, purpose, now, built) if first is None else first
        path = (end_entity, *(read(certificate) for certificate in built[1:]))
        if len(path) == 1 and purpose is Purpose.DEVICE:
            return _own_anchor(path[0])
        fault = first_fault(path, purpose, now)
        if fault is None:
            return _verified(path, purpose)
        index, failure = fault
        first = failure if first is None else first
        if path[index].certificate not in candidates:
            break
        candidates = [certificate for certificate in candidates if certificate != path[index].certificate]
    assert first is not None
    return first


def _possible_issuers(certificates: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Distinct CAs with fit keys: a peer must not be able to choose keys that are slow to verify with."""
    distinct = (read(certificate) for certificate in dict.fromkeys(certificates))
    return [f.certificate for f in distinct if f.is_ca and f.key_fault is None and f.unreadable is None]


def _build(
    end_entity: x509.Certificate, candidates: list[x509.Certificate], anchors: Store | None, now: datetime
) -> Sequence[x509.Certificate] | str:
    """A path to an anchor, or the builder's words for why there is none."""
    if anchors is None:
        return "the trust bundle holds no anchor"
    builder = PolicyBuilder().store(anchors).time(now).max_chain_depth(limits.CHAIN_INTERMEDIATES)
    builder = builder.extension_policies(ca_policy=_CA_POLICY, ee_policy=_END_ENTITY_POLICY)
    try:
        return builder.build_client_verifier().verify(end_entity, candidates).chain
    except (
        VerificationError,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        ValueError,
        TypeError,
    ) as error:
        return str(error)


def _verified(path: Sequence[Facts], purpose: Purpose) -> VerifiedChain:
    return VerifiedChain(
        tuple(facts.certificate for facts in path),
        purpose,
        max(facts.not_before for facts in path),
        min(facts.not_after for facts in path),
        _MADE_HERE,
    )


def _own_anchor(end_entity: Facts) -> ChainFailure:
    return ChainFailure(
        ChainReason.UNTRUSTED,
        end_entity.subject,
        "this very certificate is listed in the trust bundle, which holds CAs; register its thumbprint instead",
    )


def _name_fault(end_entity: Facts, name: str) -> ChainFailure | None:
    if covers(end_entity.dns, end_entity.ips, name) is not None:
        return None
    if not end_entity.has_san:
        detail = (
            f"it has no subject alternative name, so that it is not good for {name!r}; the common name does not count"
        )
    else:
        kind = "address" if as_ip(name) is not None else "name"
        listed = ", ".join((*end_entity.dns, *map(str, end_entity.ips))) or "no host"
        detail = f"it is good for {listed}, not for the {kind} {name!r}"
    return ChainFailure(ChainReason.NAME, end_entity.subject, detail)
