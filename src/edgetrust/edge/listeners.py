"""The ports on which a gateway serves devices: MQTT, and HTTPS with everything that is offered there.

Both show the same certificate, and pass on to services elsewhere what is meant for those (`forwarding`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from aiohttp import web

from edgetrust.edge.forwarding import Forwarding
from edgetrust.edge.settings import Listen
from edgetrust.transport.http import HttpServer, serve_http
from edgetrust.transport.listener import Listener, serve
from edgetrust.transport.tls.contexts import ContextSlot, ServerContext

HTTPS_PORT = 443


@dataclass(frozen=True, slots=True)
class Listeners:
    """Two open ports."""

    mqtt: Listener
    https: HttpServer

    @classmethod
    async def open(
        cls,
        listen: Listen,
        slot: ContextSlot[ServerContext],
        accept: Callable[[], asyncio.Protocol],
        app: web.Application,
        forwarding: Forwarding,
    ) -> Self:
        """Serve. `accept` makes the protocol of an MQTT connection. Raises ConfigError; then neither port is open."""
        on_mqtt, on_https = forwarding.on_mqtt(), forwarding.on_https()
        mqtt = await serve(accept, slot, listen.host, listen.mqtt_port, label="mqtt", forwarder=on_mqtt)
        port = HTTPS_PORT if listen.https_port is None else listen.https_port
        try:
            return cls(mqtt, await serve_http(app, slot, listen.host, port, forwarder=on_https))
        except BaseException:
            await mqtt.close(0)
            raise

    async def close(self) -> None:
        """Stop accepting, let what is in progress finish within the grace period, cut the rest."""
        await asyncio.gather(self.mqtt.close(), self.https.close())
