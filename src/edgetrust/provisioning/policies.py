"""The provisioning service's shared access policies: the four of the cloud service, with keys of our own, made once and
kept in one private file (hub specification 15).
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from edgetrust.errors import ConfigError, IntegrityError
from edgetrust.limits import KEY_BYTES_MAX, KEY_BYTES_MIN
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.softkeys import write_private
from edgetrust.trust.policies import DpsPolicy, DpsRight
from edgetrust.trust.registration import SasKeys

OWNER = "provisioningserviceowner"
KEY_BYTES = 32

_DEFAULTS: Mapping[str, frozenset[DpsRight]] = {
    OWNER: frozenset(DpsRight),
    "enrollmentread": frozenset({DpsRight.ENROLLMENT_READ, DpsRight.REGISTRATION_STATUS_READ}),
    "enrollmentwrite": frozenset({DpsRight.ENROLLMENT_READ, DpsRight.ENROLLMENT_WRITE}),
    "registrationstatusread": frozenset({DpsRight.REGISTRATION_STATUS_READ}),
}

_Key = Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES_MIN, max_length=KEY_BYTES_MAX)]


class _Entry(msgspec.Struct, frozen=True):
    primary: _Key
    secondary: _Key
    rights: tuple[DpsRight, ...]


def load_policies(path: Path) -> dict[str, DpsPolicy]:
    """The policies in `path`; made there first, mode 0600, if there are none. Raises ConfigError, IntegrityError."""
    if not path.exists():
        write_private(path, msgspec.json.encode({name: _new(rights) for name, rights in _DEFAULTS.items()}))
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
        name: DpsPolicy(
            name, SasKeys(SecretBytes(entry.primary), SecretBytes(entry.secondary)), frozenset(entry.rights)
        )
        for name, entry in entries.items()
    }


def connection_string(host: str, policy: DpsPolicy) -> str:
    """`HostName=...;SharedAccessKeyName=...;SharedAccessKey=...`, as service clients take it. Secret."""
    key = base64.b64encode(policy.keys.primary.reveal()).decode()
    return f"HostName={host};SharedAccessKeyName={policy.name};SharedAccessKey={key}"


def _new(rights: frozenset[DpsRight]) -> _Entry:
    return _Entry(secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES), tuple(sorted(rights)))
