"""The hub's shared access policies: the five of the cloud service, with keys of our own, and those that its owner adds;
kept in one private file.

Rules: a change is in the file before it counts; whoever asks sees it at once; then listeners hear of it, since
connections may rest on a key that is gone. The owner's policy stays and keeps every right, so that nobody locks himself
out.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from edgetrust.errors import PeerError
from edgetrust.limits import POLICIES
from edgetrust.store import policyfile
from edgetrust.store.policyfile import new_key, new_policy, save_policies
from edgetrust.trust.policies import Right, SharedAccessPolicy
from edgetrust.trust.registration import SasKeys

OWNER = "iothubowner"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

DEFAULT_RIGHTS: Mapping[str, frozenset[Right]] = {
    OWNER: frozenset(Right),
    "service": frozenset({Right.SERVICE_CONNECT}),
    "device": frozenset({Right.DEVICE_CONNECT}),
    "registryRead": frozenset({Right.REGISTRY_READ}),
    "registryReadWrite": frozenset({Right.REGISTRY_READ, Right.REGISTRY_WRITE}),
}


def load_policies(path: Path) -> dict[str, SharedAccessPolicy[Right]]:
    """The policies in `path`; made there first, mode 0600, if there are none. Raises ConfigError, IntegrityError."""
    return policyfile.load_policies(path, Right, DEFAULT_RIGHTS)


class PolicyError(PeerError):
    """A change of the policies that cannot be. `code` is the name for the error answer (hub specification 12.2)."""

    def __init__(self, message: str, *, code: str, status: int, reason: str, fix: str = "") -> None:
        super().__init__(message, reason=reason, status=status, fix=fix)
        self.code = code


class Policies(Mapping[str, SharedAccessPolicy[Right]]):
    """The policies of a running hub. Reading is reading a dictionary; changes are awaited."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError, IntegrityError."""
        self._path = path
        self._kept = load_policies(path)
        self._turn = asyncio.Lock()
        self._listeners: list[Callable[[], None]] = []

    def __getitem__(self, name: str) -> SharedAccessPolicy[Right]:
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` on the loop after every change."""
        self._listeners.append(listener)

    def found(self, name: str) -> SharedAccessPolicy[Right]:
        """PolicyError 404."""
        if name not in self._kept:
            raise PolicyError(
                f"there is no policy {name[:80]!r}", code="GenericNotFound", status=404, reason="policy-not-found"
            )
        return self._kept[name]

    async def create(self, name: str, rights: frozenset[Right]) -> SharedAccessPolicy[Right]:
        """A policy with new keys. PolicyError 400, 409, 413."""
        async with self._turn:
            if not _NAME.fullmatch(name):
                raise PolicyError(
                    f"{name[:80]!r} cannot name a policy",
                    code="ArgumentInvalid",
                    status=400,
                    reason="policy-name-malformed",
                    fix="use 1 to 64 letters, digits and . _ -",
                )
            if name in self._kept:
                detail = f"there is a policy {name}"
                raise PolicyError(detail, code="GenericConflict", status=409, reason="policy-already-exists")
            if len(self._kept) >= POLICIES:
                detail = f"there are {POLICIES} policies, and there can be no more"
                raise PolicyError(detail, code="GenericConflict", status=409, reason="too-many-policies")
            return await self._set(new_policy(name, rights))

    async def change_rights(self, name: str, rights: frozenset[Right]) -> SharedAccessPolicy[Right]:
        """Keys stay. PolicyError 400, 404."""
        async with self._turn:
            stored = self.found(name)
            if name == OWNER and rights != stored.rights:
                raise _kept_by_the_hub(f"{OWNER} has every right")
            return await self._set(replace(stored, rights=rights))

    async def roll_keys(self, name: str, *, primary: bool, secondary: bool) -> SharedAccessPolicy[Right]:
        """Make one key or both anew. PolicyError 404."""
        async with self._turn:
            keys = self.found(name).keys
            rolled = SasKeys(
                new_key() if primary else keys.primary,
                new_key() if secondary else keys.secondary,
            )
            return await self._set(replace(self._kept[name], keys=rolled))

    async def swap_keys(self, name: str) -> SharedAccessPolicy[Right]:
        """The primary key becomes the secondary one, and the other way round. PolicyError 404."""
        async with self._turn:
            keys = self.found(name).keys
            return await self._set(replace(self._kept[name], keys=SasKeys(keys.secondary, keys.primary)))

    async def delete(self, name: str) -> None:
        """PolicyError 400, 404."""
        async with self._turn:
            self.found(name)
            if name == OWNER:
                raise _kept_by_the_hub(f"{OWNER} cannot be deleted")
            await self._keep({other: policy for other, policy in self._kept.items() if other != name})

    async def _set(self, policy: SharedAccessPolicy[Right]) -> SharedAccessPolicy[Right]:
        await self._keep({**self._kept, policy.name: policy})
        return policy

    async def _keep(self, policies: dict[str, SharedAccessPolicy[Right]]) -> None:
        await asyncio.to_thread(save_policies, self._path, policies)
        self._kept = policies
        for listener in tuple(self._listeners):
            listener()


def _kept_by_the_hub(message: str) -> PolicyError:
    return PolicyError(
        message,
        code="InvalidOperation",
        status=400,
        reason="policy-protected",
        fix="make another policy, or roll its keys",
    )
