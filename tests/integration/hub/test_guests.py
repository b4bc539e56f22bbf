"""Actors that share the hub's listeners: each gets its own requests and connections, with its own rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from aiohttp import web

from edgetrust.hub.pki import HubPki
from edgetrust.hub.service import Hub
from edgetrust.protocol.mqtt.encoding import encode
from edgetrust.protocol.mqtt.packets import Connack, Connect, Packet
from edgetrust.transport.guests import Guest
from edgetrust.transport.mqtt.server import MqttStream
from support.hub import running
from support.mosquitto import device, wait


class Refusing:
    """A guest's MQTT side: tells everybody to come later, and writes down who came."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    async def connect(self, packet: Connect, stream: MqttStream) -> None:
        self.names.append(packet.user_name or "")
        stream.send(encode(Connack(False, 3)))
        stream.close("come later")

    def packets(self, packets: list[Packet]) -> None:
        raise AssertionError(packets)

    def lost(self, cause: str, clean: bool) -> None:
        self.names.append(cause)


class Visit:
    """A guest, and what happened to it."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.names: list[str] = []

    async def invite(self, hub: Hub) -> Sequence[Guest]:
        await hub.parts.identities.last_change()  # the store is open
        app = web.Application(middlewares=[self._marked])
        app.add_routes([web.get("/{scope}/registrations/{id}", self._answer)])
        app.on_startup.append(lambda _app: self._step("start"))
        app.on_cleanup.append(lambda _app: self._step("cleanup"))
        here, there = (lambda path: "/registrations/" in path), (lambda name: "/registrations/" in name)
        return [Guest("dps", app, here, lambda: Refusing(self.names), there, lambda: self._step("close"))]

    async def _step(self, name: str) -> None:
        self.steps.append(name)

    async def _answer(self, request: web.Request) -> web.Response:
        return web.json_response(dict(request.match_info))

    @web.middleware
    async def _marked(self, request: web.Request, handler: object) -> web.StreamResponse:
        try:
            answer: web.StreamResponse = await handler(request)  # type: ignore[operator]
        except web.HTTPNotFound:
            answer = web.json_response({"guest": "unknown"}, status=404)
        answer.headers["X-Guest"] = "dps"
        return answer


async def test_requests_go_to_whom_they_are_for(tmp_path: Path, hub_pki: HubPki) -> None:
    visit = Visit()
    async with running(tmp_path, hub_pki, invite=visit.invite) as world:
        theirs = await world.ask("GET", "/0ne001/registrations/r%201", version=None, token=None)
        assert (theirs.status, theirs.json) == (200, {"scope": "0ne001", "id": "r 1"})
        assert theirs.headers["X-Guest"] == "dps"
        unknown = await world.ask("GET", "/0ne001/registrations/r1/nothing", token=None)
        assert (unknown.status, unknown.json) == (404, {"guest": "unknown"})  # in the guest's shape
        ours = await world.ask("GET", "/nothing")
        assert (ours.status, ours.error) == (404, "GenericNotFound")
        assert "X-Guest" not in ours.headers
        assert (await world.ask("GET", "/devices")).json == []
        large = await world.ask("PUT", "/devices/d1", b"x" * 3_000_000)
        assert large.status == 413
    assert visit.steps == ["start", "cleanup", "close"]


@pytest.mark.parametrize("websocket", [False, True])
async def test_connections_go_to_whom_they_are_for(tmp_path: Path, hub_pki: HubPki, websocket: bool) -> None:
    visit = Visit()
    name = "0ne001/registrations/d1/api-version=2019-03-31"
    async with running(tmp_path, hub_pki, invite=visit.invite) as world:
        await world.create("d1")
        with device(world, "d1", user_name=name, websocket=websocket) as client:
            await wait(lambda: client.code is not None)
            assert client.code == 3
        with device(world, "d1", websocket=websocket) as client:
            await wait(lambda: client.code is not None)
            assert client.code == 0
        await wait(lambda: len(visit.names) == 2)
    assert visit.names == [name, "come later"]
