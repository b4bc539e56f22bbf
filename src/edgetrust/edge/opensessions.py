"""Open sessions of a gateway: decided again whenever what they rest on may have changed.

    the copy has changed      the sessions that it concerns, at once; who has left is forgotten
    other CAs are believed    all of them, at once
    every five minutes        all of them

It must not know how a decision is made (`door`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from edgetrust.broker.ports import Tasks
from edgetrust.broker.session import Session
from edgetrust.broker.sessions import Sessions
from edgetrust.edge.children import Children
from edgetrust.edge.door import GatewayDoor
from edgetrust.edge.scope import ScopeRegistry
from edgetrust.limits import REAUTHENTICATE_SECONDS
from edgetrust.trust.authorize import EDGE_HUB
from edgetrust.trust.identity import Identity


class OpenSessions:
    """The sessions of the gateway that is `device`."""

    def __init__(
        self,
        device: str,
        sessions: Sessions,
        registry: ScopeRegistry,
        children: Children,
        door: GatewayDoor,
        tasks: Tasks,
    ) -> None:
        self._device = device
        self._sessions = sessions
        self._registry = registry
        self._children = children
        self._door = door
        self._tasks = tasks

    def changed(self, identities: frozenset[Identity] | None) -> None:
        """What is known of these is something else now; None: of everybody, whoever vouches for them."""
        self._sessions.forget_scopes()
        if identities is None:
            sessions = list(self._sessions)
        else:
            sessions = [session for identity in identities for session in self._sessions.concerned(identity)]
            self._tasks.start(self._children.forget([one for one in identities if self.left(one)]))
        if sessions:
            self._tasks.start(self._decide_again(sessions))

    def left(self, identity: Identity) -> bool:
        """Whether the hub has said that this is not below the gateway; itself always is."""
        if identity.device == self._device and identity.module in (None, EDGE_HUB):
            return False
        return self._registry.as_of is not None and not self._registry.has(identity)

    async def decide_periodically(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(REAUTHENTICATE_SECONDS)
            await self._decide_again(self._sessions)

    async def _decide_again(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            await self._door.decide_again(session)
