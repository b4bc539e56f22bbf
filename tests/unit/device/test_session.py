"""A device sends at least once, comes back after a lost connection, and takes a refusal for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust import limits
from edgetrust.device.session import (
    CertificateCredential,
    DesiredChanged,
    DeviceSession,
    KeyCredential,
    MethodRequested,
    Route,
)
from edgetrust.errors import RefusedError, UnavailableError
from edgetrust.pki.chain import TrustBundle
from edgetrust.pki.issue import Issuer, self_signed
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import DOWNSTREAM, HUB_SERVER, ROOT
from edgetrust.pki.softkeys import SoftKey
from edgetrust.protocol.mqtt.codec import encode
from edgetrust.protocol.mqtt.packets import Connack, Connect, Packet, Puback, Publish, Suback, Subscribe
from edgetrust.protocol.sas import parse_token, signature_matches
from edgetrust.transport import listener
from edgetrust.transport.mqtt import ConnackError, MqttServerProtocol, MqttStream
from edgetrust.transport.tls.contexts import ContextSlot, ServerContext
from edgetrust.transport.tls.engine import ServerRefusedError
from edgetrust.trust.identity import Identity

NOW = datetime.now(UTC)
KEY = SecretBytes(b"0123456789abcdef")
ROOT_KEY = SoftKey.generate("root")
ROOT_CHAIN = self_signed(ROOT_KEY, ROOT, Names("Session Root"), NOW)
CA = Issuer(ROOT_KEY, ROOT_CHAIN)
BUNDLE = TrustBundle(ROOT_CHAIN.certificates, as_of=NOW)


@dataclass
class Hub:
    """A server that does what `codes` and `swallow` say, and remembers what came."""

    port: int = 0
    codes: list[int] = field(default_factory=list)
    swallow: int = 0  # publishes that are answered by cutting the connection
    connects: list[Connect] = field(default_factory=list)
    end_entities: list[bytes] = field(default_factory=list)
    published: list[Publish] = field(default_factory=list)
    subscribed: list[str] = field(default_factory=list)
    streams: list[MqttStream] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    served: listener.Listener | None = None


class Handler:
    """One connection of the pretended hub."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    async def connect(self, packet: Connect, stream: MqttStream) -> None:
        self.stream = stream
        self.hub.connects.append(packet)
        self.hub.end_entities += stream.peer_chain[:1]
        code = self.hub.codes.pop(0) if self.hub.codes else 0
        stream.send(encode(Connack(False, code)))
        if code:
            stream.close("refused")
        else:
            stream.set_keep_alive(90.0)
            self.hub.streams.append(stream)

    def packets(self, packets: list[Packet]) -> None:
        for packet in packets:
            match packet:
                case Publish():
                    self.hub.published.append(packet)
                    if self.hub.swallow:
                        self.hub.swallow -= 1
                        self.stream.close("swallowed")
                        return
                    self.stream.send(encode(Puback(packet.packet_id or 0)))
                case Subscribe():
                    self.hub.subscribed.append(packet.filters[0][0])
                    self.stream.send(encode(Suback(packet.packet_id, (1,))))
                case Puback():
                    self.hub.acknowledged.append(packet.packet_id)
                case _:
                    pass

    def lost(self, cause: str, clean: bool) -> None:
        """Nothing to forget."""


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    monkeypatch.setattr(limits, "DEVICE_RETRY_SECONDS", 0.01)
    pretended = Hub()
    key = SoftKey.generate("server")
    chain = CA.issue(key.public_key(), HUB_SERVER, Names.for_hosts("localhost", "gateway.local"), NOW)
    slot = ContextSlot(ServerContext(chain, key))
    pretended.served = await listener.serve(
        lambda: MqttServerProtocol(lambda: Handler(pretended)), slot, "127.0.0.1", 0, label="test"
    )
    pretended.port = pretended.served.port
    yield pretended
    await pretended.served.close()


def session(hub: Hub, **changes: Any) -> DeviceSession:
    told: list[str] = changes.pop("told", [])
    given: dict[str, Any] = {
        "identity": Identity("localhost", "d1"),
        "route": Route("localhost", "localhost", hub.port, "127.0.0.1"),
        "credential": KeyCredential(KEY),
        "bundle": BUNDLE,
        "tell": told.append,
        **changes,
    }
    return DeviceSession(
        given.pop("identity"), given.pop("route"), given.pop("credential"), given.pop("bundle"), **given
    )


# Connecting ---------------------------------------------------------------------------------------------------------


async def test_a_key_makes_a_token_for_the_hub(hub: Hub) -> None:
    async with session(hub, identity=Identity("localhost", "d1", "m1")):
        pass
    connect = hub.connects[0]
    assert connect.client_id == "d1/m1"
    assert (connect.user_name or "").startswith("localhost/d1/m1/?api-version=2021-04-12&DeviceClientType=edgetrust")
    token = parse_token((connect.password or b"").decode())
    assert token.resource == "localhost%2Fdevices%2Fd1%2Fmodules%2Fm1"
    assert signature_matches(token, KEY.reveal())


