"""Whether a gateway lives and is ready, and its metrics as Prometheus wants them.

    /edgetrust/health/live     200 while the event loop turns
    /edgetrust/health/ready    200 while devices are served as they should be; else 503, and which check says why not
    /metrics                   on the port for metrics only

Rules: a hub that is away is no reason not to be ready: that is what a gateway is for. The port for metrics speaks HTTP
without TLS and listens on the loopback unless told otherwise, as labels name devices. One that is taken already is no
reason not to start, unless it was asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog
from aiohttp import web
from prometheus_client import generate_latest

from edgetrust.clock import Clock
from edgetrust.edge.holding import Holding
from edgetrust.edge.metrics import GatewayMetrics
from edgetrust.edge.routing import endpoint_name
from edgetrust.edge.scope import ScopeRegistry
from edgetrust.edge.settings import MetricsPlace
from edgetrust.errors import ConfigError, Error
from edgetrust.pki.chain import Chain
from edgetrust.store.queues import ForwardQueue
from edgetrust.telemetry import EVENT_METRICS_NOT_SERVED
from edgetrust.transport.http import application

LIVE: Final = "/edgetrust/health/live"
READY: Final = "/edgetrust/health/ready"
METRICS_PATH: Final = "/metrics"
_NOT_READY: Final = 503
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of being ready."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Watched:
    """What there is to look at. `certificates` are those in use, by name, that of the server first."""

    device: str
    queue: ForwardQueue
    holding: Holding
    registry: ScopeRegistry
    certificates: Callable[[], dict[str, Chain]]
    connected: Callable[[], bool]
    sessions: Callable[[], int]


class Health:
    """The state of one gateway, for whoever asks."""

    def __init__(self, watched: Watched, metrics: GatewayMetrics, clock: Clock) -> None:
        self._watched = watched
        self._metrics = metrics
        self._clock = clock

    async def checks(self) -> list[Check]:
        """What being ready needs, and whether it is so."""
        watched = self._watched
        registry, held = watched.registry, watched.holding.problem
        name, chain = next(iter(watched.certificates().items()))
        begin, end = chain.end_entity.not_valid_before_utc, chain.end_entity.not_valid_after_utc
        return [
            Check("scope", len(registry) > 0, f"{len(registry)} identities, as of {registry.as_of}"),
            Check("certificate", begin <= self._clock.now() < end, f"{name} is valid from {begin} to {end}"),
            await self._store(),
            Check("queues", held is None, "they take messages" if held is None else f"{held.reason}: {held.message}"),
        ]

    async def _store(self) -> Check:
        try:
            status = await self._watched.queue.status()
        except Error as problem:
            return Check("store", False, f"{problem.reason}: {problem.message}")
        return Check("store", True, f"{status.messages} messages wait")

    async def measure(self) -> bytes:
        """The metrics as of now, in Prometheus' text format. Raises the store's errors."""
        watched, metrics, now = self._watched, self._metrics, self._clock.now()
        lanes = await watched.queue.lanes()
        names = [(endpoint_name(watched.device, lane.queue, lane.input), str(lane.priority)) for lane in lanes]
        ages = [0.0 if lane.oldest_at is None else (now - lane.oldest_at).total_seconds() for lane in lanes]
        metrics.queue_length.set({name: lane.messages for name, lane in zip(names, lanes, strict=True)})
        metrics.queue_bytes.set({name: lane.bytes for name, lane in zip(names, lanes, strict=True)})
        metrics.queue_age.set({name: max(0.0, age) for name, age in zip(names, ages, strict=True)})
        metrics.queue_limit.set({(): watched.queue.limit_bytes})
        as_of = watched.registry.as_of
        metrics.cache_age.set({} if as_of is None else {(): max(0.0, (now - as_of).total_seconds())})
        metrics.cache_size.set({(): len(watched.registry)})
        metrics.connected_clients.set({(): watched.sessions()})
        metrics.upstream_up.set({(): float(watched.connected())})
        metrics.certificate_ends.set(
            {(name,): one.end_entity.not_valid_after_utc.timestamp() for name, one in watched.certificates().items()}
        )
        metrics.ready.set({(): float(all(check.ok for check in await self.checks()))})
        return generate_latest(metrics.registry)

    def add_to(self, app: web.Application) -> None:
        """Add the routes about health."""
        app.router.add_get(LIVE, self._live)
        app.router.add_get(READY, self._ready)

    async def _live(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "live"})

    async def _ready(self, _request: web.Request) -> web.Response:
        checks = await self.checks()
        ready = all(check.ok for check in checks)
        body = {
            "status": "ready" if ready else "not ready",
            "upstream": "connected" if self._watched.connected() else "away",
            "checks": [{"name": one.name, "ok": one.ok, "detail": one.detail} for one in checks],
        }
        return web.json_response(body, status=200 if ready else _NOT_READY)

    async def _page(self, _request: web.Request) -> web.Response:
        try:
            page = await self.measure()
        except Error as problem:
            return web.Response(text=f"{problem.reason}: {problem.message}\n", status=_NOT_READY)
        return web.Response(body=page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def serve(self, place: MetricsPlace) -> tuple[int, Callable[[], Awaitable[None]]] | None:
        """Serve the metrics: the port, and how to end it; None where they are not served. Raises ConfigError."""
        if not place.enabled:
            return None
        app = application()
        self.add_to(app)
        app.router.add_get(METRICS_PATH, self._page)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        try:
            await web.TCPSite(runner, place.host, place.port).start()
        except OSError as problem:
            await runner.cleanup()
            detail = f"metrics cannot be served on {place.host}:{place.port}: {problem.strerror}"
            if place.asked_for:
                fix = "set another edgetrust.metrics.port, 0 for any free one, or enabled = false"
                raise ConfigError(detail, reason="metrics-port-unusable", fix=fix) from problem
            _log.warning(EVENT_METRICS_NOT_SERVED, detail=detail)
            return None
        return int(runner.addresses[0][1]), runner.cleanup
