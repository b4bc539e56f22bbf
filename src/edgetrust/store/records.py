"""What the registry's callers see: records as stored, drafts as wished, changes as announced.

A record is a moment of the registry with every field of hub specification 5.1 and 5.2. A draft is what a caller asks
for; None in it means "not said": keep what is stored, or take the default when creating.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from edgetrust.errors import PeerError
from edgetrust.protocol.twin import TwinDraft
from edgetrust.trust.registration import Authentication

SYSTEM_MODULES = ("$edgeAgent", "$edgeHub")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICKS_TO_1970 = 621_355_968_000_000_000  # from year 1, in units of 100 ns: generations look like those of the cloud


class RegistryError(PeerError):
    """The registry refused. `reason` is the slug of the name in hub specification 12.2 (`device-not-found`), or says
    more than that name does (`edge-thumbprint-missing`); `code` is the name itself, `status` the HTTP status."""

    def __init__(self, message: str, *, code: str, status: int, reason: str = "", fix: str = "") -> None:
        super().__init__(message, reason=reason or _slug(code), status=status, fix=fix)
        self.code = code


def _slug(name: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")


class AuthenticationKind(StrEnum):
    """`authentication.type`, as it is stored; read in any case (hub specification 5.1)."""

    SAS = "sas"
    SELF_SIGNED = "selfSigned"
    CERTIFICATE_AUTHORITY = "certificateAuthority"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class AuthenticationDraft:
    """`authentication` of a body. Keys are base64, thumbprints hex; "" is the same as None (hub specification 4.4)."""

    kind: str | None = None
    primary_key: str | None = None
    secondary_key: str | None = None
    primary_thumbprint: str | None = None
    secondary_thumbprint: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceDraft:
    """A device as somebody wishes it. `scope` and `parent_scopes`: "" and () mean no parent; `twin` is what a new
    device's twin starts with, and means nothing for one that exists.
    """

    device: str
    authentication: AuthenticationDraft | None = None
    status: str | None = None
    status_reason: str | None = None
    edge: bool | None = None
    scope: str | None = None
    parent_scopes: tuple[str, ...] | None = None
    twin: TwinDraft | None = None


@dataclass(frozen=True, slots=True)
class ModuleDraft:
    """A module as somebody wishes it. `twin` as for a device."""

    device: str
    module: str
    authentication: AuthenticationDraft | None = None
    managed_by: str | None = None
    twin: TwinDraft | None = None


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """A device. Times are None for "never"; `scope` and `parent_scopes` follow hub specification 4.11."""

    device: str
    generation: str
    etag: str
    enabled: bool
    status_reason: str | None
    status_changed_at: datetime | None
    connected: bool
    connection_changed_at: datetime | None
    last_activity_at: datetime | None
    c2d_messages: int
    authentication: Authentication
    edge: bool
    scope: str | None
    parent_scopes: tuple[str, ...]
    parent: str | None


@dataclass(frozen=True, slots=True)
class ModuleRecord:
    """A module. It has no status of its own: its device's counts."""

    device: str
    module: str
    generation: str
    etag: str
    managed_by: str | None
    connected: bool
    connection_changed_at: datetime | None
    last_activity_at: datetime | None
    c2d_messages: int
    authentication: Authentication


class ChangeKind(StrEnum):
    """What happened. `AUTHORITIES`: the set of verified CA certificates; it concerns no single identity."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    AUTHORITIES = "authorities"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the registry. Sequences grow in the order of commits and are never used twice.

    A change of a device concerns its modules too.
    """

    sequence: int
    kind: ChangeKind
    device: str | None
    module: str | None


@dataclass(frozen=True, slots=True)
class ScopePage:
    """One page of a scope listing; `continuation` is opaque, None on the last page."""

    devices: tuple[DeviceRecord, ...]
    modules: tuple[ModuleRecord, ...]
    continuation: str | None


@dataclass(frozen=True, slots=True)
class ScopeEntry:
    """One identity below a gateway. `chain` leads from the device up to the gateway, both included."""

    device: DeviceRecord
    module: ModuleRecord | None
    chain: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Numbers of devices."""

    total: int
    enabled: int
    connected: int

    @property
    def disabled(self) -> int:
        return self.total - self.enabled


def milliseconds(at: datetime) -> int:
    """Since 1970-01-01 UTC."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def at_moment(ms: int) -> datetime:
    """The time that `milliseconds` gave."""
    return _EPOCH + timedelta(milliseconds=ms)


def moment(ms: int) -> datetime | None:
    """The time that `milliseconds` gave, None for 0, which stands for never."""
    return at_moment(ms) if ms else None


def etag_of(revision: int) -> str:
    """Base64 of the decimal number (hub specification 1.1)."""
    return base64.b64encode(str(revision).encode()).decode()


def generation_of(now: datetime, sequence: int) -> str:
    """18 digits that no other identity of this registry ever had: ten of the time, eight of the change that made it."""
    ticks = _TICKS_TO_1970 + milliseconds(now) * 10_000
    return f"{ticks // 10**8:010d}{sequence % 10**8:08d}"


def scope_of(device: str, generation: str) -> str:
    """The device scope that an edge device makes (hub specification 1.1)."""
    return f"ms-azure-iot-edge://{device}-{generation}"


def check_match(if_match: str | None, revision: int, what: str) -> None:
    """Compare If-Match (bare or quoted, `*` for anything) with the stored revision. Raises RegistryError 412."""
    wanted = (if_match or "").strip().removeprefix("W/").strip('"')
    if wanted not in ("*", etag_of(revision)):
        raise RegistryError(f"{what} has changed: its etag is another", code="PreconditionFailed", status=412)
