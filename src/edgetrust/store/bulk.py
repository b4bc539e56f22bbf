"""Many writes of the registry in one transaction, each of which succeeds or fails by itself (hub specification 6.3).

Rules: every item has a savepoint of its own, so that a refused one leaves no trace, not even a change to announce, and
the others are written all the same. An identity may be named once: which of two wishes should win is not guessed. A
twin that comes with an item is what a new identity starts with; of one that exists, it replaces the sections that it
names, or is merged into them where the item is about the twin alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never

import msgspec

from edgetrust.protocol.bulk import ImportMode
from edgetrust.protocol.twin import DesiredChange, Json, Twin, TwinDraft, TwinError, patched, replaced
from edgetrust.store.records import DeviceDraft, DeviceRecord, ModuleDraft, ModuleRecord, RegistryError
from edgetrust.store.registrar import Registrar
from edgetrust.store.rows import device_row, module_row
from edgetrust.store.twins import Change, change_twin

_CREATES_OR_UPDATES = (ImportMode.CREATE_OR_UPDATE, ImportMode.CREATE_OR_UPDATE_IF_MATCH)
_MATCHING = (
    ImportMode.UPDATE_IF_MATCH,
    ImportMode.CREATE_OR_UPDATE_IF_MATCH,
    ImportMode.DELETE_IF_MATCH,
)


@dataclass(frozen=True, slots=True)
class BulkItem:
    """One wish. `etag` counts in the modes that compare it, `twin_etag` wherever it is given."""

    mode: ImportMode
    draft: DeviceDraft | ModuleDraft
    etag: str | None = None
    twin_etag: str | None = None


Refusal = RegistryError | TwinError


@dataclass(frozen=True, slots=True)
class DesiredNews:
    """The desired properties of a device or module changed; it is to be told."""

    device: str
    module: str | None
    change: DesiredChange


@dataclass(frozen=True, slots=True)
class BulkOutcome:
    """The refusal, or None, of each item in their order, and who is to be told of new desired properties."""

    refusals: tuple[Refusal | None, ...]
    news: tuple[DesiredNews, ...]


@dataclass(frozen=True, slots=True)
class Household:
    """A device with its modules, and the twins of all."""

    device: DeviceRecord
    twin: Twin
    modules: tuple[tuple[ModuleRecord, Twin], ...]


def write_each(registrar: Registrar, items: Sequence[BulkItem]) -> BulkOutcome:
    """Do what each item asks for."""
    named = Counter(_name(item.draft) for item in items)
    news: list[DesiredNews] = []
    refusals = [_write(registrar, item, news, once=named[_name(item.draft)] == 1) for item in items]
    return BulkOutcome(tuple(refusals), tuple(news))


def _name(draft: DeviceDraft | ModuleDraft) -> tuple[str, str | None]:
    return draft.device, draft.module if isinstance(draft, ModuleDraft) else None


def _write(registrar: Registrar, item: BulkItem, news: list[DesiredNews], *, once: bool) -> Refusal | None:
    if not once:
        text = "named more than once in one request"
        return RegistryError(text, code="DeviceDefinedMultipleTimes", status=400)
    before = len(registrar.changes)
    try:
        with registrar.connection.begin_nested():
            told = _apply(registrar, item)
    except (RegistryError, TwinError) as refusal:
        del registrar.changes[before:]
        return refusal
    if told is not None:
        news.append(DesiredNews(*_name(item.draft), told))
    return None


def _apply(registrar: Registrar, item: BulkItem) -> DesiredChange | None:
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
            return _change_twin(registrar, item, _overwriting)
        case ImportMode.DELETE | ImportMode.DELETE_IF_MATCH:
            _delete(registrar, item.draft, match)
        case ImportMode.UPDATE_TWIN | ImportMode.UPDATE_TWIN_IF_MATCH:
            return _change_twin(registrar, _matching(item), _merging)
        case ImportMode.CREATE_OR_UPDATE | ImportMode.CREATE_OR_UPDATE_IF_MATCH:
            raise AssertionError(mode)  # decided above
        case _:
            assert_never(mode)
    return None


def _matching(item: BulkItem) -> BulkItem:
    """With the etag that the mode says: `twinETag`, or `eTag` where that alone is given; none is compared otherwise."""
    if item.mode is ImportMode.UPDATE_TWIN:
        return replace(item, twin_etag=None)
    etag = item.twin_etag or item.etag
    if not etag:
        raise RegistryError(f"{item.mode.value} needs a twinETag", code="ArgumentNull", status=400)
    return replace(item, twin_etag=etag)


def _change_twin(
    registrar: Registrar, item: BulkItem, change: Callable[[Registrar, TwinDraft], Change]
) -> DesiredChange | None:
    draft = item.draft.twin
    if draft is None:
        if item.mode in (ImportMode.UPDATE_TWIN, ImportMode.UPDATE_TWIN_IF_MATCH):
            raise RegistryError(f"{item.mode.value} needs tags or properties", code="ArgumentNull", status=400)
        return None
    name = _name(item.draft)
    return change_twin(registrar.connection, *name, item.twin_etag, change(registrar, draft))[1]


def _merging(registrar: Registrar, draft: TwinDraft) -> Change:
    return lambda twin: patched(twin, draft, registrar.now)


def _overwriting(registrar: Registrar, draft: TwinDraft) -> Change:
    def wish(twin: Twin) -> TwinDraft:
        return TwinDraft(
            twin.tags if draft.tags is None else draft.tags,
            twin.desired.values if draft.desired is None else draft.desired,
        )

    return overwritten(wish, registrar.now)


def overwritten(wish: Callable[[Twin], TwinDraft], at: datetime) -> Change:
    """The change that replaces tags and desired properties by those wished, if they are others."""

    def change(twin: Twin) -> tuple[Twin, DesiredChange | None]:
        wished = wish(twin)
        if _same(wished.tags or {}, twin.tags) and _same(wished.desired or {}, twin.desired.values):
            return twin, None  # what was exported, or applied before, changes nothing
        return replaced(twin, wished, at)

    return change


def _same(one: Json, other: Json) -> bool:
    """Equal as JSON: to Python, true is 1."""
    return msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")


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
