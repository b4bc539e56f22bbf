"""A device over HTTPS: telemetry, and its cloud-to-device messages."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from support.hub import Answer, World, devices_pki, identity_file

EVENTS = "/devices/d1/messages/events"
WAITING = "/devices/d1/messages/devicebound"
BATCH = "application/vnd.microsoft.iothub.json"


async def send(world: World, body: object, who: str = "d1", **headers: str) -> Answer:
    device, _, module = who.partition("/")
    path = f"/devices/{device}/modules/{module}/messages/events" if module else f"/devices/{device}/messages/events"
    return await world.ask("POST", path, body, token=world.token(who), **headers)


class TestTelemetry:
    async def test_stored_before_204(self, each_world: World) -> None:
        world = each_world
        await world.create("d1")
        headers = {
            "iothub_to": EVENTS,
            "iothub_messageid": "m 1",
            "IoTHub_CorrelationId": "c",
            "iothub_contenttype": "application/json",
            "iothub_app_Colour": "50%20off & on",
        }
        answer = await send(world, b'{"t": 1}', **headers)
        assert (answer.status, answer.body) == (204, b"")
        (event,) = await world.events()
        assert (event["device"], event["module"], event["bodyText"]) == ("d1", None, '{"t": 1}')
        assert event["properties"] == {"Colour": "50%20off & on"}
        assert event["systemProperties"] == {
            "$.to": EVENTS, "$.mid": "m 1", "$.cid": "c", "$.ct": "application/json",
        }  # fmt: skip
        assert json.loads(event["authMethod"])["type"] == "sas"
        assert event["messageSource"] == "Telemetry"

    async def test_of_a_module(self, world: World) -> None:
        await world.create("d1")
        await world.create_module("d1", "m1")
        assert (await send(world, b"x", "d1/m1")).status == 204
        (event,) = await world.events()
        assert (event["device"], event["module"]) == ("d1", "m1")
        assert json.loads(event["authMethod"])["scope"] == "module"

    async def test_batch(self, world: World) -> None:
        await world.create("d1")
        batch: list[dict[str, Any]] = [
            {"body": base64.b64encode(b"one").decode()},
            {"body": "dHdv", "properties": {"iothub-app-k": "v", "iothub-messageid": "2", "plain": "p"}},
            {"body": "three", "base64Encoded": False},
        ]
        assert (await send(world, batch, Content_Type=BATCH)).status == 204
        events = await world.events()
        assert [event["bodyText"] for event in events] == ["one", "two", "three"]
        assert events[1]["properties"] == {"k": "v", "plain": "p"}
        assert events[1]["systemProperties"] == {"$.mid": "2"}

    @pytest.mark.parametrize(
        ("body", "status", "error"),
        [
            (b"[", 400, "GenericBadRequest"),
            (b"[]", 400, "GenericBadRequest"),
            (b'{"body": ""}', 400, "GenericBadRequest"),
            (b'[{"body": "%%%"}]', 400, "GenericBadRequest"),
            (b'[{"properties": {}}]', 400, "GenericBadRequest"),
            (b'[{"body": "", "properties": {"k": 1}}]', 400, "GenericBadRequest"),
            (json.dumps([{"body": ""}] * 1001).encode(), 400, "GenericBadRequest"),
            (json.dumps([{"body": "A" * 200_000}] * 2).encode(), 413, "MessageTooLarge"),
        ],
    )
    async def test_a_batch_that_is_none_stores_nothing(
        self, world: World, body: bytes, status: int, error: str
    ) -> None:
        await world.create("d1")
        answer = await send(world, body, Content_Type=BATCH)
        assert (answer.status, answer.error) == (status, error)
        assert await world.events() == []

    async def test_size(self, world: World) -> None:
        await world.create("d1")
        assert (await send(world, b"x" * 262_144)).status == 204
        answer = await send(world, b"x" * 262_144, iothub_app_k="v")
        assert (answer.status, answer.error) == (413, "MessageTooLarge")

    async def test_who_is_not_accepted_stores_nothing(self, world: World) -> None:
        await world.create("d1")
        await world.create("d2")
        for token in (world.token("d2"), world.token("d1", -3600), None, world.service_token("service")):
            answer = await world.ask("POST", EVENTS, b"x", token=token)
            assert (answer.status, answer.error) == (401, "IotHubUnauthorizedAccess")
        assert await world.events() == []
        reasons = [refusal["reason"] for refusal in await world.refusals()]
        assert reasons == ["sas-unknown-policy", "no-credential", "sas-expired", "sas-other-resource"]

    async def test_curl_sends_in_chunks_with_a_certificate(self, world: World) -> None:
        holder = devices_pki().device("d1")
        await world.by_thumbprint("d1", holder)
        show = identity_file(holder, world.directory)
        answer = await world.curl(
            "-H", "Transfer-Encoding: chunked", "-d", '{"t": 21}', "-H", "iothub-app-k: v",
            f"{world.base}{EVENTS}?api-version=2021-04-12", show=show,
        )  # fmt: skip
        assert (answer.status, answer.body) == (204, b"")
        (event,) = await world.events()
        assert (event["bodyText"], event["properties"]) == ('{"t": 21}', {"k": "v"})
        assert json.loads(event["authMethod"])["type"] == "x509Certificate"


class TestCommands:
    async def receive(self, world: World) -> Answer:
        return await world.ask("GET", WAITING, token=world.token("d1"))

    async def settle(self, world: World, token: str, how: str = "") -> Answer:
        if how == "abandon":
            return await world.ask("POST", f"{WAITING}/{token}/abandon", token=world.token("d1"))
        path = f"{WAITING}/{token}" + ("?reject" if how == "reject" else "")
        return await world.ask("DELETE", path, token=world.token("d1"), If_Match=token)

    async def test_received_and_completed(self, each_world: World) -> None:
        world = each_world
        await world.create("d1")
        assert (await self.receive(world)).status == 204
        headers = {"iothub_messageid": "m1", "iothub_app_Colour": "d%C3%A9ep", "iothub_ack": "full"}
        assert (await world.ask("POST", WAITING, b"\xffhello", **headers)).status == 202
        got = await self.receive(world)
        assert (got.status, got.body) == (200, b"\xffhello")
        assert got.headers["iothub-messageid"] == "m1"
        assert got.headers["iothub-app-Colour"] == "d%C3%A9ep"
        assert got.headers["iothub-ack"] == "full"
        assert got.headers["iothub-to"] == WAITING
        assert got.headers["iothub-sequencenumber"] == "1"
        assert got.headers["iothub-deliverycount"] == "1"
        assert got.headers["iothub-enqueuedtime"].endswith("Z")
        assert got.headers["iothub-expiry"] > got.headers["iothub-enqueuedtime"]
        token = got.etag.strip('"')
        assert (await self.receive(world)).status == 204  # locked
        assert (await self.settle(world, token)).status == 204
        again = await self.settle(world, token)
        assert (again.status, again.error) == (412, "DeviceMessageLockLost")
        world.clock.advance(61)
        assert (await self.receive(world)).status == 204

    async def test_abandoned_rejected_lost(self, world: World) -> None:
        await world.create("d1")
        await world.ask("POST", WAITING, b"x")
        first = (await self.receive(world)).etag.strip('"')
        assert (await self.settle(world, first, "abandon")).status == 204
        got = await self.receive(world)
        assert got.headers["iothub-deliverycount"] == "2"
        world.clock.advance(61)  # the lock runs out
        assert (await self.settle(world, got.etag.strip('"'))).error == "DeviceMessageLockLost"
        third = await self.receive(world)
        assert third.headers["iothub-deliverycount"] == "3"
        assert (await self.settle(world, third.etag.strip('"'), "reject")).status == 204
        world.clock.advance(61)
        assert (await self.receive(world)).status == 204

    async def test_for_nobody_else(self, world: World) -> None:
        await world.create("d1")
        await world.create("d2")
        await world.ask("POST", WAITING, b"x")
        token = (await self.receive(world)).etag.strip('"')
        other = world.token("d2")
        assert (await world.ask("GET", WAITING, token=other)).status == 401
        assert (await world.ask("DELETE", f"{WAITING}/{token}", token=other)).status == 401
        stolen = f"/devices/d2/messages/devicebound/{token}"
        assert (await world.ask("DELETE", stolen, token=other)).error == "DeviceMessageLockLost"
        assert (await self.settle(world, token)).status == 204

    async def test_two_requests_never_get_the_same_message(self, world: World) -> None:
        await world.create("d1")
        for number in range(5):
            await world.ask("POST", WAITING, b"%d" % number)
        answers = await asyncio.gather(*(self.receive(world) for _ in range(8)))
        assert sorted(answer.body for answer in answers if answer.status == 200) == [b"%d" % n for n in range(5)]
