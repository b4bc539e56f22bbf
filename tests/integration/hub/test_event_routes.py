"""Routes of a running hub, as hub.toml names them: device to web service, NATS and file; filters of the monitor."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import nats
import pytest

from edgetrust.hub import routing
from edgetrust.hub.pki import HubPki
from edgetrust.hub.settings import load_settings
from support.hub import World, devices_pki, running, until
from support.receiver import nats_server, receiving

TOML = """
[hub]
name = "localhost"
[tls]
certificate = "c"
key = "k"
trust_bundle = "b"

[routing]
fallback = "rest"

[[routes]]
name = "hot"
condition = "$body.temperature > 30 AND level = 'high'"
endpoint = "alarms"

[[routes]]
name = "bus"
condition = "$connectionDeviceId = 'd2'"
endpoint = "bus"

[[routes]]
name = "kept"
condition = "kept = 'yes'"
endpoint = "events"

[endpoints.alarms]
type = "webhook"
url = "https://localhost:{webhook}/alarms"
ca = "roots.pem"
authorization_file = "secret"

[endpoints.bus]
type = "nats"
servers = ["nats://127.0.0.1:{nats}"]
subject = "iot.{{device}}"

[endpoints.rest]
type = "file"
path = "rest.jsonl"
"""


async def send(world: World, device: str, body: bytes, **properties: str) -> None:
    headers = {f"iothub_app_{name}": value for name, value in properties.items()}
    path = f"/devices/{device}/messages/events"
    assert (await world.ask("POST", path, body, token=world.token(device), **headers)).status == 204


async def test_from_device_to_endpoint(tmp_path: Path, hub_pki: HubPki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "ROUTE_RETRY_SECONDS", 0.05)
    pki = devices_pki()
    async with (
        receiving(pki.server("localhost"), tmp_path) as receiver,
        nats_server(tmp_path / "nats") as port,
    ):
        (tmp_path / "roots.pem").write_text(pki.bundle.pem())
        (tmp_path / "secret").write_text("Bearer abc\n")
        (tmp_path / "hub.toml").write_text(TOML.format(webhook=receiver.port, nats=port))
        routes = load_settings(tmp_path / "hub.toml").routing
        receiver.statuses = [503, 503]
        async with running(tmp_path / "data", hub_pki, routing=routes) as world:
            await world.create("d1")
            await world.create("d2")
            await send(world, "d1", b'{"temperature": 31}', level="high")
            await send(world, "d1", b'{"temperature": 29}', level="high")
            await send(world, "d1", b"not JSON", kept="yes")
            await send(world, "d2", b"for the bus")
            client = await nats.connect(f"nats://127.0.0.1:{port}")
            await client.jetstream().add_stream(name="IOT", subjects=["iot.>"])
            subscription = await client.jetstream().subscribe("iot.*")
            message = await subscription.next_msg(10)
            assert (message.subject, b"for the bus" in message.data) == ("iot.d2", True)
            await client.close()
            await until(lambda: receiver.texts == ['{"temperature": 31}'])
            assert {headers["Authorization"] for headers in receiver.headers} == {"Bearer abc"}
            assert {headers["Idempotency-Key"] for headers in receiver.headers} == {"localhost:1"}
            await until(Path(tmp_path / "rest.jsonl").exists)
            assert len((tmp_path / "rest.jsonl").read_text().splitlines()) == 1
            await until(lambda: all(state.offset == 4 for state in world.hub._parts.router.states))
            listed = (await world.ask("GET", "/edgetrust/routes", version=None)).json["routes"]
            assert [(one["name"], one["endpoint"], one["lag"], one["delivered"]) for one in listed] == [
                ("hot", "alarms", 0, 1), ("bus", "bus", 0, 1), ("$fallback", "rest", 0, 1),
            ]  # fmt: skip
            assert len(await world.events()) == 4  # the log has everything


async def test_the_log_is_read_with_a_condition(world: World) -> None:
    await world.create("d1")
    for number in range(10):
        await send(world, "d1", b'{"n": %d}' % number, parity="even" if number % 2 == 0 else "odd")
    where = quote("parity = 'even' AND $body.n >= 4")
    answer = (await world.ask("GET", f"/edgetrust/events?after=0&limit=7&where={where}", version=None)).json
    assert [event["bodyText"] for event in answer["events"]] == ['{"n": 4}', '{"n": 6}']
    assert answer["next"] == 7
    rest = await world.events(f"after=7&where={where}")
    assert [event["bodyText"] for event in rest] == ['{"n": 8}']
    wrong = await world.ask("GET", "/edgetrust/events?where=a%20b", version=None)
    assert (wrong.status, wrong.error) == (400, "GenericBadRequest")
    assert "it goes on where it should end" in wrong.json["Message"]
