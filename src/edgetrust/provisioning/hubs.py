"""The hubs that devices are assigned to, as the provisioning service sees them.

One port, two adapters: the registry of the hub in this process, and another hub by its REST interface, with a service
connection string. Rules: `put` is idempotent, so that it may be done again after a crash; a device that is there
already gets the credential of this registration and keeps its twin, unless its data is to be reset (hub specification
14.5, 14.6); nothing is written when nothing would change, since that would disturb an open connection.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgetrust.pki.chain import Thumbprint
from edgetrust.protocol.twin import TwinDraft
from edgetrust.store.identities import Identities
from edgetrust.store.records import AuthenticationDraft, DeviceDraft, DeviceRecord, RegistryError
from edgetrust.store.twins import Twins
from edgetrust.trust.registration import SasKeys, Thumbprints

_NOT_FOUND, _CONFLICT = 404, 409


@dataclass(frozen=True, slots=True)
class HubTwin:
    """What a service wrote into a twin."""

    tags: Mapping[str, Any] = field(default_factory=dict)
    desired: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HubDevice:
    """A device as a hub shall have it: symmetric keys, or thumbprints of its certificate. `twin` is for a device that
    is new there; with `reset` also for one that is not.
    """

    device: str
    authentication: SasKeys | Thumbprints = field(repr=False)
    edge: bool = False
    twin: HubTwin | None = None
    reset: bool = False


class Hub(Protocol):
    """A hub that devices are assigned to. Raises UnavailableError when it is away, PeerError when it refuses."""

    async def put(self, device: HubDevice) -> None: ...

    async def twin(self, device: str) -> HubTwin | None:
        """What the twin of a device holds; None when there is no such device."""
        ...

    async def delete(self, device: str) -> None:
        """Delete a device, if there is one."""
        ...

    async def ping(self) -> None:
        """Return when the hub has answered something."""
        ...

    async def close(self) -> None: ...


def authentication_draft(authentication: SasKeys | Thumbprints) -> AuthenticationDraft:
    """What a registry is asked for."""
    match authentication:
        case SasKeys(primary, secondary):
            keys = [base64.b64encode(key.reveal()).decode() for key in (primary, secondary)]
            return AuthenticationDraft("sas", primary_key=keys[0], secondary_key=keys[1])
        case Thumbprints(first, second):
            prints = [None if one is None else one.hex() for one in (first, second)]
            return AuthenticationDraft("selfSigned", primary_thumbprint=prints[0], secondary_thumbprint=prints[1])


def pinned(thumbprint: Thumbprint) -> Thumbprints:
    """The same thumbprint in both slots (hub specification 14.6)."""
    return Thumbprints(thumbprint, thumbprint)


class HubHere:
    """The hub of this process: its registry and twins, so that it knows of every change at once."""

    def __init__(self, identities: Identities, twins: Twins) -> None:
        self._identities = identities
        self._twins = twins

    async def put(self, device: HubDevice) -> None:
        draft = DeviceDraft(
            device.device, authentication_draft(device.authentication), status="enabled", edge=device.edge
        )
        stored = await self._find(device.device)
        if stored is None:
            try:
                await self._identities.create_device(draft)
            except RegistryError as problem:
                if problem.status != _CONFLICT:
                    raise
                await self._identities.update_device(draft, "*")
        elif (stored.authentication, stored.edge, stored.enabled) != (device.authentication, device.edge, True):
            await self._identities.update_device(draft, "*")
        if device.twin is not None and (stored is None or device.reset or await self._untouched(device.device)):
            await self._twins.replace(device.device, TwinDraft(dict(device.twin.tags), dict(device.twin.desired)))

    async def twin(self, device: str) -> HubTwin | None:
        try:
            found = await self._twins.twin(device)
        except RegistryError as problem:
            if problem.status != _NOT_FOUND:
                raise
            return None
        return HubTwin(dict(found.tags), dict(found.desired.values))

    async def delete(self, device: str) -> None:
        try:
            await self._identities.delete_device(device)
        except RegistryError as problem:
            if problem.status != _NOT_FOUND:
                raise

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def _find(self, device: str) -> DeviceRecord | None:
        try:
            return await self._identities.device(device)
        except RegistryError as problem:
            if problem.status != _NOT_FOUND:
                raise
            return None

    async def _untouched(self, device: str) -> bool:
        """Whether the twin is as it was made: a crash may have come between the device and its initial twin."""
        found = await self._twins.twin(device)
        return not found.tags and not found.desired.values
