"""A topology: the gateways and devices of a fleet and who is below whom, read from YAML.

Rules. Every mistake names its line, a misspelt key the nearest one. Identifiers and host names are checked as hub and
gateway will check them, so that an `apply` does not stop half-way. Anchors and aliases are refused: what one reads is
what there is. Nothing is asked and nothing is written here.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import yaml

from edgetrust.config import read_text, unknown_key
from edgetrust.errors import ConfigError
from edgetrust.limits import CERTIFICATE_NAMES, EDGE_DEPTH, FLEET_DOCUMENT_CHARACTERS, FLEET_DOCUMENT_DEPTH
from edgetrust.pki.names import COMMON_NAME_CHARACTERS, as_ip, dns_fault
from edgetrust.protocol.dps.names import valid_registration_id
from edgetrust.protocol.iothub import valid_identifier

Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
Days = Annotated[int, msgspec.Meta(ge=1, le=90)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
DPS_EST: Final = "dps-est"
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SYSTEM_MODULES: Final = ("$edgeAgent", "$edgeHub")


class HubTable(msgspec.Struct, frozen=True, kw_only=True):
    """`hub`: how the gateways and devices at the top reach it. What is not said is as the command was told."""

    name: Text | None = None
    address: Text | None = None
    mqtt_port: Port | None = None
    https_port: Port | None = None


class CertificatesTable(msgspec.Struct, frozen=True, kw_only=True):
    """`certificates`: who issues them. `ca`: a ca.toml; `demo`: a folder with a root of its own. Not both."""

    ca: Text | None = None
    demo: Text | None = None
    days: Days = 90
    trust: list[Text] = []


class EstTable(msgspec.Struct, frozen=True, kw_only=True):
    """`services.est`: the EST server. `trust` is a file with its roots. Who asks shows a bootstrap certificate, which
    `certificates` issues, unless a user name and the file of a password are said.
    """

    url: Text | None = None
    trust: Text | None = None
    username: Text | None = None
    password_file: Text | None = None


class DpsTable(msgspec.Struct, frozen=True, kw_only=True):
    """`services.dps`: the provisioning service. `trust` is a file with its roots; `group` the enrollment group of the
    gateways, which is made with the service connection string in a file.
    """

    endpoint: Text | None = None
    id_scope: Text | None = None
    mqtt_port: Port | None = None
    trust: Text | None = None
    group: Text | None = None
    connection_string_file: Text | None = None


class ServicesTable(msgspec.Struct, frozen=True, kw_only=True):
    """`services`: what every gateway passes on for those below it, and who gets certificates and hub from there:
    gateways that say so, all that are below another, or all; unless they say something else. `https` and `mqtt` are
    further names that are passed on.
    """

    enroll: Literal["named", "below", "all"] = "named"
    est: EstTable = EstTable()
    dps: DpsTable = DpsTable()
    https: list[Text] = []
    mqtt: list[Text] = []


class DeviceTable(msgspec.Struct, frozen=True, kw_only=True):
    """A device that is no gateway."""

    id: Text
    auth: Literal["thumbprint", "sas", "ca"] = "thumbprint"
    modules: list[Text] = []


class GatewayTable(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway with what is below it. `address` is dialled instead of `hostname`, which is still verified; `names`
    are further names and addresses of its certificate; `root` is where it keeps its files. Without `auth` it is as
    `services.enroll` says, and else by thumbprint.
    """

    id: Text
    hostname: Text
    names: list[Text] = []
    address: Text | None = None
    auth: Literal["thumbprint", "sas", "dps-est"] | None = None
    listen: Text = "0.0.0.0"  # noqa: S104 - a gateway is there to be reached
    mqtt_port: Port = 8883
    https_port: Port = 443
    root: Text = "/"
    modules: list[Text] = []
    gateways: list[GatewayTable] = []
    devices: list[DeviceTable | str] = []


