"""Shared access policies in one private file (mode 0600): of a hub, and of a provisioning service.

Rules: keys are made here and nowhere else; a file that cannot be read is never replaced.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import msgspec

from edgetrust.errors import ConfigError, IntegrityError
from edgetrust.limits import KEY_BYTES_MAX, KEY_BYTES_MIN
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.softkeys import write_private
from edgetrust.trust.policies import SharedAccessPolicy
from edgetrust.trust.registration import SasKeys

KEY_BYTES = 32

R = TypeVar("R", bound=StrEnum)
_Key = Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES_MIN, max_length=KEY_BYTES_MAX)]


class _Entry(msgspec.Struct, Generic[R], frozen=True):
    primary: _Key
    secondary: _Key
    rights: tuple[R, ...]


def load_policies(path: Path, right: type[R], defaults: Mapping[str, frozenset[R]]) -> dict[str, SharedAccessPolicy[R]]:
    """The policies in `path`; made there first, with `defaults`, if there are none. ConfigError, IntegrityError."""
    if not path.exists():
        save_policies(path, {name: new_policy(name, rights) for name, rights in defaults.items()})
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=dict[str, _Entry[right]])  # type: ignore[valid-type]
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


def save_policies(path: Path, policies: Mapping[str, SharedAccessPolicy[R]]) -> None:
    """Durable when it returns; the file is the old one or the new one at any time."""
    entries = {
        name: _Entry(policy.keys.primary.reveal(), policy.keys.secondary.reveal(), tuple(sorted(policy.rights)))
        for name, policy in policies.items()
    }
    write_private(path, msgspec.json.encode(entries))


def new_policy(name: str, rights: frozenset[R]) -> SharedAccessPolicy[R]:
    """A policy with two keys of its own."""
    return SharedAccessPolicy(name, SasKeys(new_key(), new_key()), rights)


def new_key() -> SecretBytes:
    """A key of 256 bits."""
    return SecretBytes(secrets.token_bytes(KEY_BYTES))


def connection_string(host: str, policy: SharedAccessPolicy[StrEnum]) -> str:
    """`HostName=...;SharedAccessKeyName=...;SharedAccessKey=...`, as service clients take it. Secret."""
    key = base64.b64encode(policy.keys.primary.reveal()).decode()
    return f"HostName={host};SharedAccessKeyName={policy.name};SharedAccessKey={key}"
