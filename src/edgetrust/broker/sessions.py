"""Sessions: who is connected, one connection per identity, and what ends a connection from our side.

Rules:
1. A session is built from an `Accepted` and nothing else.
2. A second accepted connection of the same identity closes the first, after the second was accepted and recorded
   (never before: a wrong password must not disturb the connected client).
3. A session ends when its credential does (`valid_until`), and is decided again whenever something it rests on
   changes; if that decision refuses, the connection is closed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING

from edgetrust.trust.authorize import EDGE_HUB
from edgetrust.trust.identity import Identity

if TYPE_CHECKING:
    from edgetrust.broker.session import Session

_STALE_ENDS = 64  # ends of sessions that are gone, kept beside as many as are open before they are swept out


class Sessions:
    """All open sessions of one actor. `observer` hears who connects (True) and who goes away (False)."""

    def __init__(self, observer: Callable[[Identity, bool], None] | None = None) -> None:
        self._observer = observer
        self._open: dict[Identity, Session] = {}
        self._modules: dict[Identity, set[Identity]] = {}
        self._gateways: set[Session] = set()
        self._resting: dict[Identity, set[Session]] = {}  # spoken for by gateways, by whom they rest on
        self._ends: list[tuple[datetime, int, Session]] = []
        self._order = count()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._open.values()))

    def of(self, identity: Identity) -> Session | None:
        """The open session of `identity`."""
        return self._open.get(identity)

    def enter(self, session: Session) -> None:
        """Make `session` the one of its identity; the one before it is closed (hub specification 3.5)."""
        identity = session.identity
        previous = self._open.get(identity)
        self._open[identity] = session
        if identity.module is not None:
            self._modules.setdefault(identity.of_device, set()).add(identity)
        if identity.module == EDGE_HUB:
            self._gateways.add(session)
        for other in session.claim.rests_on:
            self._resting.setdefault(other, set()).add(session)
        self._arm(session)
        if previous is not None:
            previous.end("taken over by a new connection of the same identity")
        elif self._observer is not None:
            self._observer(identity, True)

    def leave(self, session: Session) -> None:
        """Forget `session`, unless another has already taken its place."""
        self._gateways.discard(session)
        self._rest_no_more(session)
        identity = session.identity
        if self._open.get(identity) is not session:
            return
        del self._open[identity]
        if self._observer is not None:
            self._observer(identity, False)
        modules = self._modules.get(identity.of_device)
        if modules is not None:
            modules.discard(identity)
            if not modules:
                del self._modules[identity.of_device]

    def concerned(self, identity: Identity) -> list[Session]:
        """The open sessions that rest on the registration of `identity`: its own, those in which it speaks for others
        or is between, and, for a device, its modules'.
        """
        related: Iterable[Identity] = (identity, *self._modules.get(identity, ()))
        own = [session for one in related if (session := self._open.get(one)) is not None]
        return [*own, *self._resting.get(identity, ())]

    def renew(self, session: Session, valid_until: datetime | None) -> None:
        """`session` was decided again: from now on it is good until `valid_until`, sooner or later than before."""
        if session.valid_until != valid_until:
            session.valid_until = valid_until
            self._arm(session)

    def forget_scopes(self) -> None:
        """The registry changed: gateways must ask again what is below them."""
        for session in self._gateways:
            session.forget_scope()

    def expire(self, now: datetime) -> None:
        """End every session whose credential has run out by `now`."""
        while self._ends and self._ends[0][0] <= now:
            _, _, session = heapq.heappop(self._ends)
            over = session.valid_until is not None and session.valid_until <= now
            if over and self._open.get(session.identity) is session:
                session.run_out()

    def _rest_no_more(self, session: Session) -> None:
        for other in session.claim.rests_on:
            resting = self._resting.get(other)
            if resting is not None:
                resting.discard(session)
                if not resting:
                    del self._resting[other]

    def _arm(self, session: Session) -> None:
        if session.valid_until is None:
            return
        heapq.heappush(self._ends, (session.valid_until, next(self._order), session))
        if len(self._ends) > 2 * len(self._open) + _STALE_ENDS:  # most are of sessions that are gone: let go of them
            self._ends = [
                (one.valid_until, next(self._order), one) for one in self._open.values() if one.valid_until is not None
            ]
            heapq.heapify(self._ends)
