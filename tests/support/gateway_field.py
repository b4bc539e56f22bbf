"""A hub and a gateway in this process, and between them links that can fail in every way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from edgetrust.clock import Clock, SystemClock
from edgetrust.edge.files import Layout
from edgetrust.edge.gateway import Gateway
from edgetrust.edge.settings import load_settings
from edgetrust.hub.pki import HubPki
from support.faulty_link import FaultyLink
from support.hub import World, until
from support.raw_mqtt import PUBACK, Raw, publish

GATEWAY, SENSOR = "gw", "sensor"


@dataclass
class Field:
    """A hub, a link for each of its ports, a gateway, and where its own trust is."""

    hub: World
    mqtt: FaultyLink
    https: FaultyLink
    gateway: Gateway
    root: Path
    sent: int = 0

    def fail(self, mode: str) -> None:
        self.mqtt.fail(mode)
        self.https.fail(mode)

    async def device(self, name: str = SENSOR) -> Raw:
        return await Raw.connect(self.gateway.mqtt_port, self.root, name, self.hub.token(name))

    async def send(self, raw: Raw, name: str = SENSOR) -> None:
        """One message, acknowledged by the gateway."""
        self.sent += 1
        raw.writer.write(publish(f"devices/{name}/messages/events/", b"%d" % self.sent, self.sent))
        async with asyncio.timeout(60):
            assert await raw.read() == (PUBACK, self.sent.to_bytes(2, "big"))

    async def at_hub(self, name: str = SENSOR) -> list[int]:
        found = [int(one["bodyText"]) for one in await self.hub.events() if one["device"] == name]
        first = list(dict.fromkeys(found))  # what was not acknowledged comes again
        assert first == sorted(first)
        return first

    async def all_arrived(self) -> bool:
        return await self.at_hub() == list(range(1, self.sent + 1))


@asynccontextmanager
async def field(tmp_path: Path, hub_pki: HubPki, hub: World, clock: Clock | None = None) -> AsyncIterator[Field]:
    """A gateway of that hub, by way of links."""
    await hub.gateway(GATEWAY)
    await hub.create(SENSOR, deviceScope=await hub.scope_of(GATEWAY))
    async with AsyncExitStack() as running_now:
        links = [await FaultyLink.start(port) for port in (hub.mqtt_port, hub.hub.https_port)]
        for link in links:
            running_now.push_async_callback(link.close)
        config = tmp_path / "config.toml"
        config.write_text(f"""
hostname = "localhost"
[provisioning]
source = "manual"
connection_string = "HostName=localhost;DeviceId={GATEWAY};SharedAccessKey={hub.keys[GATEWAY]}"
[edgetrust.gateway]
server_key = "ec-p256"
[edgetrust.listen]
host = "127.0.0.1"
mqtt_port = 0
https_port = 0
[edgetrust.upstream]
host = "127.0.0.1"
mqtt_port = {links[0].port}
https_port = {links[1].port}
ca = "file://{hub_pki.trust_bundle}"
""")
        gateway = await Gateway.start(load_settings(config), Layout(tmp_path / "edge"), clock or SystemClock())
        running_now.push_async_callback(gateway.stop)
        root = tmp_path / "edge-root.pem"
        root.write_text(gateway._certificates.issuer.chain.pem())
        made = Field(hub, *links, gateway, root)
        await until(lambda: is_connected(made))
        yield made


def is_connected(made: Field) -> bool:
    way = made.gateway._hub_side.upstream
    return way is not None and way.is_connected
