"""The JSON of the registry: device and module bodies, scope listings and what asks for them, errors (hub specification
5, 8, 9, 12).

Rules of reading: unknown members are ignored; null is the same as absent; an empty key, thumbprint or continuation is
the same as none; words of a fixed list are read in any letter case. What is absent stays None, since only the registry
knows whether that means "keep" or "default". Writing says everything, null where there is nothing: clients rely on
members being there.

identityd's dialect (api-version 2017-11-08-preview) has one word, `x509`, for both kinds of certificate authentication;
it is only ever written.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec.structs import force_setattr

from edgetrust.errors import PeerError
from edgetrust.protocol.hub_errors import ERROR_NUMBERS, error_body, error_status
from edgetrust.protocol.iothub.identifiers import AuthChainError, parse_auth_chain, valid_identifier

__all__ = [
    "ERROR_NUMBERS",
    "IDENTITYD_API_VERSION",
    "NEVER",
    "AuthenticationBody",
    "AuthenticationType",
    "BodyError",
    "CapabilitiesBody",
    "DeviceBody",
    "ModuleBody",
    "OnBehalfRequest",
    "ScopeListing",
    "ScopeLookup",
    "ScopeRequest",
    "Status",
    "SymmetricKeyBody",
    "ThumbprintBody",
    "WordInAnyCase",
    "decode_body",
    "encode_body",
    "error_body",
    "error_status",
    "etag_of",
    "parse_device",
    "parse_module",
    "parse_modules",
    "parse_on_behalf_request",
    "parse_scope_id",
    "parse_scope_listing",
    "parse_scope_lookup",
    "parse_scope_request",
    "scope_id",
]

IDENTITYD_API_VERSION = "2017-11-08-preview"
NEVER = "0001-01-01T00:00:00"  # what a time that never was looks like in a device body (hub specification 1.2)
_SCOPE_PREFIX = "ms-azure-iot-edge://"


class BodyError(PeerError):
    """A request body that cannot be read. `code` is the name for the error answer (hub specification 12.2)."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message, reason="body-malformed", status=400)
        self.code = code


class WordInAnyCase(StrEnum):
    """Words of a fixed list, read in any letter case."""

    @classmethod
    def _missing_(cls, value: object) -> WordInAnyCase | None:
        wanted = str(value).lower()
        return next((member for member in cls if member.value.lower() == wanted), None)


class Status(WordInAnyCase):
    """Whether an identity may connect."""

    ENABLED = "enabled"
    DISABLED = "disabled"


class AuthenticationType(WordInAnyCase):
    """How an identity authenticates."""

    SAS = "sas"
    SELF_SIGNED = "selfSigned"
    CERTIFICATE_AUTHORITY = "certificateAuthority"
    NONE = "none"


class _Body(msgspec.Struct, rename="camel", frozen=True):
    """A JSON object with camelCase members."""


class SymmetricKeyBody(_Body, frozen=True):
    """Base64 keys; "" was read as None."""

    primary_key: str | None = None
    secondary_key: str | None = None

    def __post_init__(self) -> None:
        _empty_is_none(self, "primary_key", "secondary_key")

    def __repr__(self) -> str:
        return "SymmetricKeyBody(redacted)"


class ThumbprintBody(_Body, frozen=True):
    """Hexadecimal thumbprints; "" was read as None."""

    primary_thumbprint: str | None = None
    secondary_thumbprint: str | None = None

    def __post_init__(self) -> None:
        _empty_is_none(self, "primary_thumbprint", "secondary_thumbprint")


class AuthenticationBody(_Body, frozen=True):
    """`authentication` of a device or module."""

    symmetric_key: SymmetricKeyBody | None = None
    x509_thumbprint: ThumbprintBody | None = None
    type: AuthenticationType | None = None


class CapabilitiesBody(_Body, frozen=True):
    """`capabilities` of a device."""

    iot_edge: bool | None = None


class DeviceBody(_Body, frozen=True):
    """A device.

    What only the hub may say (generation, etag, states, times, count) is ignored when a client sends it.
    """

    device_id: str
    generation_id: str | None = None
    etag: str | None = None
    connection_state: str | None = None
    status: Status | None = None
    status_reason: str | None = None
    connection_state_updated_time: str | None = None
    status_updated_time: str | None = None
    last_activity_time: str | None = None
    cloud_to_device_message_count: int | None = None
    authentication: AuthenticationBody | None = None
    capabilities: CapabilitiesBody | None = None
    device_scope: str | None = None
    parent_scopes: list[str] | None = None


class ModuleBody(_Body, frozen=True):
    """A module of a device."""

    module_id: str
    device_id: str
    managed_by: str | None = None
    generation_id: str | None = None
    etag: str | None = None
    connection_state: str | None = None
    connection_state_updated_time: str | None = None
    last_activity_time: str | None = None
    cloud_to_device_message_count: int | None = None
    authentication: AuthenticationBody | None = None


class ScopeRequest(_Body, frozen=True):
    """Asks for one page of the devices and modules below the first identity of `auth_chain`."""

    auth_chain: str
    page_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    continuation_link: str | None = None

    def __post_init__(self) -> None:
        _empty_is_none(self, "continuation_link")


class ScopeLookup(_Body, frozen=True):
    """Asks for one device, or one module and its device."""

    auth_chain: str
    target_device_id: str
    target_module_id: str | None = None

    def __post_init__(self) -> None:
        _empty_is_none(self, "target_module_id")


