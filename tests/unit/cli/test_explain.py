"""Every reason that a refusal can have is explained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgetrust.ca.reasons import IssuanceReason
from edgetrust.trust.verdict import Reason

Call = Callable[..., Any]


def test_every_reason_is_explained(edgetrust: Call) -> None:
    listed = edgetrust("explain", "--json").json()
    assert {entry["reason"] for entry in listed} == {*Reason, *IssuanceReason}
    assert all(entry["means"] and entry["confirm"] and entry["fix"] for entry in listed)


def test_the_list_is_a_line_each(edgetrust: Call) -> None:
    lines = edgetrust("explain").out.splitlines()
    assert len(lines) == 1 + len(Reason) + len(IssuanceReason)


def test_one_reason(edgetrust: Call) -> None:
    shown = edgetrust("explain", "thumbprint-mismatch")
    assert shown.code == 0
    assert shown.out.startswith("thumbprint-mismatch\n  means    ")
    assert edgetrust("explain", "CN_MISMATCH", "--json").json()["reason"] == "cn-mismatch"


def test_a_typo_names_the_nearest(edgetrust: Call) -> None:
    shown = edgetrust("explain", "thumprint-mismatch")
    assert (shown.code, shown.err.splitlines()[1]) == (2, "fix: did you mean thumbprint-mismatch?")
    assert "lists them all" in edgetrust("explain", "zzzzzz").err
