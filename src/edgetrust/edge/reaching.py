"""How a gateway reaches others, and what it passes on for those below: `[edgetrust.upstream]`, `[edgetrust.forward]`.

Rules. With a gateway above, whatever is asked by HTTPS is asked through it: the EST server and the provisioning service
too, each under its own name, which TLS verifies as if it had been dialled. Exceptions are names in `direct`, addresses
and `localhost`, since TLS names no address to those in between. What this gateway uses itself it passes on for those
below; further names are said. TLS names a host and no port: one name has one port.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from edgetrust.edge.configfile import ForwardTable, UpstreamTable
from edgetrust.edge.reading import Reading
from edgetrust.pki.names import as_ip, dns_fault

HTTPS_PORT: Final = 443
MQTT_PORT: Final = 8883
HIGHEST_PORT: Final = 65_535
_THIS_MACHINE: Final = "localhost"

Place = tuple[str, int]
"""A host and a port to dial."""


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """How the hub is reached, or the gateway above (`is_parent`): `host` is dialled, `name` is verified. `ca` None: the
    system's trust store. `direct` are names that are reached past the gateway above.
    """

    name: str
    host: str
    mqtt_port: int
    https_port: int
    ca: Path | None
    is_parent: bool = False
    direct: frozenset[str] = frozenset()

    def instead_of(self, url: str) -> Place | None:
        """What is dialled in the place of this HTTPS address; None: the address itself."""
        name = (urlsplit(url).hostname or "").lower()
        return (self.host, self.https_port) if self.passes(name) else None

    def passes(self, name: str) -> bool:
        """Whether what `name` is asked goes through the gateway above."""
        return self.is_parent and _can_be_named(name) and name not in self.direct and name != self.name


@dataclass(frozen=True, slots=True)
class Forward:
    """Names that are passed on, in lower case, each with its port, by listener."""

    https: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    mqtt: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


class ReachingReader(Reading):
    """Reads both tables of one file. Raises ConfigError."""

    def upstream(self, table: UpstreamTable, hub: str, parent: str | None, trust_bundle: str | None) -> UpstreamAddress:
        """The hub, or with a `parent` the gateway above, which is verified by the trust bundle."""
        server, authorities = (hub, table.ca) if parent is None else (parent, table.ca or trust_bundle)
        for name, port in (("mqtt_port", table.mqtt_port), ("https_port", table.https_port)):
            self.port(f"edgetrust.upstream.{name}", port, lowest=1)
        ca = self.path("edgetrust.upstream.ca", authorities) if authorities is not None else None
        direct = frozenset(self._name("edgetrust.upstream.direct", name) for name in table.direct)
        return UpstreamAddress(
            server, table.host or server, table.mqtt_port, table.https_port, ca, parent is not None, direct
        )

    def forward(
        self, table: ForwardTable, dps: str | None, est: Iterable[str], own: frozenset[str]
    ) -> tuple[Forward, list[str]]:
        """What is passed on, and warnings. `dps` and `est` are what this gateway asks; `own` are its names."""
        https = self._entries("edgetrust.forward.https", table.https, HTTPS_PORT, own)
        mqtt = self._entries("edgetrust.forward.mqtt", table.mqtt, MQTT_PORT, own)
        warnings: list[str] = []
        for url in (*(() if dps is None else (dps,)), *est) if table.own else ():
            parts = urlsplit(url)
            name, port = (parts.hostname or "").lower(), parts.port or HTTPS_PORT
            if not _can_be_named(name) or name in own:
                continue
            if url == dps:
                mqtt.setdefault(name, MQTT_PORT)
            if https.setdefault(name, port) != port:
                warnings.append(
                    f"{name} is passed on to port {https[name]} and not to port {port}: TLS names a host and no port; "
                    "give one of the two services a name of its own"
                )
        return Forward(MappingProxyType(https), MappingProxyType(mqtt)), list(dict.fromkeys(warnings))

    def port(self, name: str, port: int, *, lowest: int) -> None:
        """Raises ConfigError for what is no port."""
        if not lowest <= port <= HIGHEST_PORT:
            raise self.wrong(f"{name} is {port}", fix=f"a number from {lowest} to {HIGHEST_PORT}")

    def _entries(self, key: str, entries: list[str], usual: int, own: frozenset[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for entry in entries:
            host, colon, port = entry.partition(":")
            name = self._name(key, host)
            if colon and not port.isdecimal():
                raise self.wrong(f"{key}: {entry[:280]!r} is not NAME or NAME:PORT")
            number = int(port) if colon else usual
            self.port(f"{key}: the port of {name}", number, lowest=1)
            if name in own:
                raise self.wrong(f"{key}: {name} is this gateway", fix="name services elsewhere, none of its own names")
            if found.setdefault(name, number) != number:
                raise self.wrong(f"{key}: {name} stands there with two ports", fix="TLS names a host and no port")
        return found

    def _name(self, key: str, name: str) -> str:
        if not _can_be_named(name) or dns_fault(name) is not None or name.startswith("*"):
            raise self.wrong(
                f"{key}: {name[:260]!r} is no name that TLS could ask for",
                fix='a host name like "dps.example.com"; no address, no "*", not this machine',
            )
        return name.lower()


def _can_be_named(name: str) -> bool:
    return bool(name) and as_ip(name) is None and name.lower() != _THIS_MACHINE
