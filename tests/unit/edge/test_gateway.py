"""A whole gateway in this process. Its hub answers HTTPS only: devices are served without the connection upstream."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edgetrust.clock import SystemClock
from edgetrust.edge import gateway as module
from edgetrust.edge import opensessions, upkeep
from edgetrust.edge.edgeca import EdgeCaFiles
from edgetrust.edge.files import Layout
from edgetrust.edge.gateway import Gateway
from edgetrust.edge.listeners import Listeners
from edgetrust.edge.services import Services
from edgetrust.edge.settings import Settings
from edgetrust.errors import ConfigError, Error
from edgetrust.pki.chain import TrustBundle
from edgetrust.protocol.mqtt.packets import Connect
from edgetrust.protocol.sas import resource_text, sign
from edgetrust.store.twin_copies import TwinCopy
from edgetrust.transport.mqtt import ConnackError, MqttClient, connect_mqtt
from edgetrust.transport.tls.contexts import ClientContext
from edgetrust.trust.identity import Identity
from support.fake_hub import Asked, FakeHub
from support.pki import Holder

KEY = b"p" * 32
KEYS = {"primaryKey": "cHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHA="}
KEYS["secondaryKey"] = KEYS["primaryKey"]


class Story:
    """A gateway with an Edge CA from files and one sensor below it."""

    def __init__(self, hub: FakeHub, settings: Settings, folder: Path) -> None:
        self.hub = hub
        self.folder = folder
        self.layout = Layout(folder / "root")
        self.enabled = True
        self.is_child = True
        hub.answers["GET $edgeHub"] = (200, {"generationId": "638"})
        hub.answers["PUT $edgeHub"] = (200, {"generationId": "638"})
        hub.answers["POST devicesAndModulesInTargetDeviceScope"] = self.scope
        hub.answers["POST getDeviceAndModuleOnBehalfOf"] = self.scope
        self.settings = replace(
            settings, hostname="localhost", edge_ca=EdgeCaFiles(folder / "ca.pem", folder / "ca.key")
        )
        self.edge_ca("first edge ca")
        self.gateway: Gateway | None = None

    def scope(self, _: Asked) -> tuple[int, Any]:
        status = "enabled" if self.enabled else "disabled"
        sensor = {
            "deviceId": "Sensor",
            "status": status,
            "authentication": {"type": "sas", "symmetricKey": KEYS},
        }
        return 200, {"devices": [sensor] if self.is_child else [], "modules": [], "continuationLink": None}

    def edge_ca(self, name: str, **fields: Any) -> Holder:
        ca = self.hub.pki.issuing.authority(name, **{"now": self.hub.pki.now, "path_length": 0, **fields})
        (self.folder / "ca.pem").write_text(ca.full_chain.pem())
        (self.folder / "ca.key").write_bytes(ca.key_pem())
        return ca

    async def start(self) -> Gateway:
        self.gateway = await Gateway.start(self.settings, self.layout, SystemClock())
        return self.gateway

    async def connect(self, *, life: float = 600, key: bytes = KEY) -> MqttClient:
        assert self.gateway is not None
        expires_at = int(SystemClock().now().timestamp() + life)
        token = sign(key, resource_text("hub.example", "Sensor"), expires_at)
        connect = Connect("Sensor", "hub.example/Sensor/?api-version=2021-04-12", token.encode())
        bundle = TrustBundle((self.hub.pki.root.certificate,), as_of=self.hub.pki.now)
        context = ClientContext(bundle)
        return await connect_mqtt("127.0.0.1", self.gateway.mqtt_port, context, connect, server_name="localhost")


@pytest.fixture
async def story(hub: FakeHub, settings_for: Callable[[FakeHub], Settings], tmp_path: Path) -> AsyncIterator[Story]:
    made = Story(hub, settings_for(hub), tmp_path)
    yield made
    if made.gateway is not None:
        await made.gateway.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "CERTIFICATE_CHECK_SECONDS", 0.02)
    monkeypatch.setattr(upkeep, "CERTIFICATE_LEAST_CHECK_SECONDS", 0.02)
    monkeypatch.setattr(module, "_TICK_SECONDS", 0.02)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


async def test_a_device_is_served_without_the_connection_and_its_message_is_kept(story: Story) -> None:
    gateway = await story.start()
    client = await story.connect()
    await client.publish("devices/Sensor/messages/events/", b"1")
    state = await gateway.state()
    assert state["queue"]["messages"] == 1
    assert state["sessions"] == 1
    assert not state["upstream"]["connected"]
    assert state["pid"] == os.getpid()
    written = json.loads(story.layout.status.read_text())
    assert written["identity"] == {"hub": "hub.example", "device": "EdgeGateway", "generation": "638"}
    await client.disconnect()
    with pytest.raises(ConnackError):
        await story.connect(key=b"x" * 32)
    await gateway.stop()
    story.gateway = None
    assert not story.layout.status.exists()
    await story.hub.stop()
    gateway = await story.start()
    assert (await gateway.state())["queue"]["messages"] == 1
    await (await story.connect()).disconnect()
    await story.hub.start()


async def test_a_new_edge_ca_is_swapped_in_and_drops_nobody(story: Story) -> None:
    gateway = await story.start()
    client = await story.connect()
    await until(lambda: gateway._in_use.server.chain.certificates[1].subject.rfc4514_string() == "CN=first edge ca")
    story.edge_ca("second edge ca")
    await until(lambda: gateway._in_use.server.chain.certificates[1].subject.rfc4514_string() == "CN=second edge ca")
    assert gateway._in_use.slot.current.chain == gateway._in_use.server.chain
    assert client.is_open
    await client.publish("devices/Sensor/messages/events/", b"still here")
    await client.disconnect()


async def test_a_bad_replacement_is_reported_and_the_old_stays(
    story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = await story.start()
    old = gateway._in_use.server.chain
    story.edge_ca("expired edge ca", begin=-timedelta(days=9), end=-timedelta(days=1))
    said = ""

    def reported() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return "edge-ca-expired" in said

    await until(reported)
    assert gateway._in_use.server.chain == old
    story.edge_ca("good again")
    await until(lambda: gateway._in_use.server.chain != old)


async def test_what_is_wrong_with_one_certificate_keeps_no_other_from_being_replaced(
    story: Story, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = await story.start()
    old = gateway._in_use.server.chain

    def full() -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gateway._certificates, "refresh_device_identity", full)
    story.edge_ca("another edge ca")
    said: list[str] = []

    def told() -> bool:  # the first look may have begun before the disk was full
        said.append(capsys.readouterr().out)
        return "No space left on device" in "".join(said)

    await until(told)
    await until(lambda: gateway._in_use.server.chain != old)
    monkeypatch.undo()
    monkeypatch.setattr(upkeep, "CERTIFICATE_CHECK_SECONDS", 3600.0)
    monkeypatch.setattr(upkeep, "CERTIFICATE_LEAST_CHECK_SECONDS", 3600.0)
    await asyncio.sleep(0.05)
    old = gateway._in_use.server.chain
    story.edge_ca("a third")
    await gateway.reread(story.settings)  # does not wait for the hour to pass
    await until(lambda: gateway._in_use.server.chain != old)


async def test_what_else_changed_in_the_configuration_waits_for_the_next_start_and_says_so(
    story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = await story.start()
    old = gateway._in_use.server.chain
    await gateway.reread(replace(story.settings, queue_bytes=1, retries=7))
    assert "changed, from the next start on: queue_bytes, retries" in capsys.readouterr().out
    assert gateway._in_use.server.chain == old
    assert gateway.settings == story.settings


async def test_a_disabled_device_is_closed_and_an_expired_token_too(story: Story) -> None:
    gateway = await story.start()
    await until(lambda: gateway._registry.as_of is not None)
    client = await story.connect()
    story.enabled = False
    gateway._hub_side.synchronise_soon()
    async with asyncio.timeout(60):
        assert await client.wait_closed()
    story.enabled = True
    gateway._hub_side.synchronise_soon()
    await until(lambda: any(one.enabled for one in gateway._registry._known.values()))
    late = await story.connect(life=-298)
    async with asyncio.timeout(60):
        await late.wait_closed()


async def test_the_twin_of_who_leaves_is_forgotten_at_once_or_at_the_next_start(story: Story) -> None:
    gateway = await story.start()
    await until(lambda: gateway._registry.as_of is not None)
    copies = gateway._children._copies
    sensor, own = Identity("hub.example", "Sensor"), Identity("hub.example", "EdgeGateway", "$edgeHub")
    for identity in (sensor, own):
        await copies.keep(identity, TwinCopy({"rate": 1}, 1))
    await gateway._children.resume(gateway._decided.left)
    assert set(await copies.everybody("hub.example")) == {sensor, own}
    story.is_child = False
    gateway._hub_side.synchronise_soon()
    async with asyncio.timeout(60):
        while sensor in await copies.everybody("hub.example"):
            await asyncio.sleep(0.01)
    await copies.keep(sensor, TwinCopy({"rate": 1}, 1))  # as when it was killed in between
    await gateway.stop()
    gateway = await story.start()
    async with asyncio.timeout(60):
        while sensor in await gateway._children._copies.everybody("hub.example"):
            await asyncio.sleep(0.01)
    assert await gateway._children._copies.everybody("hub.example") == (own,)


async def test_everybody_is_decided_again_when_the_cas_change(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opensessions, "REAUTHENTICATE_SECONDS", 0.02)
    gateway = await story.start()
    client = await story.connect()
    decided: list[str] = []
    original = gateway._door.decide_again

    async def noted(session: Any) -> Any:
        decided.append(str(session.identity))
        return await original(session)

    monkeypatch.setattr(gateway._door, "decide_again", noted)
    gateway._decided.changed(None)
    await until(lambda: len(decided) > 3)
    assert client.is_open
    await client.disconnect()


async def test_a_module_of_another_generation_gets_another_certificate(story: Story) -> None:
    gateway = await story.start()
    story.hub.answers["GET $edgeHub"] = (200, {"generationId": "639"})
    story.hub.answers["PUT $edgeHub"] = (200, {"generationId": "639"})
    gateway._hub_side._sure = False
    await until(lambda: ":639:" in gateway._in_use.server.certificate_id)


async def test_two_gateways_below_one_root_are_one_too_many(story: Story) -> None:
    await story.start()
    with pytest.raises(ConfigError, match="another gateway runs"):
        await Gateway.start(story.settings, story.layout, SystemClock())


async def test_a_start_that_fails_leaves_nothing_open(story: Story) -> None:
    story.edge_ca("expired edge ca", begin=-timedelta(days=9), end=-timedelta(days=1))
    with pytest.raises(Error):
        await story.start()
    story.edge_ca("good")
    await story.start()


async def test_a_start_that_fails_late_leaves_no_port_open(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Listeners] = []
    original = Listeners.open

    async def noted(*arguments: Any) -> Listeners:
        opened.append(await original(*arguments))
        return opened[0]

    async def unwilling(_: Services) -> None:
        assert opened[0].mqtt.port > 0 < opened[0].https.port
        raise ConfigError("no", reason="config-unwritable")

    monkeypatch.setattr(Listeners, "open", noted)
    monkeypatch.setattr(Services, "open", unwilling)
    with pytest.raises(ConfigError):
        await story.start()
    assert (opened[0].mqtt.port, opened[0].https.port) == (0, 0)


async def test_a_state_that_cannot_be_written_stops_nothing(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    gateway = await story.start()

    def unwilling(_: Any) -> None:
        raise ConfigError("no", reason="config-unwritable")

    gateway._state.write = unwilling  # type: ignore[method-assign]
    said = ""

    def reported() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return "state_not_written" in said

    await until(reported)
    await (await story.connect()).disconnect()
