"""One MQTT connection of a client: publish, subscribe, receive, and know why it ended.

Rules:
1. `publish` returns when the server has acknowledged; at most a window's worth waits for that at a time, in order.
2. A message at QoS 1 is acknowledged when the application has it: when the callback returned, or the iterator gave
   it out. An application that is too slow stops the reading. One that passes messages on may say itself when each is
   acknowledged.
3. Twice in each keep alive the server is asked whether it is there; a server that stays silent is gone.
4. There is no reconnecting here. When the connection ends, everything that waits fails with ConnectionLostError.

It must not know devices, credentials or topics.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, Final, cast

from edgetrust import limits
from edgetrust.errors import Error, RefusedError, UnavailableError, UsageError
from edgetrust.protocol.mqtt.connection import MqttConnection, State
from edgetrust.protocol.mqtt.encoding import encode_puback, encode_publish
from edgetrust.protocol.mqtt.faults import MqttProtocolError
from edgetrust.protocol.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from edgetrust.transport.dial import dial
from edgetrust.transport.tls.contexts import ClientContext
from edgetrust.transport.tls.transport import LoopShare

Answer = Suback | Unsuback
_PACKET_IDS: Final = 65_535
_TRY_LATER: Final = 3
_CONNACKS: Final = {
    1: ("connack-protocol", "it does not offer MQTT 3.1.1"),
    2: ("connack-identifier", "it rejects the client identifier"),
    _TRY_LATER: ("connack-unavailable", "it cannot serve now"),
    4: ("connack-user-name", "it cannot read the user name or password"),
    5: ("connack-not-authorized", "it does not accept these credentials"),
}


class ConnackError(RefusedError):
    """The server answered the CONNECT with `code` 1, 2, 4 or 5. Trying again with the same credentials is of no use."""

    def __init__(self, code: int) -> None:
        reason, words = _CONNACKS[code]
        fix = (
            ""
            if reason != "connack-not-authorized"
            else "ask the server's operator: `edgetrust refusals` there says why"
        )
        super().__init__(f"the server refused the connection: {words} (CONNACK {code})", reason=reason, fix=fix)
        self.code = code


class ConnectionLostError(UnavailableError):
    """The connection has ended (reason `connection-lost`); what waited for an acknowledgement may or may not have
    arrived.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(f"the MQTT connection was lost: {cause}", reason="connection-lost")
        self.cause = cause


