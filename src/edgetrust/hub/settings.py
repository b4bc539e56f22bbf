"""What a hub can be told: hub.toml, or the defaults of `edgetrust up`.

Relative paths are relative to the file they stand in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import msgspec

from edgetrust.config import load_toml
from edgetrust.errors import ConfigError
from edgetrust.hub.route_settings import EndpointTable, RouteTable, RoutingSettings, RoutingTable, routing_settings
from edgetrust.store.retention import EventPolicy

DEFAULT_RETENTION = EventPolicy(timedelta(days=7), None, timedelta(days=30))


class _HubTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    aliases: tuple[str, ...] = ()
    data: str = "."
    database: str | None = None
    allow_edge_ca: bool = False


_Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]


class _ListenTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: str = "0.0.0.0"  # noqa: S104 - a hub serves its network; narrower is a setting
    mqtt_port: _Port = 8883
    https_port: _Port = 443


class _TlsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    certificate: str
    key: str
    trust_bundle: str


class _RetentionTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    events_days: Annotated[float, msgspec.Meta(ge=0, le=36_500)] = 7.0
    events_mib: Annotated[int, msgspec.Meta(ge=0)] = 0
    consumer_days: Annotated[float, msgspec.Meta(ge=0, le=36_500)] = 30.0


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hub: _HubTable
    tls: _TlsTable
    listen: _ListenTable = _ListenTable()
    retention: _RetentionTable = _RetentionTable()
    routing: RoutingTable = RoutingTable()
    routes: tuple[RouteTable, ...] = ()
    endpoints: dict[str, EndpointTable] = {}


@dataclass(frozen=True, slots=True)
class HubSettings:
    """One hub. `name` is what identities belong to; `aliases` are further names clients may use for it.

    `certificate` holds the server's chain, `key` its private key, `trust_bundle` the roots that clients need (handed
    out, not used by the hub itself). Everything the hub writes is in `data`; `database` is an SQLAlchemy URL. Port 0
    picks a free one. `retention` says how long events stay, `routing` where they go.
    """

    name: str
    aliases: tuple[str, ...]
    data: Path
    database: str
    certificate: Path
    key: Path
    trust_bundle: Path
    host: str = "0.0.0.0"  # noqa: S104 - as above
    mqtt_port: int = 8883
    https_port: int = 443
    allow_edge_ca: bool = False
    retention: EventPolicy = DEFAULT_RETENTION
    routing: RoutingSettings = field(default_factory=RoutingSettings)

    @property
    def hosts(self) -> frozenset[str]:
        """Every name this hub answers to, lower case; an IPv6 address also in brackets, as it stands in URLs."""
        names = {name.lower() for name in (self.name, *self.aliases)}
        return frozenset(names | {f"[{name}]" for name in names if ":" in name})


def load_settings(path: Path) -> HubSettings:
    """Read hub.toml. Raises ConfigError."""
    file = load_toml(path, _File)
    if not file.hub.name.strip():
        raise ConfigError(f"{path}: hub.name is empty", reason="config-wrong-value", fix='set name = "HOST NAME"')
    here = path.resolve().parent
    data = here / file.hub.data
    return HubSettings(
        name=file.hub.name,
        aliases=file.hub.aliases,
        data=data,
        database=file.hub.database or sqlite_url(data),
        certificate=here / file.tls.certificate,
        key=here / file.tls.key,
        trust_bundle=here / file.tls.trust_bundle,
        host=file.listen.host,
        mqtt_port=file.listen.mqtt_port,
        https_port=file.listen.https_port,
        allow_edge_ca=file.hub.allow_edge_ca,
        retention=_retention(file.retention),
        routing=routing_settings(str(path), here, file.routes, file.endpoints, file.routing),
    )


def _retention(table: _RetentionTable) -> EventPolicy:
    """0 days or MiB of events is without bound; 0 days of a consumer protects nothing."""
    return EventPolicy(
        age=timedelta(days=table.events_days) if table.events_days else None,
        size=table.events_mib * 1024**2 or None,
        consumer=timedelta(days=table.consumer_days),
    )


def sqlite_url(data: Path) -> str:
    """The database of a hub that was given no other."""
    return f"sqlite:///{data / 'hub.sqlite'}"
