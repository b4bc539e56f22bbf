"""The certificates that a gateway shows and trusts while it serves: looked at in time, swapped in for new handshakes.

In rounds, of which one begins when a hundredth of the shortest life is over (after a minute at most), or when told to:

    what is issued           renewed when it is due (`upkeep`)
    Edge CA, trust bundle    taken up when they are others; then everybody is decided again
    server certificate       issued again when it is due, or when the Edge CA is another

Rules. Nothing restarts, and no open connection notices. What is wrong with one of them is written down, and is no
reason to leave out another; what is in use stays in use until the next round.

It must not know who is connected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

import structlog

from edgetrust.edge.certd import GatewayCertificates, ServerCertificate
from edgetrust.edge.files import DEVICE_ID, EDGE_CA
from edgetrust.edge.status import describe_certificate
from edgetrust.edge.upkeep import Renewing, Upkeep, look_again_after
from edgetrust.errors import Error
from edgetrust.pki.chain import Chain
from edgetrust.pki.renewal import AutoRenew, RenewalState
from edgetrust.pki.softkeys import SoftKey
from edgetrust.telemetry import EVENT_CERTIFICATE_EXPIRING
from edgetrust.transport.tls.contexts import ContextSlot, ServerContext

_log = structlog.get_logger()


class CertificatesInUse:
    """The certificates of one gateway. `generation` is that of its `$edgeHub`; `anchors_changed` is called when other
    certificates than before are believed.
    """

    def __init__(
        self,
        certificates: GatewayCertificates,
        upkeep: Upkeep,
        generation: Callable[[], str],
        anchors_changed: Callable[[], None],
    ) -> None:
        self._certificates = certificates
        self._upkeep = upkeep
        self._generation = generation
        self._anchors_changed = anchors_changed
        self._look_now = asyncio.Event()  # at what is due, and at replaced files
        self._slot: ContextSlot[ServerContext] | None = None

    # The server certificate -----------------------------------------------------------------------------------------

    async def begin(self, key: SoftKey) -> None:
        """Have the first server certificate. Raises EdgeCaError."""
        self.server = await self._issued(key)
        self._slot = ContextSlot(ServerContext(self.server.chain, self.server.key))

    @property
    def slot(self) -> ContextSlot[ServerContext]:
        """What listeners show in new handshakes."""
        assert self._slot is not None, "begin() comes first"
        return self._slot

    async def swap_server(self) -> None:
        """Show another server certificate from now on. Raises EdgeCaError; then it is still the one before."""
        if self._slot is None:
            return  # the first one will be as is wanted now
        server = await self._issued(await asyncio.to_thread(self._certificates.new_server_key))
        self._slot.current = ServerContext(server.chain, server.key)
        self.server = server

    async def _issued(self, key: SoftKey) -> ServerCertificate:
        return await asyncio.to_thread(self._certificates.issue_server, self._generation(), key)

    # Rounds ---------------------------------------------------------------------------------------------------------

    def look_now(self) -> None:
        """Begin a round at once."""
        self._look_now.set()

    async def keep(self, *others: Callable[[], Awaitable[None]]) -> None:
        """For ever; `others` have their turn in each round."""
        steps = (
            self._upkeep.renew_due,
            *others,
            self._take_up_edge_ca,
            self._take_up_trust_bundle,
            self._renew_server,
        )
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(look_again_after(chain for _, chain in self.held())):
                    await self._look_now.wait()
            self._look_now.clear()
            for step in steps:
                try:
                    await step()
                except (Error, OSError) as problem:
                    _not_taken_up(problem)

    async def _take_up_edge_ca(self) -> None:
        if await asyncio.to_thread(self._certificates.refresh_edge_ca):
            self._anchors_changed()

    async def _take_up_trust_bundle(self) -> None:
        if await asyncio.to_thread(self._certificates.refresh_trust_bundle):
            self._anchors_changed()

    async def _renew_server(self) -> None:
        if self._certificates.server_is_due(self.server):
            await self.swap_server()

    # For who shows them ---------------------------------------------------------------------------------------------

    def held(self) -> list[tuple[str, Chain]]:
        """The certificates in use, by identifier; that of the server comes last."""
        held = [
            *self._upkeep.chains(),
            (EDGE_CA, self._certificates.issuer.chain),
            (self.server.certificate_id, self.server.chain),
        ]
        if self._certificates.device_identity is not None:
            held.insert(0, (DEVICE_ID, self._certificates.device_identity))
        return held

    def described(self, now: datetime) -> list[dict[str, Any]]:
        """All of them, as the state file has them."""
        store, renewing = self._certificates.store, self._upkeep.renewing()
        renewing[self.server.certificate_id] = Renewing(AutoRenew(), RenewalState())
        return [
            describe_certificate(name, store.path(name), chain, now, renewing.get(name)) for name, chain in self.held()
        ]


def _not_taken_up(problem: Error | OSError) -> None:
    reason, fix = (problem.reason, problem.fix) if isinstance(problem, Error) else ("disk", "")
    _log.error(EVENT_CERTIFICATE_EXPIRING, reason=reason, detail=str(problem), fix=fix)
