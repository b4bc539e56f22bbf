"""Identity: the name of a device or a module in one hub.

Parsing refuses, it never repairs: no trimming, no case folding, no decoding. Device and module identifiers are case-
sensitive (hub specification 1.1); the hub's name is a DNS name and is kept in lower case by whoever makes the
identity.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgetrust.errors import PeerError
from edgetrust.protocol.iothub import valid_identifier


class IdentityError(PeerError):
    """A text that names no device or module."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="identifier-malformed", status=400)


@dataclass(frozen=True, slots=True)
class Identity:
    """A device, or a module of a device, of the hub named `hub`."""

    hub: str
    device: str
    module: str | None = None

    @classmethod
    def parse(cls, hub: str, text: str) -> Identity:
        """Read `device` or `device/module`. Raises IdentityError."""
        device, slash, module = text.partition("/")
        if not valid_identifier(device) or (slash and not valid_identifier(module)):
            raise IdentityError(f"{text[:140]!r} names no device or module")
        return cls(hub, device, module if slash else None)

    @property
    def of_device(self) -> Identity:
        """The device that this identity is, or that its module belongs to."""
        return self if self.module is None else Identity(self.hub, self.device)

    def __str__(self) -> str:
        return self.device if self.module is None else f"{self.device}/{self.module}"
