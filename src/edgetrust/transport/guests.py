"""Guests: actors that share another actor's listeners, so that a hub, its provisioning service and its certificate
authority need one address and two ports (hub specification 2.1).

Rules:
1. A request belongs to the first guest that claims its path, a CONNECT to the first that claims its user name; what
   nobody claims is the host's.
2. Each keeps its own middlewares, error shapes and decisions: host and guest never see each other's requests.

It must not know what a guest is for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.web_urldispatcher import AbstractRuleMatching, MatchedSubAppResource

from edgetrust.protocol.mqtt.packets import Connect, Packet
from edgetrust.transport.http import application
from edgetrust.transport.mqtt.server import MqttHandler, MqttStream

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _none(_text: str) -> bool:
    return False


async def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Guest:
    """Who comes along: `app` answers requests whose path `paths` claims, `mqtt` makes the handler of a connection whose
    CONNECT has a user name that `users` claims. `close` is awaited when the host has closed its listeners.
    """

    name: str
    app: web.Application | None = None
    paths: Callable[[str], bool] = _none
    mqtt: Callable[[], MqttHandler] | None = None
    users: Callable[[str], bool] = _none
    close: Callable[[], Awaitable[None]] = _nothing


def shared_app(host: web.Application, guests: Sequence[Guest]) -> web.Application:
    """One application that serves `host` and the applications of `guests`; `host` itself when none has one."""
    apps = [(guest.app, _Claimed(guest.name, guest.paths)) for guest in guests if guest.app is not None]
    if not apps:
        return host
    front = application()
    front.middlewares.append(_each_its_own)
    for app, claimed in (*apps, (host, _Claimed("host", lambda _path: True))):
        app.freeze()
        front.router.register_resource(MatchedSubAppResource(claimed, app))
        front.on_startup.append(_passed_on(app.startup))
        front.on_shutdown.append(_passed_on(app.shutdown))
        front.on_cleanup.append(_passed_on(app.cleanup))
    return front


def shared_handler(host: Callable[[], MqttHandler], guests: Sequence[Guest]) -> Callable[[], MqttHandler]:
    """The maker of a connection's handler: a guest's or `host`'s, known with its CONNECT."""
    invited = [guest for guest in guests if guest.mqtt is not None]
    if not invited:
        return host
    return lambda: _Reception(host, invited)


@web.middleware
async def _each_its_own(request: web.Request, handler: Handler) -> web.StreamResponse:
    """aiohttp runs the middlewares of the applications inside only when the outer one has some."""
    return await handler(request)


def _passed_on(step: Callable[[], Any]) -> Callable[[web.Application], Any]:
    async def run(_front: web.Application) -> None:
        await step()

    return run


class _Claimed(AbstractRuleMatching):
    """aiohttp's rule for an application inside another, by path."""

    def __init__(self, name: str, paths: Callable[[str], bool]) -> None:
        self._name = name
        self._paths = paths

    @property
    def canonical(self) -> str:
        return self._name

    async def match(self, request: web.Request) -> bool:
        return self._paths(request.path)

    def get_info(self) -> Any:
        return {"domain": self._name}


class _Reception:
    """A connection before and after it is known whose it is."""

    __slots__ = ("_guests", "_handler")

    def __init__(self, host: Callable[[], MqttHandler], guests: Sequence[Guest]) -> None:
        self._handler = host()  # faults before the CONNECT are the host's to record
        self._guests = guests

    async def connect(self, packet: Connect, stream: MqttStream) -> None:
        name = packet.user_name or ""
        for guest in self._guests:
            if guest.mqtt is not None and guest.users(name):
                self._handler = guest.mqtt()
                break
        await self._handler.connect(packet, stream)

    def packets(self, packets: list[Packet]) -> None:
        self._handler.packets(packets)

    def lost(self, cause: str, clean: bool) -> None:
        self._handler.lost(cause, clean)
