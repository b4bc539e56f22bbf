"""Direct methods at a running hub: services over HTTPS, devices by paho."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support.hub import World, running
from support.mosquitto import Device, device, wait

METHODS = "$iothub/methods/POST/#"


@contextmanager
def listening(world: World, who: str, answer: Callable[[Device, str, bytes], None] | None = None) -> Iterator[Device]:
    """A device that is subscribed to methods; `answer` is called with the request identifier and the payload."""
    with device(world, who) as client:
        if answer is not None:
            client.client.on_message = lambda _c, _u, message: (
                client.got.append(message),
                answer(client, message.topic.rpartition("=")[2], message.payload),
            )
        yield client


async def subscribe(client: Device) -> None:
    await wait(lambda: client.code == 0)
    client.client.subscribe(METHODS, 1)
    await wait(lambda: bool(client.granted))


def echo(client: Device, request_id: str, payload: bytes) -> None:
    client.client.publish(f"$iothub/methods/res/207/?$rid={request_id}", b'{"got":' + payload + b"}", 1)


def call(world: World, path: str = "/twins/d1/methods", **more: Any) -> Any:
    return world.ask("POST", path, {"methodName": "reboot", **more})


class TestCalls:
    async def test_answered(self, world: World) -> None:
        await world.create("d1")
        with listening(world, "d1", echo) as client:
            await subscribe(client)
            answer = await call(world, payload={"a": [1, None]})
            assert (answer.status, answer.json) == (200, {"status": 207, "payload": {"got": {"a": [1, None]}}})
            assert (await call(world)).json == {"status": 207, "payload": {"got": None}}
            assert client.got[0].topic.startswith("$iothub/methods/POST/reboot/?$rid=")
            await wait(lambda: len(client.acknowledged) == 2)

    async def test_a_module_is_called(self, world: World) -> None:
        await world.create("d1")
        await world.create_module("d1", "m1")
        with listening(world, "d1/m1", echo) as client:
            await subscribe(client)
            answer = await call(world, "/twins/d1/modules/m1/methods", payload=5)
            assert answer.json == {"status": 207, "payload": {"got": 5}}
            assert (await call(world)).error == "DeviceNotOnline"  # its device is another

    async def test_many_at_once_get_their_own_answers(self, world: World) -> None:
        await world.create("d1")
        with listening(world, "d1", echo) as client:
            await subscribe(client)
            answers = await asyncio.gather(*(call(world, payload=number) for number in range(10)))
            assert [answer.json["payload"]["got"] for answer in answers] == list(range(10))

    async def test_after_a_cut_it_is_called_without_a_new_subscribe(self, world: World) -> None:
        await world.create("d1")
        with listening(world, "d1") as client:
            await subscribe(client)
            client.cut()
            await wait(lambda: client.lost is not None)
        waiting = asyncio.create_task(call(world, connectTimeoutInSeconds=20))
        with listening(world, "d1", echo) as again:
            assert (await waiting).json["status"] == 207
            assert again.granted == []


class TestFailures:
    async def test_away(self, world: World) -> None:
        await world.create("d1")
        answer = await call(world)
        assert (answer.status, answer.error) == (404, "DeviceNotOnline")
        with listening(world, "d1") as client:
            await wait(lambda: client.code == 0)  # connected, and no word of methods
            assert (await call(world)).error == "DeviceNotOnline"
            assert (await call(world, connectTimeoutInSeconds=1)).error == "DeviceNotOnline"

    async def test_no_answer_in_time_and_a_late_one(self, world: World) -> None:
        await world.create("d1")
        with listening(world, "d1") as client:
            await subscribe(client)
            answer = await call(world, responseTimeoutInSeconds=5)
            assert (answer.status, answer.error) == (504, "GatewayTimeout")
            request_id = client.got[0].topic.rpartition("=")[2]
            client.client.publish(f"$iothub/methods/res/200/?$rid={request_id}", b"{}", 1)
            await wait(lambda: len(client.acknowledged) == 1)
            assert client.lost is None

    async def test_an_answer_that_is_no_json(self, world: World) -> None:
        await world.create("d1")

        def mumble(client: Device, request_id: str, _payload: bytes) -> None:
            client.client.publish(f"$iothub/methods/res/200/?$rid={request_id}", b"hm", 1)

        with listening(world, "d1", mumble) as client:
            await subscribe(client)
            answer = await call(world)
            assert (answer.status, answer.error) == (502, "BadDeviceResponse")

    @pytest.mark.parametrize(
        ("path", "body", "status", "error"),
        [
            ("/twins/d9/methods", {"methodName": "m"}, 404, "DeviceNotFound"),
            ("/twins/d1/modules/m9/methods", {"methodName": "m"}, 404, "ModuleNotFound"),
            ("/twins/d1/methods", b"{", 400, "IotHubFormatError"),
            ("/twins/d1/methods", {"methodName": "a/b"}, 400, "ArgumentInvalid"),
            ("/twins/d1/methods", {"methodName": "m", "payload": "x" * 131_071}, 413, "MessageTooLarge"),
        ],
    )
    async def test_refused(self, world: World, path: str, body: object, status: int, error: str) -> None:
        await world.create("d1")
        answer = await world.ask("POST", path, body)
        assert (answer.status, answer.error) == (status, error)

    async def test_only_services_with_the_right(self, world: World) -> None:
        await world.create("d1")
        for token in (world.token("d1"), world.service_token("registryReadWrite"), None):
            assert (await world.ask("POST", "/twins/d1/methods", {"methodName": "m"}, token=token)).status == 401

    async def test_a_hub_that_stops_does_not_keep_callers_waiting(self, tmp_path: Any, hub_pki: Any) -> None:
        async with running(tmp_path, hub_pki) as world:
            await world.create("d1")
            waiting = asyncio.create_task(call(world, connectTimeoutInSeconds=300))
            await wait(lambda: bool(world.hub.parts.methods._unsent))
            await world.hub.stop()
            assert (await waiting).error == "ServiceUnavailable"
