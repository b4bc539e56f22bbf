"""Direct methods: calls on their way to clients and answers on their way back, of all sessions of one actor (hub
specification 3.10).

Rules:
1. A call goes to the open session of its identity as soon as that is subscribed to methods: at once, or when it comes
   while the caller waits.
2. It is sent once, at QoS 0, and belongs to the identity, not to the connection: a client that renews its connection
   may answer on the new one.
3. An answer counts when it comes from that identity with the request's identifier; anything else, late answers too, is
   forgotten. The session acknowledges it either way.
4. At most METHODS_IN_FLIGHT calls of one identity wait.

How long to wait is the caller's: it withdraws. Request identifiers go on from `first`, which the actor takes from its
clock, so that an answer to a call of an earlier run fits none of this one.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

from edgetrust.limits import METHODS_IN_FLIGHT
from edgetrust.protocol.methods import MethodAnswer, MethodCall, too_many_in_flight
from edgetrust.trust.identity import Identity

if TYPE_CHECKING:
    from edgetrust.broker.session import Session
    from edgetrust.broker.sessions import Sessions


class PlacedCall:
    """A call that waits. `sent` is called when it goes out, `answered` with the answer; each at most once."""

    __slots__ = ("answered", "call", "identity", "request_id", "sent")

    def __init__(
        self,
        identity: Identity,
        call: MethodCall,
        request_id: str,
        sent: Callable[[], None],
        answered: Callable[[MethodAnswer], None],
    ) -> None:
        self.identity = identity
        self.call = call
        self.request_id = request_id
        self.sent = sent
        self.answered = answered


class Methods:
    """The calls that wait, by identity and request identifier."""

    def __init__(self, sessions: Sessions, first: int) -> None:
        self._sessions = sessions
        self._numbers = count(first)
        self._unsent: dict[Identity, dict[str, PlacedCall]] = {}
        self._sent: dict[Identity, dict[str, PlacedCall]] = {}

    def place(
        self, identity: Identity, call: MethodCall, sent: Callable[[], None], answered: Callable[[MethodAnswer], None]
    ) -> PlacedCall:
        """Make a call. Raises MethodError when too many of `identity` wait."""
        waiting = sum(len(calls.get(identity, ())) for calls in (self._unsent, self._sent))
        if waiting >= METHODS_IN_FLIGHT:
            raise too_many_in_flight(str(identity), METHODS_IN_FLIGHT)
        placed = PlacedCall(identity, call, f"{next(self._numbers):x}", sent, answered)
        self._unsent.setdefault(identity, {})[placed.request_id] = placed
        session = self._sessions.of(identity)
        if session is not None:
            self.ready(session)
        return placed

    def ready(self, session: Session) -> None:
        """A session has opened, or has subscribed: send it what waits for it."""
        if not session.takes_methods:
            return
        for request_id, placed in self._unsent.pop(session.identity, {}).items():
            self._sent.setdefault(session.identity, {})[request_id] = placed
            session.call_method(placed.call, request_id)
            placed.sent()

    def answer(self, identity: Identity, request_id: str, answer: MethodAnswer) -> None:
        """A client answered. An identifier that means nothing is ignored."""
        placed = self._sent.get(identity, {}).get(request_id)
        if placed is not None:
            self.withdraw(placed)
            placed.answered(answer)

    def withdraw(self, placed: PlacedCall) -> None:
        """The caller does not wait any more. May be called again."""
        for calls in (self._unsent, self._sent):
            of_identity = calls.get(placed.identity)
            if of_identity is not None:
                of_identity.pop(placed.request_id, None)
                if not of_identity:
                    del calls[placed.identity]
