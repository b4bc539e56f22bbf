"""What a provisioning service can be told: dps.toml, or the defaults of `edgetrust up`.

Relative paths are relative to the file they stand in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated

import msgspec

from edgetrust.config import load_toml
from edgetrust.errors import ConfigError
from edgetrust.limits import HUB_LINKS
from edgetrust.protocol.dps.enrollments import AllocationPolicy
from edgetrust.provisioning.allocation import Network


class _DpsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    id_scope: str
    aliases: tuple[str, ...] = ()
    data: str = "."
    database: str | None = None
    allocation: AllocationPolicy = AllocationPolicy.HASHED


_Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]


class _ListenTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: str = "0.0.0.0"  # noqa: S104 - devices come from its network; narrower is a setting
    mqtt_port: _Port = 8883
    https_port: _Port = 443


class _TlsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    certificate: str
    key: str
    trust_bundle: str


class _HubTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    connection_string_file: str
    url: str | None = None
    trust_bundle: str | None = None
    weight: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    allocate: bool = True


class _NetworkTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    range: str
    hubs: tuple[str, ...]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dps: _DpsTable
    tls: _TlsTable
    listen: _ListenTable = _ListenTable()
    hubs: tuple[_HubTable, ...] = ()
    networks: tuple[_NetworkTable, ...] = ()


@dataclass(frozen=True, slots=True)
class HubLink:
    """Another hub: devices get `name` as their host; the service reaches it at `url`. `connection_string_file` holds a
    service connection string, `trust_bundle` the CAs that verify the hub (None: the machine's). Without `allocate` it
    is only given devices that name it.
    """

    name: str
    connection_string_file: Path
    url: str
    trust_bundle: Path | None = None
    weight: int = 1
    allocate: bool = True


@dataclass(frozen=True, slots=True)
class DpsSettings:
    """One provisioning service. `data` is where it keeps its policies; `database` is an SQLAlchemy URL."""

    name: str
    aliases: tuple[str, ...]
    id_scope: str
    data: Path
    database: str
    certificate: Path
    key: Path
    trust_bundle: Path
    host: str = "0.0.0.0"  # noqa: S104 - as above
    mqtt_port: int = 8883
    https_port: int = 443
    allocation: AllocationPolicy = AllocationPolicy.HASHED
    hubs: tuple[HubLink, ...] = ()
    networks: tuple[Network, ...] = field(default=())

    @property
    def hosts(self) -> frozenset[str]:
        """Every name this service answers to, lower case; an IPv6 address also in brackets."""
        names = {name.lower() for name in (self.name, *self.aliases)}
        return frozenset(names | {f"[{name}]" for name in names if ":" in name})

    @property
    def weights(self) -> Mapping[str, int]:
        """The hubs that take part in allocation."""
        return {link.name: link.weight for link in self.hubs if link.allocate}


def load_settings(path: Path) -> DpsSettings:
    """Read dps.toml. Raises ConfigError."""
    file = load_toml(path, _File)
    here = path.resolve().parent
    data = here / file.dps.data
    for what, text in (("dps.name", file.dps.name), ("dps.id_scope", file.dps.id_scope)):
        if not text.strip() or "/" in text:
            raise _wrong(path, f"{what} is empty or holds a slash")
    if len(file.hubs) > HUB_LINKS:
        raise _wrong(path, f"{len(file.hubs)} hubs, at most {HUB_LINKS} can be linked")
    if len({hub.name.lower() for hub in file.hubs}) != len(file.hubs):
        raise _wrong(path, "two hubs have one name")
    return DpsSettings(
        name=file.dps.name,
        aliases=file.dps.aliases,
        id_scope=file.dps.id_scope,
        data=data,
        database=file.dps.database or f"sqlite:///{data / 'dps.sqlite'}",
        certificate=here / file.tls.certificate,
        key=here / file.tls.key,
        trust_bundle=here / file.tls.trust_bundle,
        host=file.listen.host,
        mqtt_port=file.listen.mqtt_port,
        https_port=file.listen.https_port,
        allocation=file.dps.allocation,
        hubs=tuple(_link(here, hub) for hub in file.hubs),
        networks=tuple(Network(_network(path, network.range), network.hubs) for network in file.networks),
    )


def _link(here: Path, hub: _HubTable) -> HubLink:
    bundle = None if hub.trust_bundle is None else here / hub.trust_bundle
    url = hub.url or f"https://{hub.name}"
    return HubLink(hub.name, here / hub.connection_string_file, url, bundle, hub.weight, hub.allocate)


def _network(path: Path, text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as problem:
        raise _wrong(path, f"networks.range: {problem}") from problem


def _wrong(path: Path, what: str) -> ConfigError:
    return ConfigError(f"{path}: {what}", reason="config-wrong-value")
