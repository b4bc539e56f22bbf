"""Identities as they travel in bulk: one JSON object each, in a list (`POST /devices`) or one per line (export and
import), and the result that says which of them failed (hub specification 6.3).

Rules of reading are those of `registry`. Each item is read by itself, so that one that cannot be read does not spoil
the others; what is absent is left out when writing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from edgetrust.protocol.registry import (
    AuthenticationBody,
    BodyError,
    CapabilitiesBody,
    Status,
    WordInAnyCase,
    decode_body,
)


class ImportMode(WordInAnyCase):
    """What to do with an item."""

    CREATE_OR_UPDATE = "createOrUpdate"
    CREATE = "create"
    UPDATE = "update"
    UPDATE_IF_MATCH = "updateIfMatchETag"
    CREATE_OR_UPDATE_IF_MATCH = "createOrUpdateIfMatchETag"
    DELETE = "delete"
    DELETE_IF_MATCH = "deleteIfMatchETag"
    UPDATE_TWIN = "updateTwin"
    UPDATE_TWIN_IF_MATCH = "updateTwinIfMatchETag"


class PropertiesBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """`properties` of a twin."""

    desired: dict[str, Any] | None = None
    reported: dict[str, Any] | None = None


class IdentityBody(msgspec.Struct, rename="camel", frozen=True, omit_defaults=True):
    """A device, or a module of one, with its twin."""

    id: str
    module_id: str | None = None
    e_tag: str | None = None
    import_mode: ImportMode | None = None
    status: Status | None = None
    status_reason: str | None = None
    managed_by: str | None = None
    authentication: AuthenticationBody | None = None
    twin_e_tag: str | None = msgspec.field(default=None, name="twinETag")
    tags: dict[str, Any] | None = None
    properties: PropertiesBody | None = None
    capabilities: CapabilitiesBody | None = None
    device_scope: str | None = None
    parent_scopes: list[str] | None = None


class _Named(msgspec.Struct, rename="camel", frozen=True):
    id: str = ""
    module_id: str | None = None


class ItemError(msgspec.Struct, rename="camel", frozen=True):
    """Why one item failed. `error_code` is a name of hub specification 12.2."""

    device_id: str
    error_code: str
    error_status: str
    module_id: str | None = None
    operation: str | None = None


class BulkResult(msgspec.Struct, rename="camel", frozen=True):
    """The answer to a bulk request."""

    is_successful: bool
    errors: list[ItemError]
    warnings: list[ItemError] = []


def parse_items(data: bytes) -> list[IdentityBody | ItemError]:
    """The items of a bulk request in their order; an error in the place of each that cannot be read.

    Raises BodyError when `data` is no JSON list.
    """
    return [_item(bytes(raw)) for raw in decode_body(data, list[msgspec.Raw])]


def _item(raw: bytes) -> IdentityBody | ItemError:
    try:
        return decode_body(raw, IdentityBody)
    except BodyError as problem:
        try:
            named = decode_body(raw, _Named)
        except BodyError:
            named = _Named()
        return ItemError(named.id, "DeserializationError", problem.message, named.module_id)


def result_of(errors: Sequence[ItemError]) -> BulkResult:
    """The result of a bulk request of which these items failed."""
    return BulkResult(not errors, list(errors))
