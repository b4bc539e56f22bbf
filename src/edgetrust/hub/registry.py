"""The hub's registry as its door asks it: SQL behind, the registrations in use kept at hand.

A returning device costs a dictionary look-up. Rules: a registration is dropped from memory the moment a change of it
(or of its device) is heard, before anybody is decided again; what was read while a change was heard is not kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

from edgetrust.limits import REGISTRATIONS_KEPT
from edgetrust.pki.chain import TrustBundle
from edgetrust.store.certificates import CaCertificates
from edgetrust.store.identities import Identities
from edgetrust.store.records import Change, ChangeKind
from edgetrust.trust.identity import Identity
from edgetrust.trust.policies import Right, SharedAccessPolicy
from edgetrust.trust.registration import Missing, Registration, SasKeys


class HubRegistry:
    """The broker's Registry port over the hub's store."""

    def __init__(
        self,
        identities: Identities,
        certificates: CaCertificates,
        policies: Mapping[str, SharedAccessPolicy[Right]],
        *,
        kept: int = REGISTRATIONS_KEPT,
    ) -> None:
        self._identities = identities
        self._certificates = certificates
        self._policies = policies
        self._connect_keys = self._keys_that_connect()
        self._room = kept
        self._kept: OrderedDict[Identity, Registration] = OrderedDict()
        self._modules: dict[Identity, set[Identity]] = {}
        self._news = asyncio.Event()
        self.policy_news = asyncio.Event()  # set, and replaced, when policies change

    @property
    def version(self) -> int:
        """Grows with every change heard."""
        return self._identities.version

    async def find(self, identity: Identity) -> Registration | Missing:
        """The registration of `identity`, with the policies that may connect for it."""
        kept = self._kept.get(identity)
        if kept is not None:
            self._kept.move_to_end(identity)
            return kept
        asked_at = self.version
        found = await self._identities.find(identity)
        if isinstance(found, Missing):
            return found
        registration = replace(found, policy_keys=self._connect_keys)
        if self.version == asked_at:
            self._keep(registration)
        return registration

    async def is_below(self, device: str, gateway: Identity) -> bool:
        """Whether `device` is below `gateway` at any depth, with enabled gateways between."""
        return await self._identities.is_below(device, gateway)

    def bundle(self) -> TrustBundle:
        """The CAs that are registered and verified."""
        return self._certificates.bundle()

    async def wait_for_change(self, after: int, seconds: float) -> None:
        """Return once the version is another than `after`, or when `seconds` have passed."""
        try:
            async with asyncio.timeout(seconds):
                while self.version == after:
                    await self._news.wait()
        except TimeoutError:
            return

    def heard(self, change: Change, hub: str) -> None:
        """Drop what `change` may have made untrue, and wake those who wait for a change."""
        self._news.set()
        self._news = asyncio.Event()
        if change.kind is ChangeKind.AUTHORITIES or change.device is None:
            return
        self._drop(Identity(hub, change.device, change.module))

    def policies_changed(self) -> None:
        """Drop the keys of policies that were kept with registrations."""
        self._connect_keys = self._keys_that_connect()
        self._kept.clear()
        self._modules.clear()
        self.policy_news.set()
        self.policy_news = asyncio.Event()

    def _keys_that_connect(self) -> tuple[tuple[str, SasKeys], ...]:
        return tuple(
            (name, policy.keys) for name, policy in self._policies.items() if Right.DEVICE_CONNECT in policy.rights
        )

    def _keep(self, registration: Registration) -> None:
        identity = registration.identity
        self._kept[identity] = registration
        if identity.module is not None:
            self._modules.setdefault(identity.of_device, set()).add(identity)
        if len(self._kept) > self._room:
            oldest, _ = self._kept.popitem(last=False)
            self._unlist(oldest)

    def _drop(self, identity: Identity) -> None:
        self._kept.pop(identity, None)
        if identity.module is not None:
            self._unlist(identity)
            return
        for module in self._modules.pop(identity, ()):
            self._kept.pop(module, None)

    def _unlist(self, identity: Identity) -> None:
        modules = self._modules.get(identity.of_device)
        if modules is not None:
            modules.discard(identity)
            if not modules:
                del self._modules[identity.of_device]
