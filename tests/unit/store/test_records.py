"""Values of the registry: etags, generations, times, names of errors."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from edgetrust.store.records import (
    RegistryError,
    check_match,
    etag_of,
    generation_of,
    milliseconds,
    moment,
    scope_of,
)


def test_an_etag_is_base64_of_a_decimal_number() -> None:
    assert etag_of(706452578) == "NzA2NDUyNTc4"
    assert base64.b64decode(etag_of(1)) == b"1"


@pytest.mark.parametrize("if_match", ["*", '"*"', "NQ==", '"NQ=="', 'W/"NQ=="', " * "])
def test_what_matches(if_match: str) -> None:
    check_match(if_match, 5, "device d1")


@pytest.mark.parametrize("if_match", [None, "", "Ng==", '"Ng=="', "**", "5"])
def test_what_does_not_match(if_match: str | None) -> None:
    with pytest.raises(RegistryError) as caught:
        check_match(if_match, 5, "device d1")
    assert (caught.value.status, caught.value.reason, caught.value.code) == (
        412,
        "precondition-failed",
        "PreconditionFailed",
    )


def test_a_generation_has_eighteen_digits_like_the_clouds() -> None:
    now = datetime(2021, 1, 1, tzinfo=UTC)
    assert generation_of(now, 17) == "637450560000000017"
    assert len(generation_of(now, 10**8 - 1)) == 18
    assert generation_of(now, 10**8) == generation_of(now, 0)
    assert scope_of("e1", "637450560000000017") == "ms-azure-iot-edge://e1-637450560000000017"


def test_times_are_milliseconds_and_zero_is_never() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    assert moment(milliseconds(at)) == at
    assert moment(0) is None


def test_the_slug_of_an_error_is_its_name() -> None:
    assert RegistryError("x", code="DeviceAlreadyExists", status=409).reason == "device-already-exists"
    assert RegistryError("x", code="DeviceNotFound", status=404, reason="other").reason == "other"
