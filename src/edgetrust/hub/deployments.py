"""Configurations reach the devices they are for: decided anew when one changes, and every little while, since tags do.

Rules: what a device should have is computed from all configurations that target it and compared by digest with what
was applied last; only what differs is written. One device that cannot have what it should does not keep the others
from it: the problem is noted with the device and tried again when something changes. A device that nothing targets any
more keeps what it has.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import structlog

from edgetrust.errors import Error, PeerError
from edgetrust.limits import CONFIGURATION_SECONDS
from edgetrust.protocol.configuration import Layer, applied, effective, target
from edgetrust.protocol.twin import Json
from edgetrust.store.bulk import DesiredNews
from edgetrust.store.configurations import Configuration, Configurations, Deployed, apply_content
from edgetrust.store.identities import Identities
from edgetrust.store.queries import Queries
from edgetrust.store.twins import Twins
from edgetrust.telemetry import EVENT_STORE_UNAVAILABLE

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Metrics:
    """How many devices a configuration targets, and to how many it was applied."""

    targeted: int
    applied: int


class Deployments:
    """Applies configurations. `changed` wakes it; `run` never ends."""

    def __init__(self, configurations: Configurations, identities: Identities, queries: Queries, twins: Twins) -> None:
        self._configurations = configurations
        self._identities = identities
        self._queries = queries
        self._twins = twins
        self._woken = asyncio.Event()
        self._turn = asyncio.Lock()

    def changed(self) -> None:
        """Some configuration is another: decide at once."""
        self._woken.set()

    async def run(self) -> None:
        """Decide whenever woken, and every little while."""
        while True:
            try:
                await self.reconcile()
            except Error as problem:  # the next time is another attempt
                _log.warning(EVENT_STORE_UNAVAILABLE, reason=problem.reason, detail=problem.message)
            try:
                async with asyncio.timeout(CONFIGURATION_SECONDS):
                    await self._woken.wait()
            except TimeoutError:
                continue
            self._woken.clear()

    async def reconcile(self) -> None:
        """Give every targeted device what it should have."""
        async with self._turn:
            stored = await self._configurations.all()
            before = await self._configurations.deployed()
            if not stored and not before:
                return
            targeted: dict[str, list[Configuration]] = defaultdict(list)
            for configuration in stored:
                for device in await self._targets(configuration):
                    targeted[device].append(configuration)
            for device in before.keys() - targeted.keys():
                await self._configurations.forget(device)
            for device, configurations in sorted(targeted.items()):
                await self._bring(device, configurations, before.get(device))

    async def metrics(self, configuration: Configuration) -> Metrics:
        """Its numbers as of now."""
        targets = set(await self._targets(configuration))
        noted = await self._configurations.deployed()
        holds = sum(
            configuration.id in what.configurations and not what.problem
            for device, what in noted.items()
            if device in targets
        )
        return Metrics(len(targets), holds)

    async def apply(self, device: str, content: Mapping[str, Mapping[str, Json]]) -> None:
        """Apply a content to one device now. RegistryError, TwinError."""
        wishes = {module: lambda now, keys=keys: applied(now, keys) for module, keys in content.items()}
        await self._identities.deploy(lambda registrar: apply_content(registrar, device, wishes), self._tell)

    async def _targets(self, configuration: Configuration) -> list[str]:
        query = target(configuration.target_condition)
        return [] if query is None else [device for device, _ in await self._queries.identities(query)]

    async def _bring(self, device: str, configurations: list[Configuration], before: Deployed | None) -> None:
        wanted = effective(
            [Layer(one.content, one.priority, int(one.created_at.timestamp() * 1000)) for one in configurations]
        )
        if wanted is None:
            return
        digest = hashlib.sha256(msgspec.json.encode(wanted, order="sorted")).hexdigest()
        names = tuple(one.id for one in configurations)
        if before is not None and (before.digest, before.configurations, before.problem) == (digest, names, ""):
            return
        wishes = {module: lambda _now, desired=desired: desired for module, desired in wanted.items()}
        problem = ""
        try:
            await self._identities.deploy(lambda registrar: apply_content(registrar, device, wishes), self._tell)
        except PeerError as refusal:
            problem = refusal.message
        await self._configurations.note(device, Deployed(names, digest, problem))

    def _tell(self, news: DesiredNews) -> None:
        self._twins.tell(news.device, news.module, news.change)
