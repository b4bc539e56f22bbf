"""Registry records as the bodies that go over the wire, and the other way round (hub specification 5.1 and 5.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec

from edgetrust.broker.bodies import authentication_body
from edgetrust.protocol.bulk import IdentityBody, ImportMode, PropertiesBody
from edgetrust.protocol.iothub import valid_identifier
from edgetrust.protocol.registry import (
    NEVER,
    AuthenticationBody,
    BodyError,
    CapabilitiesBody,
    DeviceBody,
    ModuleBody,
    ScopeListing,
    Status,
    SymmetricKeyBody,
    ThumbprintBody,
    etag_of,
)
from edgetrust.protocol.twin import Twin, TwinDraft, section_view
from edgetrust.store.bulk import BulkItem, Household
from edgetrust.store.records import AuthenticationDraft, DeviceDraft, DeviceRecord, ModuleDraft, ModuleRecord
from edgetrust.store.twins import TwinRecord, twin_etag
from edgetrust.trust.registration import Authentication


def device_body(record: DeviceRecord) -> DeviceBody:
    """A device as its clients see it, keys included: who may read the registry may read them."""
    return DeviceBody(
        device_id=record.device,
        generation_id=record.generation,
        etag=record.etag,
        connection_state=_state(record.connected),
        status=Status.ENABLED if record.enabled else Status.DISABLED,
        status_reason=record.status_reason,
        connection_state_updated_time=_time(record.connection_changed_at),
        status_updated_time=_time(record.status_changed_at),
        last_activity_time=_time(record.last_activity_at),
        cloud_to_device_message_count=record.c2d_messages,
        authentication=authentication_body(record.authentication),
        capabilities=CapabilitiesBody(record.edge),
        device_scope=record.scope or "",
        parent_scopes=list(record.parent_scopes),
    )


def module_body(record: ModuleRecord) -> ModuleBody:
    """A module as its clients see it."""
    return ModuleBody(
        module_id=record.module,
        device_id=record.device,
        managed_by=record.managed_by,
        generation_id=record.generation,
        etag=record.etag,
        connection_state=_state(record.connected),
        connection_state_updated_time=_time(record.connection_changed_at),
        last_activity_time=_time(record.last_activity_at),
        cloud_to_device_message_count=record.c2d_messages,
        authentication=authentication_body(record.authentication),
    )


def twin_body(record: TwinRecord) -> dict[str, Any]:
    """A twin as services see it, with what its identity is and does (hub specification 5.3)."""
    device, module, twin = record.device, record.module, record.twin
    identity = device if module is None else module
    thumbprints = authentication_body(identity.authentication).x509_thumbprint
    body: dict[str, Any] = {
        "deviceId": device.device,
        **({} if module is None else {"moduleId": module.module}),
        "etag": record.etag,
        "deviceEtag": identity.etag,
        "version": twin.version,
        "status": Status.ENABLED if device.enabled else Status.DISABLED,
        "statusReason": device.status_reason,
        "statusUpdateTime": zulu(device.status_changed_at),
        "connectionState": _state(identity.connected),
        "lastActivityTime": zulu(identity.last_activity_at),
        "cloudToDeviceMessageCount": identity.c2d_messages,
        "authenticationType": authentication_body(identity.authentication).type,
        "x509Thumbprint": thumbprints,
        "modelId": record.model_id,
        "productInfo": record.product_info,
        "tags": twin.tags,
        "properties": {"desired": section_view(twin.desired), "reported": section_view(twin.reported)},
    }
    if module is None:
        body["capabilities"] = CapabilitiesBody(device.edge)
        body["deviceScope"] = device.scope or ""
        body["parentScopes"] = list(device.parent_scopes)
    return body


def twin_row(record: TwinRecord) -> Mapping[str, Any]:
    """A twin as plain values of JSON, which is what queries look at."""
    row: dict[str, Any] = msgspec.to_builtins(twin_body(record))
    return row


def listing(
    devices: tuple[DeviceRecord, ...], modules: tuple[ModuleRecord, ...], continuation: str | None
) -> ScopeListing:
    """A page of a scope."""
    return ScopeListing([device_body(one) for one in devices], [module_body(one) for one in modules], continuation)


def device_draft(device: str, body: DeviceBody | IdentityBody) -> DeviceDraft:
    """What a client wishes a device to be; the identifier is the one of the path."""
    return DeviceDraft(
        device=device,
        authentication=_authentication_draft(body.authentication),
        status=body.status,
        status_reason=_words(body.status_reason),
        edge=None if body.capabilities is None else body.capabilities.iot_edge,
        scope=_words(body.device_scope),
        parent_scopes=None if body.parent_scopes is None else tuple(_words(one) or "" for one in body.parent_scopes),
    )


def module_draft(device: str, module: str, body: ModuleBody | IdentityBody) -> ModuleDraft:
    """What a client wishes a module to be."""
    return ModuleDraft(device, module, _authentication_draft(body.authentication), _words(body.managed_by))


def bulk_item(body: IdentityBody) -> BulkItem:
    """One wish of a bulk request. Raises BodyError."""
    mode = body.import_mode or ImportMode.CREATE_OR_UPDATE
    etag = None if body.e_tag is None else etag_of(body.e_tag)
    for name in (body.id, body.module_id):
        if name is not None and not valid_identifier(name):
            raise BodyError(f"{name[:140]!r} cannot name a device or module", code="ArgumentInvalid")
    draft = device_draft(body.id, body) if body.module_id is None else module_draft(body.id, body.module_id, body)
    desired = None if body.properties is None else body.properties.desired
    if body.tags is not None or desired is not None:
        draft = replace(draft, twin=TwinDraft(body.tags, desired))
    return BulkItem(mode, draft, etag, None if body.twin_e_tag is None else etag_of(body.twin_e_tag))


def identity_bodies(household: Household, *, keys: bool) -> Iterator[IdentityBody]:
    """A device and its modules as they are exported; symmetric keys only if `keys`."""
    device = household.device
    yield IdentityBody(
        id=device.device,
        e_tag=device.etag,
        status=Status.ENABLED if device.enabled else Status.DISABLED,
        status_reason=device.status_reason,
        authentication=_exported(device.authentication, keys=keys),
        capabilities=CapabilitiesBody(device.edge),
        device_scope=device.scope,
        parent_scopes=list(device.parent_scopes) or None,
        **_twin_members(household.twin),
    )
    for module, twin in household.modules:
        yield IdentityBody(
            id=module.device,
            module_id=module.module,
            e_tag=module.etag,
            managed_by=module.managed_by,
            authentication=_exported(module.authentication, keys=keys),
            **_twin_members(twin),
        )


def _twin_members(twin: Twin) -> dict[str, Any]:
    properties = PropertiesBody(dict(twin.desired.values), dict(twin.reported.values))
    return {"twin_e_tag": twin_etag(twin), "tags": dict(twin.tags), "properties": properties}


def _exported(authentication: Authentication, *, keys: bool) -> AuthenticationBody:
    body = authentication_body(authentication)
    return body if keys else AuthenticationBody(None, body.x509_thumbprint, body.type)


def _words(text: str | None) -> str | None:
    if text is not None and "\0" in text:
        raise BodyError("a text holds U+0000", code="ArgumentInvalid")
    return text


def _authentication_draft(body: AuthenticationBody | None) -> AuthenticationDraft | None:
    if body is None:
        return None
    keys, thumbprints = body.symmetric_key or SymmetricKeyBody(), body.x509_thumbprint or ThumbprintBody()
    return AuthenticationDraft(
        kind=body.type,
        primary_key=keys.primary_key,
        secondary_key=keys.secondary_key,
        primary_thumbprint=thumbprints.primary_thumbprint,
        secondary_thumbprint=thumbprints.secondary_thumbprint,
    )


def _state(connected: bool) -> str:
    return "Connected" if connected else "Disconnected"


def _time(at: datetime | None) -> str:
    return NEVER if at is None else at.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def zulu(at: datetime | None) -> str:
    """A time of a twin, which says its zone also when it never was (hub specification 1.2)."""
    return f"{NEVER}Z" if at is None else _time(at)
