"""Requests: what one client publishes to the hub's own topics, `$iothub/...`; it is always about the client itself.

Twin requests go their own way (`twins`). An answer to a direct method goes to whoever waits for it and is acknowledged
at once, also when nobody waits any more. What the actor does not offer breaks the rules of topics.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from edgetrust.broker.acknowledging import Acknowledgements
from edgetrust.broker.ports import Stream
from edgetrust.broker.surroundings import Surroundings
from edgetrust.broker.twins import TwinRequests
from edgetrust.protocol.iothub import (
    MethodResponseTopic,
    TopicError,
    TwinGetTopic,
    TwinPatchTopic,
    parse_publish_topic,
)
from edgetrust.protocol.methods import MethodAnswer
from edgetrust.protocol.mqtt.packets import Publish
from edgetrust.trust.identity import Identity


class Requests:
    """The requests of one connection."""

    __slots__ = ("_acknowledgements", "_identity", "_methods", "_twins")

    def __init__(
        self, identity: Identity, stream: Stream, around: Surroundings, acknowledgements: Acknowledgements
    ) -> None:
        self._identity = identity
        self._acknowledgements = acknowledgements
        self._methods = around.methods
        self._twins = None if around.twins is None else TwinRequests(identity, stream, around, around.twins)

    def take(self, packet: Publish) -> None:
        """One publish. Raises TopicError when its topic is not one that is offered."""
        topic = parse_publish_topic(packet.topic)
        done = self._done(packet.packet_id)
        if isinstance(topic, TwinGetTopic | TwinPatchTopic) and self._twins is not None:
            self._twins.take(topic, packet.payload, done)
        elif isinstance(topic, MethodResponseTopic) and self._methods is not None:
            self._methods.answer(self._identity, topic.request_id, MethodAnswer(topic.status, packet.payload))
            done()
        else:
            raise TopicError(f"{packet.topic[:140]!r} is not offered here")

    def _done(self, packet_id: int | None) -> Callable[[], None]:
        if packet_id is None:
            return _nothing
        return partial(self._acknowledgements.ready, self._acknowledgements.expect([packet_id]))

    def drop(self) -> None:
        """The client is not accepted any more: what waits is not done."""
        if self._twins is not None:
            self._twins.drop()


def _nothing() -> None:
    """What was published at QoS 0 is not acknowledged."""
