"""The hub's shared access policies: the five of the cloud service, with keys of our own, and those that its owner adds;
kept in one private file.

Rules: a change is in the file before it counts; whoever asks sees it at once; then listeners hear of it, since
connections may rest on a key that is gone. The owner's policy stays and keeps every right, so that nobody locks himself
out.
"""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec

from edgetrust.errors import ConfigError, IntegrityError, PeerError
from edgetrust.limits import KEY_BYTES_MAX, KEY_BYTES_MIN, POLICIES
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.softkeys import write_private
from edgetrust.trust.policies import Right, SharedAccessPolicy
from edgetrust.trust.registration import SasKeys

OWNER = "iothubowner"
KEY_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

DEFAULT_RIGHTS: Mapping[str, frozenset[Right]] = {
    OWNER: frozenset(Right),
    "service": frozenset({Right.SERVICE_CONNECT}),
    "device": frozenset({Right.DEVICE_CONNECT}),
    "registryRead": frozenset({Right.REGISTRY_READ}),
    "registryReadWrite": frozenset({Right.REGISTRY_READ, Right.REGISTRY_WRITE}),
}


_Key = Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES_MIN, max_length=KEY_BYTES_MAX)]


class _Entry(msgspec.Struct, frozen=True):
    primary: _Key
    secondary: _Key
    rights: tuple[Right, ...]


def load_policies(path: Path) -> dict[str, SharedAccessPolicy]:
    """The policies in `path`; made there first, mode 0600, if there are none. Raises ConfigError, IntegrityError."""
    if not path.exists():
        _save(path, {name: _new(name, rights) for name, rights in DEFAULT_RIGHTS.items()})
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=dict[str, _Entry])
    except OSError as problem:
        raise ConfigError(
            f"{path} cannot be read: {problem.strerror}",
            reason="policies-unreadable",
            fix=f"make {path} readable for this user",
        ) from problem
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise IntegrityError(
            f"{path} does not hold shared access policies: {problem}", reason="policies-unreadable"
        ) from problem
    return {
        name: SharedAccessPolicy(
            name, SasKeys(SecretBytes(entry.primary), SecretBytes(entry.secondary)), frozenset(entry.rights)
        )
        for name, entry in entries.items()
    }


class PolicyError(PeerError):
    """A change of the policies that cannot be. `code` is the name for the error answer (hub specification 12.2)."""

    def __init__(self, message: str, *, code: str, status: int, reason: str, fix: str = "") -> None:
        super().__init__(message, reason=reason, status=status, fix=fix)
        self.code = code


class Policies(Mapping[str, SharedAccessPolicy]):
    """The policies of a running hub. Reading is reading a dictionary; changes are awaited."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError, IntegrityError."""
        self._path = path
        self._kept = load_policies(path)
        self._turn = asyncio.Lock()
        self._listeners: list[Callable[[], None]] = []

    def __getitem__(self, name: str) -> SharedAccessPolicy:
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` on the loop after every change."""
        self._listeners.append(listener)

    def found(self, name: str) -> SharedAccessPolicy:
        """PolicyError 404."""
        if name not in self._kept:
            raise PolicyError(
                f"there is no policy {name[:80]!r}", code="GenericNotFound", status=404, reason="policy-not-found"
            )
        return self._kept[name]

    async def create(self, name: str, rights: frozenset[Right]) -> SharedAccessPolicy:
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
            return await self._set(_new(name, rights))

    async def change_rights(self, name: str, rights: frozenset[Right]) -> SharedAccessPolicy:
        """Keys stay. PolicyError 400, 404."""
        async with self._turn:
            stored = self.found(name)
            if name == OWNER and rights != stored.rights:
                raise _kept_by_the_hub(f"{OWNER} has every right")
            return await self._set(replace(stored, rights=rights))

    async def roll_keys(self, name: str, *, primary: bool, secondary: bool) -> SharedAccessPolicy:
        """Make one key or both anew. PolicyError 404."""
        async with self._turn:
            keys = self.found(name).keys
            rolled = SasKeys(
                _new_key() if primary else keys.primary,
                _new_key() if secondary else keys.secondary,
            )
            return await self._set(replace(self._kept[name], keys=rolled))

    async def swap_keys(self, name: str) -> SharedAccessPolicy:
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

    async def _set(self, policy: SharedAccessPolicy) -> SharedAccessPolicy:
        await self._keep({**self._kept, policy.name: policy})
        return policy

    async def _keep(self, policies: dict[str, SharedAccessPolicy]) -> None:
        await asyncio.to_thread(_save, self._path, policies)
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


def _save(path: Path, policies: Mapping[str, SharedAccessPolicy]) -> None:
    entries = {
        name: _Entry(policy.keys.primary.reveal(), policy.keys.secondary.reveal(), tuple(sorted(policy.rights)))
        for name, policy in policies.items()
    }
    write_private(path, msgspec.json.encode(entries))


def connection_string(host: str, policy: SharedAccessPolicy) -> str:
    """`HostName=...;SharedAccessKeyName=...;SharedAccessKey=...`, as service clients take it. Secret."""
    key = base64.b64encode(policy.keys.primary.reveal()).decode()
    return f"HostName={host};SharedAccessKeyName={policy.name};SharedAccessKey={key}"


def _new(name: str, rights: frozenset[Right]) -> SharedAccessPolicy:
    return SharedAccessPolicy(name, SasKeys(_new_key(), _new_key()), rights)


def _new_key() -> SecretBytes:
    return SecretBytes(secrets.token_bytes(KEY_BYTES))
