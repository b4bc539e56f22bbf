"""What a route needs of an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edgetrust.store.events import StoredMessage


class RouteEndpoint(Protocol):
    """Takes events. `lanes`: how many devices' events it is given at the same time. With 1 it gets whole batches, in
    the order of the log; otherwise one event at a time, each device's in order.
    """

    lanes: int

    async def deliver(self, events: Sequence[StoredMessage]) -> None:
        """Returns when the endpoint has them for good. Raises UnavailableError when it may not have them: they are
        delivered again.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
