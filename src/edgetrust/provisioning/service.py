"""The provisioning service as a whole: its parts over a database, as a guest of a hub's listeners or on its own.

Beside the requests runs little: every second it takes what other processes changed; every half minute it measures how
fast the linked hubs answer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from pathlib import Path

import structlog

from edgetrust.clock import Clock
from edgetrust.errors import Error
from edgetrust.limits import HUB_PING_SECONDS
from edgetrust.protocol.dps.names import is_dps_user_name
from edgetrust.provisioning.allocation import Choice
from edgetrust.provisioning.assigning import Assigner, Issue
from edgetrust.provisioning.hubs import Hub
from edgetrust.provisioning.mqtt import DpsConnection
from edgetrust.provisioning.policies import load_policies
from edgetrust.provisioning.registering import Registering
from edgetrust.provisioning.rest.app import build_app, is_own_path
from edgetrust.provisioning.rest.parts import Parts
from edgetrust.provisioning.webhook import Webhooks
from edgetrust.store.audit import AuditTrail
from edgetrust.store.auditing import Auditor
from edgetrust.store.certificates import CaCertificates
from edgetrust.store.dps_schema import dps_ca_certificates
from edgetrust.store.engine import Database
from edgetrust.store.enrollments import Enrollments, group_of_ca
from edgetrust.store.provisioned import Provisioned
from edgetrust.telemetry import EVENT_STORE_UNAVAILABLE
from edgetrust.transport.guests import Guest
from edgetrust.transport.tasks import LoopTasks
from edgetrust.trust.authenticate import Policy

_TICK_SECONDS = 1.0
_log = structlog.get_logger()


class Provisioning:
    """One running provisioning service, without listeners. Made by `open`, ended by `close`."""

    def __init__(
        self,
        id_scope: str,
        enrollments: Enrollments,
        parts: Parts,
        assigner: Assigner,
        hubs: Mapping[str, Hub],
        tasks: LoopTasks,
        webhooks: Webhooks,
    ) -> None:
        self.id_scope = id_scope
        self._enrollments = enrollments
        self._parts = parts
        self._assigner = assigner
        self._hubs = hubs
        self._tasks = tasks
        self._webhooks = webhooks

    @classmethod
    async def open(
        cls,
        *,
        id_scope: str,
        hosts: frozenset[str],
        policies: Path,
        database: Database,
        trail: AuditTrail,
        clock: Clock,
        hubs: Mapping[str, Hub],
        choice: Choice,
        issue: Issue | None = None,
    ) -> Provisioning:
        """Open it over a migrated database. Raises ConfigError, UnavailableError, IntegrityError.

        `hosts` are its own names, for services' tokens; `hubs` are what it assigns to, by the names that devices get;
        `issue` certifies devices that ask for it.
        """
        enrollments = await Enrollments.open(database, clock)
        provisioned = Provisioned(database, clock)
        certificates = await CaCertificates.open(database, clock, enrollments, dps_ca_certificates, group_of_ca)
        tasks, auditor = LoopTasks(), Auditor(trail)
        webhooks = Webhooks()
        assigner = Assigner(provisioned, hubs, choice, webhooks.ask, issue)
        registering = Registering(id_scope, enrollments, provisioned, assigner, auditor, clock, tasks)
        parts = Parts(
            registering=registering,
            enrollments=enrollments,
            provisioned=provisioned,
            certificates=certificates,
            policies=load_policies(policies),
            policy=Policy(hosts),
            auditor=auditor,
            clock=clock,
        )
        made = cls(id_scope, enrollments, parts, assigner, hubs, tasks, webhooks)
        tasks.start(made._tick())
        if len(hubs) > 1:
            tasks.start(made._measure())
        return made

    def guest(self) -> Guest:
        """What it shares the listeners of a host with."""
        parts = self._parts
        return Guest(
            "dps",
            build_app(parts),
            is_own_path,
            lambda: DpsConnection(parts.registering, parts.auditor, parts.clock, self._tasks),
            lambda user: is_dps_user_name(user, self.id_scope),
            self.close,
        )

    async def close(self) -> None:
        """Give up what is in work (the next question about it takes it up), and let go of the hubs."""
        await self._tasks.close()
        await self._webhooks.close()
        for hub in self._hubs.values():
            await hub.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            try:
                await self._enrollments.catch_up()
            except Error as problem:  # the next second is another attempt
                _log.warning(EVENT_STORE_UNAVAILABLE, reason=problem.reason, detail=problem.message)

    async def _measure(self) -> None:
        while True:
            latencies = {name: await self._latency(hub) for name, hub in self._hubs.items()}
            self._assigner.measured(latencies)
            await asyncio.sleep(HUB_PING_SECONDS)

    async def _latency(self, hub: Hub) -> float:
        began = self._parts.clock.monotonic()
        try:
            await hub.ping()
        except Error:
            return math.inf
        return self._parts.clock.monotonic() - began
