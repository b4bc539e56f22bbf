"""The services of a fleet: the EST server and the provisioning service that gateways get certificates and hub from, and
that each gateway passes on for those below it.

Rules. What the file does not say, `edgetrust up` says of itself, where its directory was named. TLS names a host and no
port, and no address: what cannot be passed on by its name is an error as soon as a gateway below another one needs it.
The enrollment group of the fleet takes certificates below the roots of the authority that issues for the fleet, and
nobody else's: not those by which the EST server is verified. A group of that name that the fleet has not made is left
as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509

from edgetrust.cli.certificates import read_chain
from edgetrust.cli.client import HubClient, read_secret, up_json
from edgetrust.cli.fleet.topology import DpsTable, EstTable, ServicesTable, Topology
from edgetrust.errors import ConfigError
from edgetrust.pki.chain import TrustBundle
from edgetrust.pki.keys import SecretText
from edgetrust.pki.names import as_ip, dns_fault

_HTTPS_PORT: Final = 443
_MQTT_PORT: Final = 8883
_HIGHEST_PORT: Final = 65_535
_EST_PATH: Final = "/.well-known/est"


@dataclass(frozen=True, slots=True)
class Est:
    """An EST server. `roots` verify it; without `password` a bootstrap certificate is shown."""

    url: str
    roots: TrustBundle
    password: tuple[str, SecretText] | None


@dataclass(frozen=True, slots=True)
class Dps:
    """A provisioning service. `roots` verify it; None: the machine's store does."""

    endpoint: str
    id_scope: str
    mqtt_port: int
    roots: TrustBundle | None
    group: str


@dataclass(frozen=True, slots=True)
class Services:
    """What gateways pass on, each `NAME:PORT`, and what they use themselves. Both services are there when a gateway of
    the fleet is to use them.
    """

    est: Est | None
    dps: Dps | None
    https: tuple[str, ...]
    mqtt: tuple[str, ...]


def services_of(
    topology: Topology, client: HubClient, anchors: Sequence[x509.Certificate], hub_roots: TrustBundle | None,
    now: datetime,
) -> Services | None:  # fmt: skip
    """What `services` means; None: the file has none. Raises ConfigError that names the line."""
    table = topology.file.services
    if table is None:
        return None
    ready = {} if client.hub.directory is None else up_json(client.hub.directory)
    reader = _Reader(topology, table, now)
    est = reader.est(table.est, ready.get("est") or {}, anchors)
    dps = reader.dps(table.dps, ready.get("dps") or {}, hub_roots)
    if topology.enrolling and (est is None or dps is None):
        missing = "services.est.url" if est is None else "services.dps.endpoint"
        raise reader.wrong(
            f"{topology.enrolling[0].id} is to be provisioned, and {missing} does not say by whom",
            reason="topology-no-services",
            fix=f"set {missing}, or name the directory of edgetrust up with --dir",
        )
    return reader.together(est, dps)