class OnBehalfRequest(_Body, frozen=True):
    """Asks for something about the modules of the first device of `auth_chain`; which members are there depends on the
    call.
    """

    auth_chain: str
    module: ModuleBody | None = None
    target_module_id: str | None = None
    module_id: str | None = None


class ScopeListing(_Body, frozen=True):
    """Devices and modules of a scope with their credentials. All three members are always there."""

    devices: list[DeviceBody]
    modules: list[ModuleBody]
    continuation_link: str | None = None


class _ListingAsSent(_Body, frozen=True):
    devices: list[DeviceBody] | None = None
    modules: list[ModuleBody] | None = None
    continuation_link: str | None = None


def _empty_is_none(body: msgspec.Struct, *names: str) -> None:
    for name in names:
        force_setattr(body, name, getattr(body, name) or None)


# Reading ------------------------------------------------------------------------------------------------------------

_T = TypeVar("_T")


def decode_body(data: bytes, kind: type[_T]) -> _T:
    """One value of `kind`. Raises BodyError: IotHubFormatError for what is no JSON, ArgumentInvalid for other JSON."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as problem:
        raise BodyError(str(problem), code="ArgumentInvalid") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BodyError("the body is not JSON", code="IotHubFormatError") from None


def _identified(*identifiers: str | None) -> None:
    for identifier in identifiers:
        if identifier is not None and not valid_identifier(identifier):
            raise BodyError(f"{identifier[:140]!r} cannot name a device or module", code="ArgumentInvalid")


def _chained(text: str) -> None:
    try:
        parse_auth_chain(text)
    except AuthChainError as problem:
        raise BodyError(problem.message, code="ArgumentInvalid") from None


def parse_device(data: bytes) -> DeviceBody:
    """A device as a client sends it. Raises BodyError."""
    body = decode_body(data, DeviceBody)
    _identified(body.device_id)
    return body


def parse_module(data: bytes) -> ModuleBody:
    """A module as a client sends it. Raises BodyError."""
    body = decode_body(data, ModuleBody)
    _identified(body.device_id, body.module_id)
    return body


def parse_modules(data: bytes) -> list[ModuleBody]:
    """A list of modules as a hub sends it. Raises BodyError."""
    return decode_body(data, list[ModuleBody])


def parse_scope_listing(data: bytes) -> ScopeListing:
    """A scope listing as a hub sends it. Raises BodyError."""
    sent = decode_body(data, _ListingAsSent)
    return ScopeListing(sent.devices or [], sent.modules or [], sent.continuation_link or None)


def parse_scope_request(data: bytes) -> ScopeRequest:
    """A request for a page of a scope; its auth-chain is well-formed. Raises BodyError."""
    body = decode_body(data, ScopeRequest)
    _chained(body.auth_chain)
    return body


def parse_scope_lookup(data: bytes) -> ScopeLookup:
    """A request for one identity of a scope; its auth-chain and identifiers are well-formed. Raises BodyError."""
    body = decode_body(data, ScopeLookup)
    _chained(body.auth_chain)
    _identified(body.target_device_id, body.target_module_id)
    return body


def parse_on_behalf_request(data: bytes) -> OnBehalfRequest:
    """A module operation that a gateway forwards; its auth-chain and identifiers are well-formed. Raises BodyError."""
    body = decode_body(data, OnBehalfRequest)
    _chained(body.auth_chain)
    _identified(body.target_module_id, body.module_id)
    if body.module is not None:
        _identified(body.module.device_id, body.module.module_id)
    return body


def etag_of(header: str | None) -> str | None:
    """The ETag in an If-Match header, bare or quoted; `*` for any; None when there is none (hub specification 6)."""
    if header is None:
        return None
    return header.strip().removeprefix("W/").strip('"') or None


# Writing ------------------------------------------------------------------------------------------------------------


def encode_body(body: _Body | Sequence[_Body], api_version: str = "") -> bytes:
    """The JSON of `body`, in the dialect of `api_version`."""
    if api_version != IDENTITYD_API_VERSION:
        return msgspec.json.encode(body)
    return msgspec.json.encode(_for_identityd(msgspec.to_builtins(body)))


def _for_identityd(value: Any) -> Any:
    """`value` with the two kinds of certificate authentication named as identityd knows them."""
    if isinstance(value, list):
        return [_for_identityd(item) for item in value]
    if not isinstance(value, dict):
        return value
    converted = {name: _for_identityd(member) for name, member in value.items()}
    if converted.get("type") in (AuthenticationType.SELF_SIGNED, AuthenticationType.CERTIFICATE_AUTHORITY):
        converted["type"] = "x509"
    return converted


# Device scopes ------------------------------------------------------------------------------------------------------


def scope_id(device: str, generation: str) -> str:
    """The device scope of an edge device (hub specification 1.1)."""
    return f"{_SCOPE_PREFIX}{device}-{generation}"


def parse_scope_id(text: str) -> tuple[str, str]:
    """The edge device and its generation that a device scope names. Raises BodyError."""
    device, dash, generation = text.removeprefix(_SCOPE_PREFIX).rpartition("-")
    if not text.startswith(_SCOPE_PREFIX) or not dash or not generation or not valid_identifier(device):
        raise BodyError(f"{text[:160]!r} is no device scope", code="InvalidDeviceScope")
    return device, generation
