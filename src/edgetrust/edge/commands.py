"""Cloud-to-device messages of a gateway's clients: none. This gateway passes no cloud-to-device messages yet, and it
never stores any, as edgeHub does not; clients may subscribe, and nothing comes.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgetrust.broker.ports import Command, Done


class NoCommands:
    """The broker's Commands port of a queue that is always empty."""

    async def lease(self, device: str, limit: int) -> Sequence[Command]:
        return ()

    def complete(self, device: str, sequence: int, done: Done) -> None:
        done(None)

    def release(self, device: str) -> None:
        """Nothing was leased."""
