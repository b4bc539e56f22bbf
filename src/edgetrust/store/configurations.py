"""Configurations and what was applied of them (hub specification 6.5).

Rules: a configuration's content never changes; its target, priority, labels and metrics may. Content is applied to a
device whole or not at all, in one transaction: modules that are missing are registered, desired properties replaced
where they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from edgetrust.clock import Clock
from edgetrust.limits import CONFIGURATIONS
from edgetrust.protocol.configuration import ConfigurationBody, Content, content_of
from edgetrust.protocol.twin import Json, Twin, TwinDraft
from edgetrust.store.bulk import DesiredNews, overwritten
from edgetrust.store.configuration_tables import configurations, deployed
from edgetrust.store.engine import Database
from edgetrust.store.records import ModuleDraft, RegistryError, at_moment, check_match, etag_of, milliseconds
from edgetrust.store.registrar import Registrar
from edgetrust.store.rows import device_row, module_row
from edgetrust.store.twins import change_twin

_MANAGED_BY = "IotEdge"
Wish = Callable[[Json], Json]  # the desired properties that are wanted, from those that are there


@dataclass(frozen=True, slots=True)
class Configuration:
    """A stored configuration."""

    body: ConfigurationBody
    etag: str
    created_at: datetime
    updated_at: datetime

    @property
    def id(self) -> str:
        return self.body.id

    @property
    def target_condition(self) -> str:
        return self.body.target_condition or ""

    @property
    def priority(self) -> int:
        return self.body.priority or 0

    @property
    def content(self) -> Content:
        return content_of(self.body.content)


@dataclass(frozen=True, slots=True)
class Deployed:
    """What was applied to a device: from which configurations, its digest, and "" or why it failed."""

    configurations: tuple[str, ...]
    digest: str
    problem: str


class Configurations:
    """All configurations of a hub. Methods may raise RegistryError and the store's errors."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def all(self, limit: int = CONFIGURATIONS) -> tuple[Configuration, ...]:
        """The highest priority first."""
        query = select(configurations).order_by(configurations.c.priority.desc(), configurations.c.id).limit(limit)
        return await self._database.read(
            lambda connection: tuple(_configuration(row) for row in connection.execute(query).mappings())
        )

    async def get(self, name: str) -> Configuration:
        """RegistryError 404."""
        return await self._database.read(lambda connection: _stored(connection, name))

    async def put(self, body: ConfigurationBody, if_match: str | None) -> Configuration:
        """Create without If-Match, change with it. RegistryError 400, 404, 409, 412, 413."""
        now = milliseconds(self._clock.now())

        def work(connection: Connection) -> Configuration:
            if if_match is None:
                _check_new(connection, body.id)
                values = {"id": body.id, "revision": 1, "created_ms": now, "updated_ms": now, **_columns(body)}
                connection.execute(insert(configurations), values)
                return _stored(connection, body.id)
            stored = _stored(connection, body.id)
            revision = _revision(connection, body.id)
            check_match(if_match, revision, f"configuration {body.id}")
            changed = _changed(stored.body, body)
            values = {"revision": revision + 1, "updated_ms": now, **_columns(changed)}
            connection.execute(update(configurations).where(configurations.c.id == body.id).values(**values))
            return _stored(connection, body.id)

        return await self._database.write(work)

    async def delete(self, name: str, if_match: str | None) -> None:
        """RegistryError 404, 412."""

        def work(connection: Connection) -> None:
            _stored(connection, name)
            check_match(if_match or "*", _revision(connection, name), f"configuration {name}")
            connection.execute(delete(configurations).where(configurations.c.id == name))

        await self._database.write(work)

    async def deployed(self) -> dict[str, Deployed]:
        """What was applied, by device."""

        def work(connection: Connection) -> dict[str, Deployed]:
            return {
                row["device"]: Deployed(
                    tuple(msgspec.json.decode(row["configurations"])), row["digest"], row["problem"]
                )
                for row in connection.execute(select(deployed)).mappings()
            }

        return await self._database.read(work)

    async def note(self, device: str, what: Deployed) -> None:
        """Remember what was applied to a device; nothing when it is gone meanwhile."""
        row = {
            "device": device,
            "configurations": msgspec.json.encode(what.configurations).decode(),
            "digest": what.digest,
            "problem": what.problem,
            "at_ms": milliseconds(self._clock.now()),
        }

        def work(connection: Connection) -> None:
            connection.execute(delete(deployed).where(deployed.c.device == device))
            if device_row(connection, device) is not None:
                connection.execute(insert(deployed), row)

        await self._database.write(work)

    async def forget(self, device: str) -> None:
        """The device is targeted by nothing any more."""
        await self._database.write(
            lambda connection: connection.execute(delete(deployed).where(deployed.c.device == device)).close()
        )


