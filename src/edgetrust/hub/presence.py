"""Presence: who is connected, written to the registry in batches, so that a storm of connections costs one write a
second.
"""

from __future__ import annotations

from edgetrust.clock import Clock
from edgetrust.errors import Error
from edgetrust.store.identities import Identities
from edgetrust.trust.identity import Identity


class Presence:
    """Collects comings and goings; the newest state of each identity is what is written."""

    def __init__(self, identities: Identities, clock: Clock) -> None:
        self._identities = identities
        self._clock = clock
        self._states: dict[Identity, bool] = {}

    def note(self, identity: Identity, connected: bool) -> None:
        """`identity` came or went."""
        self._states[identity] = connected

    async def write(self) -> None:
        """Write what was noted since the last time. Raises the store's errors; then nothing is forgotten."""
        states, self._states = self._states, {}
        if not states:
            return
        try:
            await self._identities.record_presence(states, self._clock.now())
        except Error:
            self._states = {**states, **self._states}  # for the next time; what was noted meanwhile is newer
            raise
