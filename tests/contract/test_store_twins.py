"""The store of twins, on every engine."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from edgetrust.clock import ManualClock
from edgetrust.errors import PeerError, UnavailableError
from edgetrust.protocol.twin import DesiredChange, TwinDraft, TwinError
from edgetrust.store import migrate
from edgetrust.store.engine import Database
from edgetrust.store.identities import Identities
from edgetrust.store.records import DeviceDraft, ModuleDraft, RegistryError
from edgetrust.store.twins import Twins

HUB = "hub.example"


@pytest_asyncio.fixture
async def registry(database: Database, clock: ManualClock) -> AsyncIterator[Identities]:
    identities = Identities(database, clock, HUB)
    await identities.create_device(DeviceDraft("d1"))
    await identities.create_module(ModuleDraft("d1", "m1"))
    yield identities


@pytest.fixture
def store(database: Database, clock: ManualClock, registry: Identities) -> Twins:
    return Twins(database, clock)


async def refused(call: Any) -> PeerError:
    with pytest.raises((RegistryError, TwinError)) as caught:
        await call
    return caught.value


async def failing(*arguments: object) -> None:
    raise UnavailableError("away")


async def test_a_new_identity_has_an_empty_twin(store: Twins) -> None:
    for module in (None, "m1"):
        record = await store.get("d1", module)
        assert (record.twin.tags, record.twin.desired.values, record.twin.version) == ({}, {}, 1)
        assert record.etag == "AAAAAAAAAAE="
        assert record.device.device == "d1"
        assert (record.module and record.module.module) == module


async def test_a_device_can_start_with_a_twin(registry: Identities, store: Twins) -> None:
    await registry.create_device(DeviceDraft("d2", twin=TwinDraft({"site": "north"}, {"rate": 5})))
    twin = await store.twin("d2")
    assert (twin.tags, twin.desired.values, twin.desired.version) == ({"site": "north"}, {"rate": 5}, 1)


async def test_an_initial_twin_beyond_the_limits_leaves_no_device(registry: Identities) -> None:
    draft = DeviceDraft("d2", twin=TwinDraft({"a.b": 1}))
    assert (await refused(registry.create_device(draft))).reason == "twin-name"
    assert (await refused(registry.device("d2"))).reason == "device-not-found"


async def test_system_modules_have_twins_too(registry: Identities, store: Twins) -> None:
    await registry.create_device(DeviceDraft("e1", edge=True))
    assert (await store.twin("e1", "$edgeAgent")).version == 1


async def test_a_patch_is_stored_and_returned(store: Twins) -> None:
    written = await store.patch("d1", TwinDraft({"site": "n"}, {"a": {"b": 1}}))
    assert written == await store.get("d1")
    assert (written.twin.tags, written.twin.desired.values) == ({"site": "n"}, {"a": {"b": 1}})
    assert (written.twin.version, written.twin.desired.version, written.twin.reported.version) == (2, 2, 1)
    assert (await store.twin("d1", "m1")).version == 1


async def test_a_replacement_is_stored_and_returned(store: Twins) -> None:
    await store.patch("d1", TwinDraft({"site": "n"}, {"a": 1}), module="m1")
    written = await store.replace("d1", TwinDraft(None, {"b": 2}), module="m1")
    assert written == await store.get("d1", "m1")
    assert (written.twin.tags, written.twin.desired.values) == ({}, {"b": 2})


async def test_if_match_quoted_or_bare_must_be_the_etag(store: Twins) -> None:
    etag = (await store.get("d1")).etag
    for if_match in (f'"{etag}"', "*", '"*"', None):
        await store.patch("d1", TwinDraft({"a": 1}), if_match)
    changed = await store.get("d1")
    assert changed.etag != etag
    for call in (store.patch, store.replace):
        assert (await refused(call("d1", TwinDraft({"a": 2}), etag))).reason == "precondition-failed"
    assert await store.get("d1") == changed
    await store.patch("d1", TwinDraft({"a": 2}), changed.etag)


async def test_the_etag_is_eight_bytes_big_endian_and_stays_when_the_device_reports(store: Twins) -> None:
    await store.patch("d1", TwinDraft({"a": 1}))
    await store.report("d1", {"x": 1})
    record = await store.get("d1")
    assert base64.b64decode(record.etag) == (2).to_bytes(8, "big")
    assert record.twin.version == 3


async def test_reports_answer_the_new_version(store: Twins) -> None:
    assert await store.report("d1", {"x": 1}) == 2
    assert await store.report("d1", {"x": None, "y": 2, "$version": 2}) == 3
    assert (await refused(store.report("d1", {"x": 1, "$version": 2}))).reason == "twin-version-conflict"
    assert (await store.twin("d1")).reported.values == {"y": 2}


async def test_reports_at_once_lose_nothing(store: Twins) -> None:
    await asyncio.gather(*(store.report("d1", {f"k{number}": number}) for number in range(20)))
    twin = await store.twin("d1")
    assert (len(twin.reported.values), twin.reported.version) == (20, 21)


async def test_a_cancelled_report_is_stored_or_not_but_never_half(store: Twins) -> None:
    task = asyncio.create_task(store.report("d1", {"a": 1, "b": 2}))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.report("d1", {"c": 3})
    twin = await store.twin("d1")
    assert (twin.reported.values, twin.reported.version) in (
        ({"a": 1, "b": 2, "c": 3}, 3),
        ({"c": 3}, 2),
    )


async def test_listeners_hear_changes_of_desired_properties_in_their_order(store: Twins) -> None:
    heard: list[tuple[str, str | None, DesiredChange]] = []
    stop = store.listen(lambda device, module, change: heard.append((device, module, change)))
    await store.patch("d1", TwinDraft({"tag": 1}))
    await asyncio.gather(*(store.patch("d1", TwinDraft(None, {"n": number})) for number in range(5)))
    await store.replace("d1", TwinDraft(None, {"m": 1}), module="m1")
    await store.report("d1", {"x": 1})
    assert [(device, module, change.version) for device, module, change in heard] == [
        *(("d1", None, version) for version in range(2, 7)),
        ("d1", "m1", 2),
    ]
    stop()
    await store.patch("d1", TwinDraft(None, {"n": 9}))
    assert len(heard) == 6


async def test_a_refused_change_is_not_heard(store: Twins) -> None:
    heard: list[object] = []
    store.listen(lambda *news: heard.append(news))
    await refused(store.patch("d1", TwinDraft(None, {"a b": 1})))
    await refused(store.patch("d1", TwinDraft(None, {"a": 1}), "AAAAAAAAAAk="))
    assert heard == []


async def test_what_is_not_registered_has_no_twin(registry: Identities, store: Twins) -> None:
    for device, module, reason in (
        ("d9", None, "device-not-found"),
        ("d9", "m1", "device-not-found"),
        ("d1", "m9", "module-not-found"),
    ):
        for call in (
            store.get(device, module),
            store.twin(device, module),
            store.patch(device, TwinDraft({"a": 1}), module=module),
            store.replace(device, TwinDraft({"a": 1}), module=module),
            store.report(device, {"a": 1}, module=module),
        ):
            assert (await refused(call)).reason == reason


async def test_a_twin_goes_with_its_identity_and_comes_back_empty(registry: Identities, store: Twins) -> None:
    await store.patch("d1", TwinDraft({"a": 1}))
    await store.patch("d1", TwinDraft({"a": 1}), module="m1")
    await registry.delete_module("d1", "m1")
    assert (await refused(store.twin("d1", "m1"))).reason == "module-not-found"
    await registry.create_module(ModuleDraft("d1", "m1"))
    assert (await store.twin("d1", "m1")).tags == {}
    await registry.delete_device("d1")
    await registry.create_device(DeviceDraft("d1"))
    assert (await store.twin("d1")).tags == {}
    assert (await refused(store.twin("d1", "m1"))).reason == "module-not-found"


async def test_what_a_client_said_of_itself_is_kept_and_no_change(store: Twins) -> None:
    store.note_client("d1", None, "dtmi:com:example:Thermostat;1", "py/2.13.0")
    store.note_client("d1", None, "dtmi:com:example:Thermostat;1", "py/2.14.0")
    store.note_client("d1", "m1", "", "node")
    store.note_client("gone", None, "", "whatever")
    await store.write_clients()
    await store.write_clients()
    device, module = await store.get("d1"), await store.get("d1", "m1")
    assert (device.model_id, device.product_info) == ("dtmi:com:example:Thermostat;1", "py/2.14.0")
    assert (module.model_id, module.product_info) == ("", "node")
    assert device.twin.version == 1


async def test_what_a_client_said_is_written_later_when_the_store_is_away(database: Database, store: Twins) -> None:
    store.note_client("d1", None, "", "old")
    store.note_client("d1", "m1", "", "old")
    write, database.write = database.write, failing  # type: ignore[method-assign,assignment]
    with pytest.raises(UnavailableError):
        await store.write_clients()
    store.note_client("d1", None, "", "new")
    database.write = write  # type: ignore[method-assign]
    await store.write_clients()
    assert [(await store.get("d1", module)).product_info for module in (None, "m1")] == ["new", "old"]


async def test_pages_of_device_twins(registry: Identities, store: Twins) -> None:
    for name in ("b", "a", "c"):
        await registry.create_device(DeviceDraft(name, twin=TwinDraft({"is": name})))
    page = await store.device_twins(limit=2)
    assert [(record.device.device, record.twin.tags) for record in page] == [("a", {"is": "a"}), ("b", {"is": "b"})]
    assert [record.device.device for record in await store.device_twins(after="b")] == ["c", "d1"]


async def test_sections_can_be_queried_as_json(database: Database, store: Twins) -> None:
    await store.patch("d1", TwinDraft({"site": {"floor": 3}}, {"rate": "é"}))
    floor = (
        "SELECT tags::jsonb #>> '{site,floor}' FROM twins WHERE device = 'd1' AND module = ''"
        if database.dialect == "postgresql"
        else "SELECT json_extract(tags, '$.site.floor') FROM twins WHERE device = 'd1' AND module = ''"
    )
    assert str(await database.read(lambda connection: connection.execute(text(floor)).scalar())) == "3"


async def test_identities_from_before_there_were_twins_get_empty_ones(database: Database, store: Twins) -> None:
    await store.patch("d1", TwinDraft({"a": 1}))

    def back_and_forth(connection: Connection) -> None:
        connection.exec_driver_sql("DROP TABLE twins")
        config = Config()
        config.set_main_option("script_location", str(migrate._SCRIPTS))
        config.attributes["connection"] = connection
        command.stamp(config, "0001")
        command.upgrade(config, "0002")

    await database.write(back_and_forth)
    for module in (None, "m1"):
        twin = await store.twin("d1", module)
        assert (twin.tags, twin.version) == ({}, 1)
        assert json.dumps(twin.desired.metadata) == (
            '{"$lastUpdated": "0001-01-01T00:00:00Z", "$lastUpdatedVersion": 1}'
        )
