"""A page of the device scope: as the hub sends it, to registrations, and as this gateway tells it to those below.

Rules: an entry that cannot be read makes the whole answer unusable, since leaving it out would look like a removal. A
module takes its device's keys and status from the device in the same answer. Nothing that is missing a credential
authenticates. Source: hub specification 9.3; edge specification 6.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from edgetrust.broker.bodies import authentication_body, authentication_from
from edgetrust.errors import PeerError, UnavailableError
from edgetrust.protocol.registry import (
    CapabilitiesBody,
    DeviceBody,
    ModuleBody,
    ScopeListing,
    Status,
    parse_scope_listing,
)
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import (
    Registration,
    SasKeys,
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
        authentication=authentication_from(device.authentication),
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
        authentication=authentication_from(module.authentication),
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


def write_listing(registrations: Iterable[Registration]) -> ScopeListing:
    """The registrations as one page."""
    listed = list(registrations)
    devices = [_device_body(one) for one in listed if one.identity.module is None]
    modules = [_module_body(one, one.identity.module) for one in listed if one.identity.module is not None]
    return ScopeListing(devices, modules, None)


def _device_body(registration: Registration) -> DeviceBody:
    return DeviceBody(
        device_id=registration.identity.device,
        generation_id=registration.generation,
        etag=registration.etag,
        status=Status.ENABLED if registration.enabled else Status.DISABLED,
        authentication=authentication_body(registration.authentication),
        capabilities=CapabilitiesBody(registration.edge),
        device_scope=registration.scope,
        parent_scopes=list(registration.parents),
    )


def _module_body(registration: Registration, module: str) -> ModuleBody:
    return ModuleBody(
        module_id=module,
        device_id=registration.identity.device,
        generation_id=registration.generation,
        etag=registration.etag,
        managed_by="IotEdge",
        authentication=authentication_body(registration.authentication),
    )