async def test_a_certificate_needs_no_password(hub: Hub) -> None:
    key = SoftKey.generate("device")
    chain = CA.issue(key.public_key(), DOWNSTREAM, Names("d1"), NOW)
    async with session(hub, credential=CertificateCredential(chain, key)):
        pass
    assert hub.connects[0].password is None
    assert hub.end_entities == [chain.end_entity.public_bytes(Encoding.DER)]


async def test_behind_a_gateway_the_hub_keeps_its_name(hub: Hub) -> None:
    told: list[str] = []
    route = Route("contoso.example", "gateway.local", hub.port, "127.0.0.1")
    async with session(hub, route=route, told=told):
        pass
    assert (hub.connects[0].user_name or "").startswith("contoso.example/d1/")
    assert parse_token((hub.connects[0].password or b"").decode()).resource.startswith("contoso.example%2F")
    assert told == [f"connected d1 to contoso.example through gateway.local, port {hub.port}"]


async def test_another_name_is_refused_before_anything_is_said(hub: Hub) -> None:
    route = Route("localhost", "other.local", hub.port, "127.0.0.1")
    with pytest.raises(ServerRefusedError) as caught:
        async with session(hub, route=route):
            pass
    assert caught.value.reason == "name-mismatch"
    assert not hub.connects


async def test_another_root_is_refused(hub: Hub) -> None:
    other = self_signed(SoftKey.generate("other"), ROOT, Names("Other Root"), NOW)
    with pytest.raises(ServerRefusedError):
        async with session(hub, bundle=TrustBundle(other.certificates, as_of=NOW)):
            pass


@pytest.mark.parametrize("code", [1, 2, 4, 5])
async def test_a_refusal_is_final(hub: Hub, code: int) -> None:
    hub.codes = [code]
    with pytest.raises(ConnackError) as caught:
        async with session(hub):
            pass
    assert caught.value.code == code
    assert len(hub.connects) == 1


async def test_the_first_attempt_is_the_only_one(hub: Hub) -> None:
    hub.codes = [3]
    with pytest.raises(UnavailableError):
        async with session(hub):
            pass
    assert len(hub.connects) == 1


# Sending ------------------------------------------------------------------------------------------------------------


async def test_a_message_has_its_properties(hub: Hub) -> None:
    async with session(hub) as device:
        await device.send(b"hello", {"a b": "c&d"})
    (message,) = hub.published
    assert (message.topic, message.payload, message.qos) == ("devices/d1/messages/events/a%20b=c%26d", b"hello", 1)


async def test_what_was_not_acknowledged_is_sent_again(hub: Hub) -> None:
    hub.swallow = 2
    told: list[str] = []
    async with session(hub, told=told) as device:
        await device.send(b"once")
        await device.send(b"twice")
    assert [message.payload for message in hub.published] == [b"once", b"once", b"once", b"twice"]
    assert len(hub.connects) == 3
    assert sum("lost" in line for line in told) == 2


async def test_a_refusal_while_coming_back_is_final(hub: Hub) -> None:
    hub.swallow = 1
    async with session(hub) as device:
        hub.codes = [5]
        with pytest.raises(ConnackError):
            await device.send(b"x")
    assert len(hub.connects) == 2


async def test_a_hub_that_cannot_serve_now_is_tried_again(hub: Hub) -> None:
    hub.swallow = 1
    told: list[str] = []
    async with session(hub, told=told) as device:
        hub.codes = [3, 3, 0]
        await device.send(b"x")
    assert sum("trying again in" in line for line in told) == 2


async def test_after_a_while_it_gives_up(hub: Hub) -> None:
    hub.swallow = 1
    async with session(hub, give_up_seconds=0.0) as device:
        hub.codes = [3] * 100
        with pytest.raises(UnavailableError):
            await device.send(b"x")


async def test_two_senders_share_one_connection(hub: Hub) -> None:
    hub.swallow = 1
    async with session(hub) as device:
        await asyncio.gather(*(device.send(str(number).encode()) for number in range(20)))
    assert {message.payload for message in hub.published} == {str(number).encode() for number in range(20)}
    assert len(hub.connects) == 2


# Receiving ----------------------------------------------------------------------------------------------------------


async def test_messages_come_with_properties_and_are_acknowledged(hub: Hub) -> None:
    async with session(hub) as device:
        messages = device.incoming()
        first = asyncio.ensure_future(anext(messages))
        await until(lambda: hub.subscribed)
        topic = "devices/d1/messages/devicebound/%24.to=%2Fdevices%2Fd1&a=b%2Fc&flag"
        hub.streams[0].send(encode(Publish(topic, b"hi", 1, packet_id=7)))
        received = await first
        await until(lambda: hub.acknowledged == [7])
        await messages.aclose()
    assert hub.subscribed == ["devices/d1/messages/devicebound/#"]
    assert (received.body, dict(received.properties)) == (b"hi", {"a": "b/c", "flag": None})


