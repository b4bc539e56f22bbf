"""Trying a new certificate in a real connection, before it replaces one that works.

Two proofs. As the device, at its hub or through its gateway: what counts in the end, and the way to find out that a
thumbprint is not registered yet. At the EST server: the chain leads to its CA certificates for the purpose, and TLS
with the new certificate and key works. Both raise what the connection raises.
"""

from __future__ import annotations

from edgetrust.clock import Clock
from edgetrust.device.enroll import Proof
from edgetrust.device.est import EstServer, Shown, ca_certificates
from edgetrust.device.identity import Pair
from edgetrust.device.session import CertificateCredential, DeviceSession, Route
from edgetrust.errors import RefusedError
from edgetrust.pki.chain import TrustBundle
from edgetrust.pki.verify import ChainFailure, Purpose, verify_chain
from edgetrust.trust.identity import Identity


def at_hub(device: str, route: Route, bundle: TrustBundle | None, clock: Clock) -> Proof:
    """Connect as the device. A session that is open elsewhere is taken over, and comes back by itself."""

    async def prove(pair: Pair) -> None:
        credential = CertificateCredential(pair.chain, pair.key)
        async with DeviceSession(Identity(route.hub, device), route, credential, bundle, clock=clock):
            pass

    return prove


def at_est_server(server: EstServer, clock: Clock) -> Proof:
    """Verify the chain by the CA certificates that the server lists, over a connection that shows it."""

    async def prove(pair: Pair) -> None:
        anchors = await ca_certificates(server, Shown(pair.chain, pair.key))
        now = clock.now()
        outcome = verify_chain(pair.chain, TrustBundle(anchors, as_of=now), Purpose.DEVICE, now)
        if isinstance(outcome, ChainFailure):
            message = f"the new certificate is no device certificate of this CA: {outcome.detail}"
            raise RefusedError(message, reason=outcome.reason.value)

    return prove
