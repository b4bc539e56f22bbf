"""Twins at a running hub: services over HTTPS, devices by paho."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from support.hub import NAME, World, until
from support.mosquitto import Device, device, wait

RES = "$iothub/twin/res/#"
DESIRED = "$iothub/twin/PATCH/properties/desired/#"
REPORT = "$iothub/twin/PATCH/properties/reported/?$rid={}"
OTHER = base64.b64encode((99).to_bytes(8, "big")).decode()


async def subscribe(client: Device, *filters: str) -> None:
    for text in filters:
        before = len(client.granted)
        client.client.subscribe(text, 1)
        await wait(lambda before=before: len(client.granted) > before)


def said(client: Device) -> list[tuple[str, Any]]:
    return [(message.topic, json.loads(message.payload) if message.payload else "") for message in client.got]


class TestServices:
    @pytest.mark.parametrize("path", ["/twins/d1", "/twins/d1/modules/m1"])
    async def test_a_new_twin(self, world: World, path: str) -> None:
        made = await world.create("d1")
        module = await world.create_module("d1", "m1")
        answer = await world.ask("GET", path)
        assert (answer.status, answer.etag) == (200, '"AAAAAAAAAAE="')
        twin = answer.json
        assert twin["deviceId"] == "d1"
        assert twin.get("moduleId") == ("m1" if "m1" in path else None)
        assert twin["deviceEtag"] == (module if "m1" in path else made)["etag"]
        assert (twin["version"], twin["etag"], twin["tags"]) == (1, "AAAAAAAAAAE=", {})
        assert (twin["status"], twin["connectionState"]) == ("enabled", "Disconnected")
        assert (twin["lastActivityTime"], twin["statusUpdateTime"]) == ("0001-01-01T00:00:00Z",) * 2
        assert (twin["authenticationType"], twin["modelId"]) == ("sas", "")
        assert twin["x509Thumbprint"] == {"primaryThumbprint": None, "secondaryThumbprint": None}
        assert twin["properties"]["reported"]["$version"] == 1
        assert twin["properties"]["desired"]["$metadata"]["$lastUpdatedVersion"] == 1
        assert twin.get("capabilities") == (None if "m1" in path else {"iotEdge": False})

    @pytest.mark.parametrize("path", ["/twins/d1", "/twins/d1/modules/m1"])
    async def test_patched_then_replaced(self, each_world: World, path: str) -> None:
        world = each_world
        await world.create("d1")
        await world.create_module("d1", "m1")
        body = {"tags": {"site": "n"}, "properties": {"desired": {"a": {"b": 1, "c": 2}}}}
        patched = await world.ask("PATCH", path, body, If_Match='"AAAAAAAAAAE="')
        assert patched.status == 200
        assert patched.json["properties"]["desired"]["$version"] == 2
        again = await world.ask("PATCH", path, {"properties": {"desired": {"a": {"b": None}}}}, If_Match="*")
        desired = again.json["properties"]["desired"]
        assert (desired["a"], desired["$version"]) == ({"c": 2}, 3)
        assert desired["$metadata"]["a"]["c"]["$lastUpdatedVersion"] == 2
        replaced = await world.ask("PUT", path, {"properties": {"desired": {"x": 1}}}, If_Match=again.json["etag"])
        assert replaced.status == 200
        assert replaced.json == (await world.ask("GET", path)).json
        assert (replaced.json["tags"], replaced.json["version"]) == ({}, 4)
        assert replaced.etag == f'"{replaced.json["etag"]}"'

    async def test_what_was_read_can_be_sent_back(self, world: World) -> None:
        await world.create("d1")
        first = (await world.ask("PATCH", "/twins/d1", {"properties": {"desired": {"a": 1}}})).json
        first["properties"]["desired"]["a"] = 2
        again = await world.ask("PUT", "/twins/d1", first, If_Match=f'"{first["etag"]}"')
        assert again.json["properties"]["desired"]["a"] == 2

    @pytest.mark.parametrize(
        ("method", "path", "body", "headers", "status", "error"),
        [
            ("GET", "/twins/d9", None, {}, 404, "DeviceNotFound"),
            ("GET", "/twins/d1/modules/m9", None, {}, 404, "ModuleNotFound"),
            ("PATCH", "/twins/d9", {}, {}, 404, "DeviceNotFound"),
            ("PATCH", "/twins/d1", {"tags": {"a": 1}}, {"If_Match": f'"{OTHER}"'}, 412, "PreconditionFailed"),
            ("PUT", "/twins/d1", {"tags": {"a": 1}}, {"If_Match": OTHER}, 412, "PreconditionFailed"),
            ("PATCH", "/twins/d1", {"properties": {"desired": {"$version": 7, "a": 1}}}, {}, 412, "PreconditionFailed"),
            ("PATCH", "/twins/d1", b"{", {}, 400, "IotHubFormatError"),
            ("PATCH", "/twins/d1", [], {}, 400, "ArgumentInvalid"),
            ("PATCH", "/twins/d1", {"tags": {"a.b": 1}}, {}, 400, "ArgumentInvalid"),
            ("PUT", "/twins/d1", {"tags": {f"k{n}": "x" * 4000 for n in range(3)}}, {}, 400, "ArgumentInvalid"),
        ],
    )
    async def test_refused(
        self, world: World, method: str, path: str, body: object, headers: dict[str, str], status: int, error: str
    ) -> None:
        await world.create("d1")
        before = (await world.ask("GET", "/twins/d1")).json
        answer = await world.ask(method, path, body, **headers)
        assert (answer.status, answer.error) == (status, error)
        assert (await world.ask("GET", "/twins/d1")).json == before

    async def test_only_services_with_the_right(self, world: World) -> None:
        await world.create("d1")
        for token in (world.token("d1"), world.service_token("registryReadWrite"), None):
            for method, body in (("GET", None), ("PATCH", {"tags": {"a": 1}}), ("PUT", {})):
                assert (await world.ask(method, "/twins/d1", body, token=token)).status == 401
        assert (await world.ask("GET", "/twins/d1", token=world.service_token("service"))).status == 200


class TestDevices:
    async def test_asks_reports_and_is_told(self, each_world: World) -> None:
        world = each_world
        await world.create("d1")
        await world.ask("PATCH", "/twins/d1", {"tags": {"secret": 1}, "properties": {"desired": {"rate": 5}}})
        with device(world, "d1") as client:
            await wait(lambda: client.code == 0)
            await subscribe(client, RES, DESIRED)
            client.client.publish("$iothub/twin/GET/?$rid=1", b" ", 1)
            await wait(lambda: len(client.got) == 1)
            client.client.publish(REPORT.format(2), b'{"t":21,"$version":1}', 1)
            await wait(lambda: len(client.got) == 2)
            await world.ask("PATCH", "/twins/d1", {"properties": {"desired": {"rate": None, "on": True}}})
            await wait(lambda: len(client.got) == 3)
            client.client.publish(REPORT.format(3), b'{"t":22,"$version":1}', 0)
            await wait(lambda: len(client.got) == 4)
            assert len(client.acknowledged) == 3
            (get, report, told, (conflict, error)) = said(client)
        assert get == (
            "$iothub/twin/res/200/?$rid=1",
            {"desired": {"rate": 5, "$version": 2}, "reported": {"$version": 1}},
        )
        assert report == ("$iothub/twin/res/204/?$rid=2&$version=2", "")
        assert told == (
            "$iothub/twin/PATCH/properties/desired/?$version=3",
            {"rate": None, "on": True, "$version": 3},
        )
        assert (conflict, error["errorCode"]) == ("$iothub/twin/res/412/?$rid=3", 412001)
        reported = (await world.ask("GET", "/twins/d1")).json["properties"]["reported"]
        assert (reported["t"], reported["$version"]) == (21, 2)

    async def test_a_module_has_its_own_twin(self, world: World) -> None:
        await world.create("d1")
        await world.create_module("d1", "m1")
        with device(world, "d1/m1") as client, device(world, "d1") as other:
            await wait(lambda: client.code == 0 and other.code == 0)
            await subscribe(client, DESIRED)
            await subscribe(other, DESIRED)
            await world.ask("PATCH", "/twins/d1/modules/m1", {"properties": {"desired": {"a": 1}}})
            await wait(lambda: len(client.got) == 1)
            client.client.publish(REPORT.format(1), b'{"b":2}', 1)
            await wait(lambda: len(client.got) == 2)
            assert other.got == []
        assert (await world.ask("GET", "/twins/d1/modules/m1")).json["properties"]["reported"]["b"] == 2
        assert (await world.ask("GET", "/twins/d1")).json["properties"]["reported"]["$version"] == 1

    async def test_back_after_a_cut_it_is_told_without_a_new_subscribe(self, world: World) -> None:
        await world.create("d1")
        with device(world, "d1") as client:
            await wait(lambda: client.code == 0)
            await subscribe(client, DESIRED)
            client.cut()
            await wait(lambda: client.lost is not None)
        with device(world, "d1") as again:
            await wait(lambda: again.code == 0)
            assert again.present
            await world.ask("PATCH", "/twins/d1", {"properties": {"desired": {"a": 1}}})
            await wait(lambda: len(again.got) == 1)
            again.client.publish("$iothub/twin/GET/?$rid=1", b" ", 1)  # never subscribed to the answers
            await wait(lambda: len(again.got) == 2)

    async def test_the_model_and_the_product_it_names_are_shown(self, world: World) -> None:
        await world.create("d1")
        name = f"{NAME}/d1/?api-version=2020-09-30&DeviceClientType=acme%2F1&model-id=dtmi%3Aacme%3Apump%3B1"
        with device(world, "d1", user_name=name) as client:
            await wait(lambda: client.code == 0)

            async def shown() -> bool:
                twin = (await world.ask("GET", "/twins/d1")).json
                return (twin["modelId"], twin["productInfo"], twin["connectionState"]) == (
                    "dtmi:acme:pump;1",
                    "acme/1",
                    "Connected",
                )

            await until(shown)

    async def test_a_twin_survives_a_restart_of_its_device_but_not_of_its_identity(self, world: World) -> None:
        await world.create("d1")
        await world.ask("PATCH", "/twins/d1", {"tags": {"a": 1}})
        await world.ask("DELETE", "/devices/d1")
        assert (await world.ask("GET", "/twins/d1")).status == 404
        await world.create("d1")
        assert (await world.ask("GET", "/twins/d1")).json["tags"] == {}
