"""The device API over MQTT: one connection, from its CONNECT to its end (hub specification 13.1).

Rules. A CONNECT is refused only for a user name that names no registration of this scope, or a client identifier that
is another one; whether the credential is good is decided at each request and answered there, as the cloud service does.
A connection has one filter to subscribe to, and its answers go to no other; nothing of it is kept. Requests are handled
one after the other, and acknowledged when their answer is known. A publish to another topic ends the connection.

It must not know enrollments or hubs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from edgetrust.broker.ports import Auditor, Stream
from edgetrust.clock import Clock
from edgetrust.errors import Error
from edgetrust.limits import DPS_REQUESTS_WAITING, KEEP_ALIVE_GRACE, KEEP_ALIVE_MAX_SECONDS
from edgetrust.protocol.dps.bodies import parse_register
from edgetrust.protocol.dps.errors import THROTTLED, DpsError
from edgetrust.protocol.dps.names import DpsUserName, DpsUserNameError, parse_dps_user_name, registration_key
from edgetrust.protocol.dps.topics import (
    RESPONSE_FILTER,
    RegisterTopic,
    StatusTopic,
    parse_dps_topic,
    response_topic,
)
from edgetrust.protocol.mqtt.codec import encode
from edgetrust.protocol.mqtt.packets import (
    Connack,
    Connect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from edgetrust.provisioning.answers import ErrorAnswer, error_of
from edgetrust.provisioning.registering import Answer, Claim, Registering
from edgetrust.transport.tasks import LoopTasks
from edgetrust.trust.audit import record
from edgetrust.trust.credential import credential_from
from edgetrust.trust.identity import Identity
from edgetrust.trust.verdict import Check, Reason, Refused

_ACCEPTED, _BAD_IDENTIFIER, _BAD_USER_NAME, _NOT_AUTHORIZED = 0, 2, 4, 5
_FAILURE = 0x80
_PLACE = "dps-mqtt"
_PACKET_IDS = 65_535
Asked = RegisterTopic | StatusTopic


class DpsConnection:
    """The handler of one connection."""

    def __init__(self, registering: Registering, auditor: Auditor, clock: Clock, tasks: LoopTasks) -> None:
        self._registering = registering
        self._auditor = auditor
        self._clock = clock
        self._tasks = tasks
        self._stream: Stream | None = None
        self._claim: Claim | None = None
        self._subscribed = False
        self._waiting: list[tuple[Publish, Asked]] = []
        self._busy = False
        self._packet_id = 0

    async def connect(self, packet: Connect, stream: Stream) -> None:
        """Answer the CONNECT."""
        self._stream = stream
        claimed = self._claimed(packet)
        if isinstance(claimed, Refused):
            peer = stream.peer_address
            typed = f"{packet.client_id} as {packet.user_name}"
            self._auditor.record(record(claimed, at=self._now(), place=_PLACE, peer=peer, claimed=typed))
            stream.send(encode(Connack(False, _CODES[claimed.reason])))
            stream.close(f"refused: {claimed.reason}")
            return
        password = None if packet.password is None else packet.password.decode("utf-8", "replace")
        credential = credential_from(password, stream.peer_chain)
        self._claim = Claim(claimed.id_scope, claimed.registration_id, credential, stream.peer_address, _PLACE)
        asked = packet.keep_alive
        seconds = asked if 0 < asked <= KEEP_ALIVE_MAX_SECONDS else KEEP_ALIVE_MAX_SECONDS
        stream.set_keep_alive(seconds * KEEP_ALIVE_GRACE)
        stream.send(encode(Connack(False, _ACCEPTED)))

    def packets(self, packets: Sequence[Packet]) -> None:
        """Everything after the CONNECT."""
        for packet in packets:
            match packet:
                case Publish():
                    self._published(packet)
                case Subscribe():
                    self._subscribe(packet)
                case Unsubscribe():
                    self._subscribed = self._subscribed and RESPONSE_FILTER not in packet.filters
                    self._send(encode(Unsuback(packet.packet_id)))
                case Pingreq():
                    self._send(encode(Pingresp()))
                case _:
                    pass  # acknowledgements of our answers, and DISCONNECT

    def lost(self, _cause: str, clean: bool) -> None:
        """The connection is gone; what it began goes on, and the next one may ask about it."""
        self._stream = None
        self._waiting.clear()

    def _claimed(self, packet: Connect) -> DpsUserName | Refused:
        try:
            name = parse_dps_user_name(packet.user_name or "")
        except DpsUserNameError as problem:
            return _refusal(None, Reason.USER_NAME_MALFORMED, "user-name", problem.message)
        claim = Identity(name.id_scope, name.registration_id)
        if name.id_scope != self._registering.id_scope:
            detail = f"{name.id_scope[:80]!r} is not the scope of this service"
            return _refusal(claim, Reason.ID_SCOPE_UNKNOWN, "id-scope", detail)
        if registration_key(packet.client_id) != registration_key(name.registration_id):
            detail = f"client identifier {packet.client_id[:140]!r}, user name says {name.registration_id!r}"
            return _refusal(claim, Reason.CLIENT_IDENTIFIER_MISMATCH, "client-identifier", detail)
        return name

    def _subscribe(self, packet: Subscribe) -> None:
        codes = []
        for filter_, qos in packet.filters:
            wanted = filter_ == RESPONSE_FILTER
            self._subscribed = self._subscribed or wanted
            codes.append(min(qos, 1) if wanted else _FAILURE)
        self._send(encode(Suback(packet.packet_id, tuple(codes))))

    # Requests -------------------------------------------------------------------------------------------------------

    def _published(self, packet: Publish) -> None:
        asked = parse_dps_topic(packet.topic)
        if asked is None:
            if self._stream is not None:
                self._stream.close(f"no topic of provisioning: {packet.topic[:140]!r}")
            return
        if len(self._waiting) >= DPS_REQUESTS_WAITING:
            self._answer(packet, asked, self._error(DpsError(THROTTLED, reason="requests-waiting", retry_after=1)))
            return
        self._waiting.append((packet, asked))
        if not self._busy:
            self._busy = True
            self._tasks.start(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting:
                packet, asked = self._waiting.pop(0)
                self._answer(packet, asked, await self._handled(packet, asked))
        finally:
            self._busy = False

    async def _handled(self, packet: Publish, asked: Asked) -> Answer | ErrorAnswer:
        claim = self._claim
        assert claim is not None  # packets come after an accepted CONNECT
        try:
            if isinstance(asked, RegisterTopic):
                return await self._registering.register(claim, parse_register(packet.payload))
            return await self._registering.poll(claim, asked.operation_id)
        except Error as problem:
            return self._error(problem)

    def _error(self, problem: Error) -> ErrorAnswer:
        return error_of(problem, self._now())

    def _answer(self, packet: Publish, asked: Asked, answer: Answer | ErrorAnswer) -> None:
        if packet.packet_id is not None:
            self._send(encode(Puback(packet.packet_id)))
        if self._subscribed:
            topic = response_topic(answer.status, asked.request_id, answer.retry_after)
            self._packet_id = self._packet_id % _PACKET_IDS + 1
            self._send(encode(Publish(topic, answer.body, qos=1, packet_id=self._packet_id)))

    def _send(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream.send(data)

    def _now(self) -> datetime:
        return self._clock.now()


def _refusal(claim: Identity | None, reason: Reason, check: str, detail: str) -> Refused:
    return Refused(claim, reason, (Check(check, False, detail),))


_CODES = {
    Reason.USER_NAME_MALFORMED: _BAD_USER_NAME,
    Reason.ID_SCOPE_UNKNOWN: _NOT_AUTHORIZED,
    Reason.CLIENT_IDENTIFIER_MISMATCH: _BAD_IDENTIFIER,
}
