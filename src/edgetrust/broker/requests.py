"""Requests: what one client publishes to the hub's own topics, `$iothub/...`; it is always about the client itself.

Twin requests go their own way (`twins`). An answer to a direct method goes to whoever waits for it and is acknowledged
at once, also when nobody waits any more. What the actor does not offer breaks the rules of topics.
"""

from __future__ import annotations

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
from edgetrust.protocol.mqtt.codec import encode_pubacks
from edgetrust.protocol.mqtt.packets import Publish
from edgetrust.trust.identity import Identity


class Requests:
    """The requests of one connection."""

    __slots__ = ("_identity", "_methods", "_stream", "_twins")

    def __init__(self, identity: Identity, stream: Stream, around: Surroundings) -> None:
        self._identity = identity
        self._stream = stream
        self._methods = around.methods
        self._twins = None if around.twins is None else TwinRequests(identity, stream, around, around.twins)

    def take(self, packet: Publish) -> None:
        """One publish. Raises TopicError when its topic is not one that is offered."""
        topic = parse_publish_topic(packet.topic)
        if isinstance(topic, TwinGetTopic | TwinPatchTopic) and self._twins is not None:
            self._twins.take(topic, packet)
        elif isinstance(topic, MethodResponseTopic) and self._methods is not None:
            self._methods.answer(self._identity, topic.request_id, MethodAnswer(topic.status, packet.payload))
            if packet.packet_id is not None:
                self._stream.send(encode_pubacks((packet.packet_id,)))
        else:
            raise TopicError(f"{packet.topic[:140]!r} is not offered here")

    def drop(self) -> None:
        """The client is not accepted any more: what waits is not done."""
        if self._twins is not None:
            self._twins.drop()
