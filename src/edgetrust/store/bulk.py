"""Many writes of the registry in one transaction, each of which succeeds or fails by itself (hub specification 6.3).

Rules: every item has a savepoint of its own, so that a refused one leaves no trace, not even a change to announce, and
the others are written all the same. An identity may be named once: which of two wishes should win is not guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from edgetrust.protocol.bulk import ImportMode
from edgetrust.store.records import DeviceDraft, ModuleDraft, RegistryError
from edgetrust.store.registrar import Registrar
from edgetrust.store.rows import device_row, module_row

_CREATES_OR_UPDATES = (ImportMode.CREATE_OR_UPDATE, ImportMode.CREATE_OR_UPDATE_IF_MATCH)
_MATCHING = (
    ImportMode.UPDATE_IF_MATCH,
    ImportMode.CREATE_OR_UPDATE_IF_MATCH,
    ImportMode.DELETE_IF_MATCH,
)


@dataclass(frozen=True, slots=True)
class BulkItem:
    """One wish. `etag` counts in the modes that compare it."""

    mode: ImportMode
    draft: DeviceDraft | ModuleDraft
    etag: str | None = None


def write_each(registrar: Registrar, items: Sequence[BulkItem]) -> tuple[RegistryError | None, ...]:
    """Do what each item asks for; the refusal, or None, of each in their order."""
    named = Counter(_name(item.draft) for item in items)
    return tuple(_write(registrar, item, once=named[_name(item.draft)] == 1) for item in items)


def _name(draft: DeviceDraft | ModuleDraft) -> tuple[str, str | None]:
    return draft.device, draft.module if isinstance(draft, ModuleDraft) else None


def _write(registrar: Registrar, item: BulkItem, *, once: bool) -> RegistryError | None:
    if not once:
        text = "named more than once in one request"
        return RegistryError(text, code="DeviceDefinedMultipleTimes", status=400)
    before = len(registrar.changes)
    try:
        with registrar.connection.begin_nested():
            _apply(registrar, item)
    except RegistryError as refusal:
        del registrar.changes[before:]
        return refusal
    return None


def _apply(registrar: Registrar, item: BulkItem) -> None:
    mode = item.mode
    if mode in _MATCHING and not item.etag:
        raise RegistryError(f"{mode.value} needs an eTag", code="ArgumentNull", status=400)
    match = item.etag if mode in _MATCHING else "*"
    if mode in _CREATES_OR_UPDATES:
        mode = ImportMode.UPDATE if _exists(registrar, item.draft) else ImportMode.CREATE
    match mode:
        case ImportMode.CREATE:
            _create(registrar, item.draft)
        case ImportMode.UPDATE | ImportMode.UPDATE_IF_MATCH:
            _update(registrar, item.draft, match)
        case ImportMode.DELETE | ImportMode.DELETE_IF_MATCH:
            _delete(registrar, item.draft, match)
        case ImportMode.UPDATE_TWIN | ImportMode.UPDATE_TWIN_IF_MATCH:
            raise RegistryError(f"{mode.value} is not possible", code="InvalidOperation", status=400)
        case ImportMode.CREATE_OR_UPDATE | ImportMode.CREATE_OR_UPDATE_IF_MATCH:
            raise AssertionError(mode)  # decided above
        case _:
            assert_never(mode)


def _exists(registrar: Registrar, draft: DeviceDraft | ModuleDraft) -> bool:
    if isinstance(draft, DeviceDraft):
        return device_row(registrar.connection, draft.device) is not None
    return module_row(registrar.connection, draft.device, draft.module) is not None


def _create(registrar: Registrar, draft: DeviceDraft | ModuleDraft) -> None:
    if isinstance(draft, DeviceDraft):
        registrar.create_device(draft)
    else:
        registrar.create_module(draft)


def _update(registrar: Registrar, draft: DeviceDraft | ModuleDraft, match: str | None) -> None:
    if isinstance(draft, DeviceDraft):
        registrar.update_device(draft, match)
    else:
        registrar.update_module(draft, match)


def _delete(registrar: Registrar, draft: DeviceDraft | ModuleDraft, match: str | None) -> None:
    if isinstance(draft, DeviceDraft):
        registrar.delete_device(draft.device, match)
    else:
        registrar.delete_module(draft.device, draft.module, match)
