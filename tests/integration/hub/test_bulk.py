"""Bulk requests and the export of all identities, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgetrust.limits import BULK_ITEMS
from support.hub import Answer, World
from support.surface import HTTP, surface


def lines(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 200, answer
    assert answer.headers["Content-Type"] == "application/x-ndjson; charset=utf-8"
    return [json.loads(line) for line in answer.body.splitlines()]


async def test_devices_are_created_changed_and_deleted_together(each_world: World) -> None:
    made = await each_world.ask(
        "POST", "/devices", [{"id": f"d{n}", "importMode": "Create", "status": "disabled"} for n in range(BULK_ITEMS)]
    )
    assert (made.status, made.json) == (200, {"isSuccessful": True, "errors": [], "warnings": []})
    mixed = [
        {"id": "d0", "importMode": "delete"},
        {"id": "d1", "importMode": "update", "status": "enabled"},
        {"id": "d2", "importMode": "create"},
        {"id": "d3", "importMode": "updateIfMatchETag", "eTag": '"*"'},
        {"id": "d 4"},
        {"id": "d5", "status": "maybe"},
        {"id": "d6", "moduleId": "m", "authentication": {"type": "selfSigned"}},
        {"id": "d7", "moduleId": "m", "managedBy": "me"},
    ]
    answer = await each_world.ask("POST", "/devices/", mixed)
    assert answer.status == 400
    assert answer.json["isSuccessful"] is False
    assert [(one["deviceId"], one["moduleId"], one["errorCode"]) for one in answer.json["errors"]] == [
        ("d2", None, "DeviceAlreadyExists"),
        ("d 4", None, "ArgumentInvalid"),
        ("d5", None, "DeserializationError"),
        ("d6", "m", "ArgumentInvalid"),
    ]
    assert answer.json["errors"][0]["operation"] == "create"
    assert (await each_world.ask("GET", "/devices/d0")).error == "DeviceNotFound"
    assert (await each_world.ask("GET", "/devices/d1")).json["status"] == "enabled"
    assert (await each_world.ask("GET", "/devices/d7/modules/m")).json["managedBy"] == "me"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "IotHubFormatError"),
        (b"{}", 400, "ArgumentInvalid"),
        ([{"id": f"d{n}"} for n in range(BULK_ITEMS + 1)], 413, "TooManyDevices"),
    ],
)
async def test_what_is_no_bulk_request(world: World, body: Any, status: int, code: str) -> None:
    answer = await world.ask("POST", "/devices", body)
    assert (answer.status, answer.error) == (status, code)
    assert (await world.ask("GET", "/devices")).json == []


async def test_words_that_no_store_takes(each_world: World) -> None:
    items = [{"id": "a\0"}, {"id": "a", "statusReason": "\0"}, {"id": "b", "deviceScope": "\0"}]
    answer = await each_world.ask("POST", "/devices", items)
    assert answer.status == 400
    assert [one["errorCode"] for one in answer.json["errors"]] == ["ArgumentInvalid"] * 3


async def test_an_empty_list_changes_nothing(world: World) -> None:
    assert (await world.ask("POST", "/devices", [])).json["isSuccessful"] is True


async def test_rights(world: World) -> None:
    item = [{"id": "d"}]
    for policy in ("service", "device", "registryRead"):
        assert (await world.ask("POST", "/devices", item, token=world.service_token(policy))).status == 401
    assert (await world.ask("POST", "/devices", item, token=world.service_token("registryReadWrite"))).status == 200
    for policy in ("service", "device"):
        answer = await world.ask("GET", "/edgetrust/identities", token=world.service_token(policy))
        assert answer.status == 401
    assert (await world.ask("GET", "/edgetrust/identities", token=world.service_token("registryRead"))).status == 200


async def test_export_in_pages(each_world: World) -> None:
    await each_world.gateway("edge")
    scope = await each_world.scope_of("edge")
    await each_world.create("a", deviceScope=scope)
    await each_world.create("b", status="disabled", statusReason="spare")
    first = await each_world.ask("GET", "/edgetrust/identities?top=2")
    second = await each_world.ask(
        "GET", "/edgetrust/identities?top=2", x_ms_continuation=first.headers["x-ms-continuation"]
    )
    assert "x-ms-continuation" not in second.headers
    found = lines(first) + lines(second)
    assert [(one["id"], one.get("moduleId")) for one in found] == [
        ("a", None),
        ("b", None),
        ("edge", None),
        ("edge", "$edgeAgent"),
        ("edge", "$edgeHub"),
    ]
    assert found[0]["parentScopes"] == [scope]
    assert (found[1]["status"], found[1]["statusReason"]) == ("disabled", "spare")
    assert found[0]["authentication"]["symmetricKey"]["primaryKey"] == each_world.keys["a"]
    without = lines(await each_world.ask("GET", "/edgetrust/identities?excludeKeys=true"))
    assert [one["authentication"]["symmetricKey"] for one in without] == [None] * 5


@surface(HTTP, "import-export")
async def test_what_was_exported_is_a_bulk_request(world: World) -> None:
    await world.create("a", capabilities={"iotEdge": True})
    await world.create_module("a", "m")
    exported = lines(await world.ask("GET", "/edgetrust/identities"))
    assert (await world.ask("POST", "/devices", exported)).json["isSuccessful"] is True
    again = lines(await world.ask("GET", "/edgetrust/identities"))
    assert [{**one, "eTag": ""} for one in again] == [{**one, "eTag": ""} for one in exported]


@pytest.mark.parametrize("word", ["%%%", "AA", "/w==", "AA=="])
async def test_a_continuation_that_is_none(world: World, word: str) -> None:
    answer = await world.ask("GET", "/edgetrust/identities", x_ms_continuation=word)
    assert (answer.status, answer.error) == (400, "GenericBadRequest")
    answer = await world.ask("GET", "/edgetrust/identities?excludeKeys=perhaps")
    assert answer.status == 400