class _Reader:
    """Gives one table its meaning."""

    def __init__(self, topology: Topology, table: ServicesTable, now: datetime) -> None:
        self._topology = topology
        self._table = table
        self._now = now

    def wrong(self, what: str, *, reason: str = "topology-services", fix: str = "") -> ConfigError:
        place = f"{self._topology.source}, line {self._topology.services_line}"
        return ConfigError(f"{place}: {what}", reason=reason, fix=fix)

    def est(self, table: EstTable, ready: Mapping[str, Any], anchors: Sequence[x509.Certificate]) -> Est | None:
        url = table.url or ready.get("url")
        if url is None:
            return None
        parts = self._https("services.est.url", str(url))
        if not (parts == _EST_PATH or parts.startswith(f"{_EST_PATH}/")):
            raise self.wrong(
                f"services.est.url: {url!r} has no path {_EST_PATH}", fix=f"https://NAME[:PORT]{_EST_PATH}"
            )
        if table.username is None and self._topology.file.certificates.demo is not None and self._topology.enrolling:
            raise self.wrong(
                "a demo PKI issues no bootstrap certificates that an EST server knows",
                fix="set certificates.ca, or services.est.username and password_file",
            )
        password = None
        if table.username is not None and table.password_file is not None:
            password = table.username, SecretText(read_secret(self._file(table.password_file)))
        roots = self._roots(table.trust) or TrustBundle(tuple(anchors), as_of=self._now)
        return Est(str(url), roots, password)

    def dps(self, table: DpsTable, ready: Mapping[str, Any], hub_roots: TrustBundle | None) -> Dps | None:
        endpoint, id_scope, port = table.endpoint, table.id_scope, table.mqtt_port
        roots = self._roots(table.trust)
        if endpoint is None and ready:
            endpoint = f"https://{ready['hostname']}:{ready['https_port']}"
            id_scope, port = id_scope or ready["id_scope"], port or ready["mqtt_port"]
            roots = roots or hub_roots
        if endpoint is None:
            return None
        if self._https("services.dps.endpoint", endpoint).strip("/"):
            raise self.wrong(f"services.dps.endpoint: {endpoint!r} has a path", fix="https://NAME[:PORT]")
        if id_scope is None:
            raise self.wrong("services.dps has no id_scope", fix="set it: dps.toml has it, or up.json of edgetrust up")
        group = table.group or self._topology.file.name
        return Dps(endpoint.rstrip("/"), id_scope, port or _MQTT_PORT, roots, group)

    def together(self, est: Est | None, dps: Dps | None) -> Services:
        """Both services, with all names that are to be passed on."""
        https = _Names(self, "services.https", _HTTPS_PORT)
        mqtt = _Names(self, "services.mqtt", _MQTT_PORT)
        nested = any(member.parent is not None for member in self._topology.enrolling)
        for url in (*([] if dps is None else [dps.endpoint]), *([] if est is None else [est.url])):
            parts = urlsplit(url)
            name, port = (parts.hostname or "").lower(), parts.port or _HTTPS_PORT
            if _can_be_named(name):
                https.add(name, port)
                if dps is not None and url == dps.endpoint:
                    mqtt.add(name, dps.mqtt_port)
            elif nested:
                raise self.wrong(
                    f"gateways below others cannot reach {url}: TLS asks for no address and not for localhost",
                    fix="give the service a name that the gateways at the top know, like edgetrust up --host NAME",
                )
        https.read(self._table.https)
        mqtt.read(self._table.mqtt)
        self._refuse_own({*https.ports, *mqtt.ports})
        return Services(est, dps, https.entries(), mqtt.entries())

    def _refuse_own(self, names: set[str]) -> None:
        for member in self._topology.members:
            if member.gateway is not None:
                for name in (member.gateway.hostname, *member.gateway.names):
                    if name.lower() in names:
                        raise self.wrong(
                            f"{name} is a name of the gateway {member.id} (line {member.line}) too: it answers itself",
                            fix="give the service or the gateway another name",
                        )

    def _https(self, key: str, url: str) -> str:
        """The path of an HTTPS address. Raises ConfigError for anything else."""
        parts = urlsplit(url)
        try:
            usable = parts.scheme == "https" and bool(parts.hostname) and not parts.query and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.username is not None:
            raise self.wrong(f"{key}: {url[:200]!r} is no HTTPS address", fix="https://NAME[:PORT]")
        return parts.path

    def _file(self, path: str) -> Path:
        return self._topology.source.parent / path

    def _roots(self, path: str | None) -> TrustBundle | None:
        return None if path is None else TrustBundle(read_chain(self._file(path)).certificates, as_of=self._now)


class _Names:
    """Names of one listener, each with one port."""

    def __init__(self, reader: _Reader, key: str, usual: int) -> None:
        self._reader = reader
        self._key = key
        self._usual = usual
        self.ports: dict[str, int] = {}

    def add(self, name: str, port: int) -> None:
        if self.ports.setdefault(name, port) != port:
            raise self._reader.wrong(
                f"{name} is to be passed on to the ports {self.ports[name]} and {port}: TLS names a host and no port",
                fix="give one of the two services a name of its own",
            )

    def read(self, entries: Iterable[str]) -> None:
        for entry in entries:
            name, colon, port = entry.lower().partition(":")
            if not _can_be_named(name) or dns_fault(name) is not None or name.startswith("*"):
                raise self._reader.wrong(
                    f"{self._key}: {name[:260]!r} is no name that TLS could ask for",
                    fix='a host name like "ocsp.example.com"; no address, no "*", not localhost',
                )
            number = int(port) if port.isdecimal() and len(port) <= len(str(_HIGHEST_PORT)) else 0
            if colon and not 1 <= number <= _HIGHEST_PORT:
                raise self._reader.wrong(f"{self._key}: {entry[:280]!r} is not NAME or NAME:PORT")
            self.add(name, number if colon else self._usual)

    def entries(self) -> tuple[str, ...]:
        return tuple(f"{name}:{port}" for name, port in self.ports.items())


def _can_be_named(name: str) -> bool:
    return bool(name) and as_ip(name) is None and name != "localhost"
