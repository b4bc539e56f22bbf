"""Error bodies as the SDKs read them."""

from __future__ import annotations

import json
from http import HTTPStatus

import pytest

from edgetrust.protocol.hub_errors import ERROR_NUMBERS, error_body, error_status


def test_every_status_is_one_of_http() -> None:
    for name in ERROR_NUMBERS:
        assert HTTPStatus(error_status(name)) >= HTTPStatus.BAD_REQUEST


def test_numbers_are_unique() -> None:
    assert len(set(ERROR_NUMBERS.values())) == len(ERROR_NUMBERS)


def test_the_shape_that_node_parses() -> None:
    body = json.loads(error_body("DeviceNotFound", "device d1 is not registered; it was deleted", "4f"))
    code, _, text = body["Message"].partition(";")
    assert code.split(":") == ["ErrorCode", "DeviceNotFound"]
    assert text == "device d1 is not registered, it was deleted"
    assert body["ExceptionMessage"] == "Tracking ID:4f-Code:404001"


def test_without_tracking() -> None:
    assert json.loads(error_body("ServerError", ""))["ExceptionMessage"] == ""


def test_unknown_names_are_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        error_body("NoSuchError", "text")
