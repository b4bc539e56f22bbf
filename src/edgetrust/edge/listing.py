"""A page of the device scope, as the hub sends it, to registrations.

Rules: an entry that cannot be read makes the whole answer unusable, since leaving it out would look like a removal. A
module takes its device's keys and status from the device in the same answer. Nothing that is missing a credential
authenticates. Source: hub specification 9.3; edge specification 6.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edgetrust.errors import PeerError, UnavailableError
from edgetrust.pki.chain import Thumbprint
from edgetrust.pki.keys import SecretBytes
from edgetrust.protocol.registry import (
    AuthenticationBody,
    AuthenticationType,
    DeviceBody,
    ModuleBody,
    Status,
    parse_scope_listing,
)
from edgetrust.protocol.sas import decode_key
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import (
    Authentication,
    CertificateAuthority,
    NoAuthentication,
    Registration,
    SasKeys,
    Thumbprints,
)


@dataclass(frozen=True, slots=True)
class Listing:
    """What one answer held; `continuation` asks for more."""

    registrations: tuple[Registration, ...]
    continuation: str | None


def read_listing(content: bytes, hub: str, as_of: datetime) -> Listing:
    """The registrations in an answer; `as_of` is when it was asked for. Raises UnavailableError when it is none."""
    try:
        page = parse_scope_listing(content)
        devices = {one.device_id: _device(one, hub, as_of) for one in page.devices}
        modules = [_module(one, devices.get(one.device_id), hub, as_of) for one in page.modules]
    except PeerError as problem:
        message = f"the hub's listing of the device scope cannot be read: {problem}"
        raise UnavailableError(message, reason="hub-answer-malformed") from problem
    return Listing((*devices.values(), *modules), page.continuation_link)


def _device(device: DeviceBody, hub: str, as_of: datetime) -> Registration:
    return Registration(
        identity=Identity(hub, device.device_id),
        authentication=_authentication(device.authentication),
        enabled=device.status is not Status.DISABLED,
        edge=device.capabilities is not None and bool(device.capabilities.iot_edge),
        generation=device.generation_id or "",
        etag=device.etag or "",
        scope=device.device_scope or None,
        parents=tuple(device.parent_scopes or ()),
        as_of=as_of,
    )


def _module(module: ModuleBody, of: Registration | None, hub: str, as_of: datetime) -> Registration:
    keys = of.authentication if of is not None and isinstance(of.authentication, SasKeys) else None
    return Registration(
        identity=Identity(hub, module.device_id, module.module_id),
        authentication=_authentication(module.authentication),
        enabled=True,
        edge=False,
        generation=module.generation_id or "",
        etag=module.etag or "",
        scope=None,
        parents=(),
        as_of=as_of,
        device_keys=keys,
        device_enabled=of is None or of.enabled,
    )


def _authentication(body: AuthenticationBody | None) -> Authentication:
    match body:
        case AuthenticationBody(type=AuthenticationType.SAS, symmetric_key=keys) if keys is not None:
            if keys.primary_key is None or keys.secondary_key is None:
                return NoAuthentication()
            primary, secondary = decode_key(keys.primary_key), decode_key(keys.secondary_key)
            return SasKeys(SecretBytes(primary), SecretBytes(secondary))
        case AuthenticationBody(type=AuthenticationType.SELF_SIGNED, x509_thumbprint=slots) if slots is not None:
            return Thumbprints(_thumbprint(slots.primary_thumbprint), _thumbprint(slots.secondary_thumbprint))
        case AuthenticationBody(type=AuthenticationType.CERTIFICATE_AUTHORITY):
            return CertificateAuthority()
        case _:
            return NoAuthentication()


def _thumbprint(text: str | None) -> Thumbprint | None:
    return Thumbprint.parse(text) if text else None
