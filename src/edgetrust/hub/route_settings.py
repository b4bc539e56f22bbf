"""Routes and endpoints as hub.toml names them, checked and made.

Checked when the file is read, so that a hub does not start with a route that cannot be: names, conditions, addresses.
Opened when the hub starts: CA files, secrets, NATS.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, assert_never
from urllib.parse import urlsplit

import msgspec

from edgetrust.config import read_text
from edgetrust.errors import ConfigError
from edgetrust.hub.endpoints import FileEndpoint, LogEndpoint, RouteEndpoint, WebhookEndpoint
from edgetrust.hub.routing import Route
from edgetrust.limits import CONSUMER_CHARACTERS, ROUTE_CONCURRENCY_MAX, ROUTES
from edgetrust.pki.chain import ChainError, TrustBundle
from edgetrust.pki.keys import SecretText
from edgetrust.protocol.expressions import Expression, ExpressionError, parse_expression
from edgetrust.transport.http import https_context

EVENTS = "events"  # the built-in endpoint: the event log itself
FALLBACK = "$fallback"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_Concurrency = Annotated[int, msgspec.Meta(ge=1, le=ROUTE_CONCURRENCY_MAX)]


class LogTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="log"):
    """`type = "log"`."""


class FileTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="file"):
    """`type = "file"`."""

    path: str


class WebhookTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="webhook"):
    """`type = "webhook"`."""

    url: str
    ca: str | None = None
    authorization_file: str | None = None
    concurrency: _Concurrency = 4


class NatsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="nats"):
    """`type = "nats"`."""

    servers: tuple[str, ...]
    subject: str
    stream: str | None = None
    ca: str | None = None
    credentials: str | None = None
    concurrency: _Concurrency = 16


EndpointTable = LogTable | FileTable | WebhookTable | NatsTable


class RouteTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of `[[routes]]`."""

    name: str
    endpoint: str
    condition: str = "true"
    enabled: bool = True
    begin: Literal["latest", "oldest"] = "latest"


class RoutingTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[routing]`."""

    fallback: str = EVENTS


@dataclass(frozen=True, slots=True)
class RoutingSettings:
    """Routes that deliver somewhere, and the endpoints they name; paths are relative to `base`."""

    routes: tuple[Route, ...] = ()
    endpoints: tuple[tuple[str, EndpointTable], ...] = ()
    base: Path = Path()

    def open_endpoints(self, hub: str, now: datetime) -> dict[str, RouteEndpoint]:
        """Every endpoint that a route uses. Raises ConfigError."""
        used = {route.endpoint for route in self.routes}
        return {name: _open(name, table, self.base, hub, now) for name, table in self.endpoints if name in used}


def routing_settings(
    source: str, base: Path, tables: Sequence[RouteTable], endpoints: Mapping[str, EndpointTable], routing: RoutingTable
) -> RoutingSettings:
    """Check what the file says. Raises ConfigError, naming the route or endpoint."""
    if len(tables) > ROUTES:
        raise _wrong(source, f"more than {ROUTES} routes", "put conditions together with OR")
    if EVENTS in endpoints:
        raise _wrong(source, f"endpoints.{EVENTS} is built in", "give the endpoint another name")
    for name, endpoint in endpoints.items():
        _check_endpoint(f"{source}: endpoints.{name}", endpoint)
    seen: set[str] = set()
    for table in tables:
        _check_route(source, table, endpoints, seen)
    enabled = [(table, _condition(source, table)) for table in tables if table.enabled]
    routes = [
        Route(table.name, table.endpoint, (condition,), oldest=table.begin == "oldest")
        for table, condition in enabled
        if table.endpoint != EVENTS
    ]
    if routing.fallback != EVENTS:
        _check_named(f"{source}: routing.fallback", routing.fallback, endpoints)
        conditions = tuple(condition for _table, condition in enabled)
        routes.append(Route(FALLBACK, routing.fallback, conditions, fallback=True))
    return RoutingSettings(tuple(routes), tuple(endpoints.items()), base)


def _check_route(source: str, table: RouteTable, endpoints: Mapping[str, EndpointTable], seen: set[str]) -> None:
    if not table.name or len(table.name) > CONSUMER_CHARACTERS // 2 or not table.name.isprintable():
        raise _wrong(source, f"{table.name[:80]!r} is no name of a route", "use a short word")
    if table.name in seen or table.name == FALLBACK:
        raise _wrong(
            source, f"there are two routes {table.name!r}", "give each a name of its own: it keeps their places"
        )
    seen.add(table.name)
    _check_named(f"{source}: route {table.name!r}", table.endpoint, endpoints)


def _check_named(place: str, endpoint: str, endpoints: Mapping[str, EndpointTable]) -> None:
    if endpoint not in endpoints and endpoint != EVENTS:
        known = ", ".join(sorted((*endpoints, EVENTS)))
        raise _wrong(place, f"there is no endpoint {endpoint!r}", f"one of {known}")


def _condition(source: str, table: RouteTable) -> Expression:
    try:
        return parse_expression(table.condition)
    except ExpressionError as problem:
        raise _wrong(f"{source}: route {table.name!r}", problem.message, "see the how-to on routes") from problem


def _check_endpoint(place: str, table: EndpointTable) -> None:
    match table:
        case WebhookTable():
            parts = urlsplit(table.url)
            if parts.scheme != "https" or not parts.hostname or parts.username is not None:
                raise _wrong(place, "url is no https address", 'write it like "https://service.example/path"')
        case NatsTable():
            for server in table.servers:
                _check_server(place, server)
            try:
                table.subject.format(hub="h", device="d", module="m")
            except (KeyError, IndexError, ValueError) as problem:
                fix = "there are {hub}, {device} and {module}"
                raise _wrong(place, "subject has an unknown placeholder", fix) from problem
            if not table.servers or any(character in table.subject for character in " *>"):
                raise _wrong(place, "servers or subject cannot be used", "a subject has no blanks and no wildcards")
        case FileTable() | LogTable():
            pass
        case _:
            assert_never(table)


def _check_server(place: str, server: str) -> None:
    parts = urlsplit(server)
    if parts.scheme == "tls" and parts.hostname:
        return
    if parts.scheme != "nats" or parts.hostname not in _LOOPBACK:
        fix = "write tls://HOST:4222; nats:// is for a server on this machine only"
        raise _wrong(place, f"{server!r} is no address of a NATS server with TLS", fix)


def _open(name: str, table: EndpointTable, base: Path, hub: str, now: datetime) -> RouteEndpoint:
    match table:
        case LogTable():
            return LogEndpoint(name)
        case FileTable():
            return FileEndpoint(base / table.path)
        case WebhookTable():
            secret = table.authorization_file
            return WebhookEndpoint(
                hub,
                table.url,
                bundle=_bundle(base, table.ca, now),
                authorization=None if secret is None else SecretText(read_text(base / secret).strip()),
                lanes=table.concurrency,
            )
        case NatsTable():
            return _open_nats(table, base, hub, now)
        case _:
            assert_never(table)


def _open_nats(table: NatsTable, base: Path, hub: str, now: datetime) -> RouteEndpoint:
    try:
        module = importlib.import_module("edgetrust.hub.endpoints.nats")
    except ModuleNotFoundError as problem:
        raise ConfigError(
            "the client of NATS is not installed", reason="nats-client-missing", fix="pip install 'edgetrust[nats]'"
        ) from problem
    secured = any(server.startswith("tls:") for server in table.servers)
    place = module.NatsPlace(
        servers=table.servers,
        subject=table.subject,
        stream=table.stream,
        tls=https_context(_bundle(base, table.ca, now)) if secured else None,
        credentials=None if table.credentials is None else base / table.credentials,
    )
    endpoint: RouteEndpoint = module.NatsEndpoint(hub, place, lanes=table.concurrency)
    return endpoint


def _bundle(base: Path, file: str | None, now: datetime) -> TrustBundle | None:
    if file is None:
        return None
    try:
        return TrustBundle.from_pem(read_text(base / file), as_of=now)
    except ChainError as problem:
        raise ConfigError(f"{base / file}: {problem.message}", reason="trust-bundle-unreadable") from problem


def _wrong(place: str, problem: str, fix: str) -> ConfigError:
    return ConfigError(f"{place}: {problem}", reason="config-wrong-value", fix=fix)
