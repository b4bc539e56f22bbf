"""The error tree: families, exit codes, and what a person is told."""

from __future__ import annotations

import pytest

from edgetrust.errors import (
    ConfigError,
    Error,
    IntegrityError,
    PeerError,
    RefusedError,
    UnavailableError,
    UsageError,
)

ERRORS: list[tuple[Error, int]] = [
    (Error("m"), 1),
    (UsageError("m"), 2),
    (ConfigError("m"), 2),
    (PeerError("m", reason="r"), 1),
    (UnavailableError("m"), 3),
    (IntegrityError("m"), 4),
    (RefusedError("m", reason="r"), 1),
]


@pytest.mark.parametrize(("error", "code"), ERRORS)
def test_exit_codes(error: Error, code: int) -> None:
    assert error.exit_code == code
    assert str(error) == error.message == error.diagnosis() == "m"
    assert isinstance(error, Error)
    assert error.reason


def test_a_fix_is_told() -> None:
    assert ConfigError("x is wrong", fix="write y").diagnosis() == "x is wrong\nfix: write y"


def test_what_each_carries() -> None:
    assert PeerError("m", reason="r").status == 400
    assert PeerError("m", reason="r", status=404).status == 404
    assert UnavailableError("m").retry_after == 1.0
    assert UnavailableError("m", retry_after=7).reason == "unavailable"
    assert RefusedError("m", reason="r", verdict="v").verdict == "v"