async def test_a_module_listens_to_its_inputs(hub: Hub) -> None:
    async with session(hub, identity=Identity("localhost", "d1", "m1")) as device:
        messages = device.incoming()
        waiting = asyncio.ensure_future(anext(messages))
        await until(lambda: hub.subscribed)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert hub.subscribed == ["devices/d1/modules/m1/inputs/#"]


async def test_it_subscribes_again_after_a_lost_connection(hub: Hub) -> None:
    async with session(hub) as device:
        messages = device.incoming()
        first = asyncio.ensure_future(anext(messages))
        await until(lambda: hub.subscribed)
        hub.streams[0].close("cut")
        await until(lambda: len(hub.subscribed) == 2)
        hub.streams[1].send(encode(Publish("devices/d1/messages/devicebound/", b"late")))
        assert (await first).body == b"late"
        await messages.aclose()


async def test_the_end_of_the_session_ends_the_messages(hub: Hub) -> None:
    device = session(hub)
    async with device:
        messages = device.incoming()
        waiting = asyncio.ensure_future(anext(messages))
        await until(lambda: hub.subscribed)
    with pytest.raises(StopAsyncIteration):
        await waiting


# Twins and methods --------------------------------------------------------------------------------------------------


async def test_methods_and_changes_come_when_they_are_wanted(hub: Hub) -> None:
    async with session(hub) as device:
        news = device.incoming(methods=True, twin=True)
        first = asyncio.ensure_future(anext(news))
        await until(lambda: hub.subscribed)
        for topic, body in (
            ("$iothub/methods/POST/reboot/?$rid=7f", b'{"delay":5}'),
            ("$iothub/twin/PATCH/properties/desired/?$version=3", b'{"rate":5,"$version":3}'),
        ):
            hub.streams[0].send(encode(Publish(topic, body)))
        called = await first
        assert called == MethodRequested("reboot", b'{"delay":5}', "7f")
        assert await anext(news) == DesiredChanged(b'{"rate":5,"$version":3}', 3)
        await device.answer(called, 207, b"true")
        await news.aclose()
    assert [(one.topic, one.payload) for one in hub.published] == [("$iothub/methods/res/207/?$rid=7f", b"true")]


async def test_an_answer_that_is_lost_with_the_connection_is_told_and_not_sent_again(hub: Hub) -> None:
    told: list[str] = []
    async with session(hub, told=told) as device:
        hub.swallow = 1
        await device.answer(MethodRequested("m", b"null", "1"), 200, b"null")
        assert len(hub.published) == 1
        assert any("lost" in text or "closed" in text for text in told)


def answering(hub: Hub, topic: str, body: bytes = b"") -> None:
    """The hub answers the first report."""
    asked = hub.published[-1]
    assert asked.topic == "$iothub/twin/PATCH/properties/reported/?$rid=report"
    hub.streams[-1].send(encode(Publish("$iothub/twin/res/200/?$rid=other", b"{}")))
    hub.streams[-1].send(encode(Publish(topic, body)))


async def test_a_report_returns_the_new_version(hub: Hub) -> None:
    async with session(hub) as device:
        reporting = asyncio.ensure_future(device.report(b'{"t":1}'))
        await until(lambda: hub.published)
        answering(hub, "$iothub/twin/res/204/?$rid=report&$version=8")
        assert await reporting == 8
    assert hub.subscribed == ["$iothub/twin/res/#"]


@pytest.mark.parametrize(
    ("body", "said"),
    [(b'{"message":"the reason"}', "status 412: the reason"), (b"", "status 412"), (b"[1]", "status 412")],
)
async def test_a_report_that_is_not_taken(hub: Hub, body: bytes, said: str) -> None:
    async with session(hub) as device:
        reporting = asyncio.ensure_future(device.report(b'{"t":1}'))
        await until(lambda: hub.published)
        answering(hub, "$iothub/twin/res/412/?$rid=report", body)
        with pytest.raises(RefusedError) as refused:
            await reporting
    assert refused.value.reason == "twin-refused"
    assert refused.value.message.endswith(said)


async def test_a_report_is_sent_again_after_a_lost_connection(hub: Hub) -> None:
    async with session(hub) as device:
        hub.swallow = 1
        reporting = asyncio.ensure_future(device.report(b'{"t":1}'))
        await until(lambda: len(hub.published) == 2)
        answering(hub, "$iothub/twin/res/204/?$rid=report&$version=2")
        assert await reporting == 2


async def until(holds: Any) -> None:
    """Wait until `holds()` is true."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.005)