class TopologyFile(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file. `name` marks what belongs to this fleet at the hub."""

    name: Text
    hub: HubTable = HubTable()
    certificates: CertificatesTable = CertificatesTable()
    services: ServicesTable | None = None
    install_dir: Text = "/etc/edgetrust"
    gateways: list[GatewayTable] = []
    devices: list[DeviceTable | str] = []


@dataclass(frozen=True, slots=True)
class Member:
    """A gateway or device of the fleet. `parent` is the gateway right above it, None for the hub; `line` is where it
    stands; `auth` is how it authenticates, with DPS_EST by what a provisioning service and an EST server give it.
    """

    table: GatewayTable | DeviceTable
    parent: Member | None
    line: int
    auth: str

    @property
    def id(self) -> str:
        return self.table.id

    @property
    def gateway(self) -> GatewayTable | None:
        """What makes it a gateway, None for a device."""
        return self.table if isinstance(self.table, GatewayTable) else None

    @property
    def depth(self) -> int:
        """How many gateways are above it."""
        return 0 if self.parent is None else self.parent.depth + 1


@dataclass(frozen=True, slots=True)
class Topology:
    """A fleet. `members` has every gateway before what is below it; `services_line` is where `services` stands."""

    source: Path
    file: TopologyFile
    members: tuple[Member, ...]
    services_line: int = 1

    @property
    def enrolling(self) -> tuple[Member, ...]:
        """The gateways that are provisioned and get their certificates by EST."""
        return tuple(member for member in self.members if member.auth == DPS_EST)

    def levels(self) -> Iterator[list[Member]]:
        """The members by their depth, the top first."""
        for depth in range(max((member.depth for member in self.members), default=-1) + 1):
            yield [member for member in self.members if member.depth == depth]


def load_topology(path: Path) -> Topology:
    """Read the file. Raises ConfigError that names the line."""
    return parse_topology(read_text(path), path)


def parse_topology(text: str, source: Path) -> Topology:
    """Read `text`; `source` names it in errors. Raises ConfigError that names the line."""
    document = _Document(text, str(source))
    document.check_keys(TopologyFile)
    file = document.converted(TopologyFile)
    members = tuple(_members(document, file))
    _Checks(document, file, members).run()
    return Topology(source, file, members, document.line("$.services"))


def _members(document: _Document, file: TopologyFile) -> Iterator[Member]:
    waiting: list[tuple[Any, Member | None, str]] = [(file, None, "$")]
    while waiting:
        above, parent, path = waiting.pop(0)
        for name in ("gateways", "devices"):
            for place, entry in enumerate(getattr(above, name)):
                where = f"{path}.{name}[{place}]"
                table = DeviceTable(id=entry) if isinstance(entry, str) else entry
                member = Member(table, parent, document.line(where), _auth(table, parent, file))
                yield member
                if member.gateway is not None:
                    waiting.append((member.gateway, member, where))


def _auth(table: GatewayTable | DeviceTable, parent: Member | None, file: TopologyFile) -> str:
    if table.auth is not None:
        return table.auth
    enroll = "named" if file.services is None else file.services.enroll
    return DPS_EST if enroll == "all" or (enroll == "below" and parent is not None) else "thumbprint"


# The document -------------------------------------------------------------------------------------------------------


class _Document:
    """YAML as plain values, and the line of each by its path (`$.gateways[0].id`)."""

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self._lines: dict[str, int] = {}
        if len(text) > FLEET_DOCUMENT_CHARACTERS:
            raise ConfigError(
                f"{source} has more than {FLEET_DOCUMENT_CHARACTERS} characters", reason="topology-too-large"
            )
        self._loader = yaml.SafeLoader("")
        try:
            self._refuse_aliases(text)
            self._values = self._plain(yaml.compose(text, Loader=yaml.SafeLoader), "$")
        except yaml.YAMLError as problem:
            mark = getattr(problem, "problem_mark", None)
            line = 1 if mark is None else mark.line + 1
            said = getattr(problem, "problem", None) or "it cannot be read"
            raise self.wrong(line, f"not YAML: {said}", reason="config-not-yaml") from problem

    def _refuse_aliases(self, text: str) -> None:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = 1 if event.start_mark is None else event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise self.wrong(line, "anchors and aliases are not taken here", fix="write it out")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > FLEET_DOCUMENT_DEPTH:
                raise self.wrong(line, f"more than {FLEET_DOCUMENT_DEPTH} lists and tables inside each other")

    def wrong(self, line: int, what: str, *, reason: str = "topology-wrong", fix: str = "") -> ConfigError:
        """The error about a line."""
        return ConfigError(f"{self.source}, line {line}: {what}", reason=reason, fix=fix)

    def line(self, path: str) -> int:
        """The line of a value, or of the nearest thing around it."""
        while path not in self._lines and path != "$":
            path = re.sub(r"(\.[^.\[]*|\[[^\]]*\])$", "", path)
        return self._lines.get(path, 1)

    def _plain(self, node: yaml.Node | None, path: str) -> Any:
        if node is None:
            return {}
        self._lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            found: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key, line = str(getattr(key_node, "value", "")), key_node.start_mark.line + 1
                if key in found:
                    raise self.wrong(line, f"{key!r} stands here twice", reason="config-duplicate-key")
                found[key] = self._plain(value_node, f"{path}.{key}")
                self._lines[f"{path}.{key}"] = line
            return found
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(one, f"{path}[{place}]") for place, one in enumerate(node.value)]
        return self._loader.construct_object(node)

    def check_keys(self, kind: object) -> None:
        """Refuse keys that there are not, naming the nearest."""
        self._check(self._values, kind, "$")

    def _check(self, value: Any, kind: object, path: str) -> None:
        if isinstance(value, list):
            inner = typing.get_args(kind)
            for place, one in enumerate(value):
                self._check(one, inner[0] if inner else None, f"{path}[{place}]")
            return
        table = _table_of(kind)
        if table is None or not isinstance(value, dict):
            return
        fields = {name: kind for name, kind in typing.get_type_hints(table).items() if not name.startswith("_")}
        for key, below in value.items():
            where = f"{path}.{key}"
            if key not in fields:
                raise unknown_key(key, key, fields, f"{self.source}, line {self.line(where)}")
            self._check(below, fields[key], where)

    def converted(self, kind: type[TopologyFile]) -> TopologyFile:
        """The values as what they are to be."""
        try:
            return msgspec.convert(self._values, kind)
        except msgspec.ValidationError as problem:
            text, _, path = str(problem).partition(" - at `")
            path = path.removesuffix("`") or "$"
            what = text if path == "$" else f"{path.removeprefix('$.')}: {text}"
            fix = 'put it in quotes: "..."' if "Expected `str`" in text else ""
            raise self.wrong(self.line(path), what, reason="config-wrong-value", fix=fix) from problem


def _table_of(kind: object) -> type[msgspec.Struct] | None:
    """The table that a mapping is to be; None when there is none."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return next((table for one in typing.get_args(kind) if (table := _table_of(one)) is not None), None)
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


# What types do not say ----------------------------------------------------------------------------------------------


class _Checks:
    def __init__(self, document: _Document, file: TopologyFile, members: tuple[Member, ...]) -> None:
        self._document = document
        self._file = file
        self._members = members

    def run(self) -> None:
        line = self._document.line
        if not _NAME.fullmatch(self._file.name):
            raise self._wrong(line("$.name"), "name takes 1 to 64 letters, digits and . _ -")
        if self._file.certificates.ca is not None and self._file.certificates.demo is not None:
            raise self._wrong(line("$.certificates.demo"), "certificates come from a CA or from a demo PKI, not both")
        services = self._file.services
        if services is not None and (services.est.username is None) != (services.est.password_file is None):
            raise self._wrong(line("$.services.est"), "est takes both username and password_file, or neither")
        if not Path(self._file.install_dir).is_absolute():
            raise self._wrong(line("$.install_dir"), "install_dir must be absolute: gateways read their files by it")
        seen: dict[str, int] = {}
        for member in self._members:
            if member.id in seen:
                raise self._wrong(member.line, f"{member.id!r} stands in line {seen[member.id]} already")
            seen[member.id] = member.line
            self._member(member)

    def _member(self, member: Member) -> None:
        if not valid_identifier(member.id):
            raise self._wrong(member.line, f"{member.id[:140]!r} cannot name a device")
        gateway = member.gateway
        if gateway is not None:
            self._gateway(member, gateway)
        elif member.auth != "sas" and len(member.id.encode()) > COMMON_NAME_CHARACTERS:
            raise self._too_long(member)
        for module in member.table.modules:
            if not valid_identifier(module) or module in _SYSTEM_MODULES:
                raise self._wrong(member.line, f"{member.id}: {module[:140]!r} cannot name a module")
        if len(set(member.table.modules)) < len(member.table.modules):
            raise self._wrong(member.line, f"{member.id} has a module twice")

    def _gateway(self, member: Member, gateway: GatewayTable) -> None:
        if member.depth >= EDGE_DEPTH:
            raise self._wrong(
                member.line,
                f"{member.id} would be gateway {member.depth + 1} above each other",
                reason="topology-too-deep",
                fix=f"a hub takes {EDGE_DEPTH}",
            )
        if len(f"aziot-edge CA {member.id}".encode()) > COMMON_NAME_CHARACTERS:
            raise self._too_long(member)
        if len(gateway.hostname) > COMMON_NAME_CHARACTERS:
            raise self._wrong(member.line, f"hostname: {gateway.hostname!r} is longer than {COMMON_NAME_CHARACTERS}")
        for name in (gateway.hostname, *gateway.names):
            if as_ip(name) is None and (dns_fault(name) is not None or name.startswith("*")):
                raise self._wrong(member.line, f"{member.id}: {name!r} is neither a host name nor an address")
        if len(gateway.names) >= CERTIFICATE_NAMES - 1:
            raise self._wrong(member.line, f"{member.id} has more than {CERTIFICATE_NAMES - 2} names")
        if not Path(gateway.root).is_absolute():
            raise self._wrong(member.line, f"{member.id}: root must be absolute")
        if member.auth == DPS_EST:
            self._enrolling(member)

    def _enrolling(self, member: Member) -> None:
        if self._file.services is None:
            raise self._wrong(
                member.line,
                f"{member.id} is to be provisioned, and nothing says by whom",
                reason="topology-no-services",
                fix="add services with est and dps; with --dir of edgetrust up, services: {} will do",
            )
        if not valid_registration_id(member.id):
            raise self._wrong(
                member.line,
                f"{member.id!r} cannot be a registration id",
                fix="letters, digits and . _ : - ; or auth: thumbprint",
            )

    def _too_long(self, member: Member) -> ConfigError:
        return self._wrong(
            member.line, f"{member.id!r} is too long for a certificate", fix="use auth: sas, or a shorter identifier"
        )

    def _wrong(self, line: int, what: str, *, reason: str = "topology-wrong", fix: str = "") -> ConfigError:
        return self._document.wrong(line, what, reason=reason, fix=fix)
