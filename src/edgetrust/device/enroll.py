"""How a device comes by its certificate and keeps it: bootstrap once, then its own identity, proven before it is used.

Rules. 1. Who has a certificate that is valid asks with it; who has none, or one that has ended, asks with the
bootstrap certificate. 2. Prove, then promote: the new certificate stands beside the old, is tried in a real connection,
and only then takes its place. A candidate that was issued and not proven yet is proven first, before another one is
asked for. 3. A certificate that is not valid by this machine's clock is never promoted, and nothing that exists is
given up for it: the clock may be what is wrong. 4. A renewal never gives up; what went wrong is written down and tried
again.

It must not know what the certificate is tried against.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import structlog
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgetrust import limits
from edgetrust.clock import Clock
from edgetrust.device.est import EstServer, Shown, enroll
from edgetrust.device.identity import IdentityFolder, Pair
from edgetrust.errors import Error, IntegrityError, UsageError
from edgetrust.pki.chain import Chain
from edgetrust.pki.csr import build_csr, renewal_csr
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.names import Names
from edgetrust.pki.renewal import AutoRenew, RenewalState, is_due, next_attempt
from edgetrust.pki.softkeys import SoftKey
from edgetrust.telemetry import EVENT_CERTIFICATE_NOT_RENEWED, EVENT_CERTIFICATE_RENEWED, EVENT_STATE_NOT_WRITTEN

Proof = Callable[[Pair], Awaitable[None]]
"""Tries a pair in a real connection; raises Error when it does not work."""

_CLIENT_AUTH = ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Order:
    """What to ask for, where, and with what at the first time."""

    device: str
    server: EstServer
    bootstrap: Shown | None
    algorithm: KeyAlgorithm = KeyAlgorithm.P256
    policy: AutoRenew = AutoRenew()  # noqa: RUF009 - frozen


class Enrolment:
    """One device's certificate."""

    def __init__(self, folder: IdentityFolder, order: Order, prove: Proof, clock: Clock) -> None:
        self.folder = folder
        self._order = order
        self._prove = prove
        self._clock = clock

    async def obtain(self) -> Pair:
        """Get a certificate (the first one, or the next one), prove it, put it into use. Raises Error; then what was
        in use is in use.
        """
        await asyncio.to_thread(self.folder.recover)
        candidate = await asyncio.to_thread(self.folder.candidate)
        if candidate is None or is_due(candidate.chain.end_entity, self._order.policy, self._clock.now()):
            candidate = await self._issued()
        check_dates(candidate.chain.end_entity, self._clock.now())
        await self._prove(candidate)
        await asyncio.to_thread(self.folder.promote)
        return candidate

    async def _issued(self) -> Pair:
        held = await asyncio.to_thread(self.folder.current)
        now = self._clock.now()
        valid = held if held is not None and held.chain.end_entity.not_valid_after_utc > now else None
        shown = self._order.bootstrap if valid is None else Shown(valid.chain, valid.key)
        if shown is None and self._order.server.user is None:
            what = "there is no certificate yet" if held is None else "the certificate has ended"
            raise UsageError(
                f"{what}, and neither a bootstrap certificate nor a user name to ask with",
                reason="bootstrap-missing",
                fix="give --bootstrap-cert and --bootstrap-key, or --user and --password-file",
            )
        key = await asyncio.to_thread(self._new_key, held)
        await asyncio.to_thread(self.folder.begin, key)
        chain = await enroll(self._order.server, self._request(key, held), shown, renewing=valid is not None)
        await asyncio.to_thread(self.folder.complete, chain)
        return Pair(chain, key)

    def _new_key(self, held: Pair | None) -> SoftKey:
        if held is not None and not self._order.policy.rotate_key:
            return held.key
        return SoftKey.generate(self._order.device, self._order.algorithm)

    def _request(self, key: SoftKey, held: Pair | None) -> bytes:
        if held is None:
            return build_csr(key, Names(self._order.device), _CLIENT_AUTH)
        return renewal_csr(key, held.chain.end_entity, _CLIENT_AUTH)


def check_dates(certificate: x509.Certificate, now: datetime) -> None:
    """Raises IntegrityError when a new certificate is not valid by this machine's clock."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= now < end:
        raise IntegrityError(
            f"the new certificate is valid from {start:%Y-%m-%d %H:%M:%SZ} to {end:%Y-%m-%d %H:%M:%SZ}, "
            f"and here it is {now:%Y-%m-%d %H:%M:%SZ}",
            reason="certificate-not-valid-now",
            fix="compare the clocks of this machine and of the EST server: date -u",
        )


class Renewal:
    """Keeps a device's certificate alive. `tell` is called with every change of the state, to write it down."""

    def __init__(
        self,
        enrolment: Enrolment,
        policy: AutoRenew,
        clock: Clock,
        *,
        state: RenewalState | None = None,
        tell: Callable[[RenewalState], None] = lambda _: None,
    ) -> None:
        self._enrolment = enrolment
        self._policy = policy
        self._clock = clock
        self._tell = tell
        self.state = state or RenewalState()

    async def attempt(self) -> Pair:
        """Renew now. Raises Error, which is also in the state."""
        try:
            pair = await self._enrolment.obtain()
        except Error as problem:
            self._settle(self.state.failed(self._clock.now(), f"{problem.reason}: {problem.message}"))
            raise
        except OSError as problem:  # a full disk
            self._settle(self.state.failed(self._clock.now(), f"cannot be written: {problem.strerror}"))
            raise
        self._settle(self.state.renewed(self._clock.now()))
        return pair

    async def keep(self) -> None:
        """Renew in time, for ever."""
        while True:
            pair = await asyncio.to_thread(self._enrolment.folder.current)
            wait = 0.0 if pair is None else self._wait(pair.chain)
            if wait > 0:
                await asyncio.sleep(min(wait, limits.RENEWAL_LOOK_SECONDS))
                continue
            try:
                renewed = await self.attempt()
            except (Error, OSError):
                _log.warning(EVENT_CERTIFICATE_NOT_RENEWED, detail=self.state.problem, failures=self.state.failures)
                if pair is None:
                    await asyncio.sleep(limits.RENEWAL_LOOK_SECONDS)
            else:
                _log.info(EVENT_CERTIFICATE_RENEWED, until=renewed.chain.end_entity.not_valid_after_utc.isoformat())

    def _wait(self, chain: Chain) -> float:
        now = self._clock.now()
        return (next_attempt(chain, self._policy, self.state, now) - now).total_seconds()

    def _settle(self, state: RenewalState) -> None:
        self.state = state
        try:
            self._tell(state)
        except OSError as problem:  # the state is for people; the renewal must not end with it
            _log.warning(EVENT_STATE_NOT_WRITTEN, detail=str(problem))
