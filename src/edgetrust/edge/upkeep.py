"""Keeps the certificates that are issued by configuration: the device's identity and the Edge CA, and EST identities.

Rules. What is missing is obtained before anything is served: while the issuer is away that is waited for, and when it
says no the start fails. What is there is used, and renewed when it is due. Prove, then promote: a new Edge CA has to
issue a server certificate with which a TLS connection works; a new device identity has to be accepted by the hub.
Until then, and whenever something fails, the old one stays in use; the failure is written down and tried again, for
ever. Source: edge specification 3.6, 5.2, 5.3.

It must not know who is connected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog
from cryptography import x509
from cryptography.x509.oid import NameOID

from edgetrust.clock import Clock
from edgetrust.device.enroll import check_dates
from edgetrust.edge.certd import GatewayCertificates
from edgetrust.edge.credentials import IssuedIdentity, KeptByIdentityService
from edgetrust.edge.edgeca import IssuedCa, QuickstartCa
from edgetrust.edge.files import DEVICE_ID, EDGE_CA
from edgetrust.edge.issuer import ConfiguredIssuer, EstIdentity
from edgetrust.edge.issuing import Order
from edgetrust.edge.settings import Settings
from edgetrust.edge.signing import Extensions, ca_extensions
from edgetrust.edge.trial import try_edge_ca
from edgetrust.errors import Error, UnavailableError
from edgetrust.limits import CERTIFICATE_CHECK_SECONDS, CERTIFICATE_LEAST_CHECK_SECONDS, UPSTREAM_RETRY_SECONDS
from edgetrust.pki.chain import Chain, key_matches
from edgetrust.pki.csr import request_for
from edgetrust.pki.issue import Issuer
from edgetrust.pki.keys import KeyAlgorithm, KeyHandle, KeyStore
from edgetrust.pki.renewal import AutoRenew, RenewalState, next_attempt
from edgetrust.telemetry import EVENT_CERTIFICATE_ISSUED, EVENT_CERTIFICATE_NOT_RENEWED, EVENT_GATEWAY_DEGRADED


class Issues(Protocol):
    """Who issues by configuration: this process, or the certificate service of another."""

    async def issue(self, order: Order, csr: bytes, *, key_id: str | None = None) -> Chain: ...

    async def keep_identities(self) -> None: ...

    def identities(self) -> list[EstIdentity]: ...


TryIdentity = Callable[[Chain, KeyHandle], Awaitable[None]]
"""Shows a certificate to the hub as this device; raises Error when it is not accepted."""

_ALGORITHM = KeyAlgorithm.RSA2048  # as the real product's preference, rsa-2048:*
_log = structlog.get_logger()


@dataclass(slots=True)
class _Kept:
    """One certificate. `policy` None: it is obtained once and used as it is."""

    order: Order
    policy: AutoRenew | None
    extensions: Extensions
    fits: Callable[[x509.Certificate], bool]
    prove: Callable[[Chain, KeyHandle, bool], Awaitable[None]]
    state: RenewalState = RenewalState()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class Renewing:
    """How a certificate renews itself, for who shows the state."""

    policy: AutoRenew
    state: RenewalState


class Upkeep:
    """The certificates of one gateway that are issued."""

    def __init__(
        self,
        settings: Settings,
        keys: KeyStore,
        certificates: GatewayCertificates,
        clock: Clock,
        try_identity: TryIdentity,
        issuer: Issues | None = None,
        kept: frozenset[str] = frozenset({DEVICE_ID, EDGE_CA}),
    ) -> None:
        self.issuer = issuer or ConfiguredIssuer(settings.issuing, keys, certificates.store, clock)
        self._settings = settings
        self._keys = keys
        self._certificates = certificates
        self._clock = clock
        self._try_identity = try_identity
        self._kept = [one for one in self._what_is_kept() if one.order.certificate_id in kept]

    def _what_is_kept(self) -> list[_Kept]:
        kept, settings = [], self._settings
        if isinstance(settings.credential, IssuedIdentity):
            wanted, name = settings.credential, _name(settings.credential.order.subject)
            kept.append(
                _Kept(
                    wanted.order, wanted.auto_renew, (), lambda leaf: _name(leaf.subject) == name, self._prove_identity
                )
            )
        if isinstance(settings.edge_ca, IssuedCa):
            ca = settings.edge_ca
            kept.append(_Kept(ca.order, ca.auto_renew, ca_extensions(path_length=0), _is_issued, self._prove_edge_ca))
        return kept

    async def begin(self) -> None:
        """Have everything that is to be issued. Waits while the issuer is away; raises Error when something is missing
        and will not be issued.
        """
        for kept in self._kept:
            await self._have(kept)
        await self.renew_due()

    async def have_identity(self) -> None:
        """Have the device's identity certificate, if it is to be issued. Errors as `begin`."""
        for kept in self._kept:
            if kept.order.certificate_id == DEVICE_ID:
                await self._have(kept)

    async def _have(self, kept: _Kept) -> None:
        identifier = kept.order.certificate_id
        await asyncio.to_thread(self._certificates.pairs.recover, identifier)
        stored = await asyncio.to_thread(self._certificates.store.load, identifier)
        if stored is None or not kept.fits(stored.end_entity) or not self._keys.exists(identifier):
            await self._obtain_first(kept)

    async def _obtain_first(self, kept: _Kept) -> None:
        """As gateways that are started together need it: what passes this one's request on may be starting too."""
        key = await asyncio.to_thread(self._certificates.pairs.new_key, kept.order.certificate_id, _ALGORITHM)
        said, attempt = "", 0
        while True:
            try:
                return await self._obtain(kept, None, key)
            except UnavailableError as problem:
                if problem.message != said:  # once is enough, however often it is tried again
                    detail = f"waiting for the certificate {kept.order.certificate_id}: {problem.message}"
                    _log.warning(EVENT_GATEWAY_DEGRADED, detail=detail, reason=problem.reason, fix=problem.fix)
                said, pause = problem.message, UPSTREAM_RETRY_SECONDS[min(attempt, len(UPSTREAM_RETRY_SECONDS) - 1)]
                await asyncio.sleep(max(pause, min(problem.retry_after, CERTIFICATE_CHECK_SECONDS)))
                attempt += 1

    async def renew_due(self) -> None:
        """Renew what is due. Failures are written down, and what is in use stays in use."""
        await self.issuer.keep_identities()
        for kept in self._kept:
            stored = await asyncio.to_thread(self._certificates.store.load, kept.order.certificate_id)
            now = self._clock.now()
            if stored is None or kept.policy is None or next_attempt(stored, kept.policy, kept.state, now) > now:
                continue
            try:
                await self._obtain(kept, stored)
            except (Error, OSError) as problem:
                reason = problem.reason if isinstance(problem, Error) else "cannot be written"
                kept.state = kept.state.failed(now, f"{reason}: {problem}")
                _log.warning(
                    EVENT_CERTIFICATE_NOT_RENEWED,
                    certificate_id=kept.order.certificate_id,
                    detail=kept.state.problem,
                    failures=kept.state.failures,
                    next_at=next_attempt(stored, kept.policy, kept.state, now).isoformat(),
                )

    async def _obtain(self, kept: _Kept, old: Chain | None, key: KeyHandle | None = None) -> None:
        identifier, pairs = kept.order.certificate_id, self._certificates.pairs
        if key is None and (kept.policy is None or kept.policy.rotate_key):
            key = await asyncio.to_thread(pairs.new_key, identifier, _ALGORITHM)
        elif key is None:
            key = await asyncio.to_thread(self._keys.load, identifier)
        subject = kept.order.subject if old is None else old.end_entity.subject
        assert subject is not None, "what is kept has a name"
        request = request_for(key, subject, kept.extensions)
        chain = await self.issuer.issue(kept.order, request, key_id=key.key_id)
        key_matches(chain, key)
        check_dates(chain.end_entity, self._clock.now())
        await kept.prove(chain, key, old is None)
        await asyncio.to_thread(pairs.promote, identifier, chain)
        kept.state = kept.state.renewed(self._clock.now())
        _log.info(
            EVENT_CERTIFICATE_ISSUED,
            certificate_id=identifier,
            subject=chain.end_entity.subject.rfc4514_string(),
            until=chain.end_entity.not_valid_after_utc.isoformat(),
            thumbprint=chain.thumbprint().hex(),
        )

    async def _prove_identity(self, chain: Chain, key: KeyHandle, first: bool) -> None:
        if not first:  # the first one replaces nothing, and the hub may be away
            await self._try_identity(chain, key)

    async def _prove_edge_ca(self, chain: Chain, key: KeyHandle, first: bool) -> None:
        del first
        issuer = self._certificates.checked(Issuer(key, chain), "the Edge CA that was issued")
        await try_edge_ca(issuer, self._settings.hostname, self._clock)

    def renewing(self) -> dict[str, Renewing]:
        """How the certificates of this gateway that renew themselves do so, by identifier."""
        found = {kept.order.certificate_id: Renewing(kept.policy, kept.state) for kept in self._kept if kept.policy}
        for identity in self.issuer.identities():
            found[identity.identity_id] = Renewing(self._settings.issuing.identity_renewal, identity.state)
        credential = self._settings.credential
        if isinstance(credential, KeptByIdentityService) and credential.auto_renew is not None:
            found[DEVICE_ID] = Renewing(credential.auto_renew, RenewalState())
        if isinstance(self._settings.edge_ca, QuickstartCa):
            found[EDGE_CA] = Renewing(self._settings.edge_ca.auto_renew, RenewalState())
        return found

    def chains(self) -> list[tuple[str, Chain]]:
        """The EST identities in use."""
        return [(identity.identity_id, identity.chain) for identity in self.issuer.identities()]


def look_again_after(held: Iterable[Chain]) -> float:
    """How many seconds to wait before the next look at certificates: a hundredth of the shortest life, at most a
    minute, so that short-lived ones are renewed in time too.
    """
    lives = (chain.end_entity.not_valid_after_utc - chain.end_entity.not_valid_before_utc for chain in held)
    shortest = min((life.total_seconds() / 100 for life in lives), default=CERTIFICATE_CHECK_SECONDS)
    return max(CERTIFICATE_LEAST_CHECK_SECONDS, min(CERTIFICATE_CHECK_SECONDS, shortest))


def _name(subject: x509.Name | None) -> str | None:
    found = [] if subject is None else subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else None


def _is_issued(leaf: x509.Certificate) -> bool:
    """Not a quickstart CA of earlier days, which nobody trusts."""
    return leaf.issuer != leaf.subject
