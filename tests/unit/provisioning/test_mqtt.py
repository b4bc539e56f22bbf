"""The device API over MQTT as dialogues of packets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from edgetrust.limits import DPS_REQUESTS_WAITING
from edgetrust.protocol.dps.topics import RESPONSE_FILTER
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
from edgetrust.protocol.sas import sign
from edgetrust.provisioning.mqtt import DpsConnection
from support.enrollments import PRIMARY, SCOPE, individual, keys
from support.fakes import FakeStream
from support.pki import NOW
from support.provisioning import Service

REGISTER = "$dps/registrations/PUT/iotdps-register/?$rid=1"
USER = f"{SCOPE}/registrations/own/api-version=2019-03-31&ClientVersion=x"


class Peer:
    """A client, and what it was sent."""

    def __init__(self, service: Service) -> None:
        self.stream = FakeStream()
        self.connection = DpsConnection(service.registering, service.records, service.clock, service.tasks)

    async def connects(
        self, user_name: str | None = USER, client_id: str = "own", key: bytes | None = PRIMARY
    ) -> Connack:
        password = None
        if key is not None:
            resource = f"{SCOPE}%2Fregistrations%2Fown"
            password = sign(key, resource, int(NOW.timestamp()) + 600, "registration").encode()
        await self.connection.connect(Connect(client_id, user_name, password if user_name else None), self.stream)
        answer = self.stream.sent.pop(0)
        assert isinstance(answer, Connack)
        return answer

    def sends(self, *packets: Packet) -> None:
        self.connection.packets(list(packets))

    async def receives(self, count: int) -> Sequence[Packet]:
        async with asyncio.timeout(60):
            while len(self.stream.sent) < count:
                await asyncio.sleep(0.005)
        taken, self.stream.sent = self.stream.sent[:count], self.stream.sent[count:]
        assert len(taken) == count
        return taken

    async def asks(self, topic: str, body: bytes = b" ") -> tuple[str, Any]:
        """Publish, and the answer's topic and body."""
        self.sends(Publish(topic, body, qos=1, packet_id=7))
        acknowledged, answer = await self.receives(2)
        assert acknowledged == Puback(7)
        assert isinstance(answer, Publish)
        assert answer.qos == 1
        self.sends(Puback(answer.packet_id or 0))
        return answer.topic, json.loads(answer.payload)


@pytest.fixture
def peer(service: Service) -> Peer:
    return Peer(service)


async def test_a_device_registers(service: Service, peer: Peer) -> None:
    await service.enroll(individual("own", keys()))
    assert await peer.connects() == Connack(False, 0)
    assert peer.stream.keep_alive == 90
    peer.sends(Subscribe(1, ((RESPONSE_FILTER, 2), ("$dps/other/#", 1), ("#", 0))))
    assert await peer.receives(1) == [Suback(1, (1, 0x80, 0x80))]
    topic, said = await peer.asks(REGISTER, b'{"payload": null, "registrationId": "own"}')
    assert topic == "$dps/registrations/res/202/?$rid=1&retry-after=1"
    assert said["status"] == "assigning"
    status = f"$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId={said['operationId']}"
    async with asyncio.timeout(60):
        while "/202/" in topic:
            topic, said = await peer.asks(status)
    assert topic == "$dps/registrations/res/200/?$rid=2"
    assert (said["status"], said["registrationState"]["assignedHub"]) == ("assigned", "hub")
    peer.sends(Pingreq(), Unsubscribe(3, (RESPONSE_FILTER,)))
    assert await peer.receives(2) == [Pingresp(), Unsuback(3)]
    peer.sends(Publish(status, b" ", qos=1, packet_id=9))
    assert await peer.receives(1) == [Puback(9)]  # nobody listens to the answer
    peer.connection.lost("", clean=True)


async def test_a_wrong_key_is_told_at_registration(service: Service, peer: Peer) -> None:
    await service.enroll(individual("own", keys()))
    assert (await peer.connects(key=b"x" * 32)).code == 0
    peer.sends(Subscribe(1, ((RESPONSE_FILTER, 1),)))
    await peer.receives(1)
    topic, said = await peer.asks(REGISTER)
    assert topic == "$dps/registrations/res/401/?$rid=1"
    assert (said["errorCode"], said["message"]) == (401_000, "Unauthorized")
    assert set(said) == {"errorCode", "trackingId", "message", "timestampUtc"}
    assert service.records.refusals == ["sas-signature-mismatch"]


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", 400_004), (b'{"registrationId":"other"}', 400_004), (b" " * 100_000, 413_000), (b"\xff", 400_004)],
)
async def test_bodies_that_are_none(service: Service, peer: Peer, body: bytes, code: int) -> None:
    await service.enroll(individual("own", keys()))
    await peer.connects()
    peer.sends(Subscribe(1, ((RESPONSE_FILTER, 1),)))
    await peer.receives(1)
    topic, said = await peer.asks(REGISTER, body)
    assert said["errorCode"] == code
    assert f"/res/{code // 1000}/" in topic
    assert (await peer.asks(REGISTER, b"{}"))[1]["status"] == "assigning"  # and the next one counts


@pytest.mark.parametrize(
    ("user_name", "client_id", "code", "reason"),
    [
        (None, "own", 4, "user-name-malformed"),
        (f"{SCOPE}/registrations/own", "own", 4, "user-name-malformed"),
        (f"{SCOPE}/registrations/own./api-version=2019-03-31", "own.", 4, "user-name-malformed"),
        (USER.replace(SCOPE, "0neOTHER"), "own", 5, "id-scope-unknown"),
        (USER, "other", 2, "client-identifier-mismatch"),
    ],
)
async def test_who_is_not_let_in(
    service: Service, peer: Peer, user_name: str | None, client_id: str, code: int, reason: str
) -> None:
    assert (await peer.connects(user_name, client_id)).code == code
    assert peer.stream.closed
    assert service.records.refusals == [reason]


async def test_the_client_identifier_is_the_same_in_any_case(service: Service, peer: Peer) -> None:
    assert (await peer.connects(client_id="OWN")).code == 0


async def test_another_topic_ends_the_connection(service: Service, peer: Peer) -> None:
    await peer.connects()
    peer.sends(Publish("devices/own/messages/events/", b"21.5", qos=1, packet_id=1))
    assert "no topic of provisioning" in peer.stream.closed


async def test_a_client_that_does_not_wait_for_answers_is_told_to(service: Service, peer: Peer) -> None:
    await service.enroll(individual("own", keys()))
    await peer.connects()
    peer.sends(Subscribe(1, ((RESPONSE_FILTER, 1),)))
    await peer.receives(1)
    many = DPS_REQUESTS_WAITING + 20
    peer.sends(*(Publish(f"{REGISTER}{n}", b"{}", qos=1, packet_id=n + 1) for n in range(many)))
    answers = [one for one in await peer.receives(2 * many) if isinstance(one, Publish)]
    busy = [
        one for one in answers if "/res/429/" in one.topic and "requests" in str(json.loads(one.payload)["message"])
    ]
    assert len(busy) >= 20
    assert all("retry-after=" in one.topic for one in busy)


async def test_a_connection_that_is_gone_gets_nothing(service: Service, peer: Peer) -> None:
    await service.enroll(individual("own", keys()))
    await peer.connects()
    peer.sends(Subscribe(1, ((RESPONSE_FILTER, 1),)), Publish(REGISTER, b"{}", qos=1, packet_id=1))
    peer.connection.lost("cut", clean=False)
    await asyncio.sleep(0.05)
    assert [type(one) for one in peer.stream.sent] == [Suback]
