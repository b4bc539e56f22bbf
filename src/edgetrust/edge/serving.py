"""What `config.toml` says of the services on unix sockets: who may use them, what is preloaded, which modules run."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from edgetrust.edge.certservice import Preloaded
from edgetrust.edge.configfile import ConfigFile, ContainerTable, ModuleTable, PrincipalTable
from edgetrust.edge.files import EDGE_CA, TRUST_BUNDLE, TRUST_BUNDLE_USER
from edgetrust.edge.modules import ModuleCommand, Restart
from edgetrust.edge.principals import Principal, Principals, ServiceUsers
from edgetrust.edge.reading import Reading
from edgetrust.edge.tokens import KeyPlace
from edgetrust.protocol.iothub import valid_identifier

_IDENTITY_TYPES = ("module", "device", "local")


def _bundle() -> Preloaded:
    return MappingProxyType({TRUST_BUNDLE: (EDGE_CA, TRUST_BUNDLE_USER)})


@dataclass(frozen=True, slots=True)
class Serving:
    """The services of one gateway."""

    principals: Principals = Principals()  # noqa: RUF009 - frozen
    users: ServiceUsers = ServiceUsers()  # noqa: RUF009 - frozen
    preloaded: Preloaded = field(default_factory=_bundle)
    local_domain: str | None = None
    preloaded_keys: Mapping[str, KeyPlace] = field(default_factory=lambda: MappingProxyType({}))
    containers: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    modules: Mapping[str, ModuleCommand] = field(default_factory=lambda: MappingProxyType({}))


def read_serving(source: Path, file: ConfigFile, module: Path | None = None) -> Serving:
    """Give the tables their meaning. Raises ConfigError."""
    reader = _Reader(source, module)
    return Serving(
        principals=Principals(tuple(reader.principal(one) for one in file.edgetrust.principal)),
        users=ServiceUsers(file.edgetrust.users.certd, file.edgetrust.users.identityd, file.edgetrust.users.edged),
        preloaded=reader.preloaded(file.preloaded_certs or {}),
        local_domain=None if file.localid is None else reader.domain(file.localid.domain),
        preloaded_keys=MappingProxyType(
            {name: reader.key_place(f"preloaded_keys.{name}", url) for name, url in (file.preloaded_keys or {}).items()}
        ),
        containers=MappingProxyType(
            {
                name: reader.container(name, one, file.edgetrust.modules)
                for name, one in file.edgetrust.containers.items()
            }
        ),
        modules=MappingProxyType({name: reader.module(name, one) for name, one in file.edgetrust.modules.items()}),
    )


class _Reader(Reading):
    def principal(self, table: PrincipalTable) -> Principal:
        unknown = sorted(set(table.idtype or ()) - set(_IDENTITY_TYPES))
        if unknown:
            raise self.wrong(f"edgetrust.principal: idtype {unknown[0]!r}", fix=f"of {', '.join(_IDENTITY_TYPES)}")
        return Principal(
            table.uid,
            table.name,
            tuple(table.keys),
            tuple(table.certs),
            None if table.idtype is None else tuple(table.idtype),
        )

    def domain(self, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", name):
            raise self.wrong(f"localid.domain: {name[:80]!r} is no domain")
        return name

    def preloaded(self, table: Mapping[str, str | list[str]]) -> Preloaded:
        places: dict[str, Path | tuple[str, ...]] = dict(_bundle())
        for name, value in table.items():
            where = f"preloaded_certs.{name}"
            places[name] = self.path(where, value) if isinstance(value, str) else tuple(value)
        return MappingProxyType(places)

    def container(self, name: str, table: ContainerTable, modules: Collection[str]) -> int:
        self._named("containers", name)
        if name in modules:
            raise self.wrong(f"{name!r} is in edgetrust.modules and in edgetrust.containers", fix="keep one of them")
        return table.uid

    def _named(self, table: str, name: str) -> None:
        if not valid_identifier(name) or name in ("edgeHub", "edgeAgent"):
            raise self.wrong(f"edgetrust.{table}: {name[:140]!r} cannot be the name of a module")

    def module(self, name: str, table: ModuleTable) -> ModuleCommand:
        self._named("modules", name)
        if not table.command or not table.command[0]:
            raise self.wrong(f"edgetrust.modules.{name}.command is empty", fix='like ["/usr/bin/program", "argument"]')
        if table.restart not in tuple(Restart):
            raise self.wrong(
                f"edgetrust.modules.{name}.restart is {table.restart!r}", fix=f"one of {', '.join(Restart)}"
            )
        return ModuleCommand(tuple(table.command), MappingProxyType(dict(table.env)), Restart(table.restart))
