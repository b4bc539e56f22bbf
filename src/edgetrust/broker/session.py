"""Session: what one accepted client may do, packet by packet.

Rules:
1. PUBLISH to a telemetry topic: the message is stamped with the authenticated identity, appended to the endpoint, and
   acknowledged when the endpoint says it is durable. All publishes of one wake-up are one append.
2. SUBSCRIBE: the filters are granted at most QoS 1; with CleanSession 0 they are stored before they are acknowledged.
3. A topic or filter that is not this client's, or not one of the service's, ends the connection (hub specification
   3.6, 3.7).
4. The module `$edgeHub` may publish as the devices below its gateway; whether a device is below is asked once and
   remembered until the registry changes. While it is asked, nothing more is read, so order is kept.
5. Cloud-to-device messages are leased from the queue, sent at QoS 1, and complete with their PUBACK; a lost
   connection gives them back.
6. The will is sent when the connection ends without DISCONNECT.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import assert_never

from edgetrust.broker.ports import Command, Commands, Endpoint, Registry, Stream, Subscriptions, Tasks
from edgetrust.broker.sessions import Sessions
from edgetrust.clock import Clock
from edgetrust.errors import Error
from edgetrust.limits import INFLIGHT_OUT, SUBSCRIPTIONS_PER_SESSION, UNACKED_IN
from edgetrust.protocol import iothub
from edgetrust.protocol.iothub import SubscriptionKind, TelemetryTopic, TopicError
from edgetrust.protocol.messages import Message
from edgetrust.protocol.mqtt.codec import encode, encode_pubacks
from edgetrust.protocol.mqtt.packets import (
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from edgetrust.trust.authorize import EDGE_HUB, Operation, authorize
from edgetrust.trust.credential import Credential
from edgetrust.trust.identity import Identity
from edgetrust.trust.verdict import Accepted, How, Refused

_OPERATIONS = {
    SubscriptionKind.C2D: Operation.RECEIVE_COMMANDS,
    SubscriptionKind.INPUTS: Operation.RECEIVE_INPUTS,
    SubscriptionKind.METHODS: Operation.ANSWER_METHODS,
    SubscriptionKind.TWIN_RESPONSES: Operation.USE_TWIN,
    SubscriptionKind.TWIN_DESIRED: Operation.USE_TWIN,
}
_AUTH_TYPES = {
    How.THUMBPRINT_PRIMARY: "x509Certificate",
    How.THUMBPRINT_SECONDARY: "x509Certificate",
    How.CERTIFICATE_AUTHORITY: "x509Authority",
}


class Surroundings:
    """What all sessions of one actor share."""

    __slots__ = ("clock", "commands", "endpoint", "registry", "sessions", "subscriptions", "tasks")

    def __init__(
        self,
        *,
        registry: Registry,
        endpoint: Endpoint,
        subscriptions: Subscriptions,
        commands: Commands,
        sessions: Sessions,
        tasks: Tasks,
        clock: Clock,
    ) -> None:
        self.registry = registry
        self.endpoint = endpoint
        self.subscriptions = subscriptions
        self.commands = commands
        self.sessions = sessions
        self.tasks = tasks
        self.clock = clock


class Session:
    """One accepted client. Made by the door; fed by the transport."""

    __slots__ = (
        "_around", "_below", "_held", "_inflight", "_last_properties", "_last_subject", "_last_topic", "_next_id",
        "_over", "_stream", "_unacked", "auth_method", "client_id", "credential", "filters", "identity", "persistent",
        "valid_until", "will",
    )  # fmt: skip

    def __init__(
        self,
        accepted: Accepted,
        stream: Stream,
        around: Surroundings,
        *,
        credential: Credential | None,
        persistent: bool,
        filters: dict[str, int],
        will: Will | None,
    ) -> None:
        self.identity = accepted.identity
        self.valid_until = accepted.valid_until
        self.auth_method = _auth_method(accepted)
        self.client_id = str(accepted.identity)
        self.credential = credential  # a SAS token, to decide again; a chain is read from the stream when needed
        self.persistent = persistent
        self.filters = filters
        self.will = will
        self._stream = stream
        self._around = around
        self._over = False
        self._unacked = 0
        self._held: list[Packet] | None = None
        self._below: dict[str, bool] = {}
        self._inflight: dict[int, Command] = {}
        self._next_id = 1
        self._last_topic = ""
        self._last_subject = accepted.identity
        self._last_properties = ""

    @property
    def stream(self) -> Stream:
        """The connection under this session."""
        return self._stream

    # What the transport calls ---------------------------------------------------------------------------------------

    def packets(self, packets: Sequence[Packet]) -> None:
        """All packets of one wake-up, in order."""
        if self._held is not None:
            self._held.extend(packets)
            return
        messages: list[Message] = []
        acknowledge: list[int] = []
        for index, packet in enumerate(packets):
            if self._over:
                return
            if type(packet) is Publish:
                if not self._publish(packet, messages, acknowledge):
                    self._append(messages, acknowledge)
                    self._wait_for_subject(packet, packets[index:])
                    return
            else:
                self._other(packet)
        self._append(messages, acknowledge)

    def lost(self, cause: str, *, clean: bool) -> None:
        """The connection is gone. `clean`: the client said DISCONNECT."""
        self._around.sessions.leave(self)
        if self._inflight or self._has_commands():
            self._around.commands.release(self.identity.device)
        if self.will is not None and not clean:
            self._send_will(self.will)
        self.will = None
        self._over = True

    def end(self, cause: str) -> None:
        """Close from our side; no MQTT packet says so (3.1.1 has none)."""
        self._over = True
        self._stream.close(cause)

    def forget_scope(self) -> None:
        """What is below this gateway may have changed: ask again at the next publish."""
        self._below.clear()
        self._last_topic = ""

    def commands_waiting(self) -> None:
        """A cloud-to-device message was queued for this device: fetch it if it is subscribed."""
        if self._has_commands() and not self._over:
            self._around.tasks.start(self._deliver())

    def resume(self) -> None:
        """After CONNACK of a stored session: deliver what waits, without a new SUBSCRIBE."""
        self.commands_waiting()

    # Publishing -----------------------------------------------------------------------------------------------------

    def _publish(self, packet: Publish, messages: list[Message], acknowledge: list[int]) -> bool:
        """Collect one publish. False when it must first be known whether its device is below this gateway."""
        if packet.topic != self._last_topic and not self._enter_topic(packet.topic):
            return self._over
        properties = self._last_properties
        if packet.retain or packet.dup:
            properties = _stamped(properties, packet)
        subject = self._last_subject
        messages.append(
            Message(
                subject.device,
                subject.module,
                properties,
                packet.payload,
                int(self._around.clock.now().timestamp() * 1000),
                self.auth_method,
                "Telemetry",
            )
        )
        if packet.qos:
            assert packet.packet_id is not None
            acknowledge.append(packet.packet_id)
        return True

    def _enter_topic(self, topic: str) -> bool:
        """Read a topic and see that this client may publish there. False: it may not (the session is over) or it is
        not known yet.
        """
        try:
            parsed = iothub.parse_publish_topic(topic)
        except TopicError as problem:
            self.end(problem.message)
            return False
        if not isinstance(parsed, TelemetryTopic):
            self.end(f"{topic[:80]!r} is not offered here")
            return False
        subject = Identity(self.identity.hub, parsed.device, parsed.module)
        below = self._below.get(subject.device, False)
        if self.identity.module == EDGE_HUB and subject.device not in (self.identity.device, *self._below):
            return False
        verdict = authorize(self._accepted(), Operation.SEND_TELEMETRY, subject, below=below)
        match verdict:
            case Accepted():
                self._last_topic, self._last_subject, self._last_properties = topic, subject, parsed.properties
                return True
            case Refused():
                self.end(verdict.detail)
                return False
            case _:
                assert_never(verdict)

    def _append(self, messages: list[Message], acknowledge: list[int]) -> None:
        if not messages:
            return
        self._unacked += len(acknowledge)
        if self._unacked >= UNACKED_IN:
            self._stream.pause_reading()
        self._around.endpoint.append(messages, partial(self._stored, acknowledge))

    def _stored(self, acknowledge: list[int], error: BaseException | None) -> None:
        waiting = self._unacked
        self._unacked = waiting - len(acknowledge)
        if error is not None:
            self.end(f"not stored: {error}")
        elif acknowledge and not self._stream.is_closing:
            self._stream.send(encode_pubacks(acknowledge))
            if waiting >= UNACKED_IN > self._unacked and self._held is None:
                self._stream.resume_reading()

    def _wait_for_subject(self, packet: Publish, held: Sequence[Packet]) -> None:
        self._held = list(held)
        self._stream.pause_reading()
        parsed = iothub.parse_publish_topic(packet.topic)
        assert isinstance(parsed, TelemetryTopic)
        self._around.tasks.start(self._find_out(parsed.device))

    async def _find_out(self, device: str) -> None:
        try:
            self._below[device] = await self._around.registry.is_below(device, self.identity.of_device)
        except Error as problem:
            self.end(f"cannot tell whether {device!r} is below this gateway: {problem}")
            return
        held, self._held = self._held or [], None
        if not self._over:
            self._stream.resume_reading()
            self.packets(held)

    def _send_will(self, will: Will) -> None:
        if not self._enter_topic(will.topic):
            return
        properties = iothub.add_property(self._last_properties, "iothub-MessageType", "Will")
        now_ms = int(self._around.clock.now().timestamp() * 1000)
        subject = self._last_subject
        message = Message(
            subject.device, subject.module, properties, will.payload, now_ms, self.auth_method, "Telemetry"
        )
        self._around.endpoint.append((message,), _ignore)

    # Everything but PUBLISH -----------------------------------------------------------------------------------------

    def _other(self, packet: Packet) -> None:
        match packet:
            case Pingreq():
                self._stream.send(encode(Pingresp()))
            case Puback():
                self._complete(packet.packet_id)
            case Subscribe():
                self._subscribe(packet)
            case Unsubscribe():
                self._unsubscribe(packet)
            case Disconnect():
                self.will = None
                self.end("the client disconnected")
            case _:
                self.end(f"{type(packet).__name__} has no meaning here")

    def _subscribe(self, packet: Subscribe) -> None:
        granted: list[int] = []
        filters = dict(self.filters)
        for text, qos in packet.filters:
            if not self._may_subscribe(text):
                return
            granted.append(min(qos, 1))
            filters[text] = granted[-1]
        if len(filters) > SUBSCRIPTIONS_PER_SESSION:
            self.end(f"more than {SUBSCRIPTIONS_PER_SESSION} subscriptions")
            return
        self.filters = filters
        answer = encode(Suback(packet.packet_id, tuple(granted)))
        self._persist(partial(self._subscribed, answer))

    def _may_subscribe(self, text: str) -> bool:
        try:
            wanted = iothub.parse_filter(text)
        except TopicError as problem:
            self.end(problem.message)
            return False
        if wanted.device is None:
            return True
        subject = Identity(self.identity.hub, wanted.device, wanted.module)
        verdict = authorize(self._accepted(), _OPERATIONS[wanted.kind], subject)
        match verdict:
            case Accepted():
                return True
            case Refused():
                self.end(verdict.detail)
                return False
            case _:
                assert_never(verdict)

    def _subscribed(self, answer: bytes, error: BaseException | None) -> None:
        if error is not None:
            self.end(f"subscription not stored: {error}")
            return
        self._stream.send(answer)
        self.commands_waiting()

    def _unsubscribe(self, packet: Unsubscribe) -> None:
        self.filters = {text: qos for text, qos in self.filters.items() if text not in packet.filters}
        answer = encode(Unsuback(packet.packet_id))
        self._persist(partial(self._unsubscribed, answer))

    def _unsubscribed(self, answer: bytes, error: BaseException | None) -> None:
        if error is not None:
            self.end(f"subscription not stored: {error}")
            return
        self._stream.send(answer)

    def _persist(self, done: partial[None]) -> None:
        if self.persistent:
            self._around.subscriptions.save(self.client_id, self.filters, done)
        else:
            done(None)

    # Cloud-to-device messages ---------------------------------------------------------------------------------------

    def _has_commands(self) -> bool:
        return self.identity.module is None and any(
            iothub.parse_filter(text).kind is SubscriptionKind.C2D for text in self.filters
        )

    async def _deliver(self) -> None:
        room = INFLIGHT_OUT - len(self._inflight)
        if room <= 0:
            return
        device = self.identity.device
        commands = await self._around.commands.lease(device, room)
        if self._over or self._stream.is_closing:
            self._around.commands.release(device)
            return
        for command in commands:
            packet_id = self._packet_id()
            self._inflight[packet_id] = command
            topic = iothub.devicebound_topic(device, command.properties)
            dup = command.deliveries > 1
            self._stream.send(encode(Publish(topic, command.body, 1, False, dup, packet_id)))

    def _complete(self, packet_id: int) -> None:
        command = self._inflight.pop(packet_id, None)
        if command is not None:
            self._around.commands.complete(self.identity.device, command.sequence, _ignore)
            self.commands_waiting()

    def _packet_id(self) -> int:
        while self._next_id in self._inflight:
            self._next_id = self._next_id % 65_535 + 1
        packet_id, self._next_id = self._next_id, self._next_id % 65_535 + 1
        return packet_id

    def _accepted(self) -> Accepted:
        return Accepted(self.identity, How.SAS_PRIMARY, (), self.valid_until)


def _ignore(error: BaseException | None) -> None:
    """For what nobody waits for: the store reports its own failures."""


def _stamped(properties: str, packet: Publish) -> str:
    """RETAIN and DUP are not kept as flags; the message carries them as properties (hub specification 3.6)."""
    if packet.retain:
        properties = iothub.add_property(properties, "mqtt-retain", "true")
    if packet.dup:
        properties = iothub.add_property(properties, "mqtt-dup", "true")
    return properties


def _auth_method(accepted: Accepted) -> str:
    scope = "module" if accepted.identity.module is not None else "device"
    kind = _AUTH_TYPES.get(accepted.how, "sas")
    issuer = "external" if kind != "sas" else "iothub"
    return f'{{"scope":"{scope}","type":"{kind}","issuer":"{issuer}","acceptingIpFilterRule":null}}'
