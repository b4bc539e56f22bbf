"""Packets are values: equal by content, immutable, and they keep a password to themselves."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from edgetrust.protocol.mqtt.packets import Connect, Puback, Publish, Unsuback


def test_equality_is_by_content_and_type() -> None:
    assert Publish("t", b"x") == Publish("t", b"x", 0, False, False, None)
    assert Puback(1) != Unsuback(1)


def test_packets_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Publish("t", b"x").topic = "u"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Puback(1).packet_id = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Unsuback(1).packet_id = 2  # type: ignore[misc]


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Connect("d", "u", b"secret"))
