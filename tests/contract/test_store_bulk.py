"""Many writes in one transaction, each by itself; on every engine."""

from __future__ import annotations

import pytest

from edgetrust.clock import ManualClock
from edgetrust.protocol.bulk import ImportMode
from edgetrust.protocol.twin import TwinDraft
from edgetrust.store.bulk import BulkItem, DesiredNews
from edgetrust.store.engine import Database
from edgetrust.store.identities import Identities
from edgetrust.store.records import Change, ChangeKind, DeviceDraft, ModuleDraft, RegistryError
from edgetrust.store.twins import Twins

CREATE, UPDATE, DELETE = ImportMode.CREATE, ImportMode.UPDATE, ImportMode.DELETE


@pytest.fixture
def registry(database: Database, clock: ManualClock) -> Identities:
    return Identities(database, clock, "hub.example")


def device(name: str, mode: ImportMode = CREATE, etag: str | None = None, status: str | None = None) -> BulkItem:
    return BulkItem(mode, DeviceDraft(name, status=status), etag)


def module(name: str, mode: ImportMode = CREATE, etag: str | None = None) -> BulkItem:
    of_device, _, of_module = name.partition("/")
    return BulkItem(mode, ModuleDraft(of_device, of_module), etag)


async def codes(registry: Identities, *items: BulkItem) -> list[str | None]:
    return [None if error is None else error.code for error in await registry.write_each(items)]


async def names(registry: Identities) -> list[str]:
    return [one.device for one in await registry.devices()]


async def test_a_refused_item_leaves_no_trace_and_the_others_are_written(registry: Identities) -> None:
    heard: list[Change] = []
    registry.listen(heard.append)
    found = await codes(registry, device("a"), device("b", UPDATE), device("c", status="perhaps"), module("a/m"))
    assert found == [None, "DeviceNotFound", "ArgumentInvalid", None]
    assert await names(registry) == ["a"]
    assert [one.module for one in await registry.modules("a")] == ["m"]
    assert [(one.kind, one.device, one.module) for one in heard] == [
        (ChangeKind.CREATED, "a", None),
        (ChangeKind.CREATED, "a", "m"),
    ]
    assert await registry.changes_after(0) == tuple(heard)


async def test_every_mode(registry: Identities) -> None:
    assert await codes(registry, device("a"), device("b")) == [None, None]
    etag = (await registry.device("a")).etag
    assert await codes(registry, device("a")) == ["DeviceAlreadyExists"]
    assert await codes(registry, device("a", UPDATE, "wrong", "disabled")) == [None]  # this mode does not compare
    assert await codes(registry, device("a", ImportMode.UPDATE_IF_MATCH, etag)) == ["PreconditionFailed"]
    etag = (await registry.device("a")).etag
    assert await codes(registry, device("a", ImportMode.UPDATE_IF_MATCH, etag, "enabled")) == [None]
    assert await codes(registry, device("a", ImportMode.UPDATE_IF_MATCH)) == ["ArgumentNull"]
    both = ImportMode.CREATE_OR_UPDATE
    assert await codes(registry, device("a", both, status="disabled"), device("c", both)) == [None, None]
    assert not (await registry.device("a")).enabled
    matching = ImportMode.CREATE_OR_UPDATE_IF_MATCH
    assert await codes(registry, device("a", matching, "eA=="), device("d", matching, "eA==")) == [
        "PreconditionFailed",
        None,
    ]
    gone = ImportMode.DELETE_IF_MATCH
    assert await codes(registry, device("a", gone, "eA=="), device("b", DELETE), device("e", DELETE)) == [
        "PreconditionFailed",
        None,
        "DeviceNotFound",
    ]
    assert await codes(registry, device("a", gone, (await registry.device("a")).etag)) == [None]
    assert await names(registry) == ["c", "d"]