class MqttClient(asyncio.Protocol):
    """An open connection. Made by `connect_mqtt`."""

    __slots__ = (
        *(
            "_acks",
            "acknowledged",
            "_answers",
            "_asked",
            "_cause",
            "_closed",
            "_connack",
            "_connect",
            "_connection",
            "_ended_by_us",
            "_incoming",
        ),
        *(
            "_acknowledge_later",
            "_loop",
            "_message",
            "_next_id",
            "_on_message",
            "_share",
            "_transport",
            "_window",
            "_writable",
            "tick",
        ),
    )

    def __init__(
        self,
        connect: Connect,
        on_message: Callable[[Publish], None] | None,
        window: int,
        *,
        acknowledge_later: bool = False,
    ) -> None:
        self._acknowledge_later = acknowledge_later
        self._loop = asyncio.get_running_loop()
        self._share = LoopShare.of(self._loop)
        self._connect = connect
        self._on_message = on_message
        self._connection = MqttConnection("client")
        self._transport: asyncio.Transport | None = None
        self._connack: asyncio.Future[bool] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._acks: dict[int, asyncio.Future[None] | None] = {}  # None: of `send`
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._incoming: deque[Publish] = deque()
        self._message = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._window = asyncio.Semaphore(window)
        self._next_id = 1
        self._asked = False  # a PINGREQ is out and nothing has come since
        self._ended_by_us = False
        self._cause = ""
        self.tick = 0
        self.acknowledged: Callable[[Sequence[int]], None] = _nobody  # told what of `send` has been acknowledged

    # What applications call -----------------------------------------------------------------------------------------

    @property
    def session_present(self) -> bool:
        """The server had a session stored for this client identifier."""
        return self._connack.result()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing() and self._connection.state is State.OPEN

    @property
    def cause(self) -> str:
        """Why the connection has ended; empty while it is open."""
        return self._cause

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1) -> None:
        """Publish; at QoS 1 return when the server has acknowledged. Raises ConnectionLostError, UsageError."""
        if not qos:
            await self._writable.wait()
            self._send(Publish(topic, payload, 0))
            return
        await self._window.acquire()
        acknowledged: asyncio.Future[None] = self._loop.create_future()
        try:
            self._acks[self.send(topic, payload)] = acknowledged
        except Error:
            self._window.release()
            raise
        await acknowledged

    def send(self, topic: str, payload: bytes, *, again: bool = False) -> int:
        """Publish at QoS 1; its packet identifier. `acknowledged` gets all of one wake-up together, and nothing when
        the connection is lost. `again` marks it as perhaps sent before (MQTT 3.1.1, 3.3.1.1).

        The caller keeps its own window. Raises ConnectionLostError and UsageError.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionLostError(self._cause or "it is closing")
        packet_id = self._free_id()
        transport.write(encode_publish(topic, payload, packet_id, dup=again))
        self._acks[packet_id] = None
        return packet_id

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> tuple[int, ...]:
        """Subscribe to (filter, QoS) pairs; the granted QoS of each, 0x80 for a failure. Raises ConnectionLostError."""
        packet_id = self._free_id()
        answer = await self._ask(packet_id, Subscribe(packet_id, tuple(filters)))
        return answer.codes if isinstance(answer, Suback) else ()

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe. Raises ConnectionLostError."""
        packet_id = self._free_id()
        await self._ask(packet_id, Unsubscribe(packet_id, tuple(filters)))

    async def messages(self) -> AsyncIterator[Publish]:
        """The messages that arrive, until `disconnect`; raises ConnectionLostError when the connection is lost.

        For connections without a callback; one iterator at a time.
        """
        while True:
            while self._incoming:
                message = self._incoming.popleft()
                self.acknowledge(message)
                self._resume()
                yield message
            if self._closed.done():
                break
            self._message.clear()
            await self._message.wait()
        if not self._ended_by_us:
            raise ConnectionLostError(self._cause)

    def acknowledge(self, message: Publish) -> None:
        """Acknowledge a message at QoS 1, where `acknowledge_later` left that to the application. On a closed
        connection this is nothing: the server sends the message again.
        """
        if message.packet_id is not None and self.is_open and self._transport is not None:
            self._transport.write(encode_puback(message.packet_id))

    async def disconnect(self) -> None:
        """Say DISCONNECT and close. Returns when the connection is closed; on a closed one at once."""
        if self.is_open:
            self._ended_by_us = True
            self._send(Disconnect())
            self._end("we disconnected")
        await self.wait_closed()

    def abort(self, cause: str = "cut on purpose") -> None:
        """Cut the connection without a word, as a power failure would."""
        self._cause = self._cause or cause
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> str:
        """Wait for the end of the connection, whoever ends it, and return the cause."""
        await asyncio.shield(self._closed)
        return self._cause

    async def wait_accepted(self) -> None:
        """Wait for the CONNACK. Raises ConnackError, UnavailableError (CONNACK 3), ConnectionLostError."""
        await asyncio.shield(self._connack)

    # From the transport ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._connection.send(self._connect))

    def data_received(self, data: bytes) -> None:
        self._asked = False
        try:
            packets = self._connection.receive(data)
        except MqttProtocolError as fault:
            self._take(fault.before)
            self._end(f"{fault.reason}: {fault.message}")
            return
        self._take(packets)

    def eof_received(self) -> None:
        self._cause = self._cause or "the server closed the connection"

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._share.wheel.disarm(self)
        self._transport = None
        self._cause = self._cause or (str(exc) if exc is not None else "the connection was closed")
        error = ConnectionLostError(self._cause)
        acks, self._acks = self._acks, {}
        for publishing in acks.values():
            if publishing is not None:
                self._window.release()
                _fail(publishing, error)
        for answer in self._answers.values():
            _fail(answer, error)
        _fail(self._connack, error)
        self._writable.set()
        self._message.set()
        self._closed.set_result(None)

    def deadline_passed(self) -> float | None:
        """Half a keep alive has gone by."""
        if not self.is_open:
            return None
        if self._asked:
            self._end("the server does not answer PINGREQ")
            return None
        self._asked = True
        self._send(Pingreq())
        return self._connect.keep_alive / 2

    # Inside ---------------------------------------------------------------------------------------------------------

    def _take(self, packets: Sequence[Packet]) -> None:
        acks = self._acks
        acknowledged: list[int] = []
        for packet in packets:
            if type(packet) is not Puback:
                self._take_other(packet)
            elif packet.packet_id in acks:
                publishing = acks.pop(packet.packet_id)
                if publishing is None:
                    acknowledged.append(packet.packet_id)
                else:
                    self._window.release()
                    if not publishing.done():  # else whoever waited has been cancelled
                        publishing.set_result(None)
        if acknowledged:
            self.acknowledged(acknowledged)

    def _take_other(self, packet: Packet) -> None:
        match packet:
            case Publish():
                self._receive(packet)
            case Suback() | Unsuback():
                waiting = self._answers.get(packet.packet_id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(packet)
            case Connack(session_present, code):
                self._answered(session_present, code)
            case _:  # PINGRESP: that something came is all that counts
                pass

    def _answered(self, session_present: bool, code: int) -> None:
        if self._connack.done():
            return
        if not code:
            self._connack.set_result(session_present)
            if self._connect.keep_alive:
                self._share.wheel.arm(self, self._connect.keep_alive / 2)
            return
        refused = ConnackError(code) if code != _TRY_LATER else _try_later()
        self._connack.set_exception(refused)
        self._end(refused.message)

    def _receive(self, message: Publish) -> None:
        if self._on_message is not None:
            self._on_message(message)
            if not self._acknowledge_later:
                self.acknowledge(message)
            return
        self._incoming.append(message)
        self._message.set()
        if len(self._incoming) >= limits.CLIENT_INCOMING and self._transport is not None:
            self._transport.pause_reading()

    def _resume(self) -> None:
        if len(self._incoming) < limits.CLIENT_INCOMING and self._transport is not None:
            self._transport.resume_reading()

    async def _ask(self, packet_id: int, packet: Subscribe | Unsubscribe) -> Answer:
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._answers[packet_id] = answer
        try:
            self._send(packet)
            return await answer
        finally:
            del self._answers[packet_id]

    def _send(self, packet: Packet) -> None:
        if not self.is_open or self._transport is None:
            raise ConnectionLostError(self._cause or "it is closing")
        self._transport.write(self._connection.send(packet))

    def _end(self, cause: str) -> None:
        self._cause = self._cause or cause
        if self._transport is not None:
            self._transport.close()

    def _free_id(self) -> int:
        acks, answers, packet_id = self._acks, self._answers, self._next_id
        if len(acks) + len(answers) >= _PACKET_IDS:
            raise UsageError("all packet identifiers wait for an acknowledgement", reason="no-packet-identifier")
        while packet_id in acks or packet_id in answers:
            packet_id = packet_id % _PACKET_IDS + 1
        self._next_id = packet_id % _PACKET_IDS + 1
        return packet_id


def _nobody(packet_ids: Sequence[int]) -> None:
    """Nobody has sent anything that way."""


def _fail(waiting: asyncio.Future[Any], error: Error) -> None:
    if not waiting.done():
        waiting.set_exception(error)
        waiting.exception()  # whoever has given up waiting need not hear of it


def _try_later() -> UnavailableError:
    reason, words = _CONNACKS[_TRY_LATER]
    return UnavailableError(f"the server refused the connection: {words} (CONNACK 3)", reason=reason)


async def connect_mqtt(
    host: str,
    port: int,
    context: ClientContext,
    connect: Connect,
    *,
    server_name: str | None = None,
    on_message: Callable[[Publish], None] | None = None,
    acknowledge_later: bool = False,
    window: int = limits.CLIENT_WINDOW,
    timeout: float = limits.CLIENT_TIMEOUT_SECONDS,
) -> MqttClient:
    """Connect over TLS, say CONNECT, and wait for a CONNACK 0, all in `timeout` seconds.

    `server_name`: what the server's certificate must cover, `host` unless given. `on_message` gets every message,
    in place of `messages()`; with `acknowledge_later` the application calls `acknowledge` for each. Raises as `dial`,
    and ConnackError, UnavailableError (`connack-unavailable`, `connect-failed`).
    """
    until = asyncio.get_running_loop().time() + timeout
    factory = partial(MqttClient, connect, on_message, window, acknowledge_later=acknowledge_later)
    client = await dial(host, port, context, factory, server_name=server_name, timeout=timeout)
    try:
        async with asyncio.timeout_at(until):
            await client.wait_accepted()
    except TimeoutError as error:
        client.abort()
        message = f"{host}, port {port}: no CONNACK within {timeout:g} seconds"
        raise UnavailableError(message, reason="connect-failed") from error
    except asyncio.CancelledError:
        client.abort()
        raise
    return client
