"""A decision as a record."""

from __future__ import annotations

from edgetrust.trust.audit import record
from edgetrust.trust.verdict import Accepted, Check, How, Reason, Refused
from support.decisions import DEVICE_1, MODULE_1, NOW

CHECKS = (Check("registered", True), Check("sas-expiry", False, "expired"))


def test_accepted() -> None:
    kept = record(Accepted(MODULE_1, How.SAS_DEVICE_KEY, CHECKS, None), at=NOW, place="hub-mqtt", peer="192.0.2.1:5")
    assert (kept.at, kept.place, kept.peer, kept.identity) == (NOW, "hub-mqtt", "192.0.2.1:5", "d1/m1")
    assert (kept.accepted, kept.reason, kept.checks) == (True, "sas-device-key", CHECKS)


def test_refused() -> None:
    kept = record(Refused(DEVICE_1, Reason.SAS_EXPIRED, CHECKS), at=NOW, place="p", peer="", claimed="not used")
    assert (kept.accepted, kept.identity, kept.reason, kept.checks) == (False, "d1", "sas-expired", CHECKS)


def test_refused_without_a_readable_claim() -> None:
    kept = record(Refused(None, Reason.USER_NAME_MALFORMED, ()), at=NOW, place="p", peer="", claimed="y" * 1000)
    assert kept.identity == "y" * 300
    assert record(Refused(None, Reason.USER_NAME_MALFORMED, ()), at=NOW, place="p", peer="").identity == ""


def test_the_detail_of_a_refusal_is_what_the_failed_check_saw() -> None:
    assert Refused(None, Reason.SAS_EXPIRED, CHECKS).detail == "expired"
    assert Refused(None, Reason.SAS_EXPIRED, CHECKS[:1]).detail == ""