async def test_modules_have_the_same_modes(registry: Identities) -> None:
    assert await codes(registry, device("a"), module("a/m"), module("b/m")) == [None, None, "DeviceNotFound"]
    etag = (await registry.module("a", "m")).etag
    assert await codes(registry, module("a/m")) == ["ModuleAlreadyExistsOnDevice"]
    assert await codes(registry, module("a/m", ImportMode.UPDATE_IF_MATCH, etag)) == [None]
    assert await codes(registry, module("a/m", ImportMode.DELETE_IF_MATCH, etag)) == ["PreconditionFailed"]
    assert await codes(registry, module("a/m", DELETE), module("a/n", ImportMode.CREATE_OR_UPDATE)) == [None, None]
    assert [one.module for one in await registry.modules("a")] == ["n"]


async def test_twins_in_bulk(registry: Identities, database: Database, clock: ManualClock) -> None:
    twins = Twins(database, clock)
    told: list[DesiredNews] = []

    async def write(mode: ImportMode, draft: DeviceDraft | ModuleDraft, twin_etag: str | None = None) -> str | None:
        (error,) = await registry.write_each([BulkItem(mode, draft, None, twin_etag)], told.append)
        return None if error is None else error.code

    start = TwinDraft({"a": 1}, {"x": {"y": 1}})
    assert await write(CREATE, DeviceDraft("d", twin=start)) is None
    assert await write(CREATE, ModuleDraft("d", "m", twin=start)) is None
    assert told == []
    etag = (await twins.get("d", "m")).etag
    changed = ModuleDraft("d", "m", twin=TwinDraft(desired={"x": {"y": None, "z": 2}}))
    assert await write(ImportMode.UPDATE_TWIN_IF_MATCH, changed, "eA==") == "PreconditionFailed"
    assert await write(ImportMode.UPDATE_TWIN_IF_MATCH, changed) == "ArgumentNull"
    assert await write(ImportMode.UPDATE_TWIN_IF_MATCH, changed, etag) is None
    after = await twins.twin("d", "m")
    assert (after.tags, after.desired.values) == ({"a": 1}, {"x": {"z": 2}})
    assert await write(ImportMode.UPDATE_TWIN, DeviceDraft("d", twin=TwinDraft({"b": 2})), "ignored") is None
    assert await write(ImportMode.UPDATE_TWIN, DeviceDraft("d")) == "ArgumentNull"
    assert await write(ImportMode.UPDATE_TWIN, DeviceDraft("e", twin=start)) == "DeviceNotFound"
    whole = DeviceDraft("d", status="disabled", twin=TwinDraft(desired={"w": 1}))
    assert await write(UPDATE, whole, "eA==") == "PreconditionFailed"
    assert (await registry.device("d")).enabled  # not half of it
    assert await write(UPDATE, whole) is None
    device = await twins.twin("d")
    assert (device.tags, device.desired.values) == ({"a": 1, "b": 2}, {"w": 1})
    assert await write(UPDATE, DeviceDraft("d", twin=TwinDraft({"bad name": 1}))) == "ArgumentInvalid"
    assert [(one.device, one.module) for one in told] == [("d", "m"), ("d", None)]
    assert told[1].change.patch == {"x": None, "w": 1}


async def test_who_is_named_twice_is_not_touched(registry: Identities) -> None:
    twice = "DeviceDefinedMultipleTimes"
    assert await codes(registry, device("a"), device("b"), device("a", DELETE), module("b/m")) == [
        twice,
        None,
        twice,
        None,
    ]
    assert await names(registry) == ["b"]


async def test_pages_with_modules(registry: Identities) -> None:
    items = [device(name) for name in ("a", "b", "c")] + [module("a/n"), module("a/m"), module("c/m")]
    assert set(await registry.write_each(items)) == {None}

    async def page(after: str, limit: int) -> list[tuple[str, list[str]]]:
        found = await registry.with_modules(after, limit)
        return [(one.device.device, [each.module for each, _ in one.modules]) for one in found]

    assert await page("", 10) == [("a", ["m", "n"]), ("b", []), ("c", ["m"])]
    assert await page("a", 1) == [("b", [])]
    assert await page("c", 1) == []


async def test_the_errors_are_the_registrys(registry: Identities) -> None:
    (error,) = await registry.write_each([device("no such name")])
    assert isinstance(error, RegistryError)
    assert error.reason == "identifier-malformed"
