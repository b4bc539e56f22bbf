"""What a peer sends where a name belongs is put on record without its secrets."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from edgetrust.trust.audit import record
from edgetrust.trust.verdict import Check, Reason, Refused


@pytest.mark.parametrize(
    "text",
    [
        "d1 as SharedAccessSignature sr=h%2Fdevices%2Fd1&sig=c2VjcmV0&se=1",
        "HostName=h;DeviceId=d1;SharedAccessKey=c2VjcmV0",
        "'SharedAccessSignature sig=c2VjcmV0&sr=h' names no device or module",
    ],
)
def test_signatures_and_keys_are_cut_out(text: str) -> None:
    refused = Refused(None, Reason.USER_NAME_MALFORMED, (Check("user-name", False, text),))
    kept = record(refused, at=datetime(2026, 6, 1, tzinfo=UTC), place="hub", peer="::1", claimed=text)
    assert "c2VjcmV0" not in repr(kept)
    assert "(cut out)" in kept.identity
    assert "(cut out)" in kept.checks[0].detail
