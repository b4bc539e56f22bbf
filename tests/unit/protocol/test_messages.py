"""A message is a tuple that can be bound to a statement as it stands."""

from __future__ import annotations

from edgetrust.protocol.messages import Message


def test_fields_are_columns_in_order() -> None:
    message = Message("d", None, "a=1", b"x", 7, "{}", "Telemetry")
    assert tuple(message) == ("d", None, "a=1", b"x", 7, "{}", "Telemetry")
    assert Message._fields[0] == "device"
