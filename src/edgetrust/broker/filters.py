"""Filters: what one client has subscribed to, and whether it may.

Rules (hub specification 3.6, 3.7): a filter that the service does not have, or that is about somebody else, ends the
connection; so do too many. What is granted is at most QoS 1. A SUBSCRIBE takes effect whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

from edgetrust.limits import SUBSCRIPTIONS_PER_SESSION
from edgetrust.protocol import iothub
from edgetrust.protocol.iothub import SubscriptionKind, TopicError
from edgetrust.trust.authorize import Operation, authorize
from edgetrust.trust.identity import Identity
from edgetrust.trust.verdict import Accepted, Check, Reason, Refused

_OPERATIONS = {
    SubscriptionKind.C2D: Operation.RECEIVE_COMMANDS,
    SubscriptionKind.INPUTS: Operation.RECEIVE_INPUTS,
    SubscriptionKind.METHODS: Operation.ANSWER_METHODS,
    SubscriptionKind.TWIN_RESPONSES: Operation.USE_TWIN,
    SubscriptionKind.TWIN_DESIRED: Operation.USE_TWIN,
}


class Filters:
    """The filters of one accepted client, with the QoS that each was granted."""

    __slots__ = ("_accepted", "_by_kind", "granted")

    def __init__(self, accepted: Accepted, granted: Mapping[str, int]) -> None:
        self._accepted = accepted
        self._set(dict(granted))

    def add(self, wanted: Sequence[tuple[str, int]]) -> tuple[int, ...] | Refused:
        """Subscribe: the granted QoS of each, or which rule was broken; then nothing has changed."""
        filters = dict(self.granted)
        for text, qos in wanted:
            refused = self._refusal(text)
            if refused is not None:
                return refused
            filters[text] = min(qos, 1)
        if len(filters) > SUBSCRIPTIONS_PER_SESSION:
            check = Check("subscriptions", False, f"more than {SUBSCRIPTIONS_PER_SESSION} subscriptions")
            return Refused(self._accepted.identity, Reason.PROTOCOL_VIOLATION, (check,))
        self._set(filters)
        return tuple(filters[text] for text, _ in wanted)

    def remove(self, texts: Sequence[str]) -> None:
        """Unsubscribe. What is not subscribed is ignored."""
        self._set({text: qos for text, qos in self.granted.items() if text not in texts})

    def qos_of(self, kind: SubscriptionKind) -> int | None:
        """The QoS at which this client gets messages of `kind`, None while it has not subscribed to them."""
        return self._by_kind.get(kind)

    def _set(self, granted: dict[str, int]) -> None:
        self.granted = granted
        self._by_kind: dict[SubscriptionKind, int] = {}
        for text, qos in granted.items():
            kind = iothub.parse_filter(text).kind
            self._by_kind[kind] = max(qos, self._by_kind.get(kind, 0))

    def _refusal(self, text: str) -> Refused | None:
        identity = self._accepted.identity
        try:
            wanted = iothub.parse_filter(text)
        except TopicError as problem:
            return Refused(identity, Reason.PROTOCOL_VIOLATION, (Check("filter", False, problem.message),))
        if wanted.device is None:
            return None
        subject = Identity(identity.hub, wanted.device, wanted.module)
        verdict = authorize(self._accepted, _OPERATIONS[wanted.kind], subject)
        match verdict:
            case Accepted():
                return None
            case Refused():
                return Refused(identity, verdict.reason, (Check("authorized", False, verdict.detail),))
            case _:
                assert_never(verdict)
