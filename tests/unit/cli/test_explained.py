"""`edgetrust device explain` asks the hub, prints the verdict, and says by its exit code how it went."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetrust.cli.demo_pki import DemoPki

Call = Callable[..., Any]
CHECKS = [{"name": "registered", "passed": True, "detail": ""}, {"name": "expiry", "passed": False, "detail": "late"}]
REFUSED = {
    "accepted": False, "identity": "d1", "reason": "sas-expired", "checks": CHECKS,
    "means": "It has passed.", "confirm": "date", "fix": "edgetrust device show DEVICE",
}  # fmt: skip
ACCEPTED = {
    "accepted": True, "identity": "d1", "reason": "thumbprint-primary", "checks": CHECKS[:1], "validUntil": "2030",
}  # fmt: skip


@pytest.fixture
def call(edgetrust: Call, hub: Any) -> Call:
    return lambda *arguments: edgetrust("device", "explain", *arguments, "--dir", hub.directory)


def test_a_refusal(call: Call, hub: Any, tmp_path: Path) -> None:
    hub.answer("POST", "/edgetrust/explain", REFUSED)
    token = tmp_path / "token"
    token.write_text("SharedAccessSignature sr=x&sig=y&se=1\n")
    outcome = call("d1", "--module", "m1", "--token-file", token)
    assert outcome.code == 1
    assert hub.asked[0]["body"] == {"device": "d1", "module": "m1", "token": "SharedAccessSignature sr=x&sig=y&se=1"}
    assert outcome.out.splitlines() == [
        "d1 would be refused: sas-expired",
        "   passed  registered",
        "   FAILED  expiry: late",
        "   means    It has passed.",
        "   confirm  date",
        "   fix      edgetrust device show d1",
    ]
    assert outcome.err == ""
    machine = call("d1", "--token-file", token, "--json")
    assert (machine.code, machine.json()["reason"]) == (1, "sas-expired")


def test_a_certificate_goes_without_its_key(call: Call, hub: Any, demo: DemoPki, tmp_path: Path) -> None:
    hub.answer("POST", "/edgetrust/explain", ACCEPTED)
    first = demo.sensor[0]
    both = tmp_path / "both.pem"
    both.write_bytes(first.key_file.read_bytes() + first.certificate_file.read_bytes())
    outcome = call("d1", "--certificate", both)
    assert outcome.code == 0
    assert outcome.out.startswith("d1 would be accepted: thumbprint-primary\n")
    assert "PRIVATE" not in hub.asked[0]["body"]["certificates"]
    assert "BEGIN CERTIFICATE" in hub.asked[0]["body"]["certificates"]


def test_wrong_use(call: Call, hub: Any, demo: DemoPki, tmp_path: Path) -> None:
    certificate = demo.sensor[0].certificate_file
    assert call("d1", "--certificate", certificate, "--token-file", certificate).code == 2
    assert call("d1", "--certificate", tmp_path / "missing").code == 2
    assert call("d1", "--token-file", tmp_path / "missing").code == 2
    assert hub.asked == []
