"""Cloud-to-device messages of a gateway's clients: passed on, never stored (edge specification 6.7).

Rules: what the hub sends for a child waits in memory until the child takes it; the hub is told that it arrived when the
child has said so. What was not acknowledged when either connection ends is the hub's to send again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import count

from edgetrust.broker.ports import Done


@dataclass(slots=True)
class PassedCommand:
    """One message on its way. `acknowledge` tells the hub."""

    sequence: int
    properties: str
    body: bytes
    deliveries: int
    acknowledge: Callable[[], None]
    leased: bool = False


class PassedCommands:
    """The broker's Commands port over what has come for the children and waits."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[int, PassedCommand]] = {}
        self._numbers = count(1)

    def arrived(
        self, device: str, properties: str, body: bytes, *, again: bool, acknowledge: Callable[[], None]
    ) -> None:
        """A message has come for `device`; `again`: the hub has sent it before."""
        sequence = next(self._numbers)
        made = PassedCommand(sequence, properties, body, 2 if again else 1, acknowledge)
        self._waiting.setdefault(device, {})[sequence] = made

    def forget(self, device: str) -> None:
        """The hub's connection for `device` ended: it sends again what it has not heard of."""
        self._waiting.pop(device, None)

    async def lease(self, device: str, limit: int, holding: Collection[int] = ()) -> Sequence[PassedCommand]:
        free = [command for command in self._waiting.get(device, {}).values() if not command.leased][:limit]
        for command in free:
            command.leased = True
        return free

    def complete(self, device: str, sequence: int, done: Done) -> None:
        command = self._waiting.get(device, {}).pop(sequence, None)
        if command is not None:
            command.acknowledge()
        done(None)

    def release(self, device: str) -> None:
        """Give back what was leased: it is delivered again, and says so."""
        for command in self._waiting.get(device, {}).values():
            if command.leased:
                command.leased, command.deliveries = False, command.deliveries + 1