def apply_content(registrar: Registrar, device: str, wishes: Mapping[str, Wish]) -> list[DesiredNews]:
    """Make the modules that are missing and give all of them the desired properties that are wished.

    RegistryError 400 for a device that is no edge device, 404, 413; TwinError.
    """
    if not registrar.device(device).edge:
        raise RegistryError(f"{device} is no edge device", code="InvalidOperation", status=400)
    news: list[DesiredNews] = []
    for module, wish in sorted(wishes.items()):
        if module_row(registrar.connection, device, module) is None:
            registrar.create_module(ModuleDraft(device, module, managed_by=_MANAGED_BY))
        change = overwritten(_wished(wish), registrar.now)
        told = change_twin(registrar.connection, device, module, None, change)[1]
        if told is not None:
            news.append(DesiredNews(device, module, told))
    return news


def _wished(wish: Wish) -> Callable[[Twin], TwinDraft]:
    return lambda twin: TwinDraft(twin.tags, wish(twin.desired.values))


def _check_new(connection: Connection, name: str) -> None:
    if connection.execute(select(configurations.c.id).where(configurations.c.id == name)).first() is not None:
        raise RegistryError(f"configuration {name} exists", code="ConfigurationAlreadyExists", status=409)
    if connection.execute(select(func.count()).select_from(configurations)).scalar_one() >= CONFIGURATIONS:
        detail = f"there are {CONFIGURATIONS} configurations, and there can be no more"
        raise RegistryError(detail, code="ConfigurationCountLimitExceeded", status=413)


def _changed(stored: ConfigurationBody, wished: ConfigurationBody) -> ConfigurationBody:
    """What is not said stays."""
    if wished.content is not None and content_of(wished.content) != content_of(stored.content):
        raise RegistryError(
            f"the content of {stored.id} cannot be changed",
            code="CannotModifyImmutableConfigurationContent",
            status=400,
            fix="make another configuration with a higher priority",
        )
    said = {
        name: getattr(wished, name)
        for name in ("labels", "target_condition", "priority", "metrics")
        if getattr(wished, name) is not None
    }
    return msgspec.structs.replace(stored, **said)


def _stored(connection: Connection, name: str) -> Configuration:
    row = connection.execute(select(configurations).where(configurations.c.id == name)).mappings().first()
    if row is None:
        raise RegistryError(f"there is no configuration {name[:140]}", code="ConfigurationNotFound", status=404)
    return _configuration(row)


def _revision(connection: Connection, name: str) -> int:
    revision: int = connection.execute(
        select(configurations.c.revision).where(configurations.c.id == name)
    ).scalar_one()
    return revision


def _configuration(row: RowMapping) -> Configuration:
    return Configuration(
        msgspec.json.decode(row["body"], type=ConfigurationBody),
        etag_of(row["revision"]),
        at_moment(row["created_ms"]),
        at_moment(row["updated_ms"]),
    )


def _columns(body: ConfigurationBody) -> dict[str, Any]:
    return {
        "body": msgspec.json.encode(body).decode(),
        "target_condition": body.target_condition or "",
        "priority": body.priority or 0,
    }
