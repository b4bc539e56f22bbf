"""Messages over HTTPS: cloud-to-device in, device-to-cloud out, consumers."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from datetime import timedelta

from edgetrust.protocol.messages import Message
from support.hub import World

TO = "/devices/d1/messages/devicebound"


def stored(number: int, device: str = "d1", body: bytes | None = None, properties: str = "") -> Message:
    text = b"%d" % number if body is None else body
    return Message(device, None, properties, text, 1_800_000_000_000 + number, "{}", "Telemetry")


async def append(world: World, *messages: Message) -> None:
    done = asyncio.get_running_loop().create_future()
    world.hub._events.append(messages, done.set_result)
    assert await done is None


class TestCommands:
    async def test_queued(self, world: World) -> None:
        await world.create("d1")
        first = await world.ask("POST", TO, b"hello", iothub_messageid="m1", iothub_app_Colour="deep%20blue")
        assert (first.status, first.json) == (202, {"sequenceNumber": 1})
        assert (await world.ask("GET", "/devices/d1")).json["cloudToDeviceMessageCount"] == 1
        (waiting,) = await world.hub._parts.commands.lease("d1", 10)
        assert waiting.body == b"hello"
        assert waiting.properties in (
            "%24.mid=m1&Colour=deep%20blue",
            "Colour=deep%20blue&%24.mid=m1",
        )
        purged = await world.ask("DELETE", "/devices/d1/commands")
        assert purged.json == {"totalMessagesPurged": 1, "deviceId": "d1", "moduleId": None}

    async def test_bounds(self, world: World) -> None:
        await world.create("d1")
        missing = await world.ask("POST", "/devices/nobody/messages/devicebound", b"x")
        assert (missing.status, missing.error) == (404, "DeviceNotFound")
        missing = await world.ask("DELETE", "/devices/nobody/commands")
        assert (missing.status, missing.error) == (404, "DeviceNotFound")
        large = await world.ask("POST", TO, b"x" * (262_144 + 1))
        assert (large.status, large.error) == (413, "MessageTooLarge")
        assert (await world.ask("POST", TO, b"x" * 262_144)).status == 202
        wrong = await world.ask("POST", TO, b"x", iothub_expiry="tomorrow")
        assert wrong.status == 400
        wrong = await world.ask("POST", TO, b"x", iothub_ack="perhaps, one day")
        assert (wrong.status, wrong.error) == (400, "GenericBadRequest")
        for _ in range(49):
            assert (await world.ask("POST", TO, b"x")).status == 202
        full = await world.ask("POST", TO, b"x")
        assert (full.status, full.error) == (403, "DeviceMaximumQueueDepthExceeded")

    async def test_expiry(self, world: World) -> None:
        await world.create("d1")
        soon = (world.clock.now() + timedelta(seconds=60)).isoformat().replace("+00:00", "Z")
        naive = (world.clock.now() + timedelta(seconds=60)).replace(tzinfo=None).isoformat()
        for text in (soon, naive):
            assert (await world.ask("POST", TO, b"x", iothub_expiry=text, iothub_ack="full")).status == 202
        world.clock.advance(61)
        assert await world.hub._parts.commands.lease("d1", 10) == ()


class TestFeedback:
    PATH = "/messages/serviceBound/feedback"

    async def test_read_then_completed(self, each_world: World) -> None:
        world = each_world
        made = await world.create("d1")
        assert (await world.ask("GET", self.PATH)).status == 204
        for ack in ("full", "none"):
            await world.ask("POST", TO, b"x", iothub_messageid=f"m-{ack}", iothub_ack=ack)
        await world.ask("DELETE", "/devices/d1/commands")
        answer = await world.ask("GET", self.PATH)
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/vnd.microsoft.iothub.feedback.json"
        (record,) = json.loads(answer.body)
        assert record.pop("enqueuedTimeUtc").endswith("Z")
        assert record == {
            "originalMessageId": "m-full",
            "statusCode": "purged",
            "description": "Message Purged",
            "deviceId": "d1",
            "deviceGenerationId": made["generationId"],
        }
        assert (await world.ask("GET", self.PATH)).status == 204  # locked
        token = answer.etag.strip('"')
        assert (await world.ask("POST", f"{self.PATH}/{token}/abandon")).status == 204
        again = (await world.ask("GET", self.PATH)).etag.strip('"')
        assert (await world.ask("DELETE", f"{self.PATH}/{again}")).status == 204
        lost = await world.ask("DELETE", f"{self.PATH}/{again}")
        assert (lost.status, lost.error) == (412, "DeviceMessageLockLost")

    async def test_only_services_with_the_right(self, world: World) -> None:
        for method, path in (("GET", ""), ("DELETE", "/x"), ("POST", "/x/abandon")):
            answer = await world.ask(method, self.PATH + path, token=world.service_token("registryReadWrite"))
            assert answer.status == 401

    async def test_a_device_that_takes_its_message_is_success(self, world: World) -> None:
        await world.create("d1")
        await world.ask("POST", TO, b"x", iothub_messageid="m1", iothub_ack="positive")
        taken = await world.ask("GET", TO, token=world.token("d1"))
        assert (taken.status, taken.headers["iothub-ack"]) == (200, "positive")
        await world.ask("DELETE", f"{TO}/{taken.etag.strip(chr(34))}", token=world.token("d1"))
        (record,) = json.loads((await world.ask("GET", self.PATH)).body)
        assert (record["originalMessageId"], record["statusCode"]) == ("m1", "success")

    async def test_a_name_that_is_too_long(self, world: World) -> None:
        await world.create("d1")
        assert (await world.ask("POST", TO, b"x", iothub_messageid="m" * 129)).status == 400
        assert (await world.ask("POST", TO, b"x", iothub_messageid="m" * 128)).status == 202


class TestEvents:
    async def test_read_in_pages(self, each_world: World) -> None:
        world = each_world
        await append(world, *(stored(n) for n in range(5)), stored(5, "d2"))
        page = await world.ask("GET", "/edgetrust/events?after=0&limit=3", version=None)
        assert [event["body"] for event in page.json["events"]] == [
            base64.b64encode(b"%d" % n).decode() for n in range(3)
        ]
        after = page.json["next"]
        assert [event["bodyText"] for event in await world.events(f"after={after}")] == ["3", "4", "5"]
        only = await world.events("after=0&device=d2")
        assert [event["device"] for event in only] == ["d2"]
        assert await world.events("after=latest") == []

    async def test_what_an_event_says(self, world: World) -> None:
        await append(world, stored(1, body=b"\xff", properties="%24.ct=a%2Fb&k=v&flag"))
        (event,) = await world.events()
        assert event["device"] == "d1"
        assert event["module"] is None
        assert event["systemProperties"] == {"$.ct": "a/b"}
        assert event["properties"] == {"k": "v", "flag": None}
        assert event["bodyText"] is None
        assert base64.b64decode(event["body"]) == b"\xff"
        assert event["enqueuedAt"].startswith("2027-01-15T08:00:00.001")

    async def test_waits_for_news(self, world: World) -> None:
        waiting = asyncio.create_task(world.events("after=latest&wait_seconds=30"))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await append(world, stored(1))
        assert [event["bodyText"] for event in await asyncio.wait_for(waiting, 20)] == ["1"]

    async def test_waits_no_longer_than_asked(self, world: World) -> None:
        begun = time.monotonic()
        assert await asyncio.wait_for(world.events("after=0&wait_seconds=0.2"), 20) == []
        assert time.monotonic() - begun > 0.15


async def test_consumers_remember_their_offset(each_world: World) -> None:
    path = "/edgetrust/consumers/night%20shift"
    assert (await each_world.ask("GET", path, version=None)).json == {"name": "night shift", "offset": 0}
    for offset in (7, 3, 2**53):
        assert (await each_world.ask("PUT", path, {"offset": offset}, version=None)).status == 200
        assert (await each_world.ask("GET", path, version=None)).json["offset"] == offset
    long = await each_world.ask("PUT", "/edgetrust/consumers/" + "x" * 500, {"offset": 1}, version=None)
    assert (long.status, long.error) == (400, "GenericBadRequest")
    assert (await each_world.ask("GET", "/edgetrust/consumers/other", version=None)).json["offset"] == 0


async def test_a_stopping_hub_does_not_wait_for_long_polls(world: World) -> None:
    waiting = asyncio.create_task(world.events("after=latest&wait_seconds=30"))
    await asyncio.sleep(0.2)
    async with asyncio.timeout(20):
        stopping = asyncio.create_task(world.hub.stop())
        assert await waiting == []
        await stopping
