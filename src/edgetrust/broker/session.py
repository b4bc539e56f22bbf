"""Session: what one accepted client may do, packet by packet.

Rules:
1. PUBLISH to a telemetry topic: the message is stamped with the authenticated identity, appended to the endpoint, and
   acknowledged when the endpoint says it is durable. All publishes of one wake-up are one append.
2. SUBSCRIBE: what is granted (`filters`) is stored before it is acknowledged, with CleanSession 0.
3. A topic or filter that is not this client's, or not one of the service's, ends the connection (hub specification
   3.6, 3.7).
4. The module `$edgeHub` may publish as the devices below its gateway; whether a device is below is asked once and
   remembered until the registry changes. While it is asked, nothing more is read, so order is kept. What it brings of
   a device that is disabled is put on record once, acknowledged and not taken (MQTT 3.3.5): neither a gateway that has
   not heard of it yet nor the others below it are cut off for that.
5. Cloud-to-device messages, or what is routed to inputs, flow from the moment the door is done (`delivery`).
6. The will is sent when the connection ends without DISCONNECT, unless the client has been refused meanwhile.
7. The hub's own topics have a course of their own (`requests`). A change of desired properties is told to whom has
   subscribed to it, once, and is not kept for whom is away: clients read their twin when they come back.
8. Whoever breaks a rule is on record before the connection closes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import assert_never

from edgetrust.broker.acknowledging import Acknowledgements, Expected
from edgetrust.broker.claim import Claim
from edgetrust.broker.delivery import CommandSource, Delivery, InputSource, Source
from edgetrust.broker.filters import Filters
from edgetrust.broker.ports import Stream
from edgetrust.broker.requests import Requests
from edgetrust.broker.surroundings import Surroundings
from edgetrust.errors import Error
from edgetrust.limits import UNACKED_IN, UNACKED_UNIT_BYTES
from edgetrust.protocol import iothub
from edgetrust.protocol.iothub import SubscriptionKind, TelemetryTopic, TopicError
from edgetrust.protocol.messages import Forwarded, Message
from edgetrust.protocol.methods import MethodCall
from edgetrust.protocol.mqtt.codec import encode
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
from edgetrust.protocol.twin import DesiredChange
from edgetrust.telemetry import MESSAGES_IN
from edgetrust.trust.authorize import EDGE_HUB, Operation, authorize
from edgetrust.trust.credential import Credential
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Registration
from edgetrust.trust.verdict import Accepted, Check, How, Reason, Refused

__all__ = ["Report", "Session", "Surroundings", "auth_method"]

Report = Callable[[Refused, Stream], None]

_AUTH_TYPES = {
    How.THUMBPRINT_PRIMARY: "x509Certificate",
    How.THUMBPRINT_SECONDARY: "x509Certificate",
    How.CERTIFICATE_AUTHORITY: "x509Authority",
}
_RECEIVED = MESSAGES_IN.labels("telemetry")


class Session:
    """One accepted client. Made by the door; fed by the transport."""

    __slots__ = (
        "_accepted", "_acknowledgements", "_around", "_below", "_delivery", "_disabled", "_held", "_last_properties",
        "_last_subject", "_last_topic", "_make", "_over", "_report", "_requests", "_resumed", "_stream", "_unacked",
        "_unwanted", "auth_method", "claim", "client_id", "credential", "filters", "identity", "persistent",
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
        filters: Mapping[str, int],
        will: Will | None,
        report: Report,
        claim: Claim,
    ) -> None:
        self.claim = claim
        self.identity = accepted.identity
        self.valid_until = accepted.valid_until
        self.auth_method = auth_method(accepted)
        self.client_id = str(accepted.identity)
        self.credential = credential  # a SAS token, to decide again; a chain is read from the stream when needed
        self.persistent = persistent
        self.will = will
        self._accepted = Accepted(accepted.identity, accepted.how, (), accepted.valid_until)
        self.filters = Filters(self._accepted, filters)
        self._stream = stream
        self._around = around
        self._report = report
        self._over = False
        self._resumed = False
        self._unacked = 0
        self._held: list[Packet] | None = None
        self._below: dict[str, bool] = {}
        self._disabled: set[str] = set()  # of those
        self._unwanted = False
        self._delivery: Delivery | None = None
        self._acknowledgements = Acknowledgements(stream)
        self._requests: Requests | None = None
        self._make = Forwarded if claim.speaker.module == EDGE_HUB else Message
        self._last_topic = ""
        self._last_subject = accepted.identity
        self._last_properties = ""

    @property
    def stream(self) -> Stream:
        """The connection under this session."""
        return self._stream

    @property
    def is_over(self) -> bool:
        """Whether it has ended, from either side."""
        return self._over

    # What the transport calls ---------------------------------------------------------------------------------------

    def packets(self, packets: Sequence[Packet]) -> None:
        """All packets of one wake-up, in order."""
        if self._held is not None:
            self._held.extend(packets)
            return
        messages: list[Message] = []
        acknowledge: list[int] = []
        now_ms = self._around.clock.milliseconds()
        for index, packet in enumerate(packets):
            if self._over:
                break  # what came before the end counts, what came behind it does not
            if type(packet) is Publish:
                if packet.topic != self._last_topic:
                    if packet.topic.startswith("$"):
                        self._append(messages, acknowledge)
                        messages, acknowledge = [], []
                        self._ask(packet)
                        continue
                    if not self._enter_topic(packet.topic):
                        if self._unwanted:
                            if packet.packet_id is not None:
                                acknowledge.append(packet.packet_id)
                            continue
                        if not self._over:
                            self._wait_for_subject(packet, packets[index:])
                        break
                messages.append(self._message(packet, now_ms))
                if packet.qos:
                    assert packet.packet_id is not None
                    acknowledge.append(packet.packet_id)
            else:
                self._other(packet)
        self._append(messages, acknowledge)

    def lost(self, cause: str, *, clean: bool) -> None:
        """The connection is gone. `clean`: the client said DISCONNECT."""
        self._around.sessions.leave(self)
        self._finish()
        if self.will is not None and not clean:
            self._send_will(self.will)
        self.will = None

    def end(self, cause: str) -> None:
        """Close from our side; no MQTT packet says so (3.1.1 has none)."""
        self._finish()
        self._stream.close(cause)

    def refuse(self, cause: str) -> None:
        """Close because the client is not accepted any more: nothing of it is taken, its will neither."""
        self.will = None
        if self._requests is not None:
            self._requests.drop()
        self.end(cause)

    def run_out(self) -> None:
        """The credential is not valid any more: put that on record, then close."""
        by_certificate = self._accepted.how in _AUTH_TYPES
        reason = Reason.CERTIFICATE_EXPIRED if by_certificate else Reason.SAS_EXPIRED
        check = Check("still-valid", False, f"the open session's credential was valid until {self.valid_until}")
        self._report(Refused(self.identity, reason, (check,)), self._stream)
        self.end("credential expired")

    def forget_scope(self) -> None:
        """What is below this gateway may have changed: ask again at the next publish."""
        self._below.clear()
        self._disabled.clear()
        self._last_topic = ""

    def commands_waiting(self) -> None:
        """Something may wait in this client's queue: fetch it if it is subscribed to that."""
        if not self._resumed or self._over:
            return
        of_device = self.identity.module is None
        qos = self.filters.qos_of(SubscriptionKind.C2D if of_device else SubscriptionKind.INPUTS)
        if self._delivery is not None:
            self._delivery.qos = qos
        elif qos is not None and (source := self._source()) is not None:
            self._delivery = Delivery(self.identity, self._stream, self._around, source, qos)
        if self._delivery is not None:
            self._delivery.fetch()

    def _source(self) -> Source | None:
        around = self._around
        if self.identity.module is None:
            return CommandSource(self.identity.device, around.commands)
        return None if around.inputs is None else InputSource(self.identity, around.inputs)

    def desired_changed(self, change: DesiredChange) -> None:
        """Tell this client that its desired properties have changed, if it wants to know."""
        if self._resumed and not self._over and self.filters.qos_of(SubscriptionKind.TWIN_DESIRED) is not None:
            self._stream.send(encode(Publish(iothub.twin_desired_topic(change.version), change.body(), 0)))

    @property
    def takes_methods(self) -> bool:
        """Whether it can be called."""
        return self._resumed and not self._over and self.filters.qos_of(SubscriptionKind.METHODS) is not None

    def call_method(self, call: MethodCall, request_id: str) -> None:
        """Send a call; its answer comes to `methods`."""
        self._stream.send(encode(Publish(iothub.method_request_topic(call.method, request_id), call.payload, 0)))

    def resume(self) -> None:
        """The door is done: deliver what waits; a stored session needs no new SUBSCRIBE for that."""
        self._resumed = True
        self._deliver()

    def _deliver(self) -> None:
        if self._around.interested is not None:
            self._around.interested(self)
        self.commands_waiting()
        if self._around.methods is not None:
            self._around.methods.ready(self)

    def _finish(self) -> None:
        self._over = True
        if self._delivery is not None:
            self._delivery.stop()

    def _violate(self, reason: Reason, check: str, detail: str) -> None:
        """Put on record which rule was broken, then close."""
        self._break_off(Refused(self.identity, reason, (Check(check, False, detail),)))

    def _break_off(self, refused: Refused) -> None:
        self._report(refused, self._stream)
        self.end(f"{refused.reason}: {refused.detail}")

    # Publishing -----------------------------------------------------------------------------------------------------

    def _message(self, packet: Publish | Will, now_ms: int, properties: str | None = None) -> Message:
        """The message in `packet`, of the sender that its topic was found to be about."""
        if properties is None:
            properties = self._last_properties
        if type(packet) is Publish and (packet.retain or packet.dup):
            properties = _stamped(properties, packet)
        subject = self._last_subject
        return self._make(
            subject.device, subject.module, properties, packet.payload, now_ms, self.auth_method, "Telemetry"
        )

    def _enter_topic(self, topic: str) -> bool:
        """Read a topic and see that this client may publish there. False: it may not (the session is over), whom it
        is about is disabled (`_unwanted`), or it is not known yet.
        """
        self._unwanted = False
        try:
            parsed = iothub.parse_publish_topic(topic)
        except TopicError as problem:
            self._violate(Reason.PROTOCOL_VIOLATION, "topic", problem.message)
            return False
        if not isinstance(parsed, TelemetryTopic):
            self._violate(Reason.PROTOCOL_VIOLATION, "topic", f"{topic[:140]!r} is not offered here")
            return False
        subject = Identity(self.identity.hub, parsed.device, parsed.module)
        below = self._below.get(subject.device)
        if below is None and self.identity.module == EDGE_HUB and subject.device != self.identity.device:
            return False
        self._unwanted = subject.device in self._disabled
        if self._unwanted:
            return False
        verdict = authorize(self._accepted, Operation.SEND_TELEMETRY, subject, below=bool(below))
        match verdict:
            case Accepted():
                self._last_topic, self._last_subject, self._last_properties = topic, subject, parsed.properties
                return True
            case Refused():
                self._violate(verdict.reason, "authorized", verdict.detail)
                return False
            case _:
                assert_never(verdict)

    def _append(self, messages: list[Message], acknowledge: list[int]) -> None:
        if not messages:
            if acknowledge:
                self._acknowledgements.ready(self._acknowledgements.expect(acknowledge))
            return
        weight = len(messages) + sum([len(message.body) for message in messages]) // UNACKED_UNIT_BYTES
        self._unacked += weight
        if self._unacked >= UNACKED_IN:
            self._stream.pause_reading()
        expected = self._acknowledgements.expect(acknowledge) if acknowledge else None
        self._around.endpoint.append(messages, partial(self._stored, len(messages), weight, expected))

    def _stored(self, count: int, weight: int, expected: Expected | None, error: BaseException | None) -> None:
        waiting = self._unacked
        self._unacked = waiting - weight
        if error is not None:
            self.end(f"not stored: {error}")
            return
        _RECEIVED.inc(count)
        if self._stream.is_closing:
            return
        if expected is not None:
            self._acknowledgements.ready(expected)
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
            below, enabled = await self._standing(device)
        except Error as problem:
            self.end(f"cannot tell whether {device!r} is below this gateway: {problem}")
            return
        if below and not enabled:
            check = Check("enabled", False, f"{device} is disabled in the registry; {self.identity} sends for it")
            self._report(Refused(Identity(self.identity.hub, device), Reason.DISABLED, (check,)), self._stream)
            self._disabled.add(device)
        self._below[device] = below
        held, self._held = self._held or [], None
        if not self._over:
            self._stream.resume_reading()
            self.packets(held)

    async def _standing(self, device: str) -> tuple[bool, bool]:
        """Whether it is below this gateway, and enabled; asked again when the registry changed while it was asked."""
        registry = self._around.registry
        while True:
            asked_at = registry.version
            below = await registry.is_below(device, self.identity.of_device)
            found = await registry.find(Identity(self.identity.hub, device)) if below else None
            if registry.version == asked_at:
                return below, not isinstance(found, Registration) or found.enabled

    def _send_will(self, will: Will) -> None:
        if not self._enter_topic(will.topic):
            return
        properties = iothub.add_property(self._last_properties, "iothub-MessageType", "Will")
        message = self._message(will, self._around.clock.milliseconds(), properties)
        self._around.endpoint.append((message,), _ignore)

    def _ask(self, packet: Publish) -> None:
        """A publish to one of the hub's own topics."""
        if self._requests is None:
            self._requests = Requests(self.identity, self._stream, self._around, self._acknowledgements)
        try:
            self._requests.take(packet)
        except TopicError as problem:
            self._violate(Reason.PROTOCOL_VIOLATION, "topic", problem.message)

    # Everything but PUBLISH -----------------------------------------------------------------------------------------

    def _other(self, packet: Packet) -> None:
        match packet:
            case Pingreq():
                self._stream.send(encode(Pingresp()))
            case Puback():
                if self._delivery is not None:
                    self._delivery.acknowledged(packet.packet_id)
            case Subscribe():
                self._subscribe(packet)
            case Unsubscribe():
                self._unsubscribe(packet)
            case Disconnect():
                self.will = None
                self.end("the client disconnected")
            case _:
                self._violate(Reason.PROTOCOL_VIOLATION, "packet", f"{type(packet).__name__} has no meaning here")

    def _subscribe(self, packet: Subscribe) -> None:
        granted = self.filters.add(packet.filters)
        if isinstance(granted, Refused):
            self._break_off(granted)
            return
        self._persist(partial(self._settled, encode(Suback(packet.packet_id, granted))))

    def _settled(self, answer: bytes, error: BaseException | None) -> None:
        if error is not None:
            self.end(f"subscription not stored: {error}")
            return
        self._stream.send(answer)
        self._deliver()

    def _unsubscribe(self, packet: Unsubscribe) -> None:
        self.filters.remove(packet.filters)
        self._persist(partial(self._settled, encode(Unsuback(packet.packet_id))))

    def _persist(self, done: partial[None]) -> None:
        if self.persistent:
            self._around.subscriptions.save(self.client_id, self.filters.granted, done)
        else:
            done(None)


def _ignore(error: BaseException | None) -> None:
    """For what nobody waits for: the store reports its own failures."""


def _stamped(properties: str, packet: Publish) -> str:
    """RETAIN and DUP are not kept as flags; the message carries them as properties (hub specification 3.6)."""
    properties = iothub.add_property(properties, "mqtt-retain", "true") if packet.retain else properties
    return iothub.add_property(properties, "mqtt-dup", "true") if packet.dup else properties


def auth_method(accepted: Accepted) -> str:
    """The JSON text of `iothub-connection-auth-method` for whoever was accepted so (hub specification 3.8)."""
    scope = "module" if accepted.identity.module is not None else "device"
    kind = _AUTH_TYPES.get(accepted.how, "sas")
    issuer = "external" if kind != "sas" else "iothub"
    return f'{{"scope":"{scope}","type":"{kind}","issuer":"{issuer}","acceptingIpFilterRule":null}}'
