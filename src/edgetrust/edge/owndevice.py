"""The device that a gateway is at its hub: which one, and with which certificate, as far as others have a say in it.

Rules. With a provisioning service it is what that has assigned; assigned elsewhere, the gateway has to start anew.
A new certificate is registered with the service before the hub is tried with it, since the hub learns of it that way.
Where the identity service is another process, that acts as the device, and is asked here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from edgetrust.clock import Clock
from edgetrust.edge.certd import GatewayCertificates
from edgetrust.edge.files import Layout
from edgetrust.edge.identityclient import IdentityClient
from edgetrust.edge.identityd import Identities
from edgetrust.edge.issuer import tls_key
from edgetrust.edge.pairs import Certificates
from edgetrust.edge.provisioning import Provisioning
from edgetrust.edge.settings import Settings
from edgetrust.pki.chain import Chain
from edgetrust.pki.keys import KeyHandle, KeyStore


class OwnDevice:
    """The device of one gateway. `identities`, from when it is known, is who acts as it at the hub."""

    def __init__(self, elsewhere: IdentityClient | None = None) -> None:
        self.identities: Identities | IdentityClient | None = elsewhere
        self.provisioning: Provisioning | None = None
        self._stays = asyncio.Event()  # without a provisioning service it is never moved

    async def assigned(
        self, settings: Settings, layout: Layout, keys: KeyStore, clock: Clock, store: Certificates | None = None
    ) -> Settings:
        """The configuration as what a provisioning service has assigned; without one, as it is. Raises Error."""
        if settings.dps is None:
            return settings
        self.provisioning = Provisioning(settings, settings.dps, layout, keys, clock, store=store)
        return settings.assigned_to(await self.provisioning.begin())

    @property
    def refused(self) -> Callable[[], Awaitable[bool]] | None:
        """What to do when the hub does not know the device; as in `Identities`."""
        return None if self.provisioning is None else self.provisioning.refused

    @property
    def moved(self) -> asyncio.Event:
        """Set when a provisioning service has assigned the device elsewhere."""
        if isinstance(self.identities, IdentityClient):
            return self.identities.moved
        return self._stays if self.provisioning is None else self.provisioning.moved

    async def prove(self, chain: Chain, key: KeyHandle) -> None:
        """See that a new certificate is accepted as this device. Raises Error when it is not."""
        if self.provisioning is not None:
            await self.provisioning.register_identity(chain, key)
        assert isinstance(self.identities, Identities), "who renews the device's identity asks the hub itself"
        await self.identities.try_certificate(chain, tls_key(key))

    async def take_up(self, certificates: GatewayCertificates) -> None:
        """Use a renewed identity, or replaced files, from now on; a provisioning service tells the hub of it."""
        if await asyncio.to_thread(certificates.refresh_device_identity):
            assert self.identities is not None
            self.identities.forget_certificate()
        if self.provisioning is not None:
            await self.provisioning.make_known()

    async def look(self, settings: Settings) -> None:
        """A provisioning service may have moved it, and the identity service of another process knows."""
        if isinstance(self.identities, IdentityClient) and settings.dps is not None:
            await self.identities.look()
