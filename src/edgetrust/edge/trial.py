"""Trying an Edge CA before it replaces one that works: it issues a server certificate, and a TLS connection is made.

The connection goes over loopback and is verified as a downstream device would do it that trusts the top of the chain:
name, dates, profiles and the order in which the chain is sent.
"""

from __future__ import annotations

import asyncio

from edgetrust.clock import Clock
from edgetrust.edge.files import EDGE_CA
from edgetrust.pki.chain import TrustBundle
from edgetrust.pki.issue import Issuer
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import GATEWAY_SERVER
from edgetrust.pki.softkeys import SoftKey
from edgetrust.transport.dial import dial
from edgetrust.transport.listener import serve
from edgetrust.transport.tls.contexts import ClientContext, ContextSlot, ServerContext

_LOOPBACK = "127.0.0.1"


class _Ends(asyncio.Protocol):
    """Has nothing to say."""

    transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport


async def try_edge_ca(issuer: Issuer, hostname: str, clock: Clock) -> None:
    """Serve `hostname` by a certificate of `issuer` and connect to it. Raises IntegrityError, ServerRefusedError,
    TlsError, UnavailableError.
    """
    key = SoftKey.generate(f"{EDGE_CA} trial", KeyAlgorithm.P256)
    chain = issuer.issue(key.public_key(), GATEWAY_SERVER, Names.for_hosts(hostname), clock.now())
    slot = ContextSlot(ServerContext(chain, key))
    listener = await serve(_Ends, slot, _LOOPBACK, 0, label="trial")
    try:
        anchors = TrustBundle(issuer.chain.certificates[-1:], as_of=clock.now())
        context = ClientContext(anchors, clock=clock)
        connected = await dial(_LOOPBACK, listener.port, context, _Ends, server_name=hostname)
        if connected.transport is not None:
            connected.transport.close()
    finally:
        await listener.close()
