"""Registration: what the registry says of an identity, at a moment.

The hub reads it from SQL, a gateway from its copy of the scope; `authenticate` sees no difference. `Missing` says why
there is none, because "nobody knows it", "not below this gateway" and "cannot ask now" call for different fixes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from edgetrust.pki.chain import Thumbprint
from edgetrust.pki.keys import SecretBytes
from edgetrust.trust.identity import Identity


@dataclass(frozen=True, slots=True)
class SasKeys:
    """Symmetric keys, decoded. Either may sign a token."""

    primary: SecretBytes
    secondary: SecretBytes


@dataclass(frozen=True, slots=True)
class Thumbprints:
    """The registered thumbprints of the end-entity certificate, SHA-1 or SHA-256, either slot may be empty."""

    primary: Thumbprint | None
    secondary: Thumbprint | None = None


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """Any certificate for this name below a CA that the hub has verified."""


@dataclass(frozen=True, slots=True)
class NoAuthentication:
    """The identity exists but has no credential of its own: nothing authenticates it."""


Authentication = SasKeys | Thumbprints | CertificateAuthority | NoAuthentication


@dataclass(frozen=True, slots=True)
class Registration:
    """One identity as registered.

    `scope` and `parents` are device scopes (`ms-azure-iot-edge://device-generation`). For a module, `device_keys` are
    its device's symmetric keys (a token of the device may speak for it) and `device_enabled` its device's status.
    `policy_keys` are the hub's shared access policies that hold the right DeviceConnect, by name. `revoked` are
    certificates of this identity that must not be accepted again. `as_of` is when this was true at the source; after
    `trusted_until` a copy may not decide any more (None: no deadline).
    """

    identity: Identity
    authentication: Authentication
    enabled: bool
    edge: bool
    generation: str
    etag: str
    scope: str | None
    parents: tuple[str, ...]
    as_of: datetime
    device_keys: SasKeys | None = None
    device_enabled: bool = True
    policy_keys: tuple[tuple[str, SasKeys], ...] = ()
    revoked: tuple[Thumbprint, ...] = ()
    trusted_until: datetime | None = None


class MissingWhy(StrEnum):
    """Why a registry has no registration to give."""

    UNKNOWN = "unknown-identity"
    NOT_A_CHILD = "not-a-child"
    UNAVAILABLE = "registry-unavailable"


@dataclass(frozen=True, slots=True)
class Missing:
    """No registration, and why; `as_of` is the age of that knowledge, None when nothing was ever known."""

    why: MissingWhy
    as_of: datetime | None = None
