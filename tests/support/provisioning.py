"""A provisioning service without sockets: its engine over a database in memory, and hubs that can fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509

from edgetrust.clock import ManualClock
from edgetrust.errors import Error, UnavailableError
from edgetrust.pki.chain import Chain
from edgetrust.protocol.dps.bodies import RegisterRequest
from edgetrust.protocol.dps.enrollments import Enrollment
from edgetrust.protocol.dps.errors import DpsError
from edgetrust.protocol.sas import parse_token, sign
from edgetrust.provisioning.allocation import Choice
from edgetrust.provisioning.assigning import Assigner
from edgetrust.provisioning.hubs import HubDevice, HubTwin
from edgetrust.provisioning.registering import Answer, Claim, Registering
from edgetrust.store.certificates import CaCertificates
from edgetrust.store.dps_schema import dps_ca_certificates
from edgetrust.store.engine import Database
from edgetrust.store.enrollments import Enrollments, group_of_ca
from edgetrust.store.provisioned import Provisioned
from edgetrust.transport.tasks import LoopTasks
from edgetrust.trust.audit import Record
from edgetrust.trust.credential import ClientChain, Credential
from support.enrollments import PRIMARY, SCOPE
from support.pki import NOW

AWAY = UnavailableError("the hub is away", reason="hub-unavailable")


@dataclass
class FakeHub:
    """The port's fake: devices in a dictionary; `fault` is raised by the calls named in `failing`."""

    devices: dict[str, HubDevice] = field(default_factory=dict)
    twins: dict[str, HubTwin] = field(default_factory=dict)
    puts: int = 0
    fault: Error | None = None
    failing: tuple[str, ...] = ("put", "twin", "delete", "ping")
    gate: asyncio.Event | None = None
    closed: bool = False

    async def put(self, device: HubDevice) -> None:
        if self.gate is not None:
            await self.gate.wait()
        self._fail("put")
        self.puts += 1
        known = device.device in self.devices
        self.devices[device.device] = device
        if device.twin is not None and (not known or device.reset):
            self.twins[device.device] = device.twin

    async def twin(self, device: str) -> HubTwin | None:
        self._fail("twin")
        return self.twins.get(device, HubTwin()) if device in self.devices else None

    async def delete(self, device: str) -> None:
        self._fail("delete")
        self.devices.pop(device, None)
        self.twins.pop(device, None)

    async def ping(self) -> None:
        self._fail("ping")

    async def close(self) -> None:
        self.closed = True

    def _fail(self, call: str) -> None:
        if self.fault is not None and call in self.failing:
            raise self.fault


class Records:
    """Decisions, as they are recorded."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record) -> None:
        self.records.append(record)

    @property
    def refusals(self) -> list[str]:
        return [record.reason for record in self.records if not record.accepted]


@dataclass
class Service:
    """The engine and what is around it. `restart` is what a killed process leaves behind, started again."""

    database: Database
    clock: ManualClock
    enrollments: Enrollments
    provisioned: Provisioned
    certificates: CaCertificates
    hubs: dict[str, FakeHub]
    choice: Choice
    records: Records = field(default_factory=Records)
    tasks: LoopTasks = field(default_factory=LoopTasks)
    registering: Registering = field(init=False)

    def __post_init__(self) -> None:
        self._make()

    def _make(self) -> None:
        assigner = Assigner(self.provisioned, self.hubs, self.choice)
        self.registering = Registering(
            SCOPE, self.enrollments, self.provisioned, assigner, self.records, self.clock, self.tasks
        )

    async def restart(self, choice: Choice | None = None) -> None:
        await self.tasks.close()
        self.tasks = LoopTasks()
        self.choice = choice or self.choice
        self._make()

    async def enroll(self, *bodies: Enrollment, if_match: str | None = None) -> None:
        for body in bodies:
            await self.enrollments.put(body, if_match)

    async def register(self, claim: Claim, **request: Any) -> Answer:
        return await self.registering.register(claim, RegisterRequest(**request))

    async def assigned(self, claim: Claim, **request: Any) -> dict[str, Any]:
        """Register and ask until the end; the state."""
        begun = await self.register(claim, **request)
        return await self.end_of(claim, begun)

    async def end_of(self, claim: Claim, begun: Answer) -> dict[str, Any]:
        assert begun.status == 202, begun
        async with asyncio.timeout(60):
            while (answer := await self.registering.poll(claim, begun.operation_id)).status != 200:
                await asyncio.sleep(0.005)
        state: dict[str, Any] = json.loads(answer.body)["registrationState"]
        return state


@asynccontextmanager
async def serving(
    database: Database, hubs: Mapping[str, FakeHub] | None = None, choice: Choice | None = None
) -> AsyncIterator[Service]:
    """A service with one hub named `hub`, unless told otherwise."""
    clock = ManualClock(NOW)
    made = dict(hubs or {"hub": FakeHub()})
    enrollments = await Enrollments.open(database, clock)
    certificates = await CaCertificates.open(database, clock, enrollments, dps_ca_certificates, group_of_ca)
    provisioned = Provisioned(database, clock)
    service = Service(
        database, clock, enrollments, provisioned, certificates, made, choice or Choice(dict.fromkeys(made, 1))
    )
    try:
        yield service
    finally:
        await service.tasks.close()


def claims(name: str, credential: Credential | None = None, *, scope: str = SCOPE, peer: str = "192.0.2.1:5") -> Claim:
    """Who asks; with its own primary key unless another credential is given."""
    return Claim(scope, name, credential or signed(name), peer, "test")


def signed(name: str, key: bytes = PRIMARY, seconds: int = 600) -> Credential:
    expires_at = int(NOW.timestamp()) + seconds
    return parse_token(sign(key, f"{SCOPE}%2Fregistrations%2F{name}", expires_at, "registration"))


def shown(*chain: x509.Certificate) -> Credential:
    return ClientChain(Chain(chain))


async def refused(call: Any) -> DpsError:
    """The error that a call ends with."""
    try:
        await call
    except DpsError as problem:
        return problem
    raise AssertionError("it was not refused")
