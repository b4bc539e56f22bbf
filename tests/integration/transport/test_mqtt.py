"""Our MQTT server side and client against each other and against paho, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from edgetrust import limits
from edgetrust.errors import Error, UnavailableError, UsageError
from edgetrust.protocol.mqtt.encoding import encode, encode_pubacks
from edgetrust.protocol.mqtt.packets import (
    Connack,
    Connect,
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
)
from edgetrust.transport.mqtt import (
    ConnackError,
    ConnectionLostError,
    MqttClient,
    MqttServerProtocol,
    MqttStream,
    connect_mqtt,
)
from support.wire import DEVICE, client_context, identity_file, listening, stdlib_context, trust_file


class Broker:
    """A handler that grants everything and echoes publishes to whoever has subscribed."""

    def __init__(self) -> None:
        self.stream: MqttStream
        self.received: list[Packet] = []
        self.wakeups = 0
        self.ended: asyncio.Future[tuple[str, bool]] = asyncio.get_running_loop().create_future()
        self.code = 0
        self.subscribed = False
        self.acknowledging = True
        self.answering = True
        self.decided = asyncio.Event()
        self.decided.set()
        self.keep_alive = 90.0

    async def connect(self, packet: Connect, stream: MqttStream) -> None:
        self.stream = stream
        self.received.append(packet)
        await self.decided.wait()
        if packet.client_id == "fault":
            raise RuntimeError("a defect in the handler")
        stream.send(encode(Connack(False, self.code)))
        if self.code:
            stream.close("refused")
        else:
            stream.set_keep_alive(self.keep_alive)

    def packets(self, packets: list[Packet]) -> None:
        self.wakeups += 1
        self.received += packets
        for packet in packets:
            self._one(packet)

    def _one(self, packet: Packet) -> None:
        match packet:
            case Publish():
                if packet.topic == "fault":
                    raise RuntimeError("a defect in the handler")
                if packet.packet_id and self.acknowledging:
                    self.stream.send(encode_pubacks([packet.packet_id]))
                if self.subscribed:
                    self.stream.send(
                        encode(Publish(packet.topic, packet.payload, packet.qos, packet_id=packet.packet_id))
                    )
            case Subscribe():
                self.subscribed = True
                self.stream.send(encode(Suback(packet.packet_id, tuple(min(qos, 1) for _, qos in packet.filters))))
            case Unsubscribe():
                self.subscribed = False
                self.stream.send(encode(Unsuback(packet.packet_id)))
            case Pingreq() if self.answering:
                self.stream.send(encode(Pingresp()))
            case _:
                pass

    def lost(self, cause: str, clean: bool) -> None:
        self.ended.set_result((cause, clean))
        if cause == "fault at the end":
            raise RuntimeError("a defect in the handler")


class Hub:
    """A listener and the handlers of its connections, in order."""

    def __init__(self, port: int, brokers: list[Broker]) -> None:
        self.port = port
        self.brokers = brokers

    async def client(self, connect: Connect | None = None, **options: object) -> MqttClient:
        connect = connect or Connect("device-1", clean_session=True)
        return await connect_mqtt("127.0.0.1", self.port, client_context(DEVICE), connect, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def hub(prepare: Callable[[Broker], None] = lambda _: None) -> AsyncIterator[Hub]:
    brokers: list[Broker] = []

    def handler() -> Broker:
        brokers.append(Broker())
        prepare(brokers[-1])
        return brokers[-1]

    async with listening(lambda: MqttServerProtocol(handler)) as listener:
        yield Hub(listener.port, brokers)


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_publish_is_acknowledged_and_messages_come_back() -> None:
    async with hub() as server:
        client = await server.client()
        assert client.is_open
        assert not client.session_present
        assert await client.subscribe([("a/#", 1), ("b", 0)]) == (1, 0)
        await client.publish("a/1", b"one")
        await client.publish("a/2", b"two", qos=0)
        got = []
        async for message in client.messages():
            got.append((message.topic, message.payload, message.qos))
            if len(got) == 2:
                break
        assert got == [("a/1", b"one", 1), ("a/2", b"two", 0)]
        await client.unsubscribe(["a/#"])
        await client.disconnect()
        await client.disconnect()
        assert client.cause == "we disconnected"
        broker = server.brokers[0]
        assert await broker.ended == ("the client disconnected", True)
        assert Puback(1) in broker.received or any(isinstance(each, Puback) for each in broker.received)
        assert broker.received[-1] == Disconnect()
        assert len(broker.stream.peer_chain) == 3
        assert broker.stream.peer_address.startswith("127.0.0.1:")
        with pytest.raises(ConnectionLostError):
            await client.publish("a", b"late")
        with pytest.raises(ConnectionLostError):
            await client.subscribe([("a", 1)])
        assert [each async for each in client.messages()] == []


async def test_messages_are_given_to_a_callback_and_then_acknowledged() -> None:
    async with hub() as server:
        got: list[bytes] = []
        client = await server.client(on_message=lambda message: got.append(message.payload))
        await client.subscribe([("#", 1)])
        await asyncio.gather(*(client.publish("t", b"%d" % number) for number in range(200)))
        await until(lambda: len(got) == 200)
        assert got == [b"%d" % number for number in range(200)]
        broker = server.brokers[0]
        await until(lambda: sum(isinstance(each, Puback) for each in broker.received) == 200)
        assert broker.wakeups < 150
        await client.disconnect()


async def test_a_window_bounds_what_waits_for_acknowledgement() -> None:
    async with hub(lambda broker: setattr(broker, "acknowledging", False)) as server:
        client = await server.client(window=3)
        waiting = [asyncio.create_task(client.publish("t", b"%d" % number)) for number in range(5)]
        broker_ready = lambda: len(server.brokers[0].received) == 4  # noqa: E731
        await until(broker_ready)
        await asyncio.sleep(0.05)
        assert broker_ready()
        waiting[0].cancel()
        server.brokers[0].stream.send(encode_pubacks([1, 2]))
        await until(lambda: len(server.brokers[0].received) == 6)
        server.brokers[0].stream.close("enough")
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1] is None
        assert all(isinstance(each, ConnectionLostError) for each in results[2:])
        assert await client.wait_closed() == "the server closed the connection"
        with pytest.raises(ConnectionLostError):
            async for _ in client.messages():
                pass


async def test_what_was_sent_without_waiting_is_told_when_it_is_acknowledged() -> None:
    async with hub() as server:
        client = await server.client()
        acknowledged: list[int] = []
        client.acknowledged = acknowledged.extend
        sent = [client.send("t", b"1"), client.send("t", b"2")]
        await until(lambda: acknowledged == sent)
        received = [each for each in server.brokers[0].received if isinstance(each, Publish)]
        assert [(each.packet_id, each.payload) for each in received] == list(zip(sent, [b"1", b"2"], strict=True))
        server.brokers[0].acknowledging = False
        client.send("t", b"3", again=True)
        await until(lambda: server.brokers[0].received[-1] == Publish("t", b"3", 1, dup=True, packet_id=3))
        client.abort()
        await client.wait_closed()
        assert acknowledged == sent
        assert client.cause == "cut on purpose"
        assert not (await server.brokers[0].ended)[1]
        with pytest.raises(ConnectionLostError):
            client.send("t", b"4")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1, "connack-protocol"),
        (2, "connack-identifier"),
        (3, "connack-unavailable"),
        (4, "connack-user-name"),
        (5, "connack-not-authorized"),
    ],
)
async def test_a_refusal_is_an_error_with_its_reason(code: int, reason: str) -> None:
    async with hub(lambda broker: setattr(broker, "code", code)) as server:
        with pytest.raises(Error) as caught:
            await server.client()
        assert caught.value.reason == reason
        assert isinstance(caught.value, UnavailableError if code == 3 else ConnackError)
        if isinstance(caught.value, ConnackError):
            assert caught.value.code == code
        assert (await server.brokers[0].ended)[0] == "refused"


async def test_what_is_sent_behind_connect_waits_for_the_decision(tmp_path: Path) -> None:
    async with hub(lambda broker: broker.decided.clear()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=stdlib_context())
        writer.write(encode(Connect("x", clean_session=True)) + encode(Publish("t", b"early", 1, packet_id=7)))
        await until(lambda: server.brokers and server.brokers[0].received)
        await asyncio.sleep(0.05)
        writer.write(encode(Publish("t", b"early too", 1, packet_id=8)))
        await asyncio.sleep(0.05)
        broker = server.brokers[0]
        assert len(broker.received) == 1
        broker.decided.set()
        assert await reader.readexactly(4) == encode(Connack(False, 0))
        assert await reader.readexactly(8) == encode_pubacks([7, 8])
        assert broker.wakeups == 1
        writer.close()
        await writer.wait_closed()
        assert await broker.ended == ("the client closed the connection without DISCONNECT", False)


async def test_too_much_behind_connect_ends_it() -> None:
    async with hub(lambda broker: broker.decided.clear()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=stdlib_context())
        writer.write(encode(Connect("x", clean_session=True)) + encode(Publish("t", b"x" * 20_000, 0)))
        assert await reader.read() == b""
        assert (await server.brokers[0].ended)[0].startswith("mqtt-too-much-before-accepted")
        writer.close()


async def test_an_old_protocol_is_answered_and_a_wrong_first_packet_is_not() -> None:
    old = b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01x"
    cases = {old: b"\x20\x02\x00\x01", encode(Pingreq()): b"", b"\x00\x00": b""}
    async with hub() as server:
        for words, answer in cases.items():
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=stdlib_context())
            writer.write(words)
            assert await reader.read() == answer
            writer.close()
            cause, clean = await server.brokers[-1].ended
            assert cause.startswith("mqtt-")
            assert not clean
        assert all(broker.received == [] for broker in server.brokers)


async def test_what_came_before_a_fault_counts() -> None:
    async with hub() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=stdlib_context())
        writer.write(encode(Connect("x", clean_session=True)))
        await reader.readexactly(4)
        writer.write(encode(Publish("t", b"good", 1, packet_id=1)) + encode(Connect("x", clean_session=True)))
        assert await reader.read() == encode_pubacks([1])
        assert (await server.brokers[0].ended)[0].startswith("mqtt-second-connect")
        writer.close()


async def test_a_connect_must_come_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECT_SECONDS", 0.3)
    async with hub() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=stdlib_context())
        writer.write(b"\x10\x20")
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        assert "no CONNECT" in (await server.brokers[0].ended)[0]
        writer.close()


async def test_silence_ends_a_connection_and_talk_keeps_it() -> None:
    async with hub(lambda broker: setattr(broker, "keep_alive", 1.5)) as server:
        client = await server.client(Connect("x", clean_session=True, keep_alive=0))
        for _ in range(8):
            await client.publish("t", b"alive")
            await asyncio.sleep(0.25)
        assert client.is_open
        async with asyncio.timeout(60):
            cause, clean = await server.brokers[0].ended
        assert "keep alive" in cause
        assert not clean
        await client.wait_closed()


async def test_a_paused_reader_is_not_blamed_for_silence() -> None:
    async with hub(lambda broker: setattr(broker, "keep_alive", 0.3)) as server:
        client = await server.client(Connect("x", clean_session=True, keep_alive=0))
        stream = server.brokers[0].stream
        stream.pause_reading()
        await asyncio.sleep(0.8)
        assert client.is_open
        acknowledged: list[int] = []
        client.acknowledged = acknowledged.extend
        client.send("t", b"held")
        await asyncio.sleep(0.1)
        assert acknowledged == []
        stream.resume_reading()
        await until(lambda: acknowledged == [1])
        await client.disconnect()


async def test_the_client_asks_whether_the_server_is_there() -> None:
    async with hub() as server:
        client = await server.client(Connect("x", clean_session=True, keep_alive=1))
        await until(lambda: sum(isinstance(each, Pingreq) for each in server.brokers[0].received) == 2)
        assert client.is_open
        server.brokers[0].answering = False
        assert await client.wait_closed() == "the server does not answer PINGREQ"


@pytest.mark.parametrize("where", ["connect", "packets"])
async def test_a_handlers_defect_ends_its_connection_only(where: str) -> None:
    async with hub() as server:
        good = await server.client()
        if where == "connect":
            with pytest.raises(ConnectionLostError):
                await server.client(Connect("fault", clean_session=True))
        else:
            bad = await server.client()
            with pytest.raises(ConnectionLostError):
                await bad.publish("fault", b"")
        assert (await server.brokers[1].ended)[0] == "an error on our side"
        await good.publish("t", b"still here")
        server.brokers[0].stream.close("fault at the end")
        await good.wait_closed()


async def test_a_client_that_does_not_read_is_not_read_from_and_then_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WRITE_LIMIT_BYTES", 4_000_000)
    async with hub() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=stdlib_context())
        writer.write(encode(Connect("x", clean_session=True)))
        await reader.readexactly(4)
        writer.transport.pause_reading()
        stream = server.brokers[0].stream
        message = encode(Publish("t", b"x" * 200_000, 0))
        async with asyncio.timeout(60):
            while not stream.is_closing:
                stream.send(message)
                await asyncio.sleep(0)
        assert "does not read" in (await server.brokers[0].ended)[0]
        stream.send(message)
        stream.pause_reading()
        stream.set_keep_alive(1)
        writer.transport.abort()


async def test_a_slow_application_stops_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLIENT_INCOMING", 10)
    async with hub() as server:
        client = await server.client()
        await client.subscribe([("t", 1)])
        broker = server.brokers[0]
        for number in range(100):
            broker.stream.send(encode(Publish("t", b"%d" % number, 1, packet_id=number + 1)))
            await asyncio.sleep(0)
        got = []
        async for message in client.messages():
            got.append(message.payload)
            if len(got) == 100:
                break
        assert got == [b"%d" % number for number in range(100)]
        await client.disconnect()


async def test_a_server_that_breaks_the_protocol_is_left() -> None:
    async with hub() as server:
        client = await server.client()
        server.brokers[0].stream.send(encode(Connack(False, 0)))
        assert (await client.wait_closed()).startswith("mqtt-")


async def test_a_server_that_never_answers_the_connect() -> None:
    async with hub(lambda broker: broker.decided.clear()) as server:
        with pytest.raises(UnavailableError) as caught:
            await server.client(timeout=0.3)
        assert "CONNACK" in caught.value.message
        cancelled = asyncio.create_task(server.client())
        await until(lambda: len(server.brokers) == 2 and server.brokers[1].received)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        for broker in server.brokers:
            broker.decided.set()
            await broker.ended


async def test_packet_identifiers_are_not_used_twice() -> None:
    async with hub(lambda broker: setattr(broker, "acknowledging", False)) as server:
        client = await server.client()
        for _ in range(65_535):
            client.send("t", b"")
        with pytest.raises(UsageError):
            client.send("t", b"")
        server.brokers[0].stream.send(encode_pubacks([500]))
        await until(lambda: len(client._acks) == 65_534)
        client.send("t", b"")
        assert 500 in client._acks
        client.abort()


async def test_paho(tmp_path: Path) -> None:
    """A client that is not ours, with a certificate, in a thread of its own."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[tuple[str, object]] = asyncio.Queue()

    def tell(kind: str, value: object) -> None:
        loop.call_soon_threadsafe(events.put_nowait, (kind, value))

    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="paho", clean_session=True)
    identity = str(identity_file(DEVICE, tmp_path))
    client.tls_set(str(trust_file(tmp_path)), identity, identity)
    client.on_connect = lambda _c, _u, _f, code, _p: tell("connect", code.value)
    client.on_subscribe = lambda _c, _u, _m, codes, _p: tell("subscribe", [code.value for code in codes])
    client.on_message = lambda _c, _u, message: tell("message", (message.topic, message.payload))
    client.on_publish = lambda _c, _u, _m, _r, _p: tell("publish", None)
    async with hub() as server:
        client.connect_async("localhost", server.port)
        client.loop_start()
        assert await events.get() == ("connect", 0)
        client.subscribe("a/b", 1)
        assert await events.get() == ("subscribe", [1])
        client.publish("a/b", b"hello", 1)
        both = [await events.get(), await events.get()]
        assert ("message", ("a/b", b"hello")) in both
        assert ("publish", None) in both
        assert len(server.brokers[0].stream.peer_chain) == 3
        client.disconnect()
        assert (await server.brokers[0].ended) == ("the client disconnected", True)
        await asyncio.to_thread(client.loop_stop)
