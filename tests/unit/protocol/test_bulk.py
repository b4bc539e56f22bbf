"""Bulk items are read one by one, and the result says which failed."""

from __future__ import annotations

import json

import msgspec
import pytest

from edgetrust.protocol.bulk import IdentityBody, ImportMode, ItemError, PropertiesBody, parse_items, result_of
from edgetrust.protocol.registry import BodyError


def test_items_of_every_kind() -> None:
    sent = [
        {"id": "d1", "importMode": "create", "status": "disabled", "unknown": 1},
        {"id": "d1", "moduleId": "m1", "importMode": "UPDATEIFMATCHETAG", "eTag": "MQ=="},
        {"id": "d2", "twinETag": "AAA=", "tags": {"a": 1}, "properties": {"desired": {"b": [None]}}},
    ]
    first, second, third = parse_items(json.dumps(sent).encode())
    assert isinstance(first, IdentityBody)
    assert (first.id, first.module_id, first.import_mode) == ("d1", None, ImportMode.CREATE)
    assert isinstance(second, IdentityBody)
    assert (second.module_id, second.import_mode, second.e_tag) == ("m1", ImportMode.UPDATE_IF_MATCH, "MQ==")
    assert isinstance(third, IdentityBody)
    assert (third.twin_e_tag, third.tags, third.properties) == ("AAA=", {"a": 1}, PropertiesBody({"b": [None]}))


@pytest.mark.parametrize("mode", list(ImportMode))
def test_modes_in_any_case(mode: ImportMode) -> None:
    for word in (mode.value, mode.value.upper(), mode.value[0].upper() + mode.value[1:]):
        (item,) = parse_items(json.dumps([{"id": "d", "importMode": word}]).encode())
        assert isinstance(item, IdentityBody)
        assert item.import_mode is mode


def test_an_item_that_cannot_be_read_does_not_spoil_the_others() -> None:
    sent = [{"id": "d1", "importMode": "perhaps"}, {"id": "d2"}, 7, {"id": 7}, {"moduleId": "m"}, None]
    read = parse_items(json.dumps(sent).encode())
    assert [isinstance(item, ItemError) for item in read] == [True, False, True, True, True, True]
    assert isinstance(read[0], ItemError)
    assert (read[0].device_id, read[0].error_code) == ("d1", "DeserializationError")


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "IotHubFormatError"), (b"[", "IotHubFormatError"), (b"{}", "ArgumentInvalid"), (b"7", "ArgumentInvalid")],
)
def test_what_is_no_list(data: bytes, code: str) -> None:
    with pytest.raises(BodyError) as raised:
        parse_items(data)
    assert raised.value.code == code


def test_what_is_absent_is_not_written() -> None:
    assert msgspec.json.encode(IdentityBody("d1", module_id="m1")) == b'{"id":"d1","moduleId":"m1"}'


def test_the_result() -> None:
    assert msgspec.to_builtins(result_of([])) == {"isSuccessful": True, "errors": [], "warnings": []}
    failed = msgspec.to_builtins(result_of([ItemError("d", "DeviceNotFound", "no", None, "update")]))
    assert failed["isSuccessful"] is False
    assert failed["errors"] == [
        {
            "deviceId": "d",
            "errorCode": "DeviceNotFound",
            "errorStatus": "no",
            "moduleId": None,
            "operation": "update",
        }
    ]
