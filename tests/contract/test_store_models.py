"""Random operations on the registry and on the queue, compared with models that are a dictionary and a list."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from edgetrust.clock import ManualClock
from edgetrust.store.engine import Database
from edgetrust.store.identities import Identities
from edgetrust.store.lanes import Lane
from edgetrust.store.queues import ForwardQueue
from edgetrust.store.records import SYSTEM_MODULES, DeviceDraft, ModuleDraft, RegistryError, scope_of
from support.database import DURABLE, Outcomes, PostgresServer, queued

EXAMPLES = {"sqlite-file": 25, "postgresql": 8}
NAMES = st.sampled_from(["a", "B", "c-1", "d", "e", "f", "g"])
MODULES = st.sampled_from(["m", "M", "$edgeHub"])


@dataclass
class Device:
    """What the model knows of a device."""

    edge: bool
    parent: str | None
    enabled: bool = True
    modules: set[str] = field(default_factory=set)


class StoreMachine(RuleBasedStateMachine):
    """A database, and a loop to wait for it."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.runner = asyncio.Runner()
        self.database = self.run(self._open())

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(call)

    async def _open(self) -> Database:
        database = Database(self.url)
        await database.migrate()
        return database

    def teardown(self) -> None:
        self.run(self.database.close())
        self.runner.close()


class RegistryMachine(StoreMachine):
    """The rules of hub specification 4.11 and 5.4, told a second time in plain Python."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.registry = Identities(self.database, ManualClock(), "hub.example")
        self.model: dict[str, Device] = {}
        self.generations: dict[str, str] = {}
        self.etags: dict[str, str] = {}
        self.used_etags: set[str] = set()
        self.heard = 0
        self.registry.listen(lambda change: setattr(self, "heard", max(self.heard, change.sequence)))

    # -- the model's rules

    def way(self, name: str | None) -> list[str]:
        found: list[str] = []
        while name is not None:
            found.append(name)
            name = self.model[name].parent
        return found

    def children(self, name: str) -> list[str]:
        return [child for child, device in self.model.items() if device.parent == name]

    def height(self, name: str) -> int:
        """Gateways from here down, this one included."""
        if name not in self.model or not self.model[name].edge:
            return 0
        return 1 + max((self.height(child) for child in self.children(name)), default=0)

    def parent_status(self, name: str, parent: str, edge: bool) -> int | None:
        if parent not in self.model or not self.model[parent].edge or name in self.way(parent):
            return 400
        return 400 if edge and len(self.way(parent)) + max(1, self.height(name)) > 5 else None

    # -- operations

    def attempt(self, call: Coroutine[Any, Any, Any], status: int | None) -> Any:
        before = self.run(self.registry.last_change())
        try:
            result = self.run(call)
        except RegistryError as error:
            assert error.status == status, error.message
            assert self.run(self.registry.last_change()) == before
            return None
        assert status is None
        assert self.run(self.registry.last_change()) > before
        return result

    def scopes(self, parent: str | None) -> tuple[str, ...] | None:
        if parent is None:
            return None
        return (scope_of(parent, self.generations.get(parent, "0")),) if parent else ()

    @rule(name=NAMES, edge=st.booleans(), parent=st.none() | NAMES)
    def create(self, name: str, edge: bool, parent: str | None) -> None:
        status = 409 if name in self.model else None
        if status is None and parent is not None:
            status = self.parent_status(name, parent, edge)
        draft = DeviceDraft(name, edge=edge, parent_scopes=self.scopes(parent))
        if (created := self.attempt(self.registry.create_device(draft), status)) is not None:
            assert created.generation not in self.generations.values()
            self.generations[name] = created.generation
            self.model[name] = Device(edge, parent, modules=set(SYSTEM_MODULES) if edge else set())

    @rule(
        name=NAMES,
        edge=st.none() | st.booleans(),
        parent=st.none() | st.just("") | NAMES,
        enabled=st.booleans(),
        match=st.sampled_from(["*", "newest", "stale"]),
    )
    def update(self, name: str, edge: bool | None, parent: str | None, enabled: bool, match: str) -> None:
        stored = self.model.get(name)
        status = None
        wanted = edge if edge is not None else stored is not None and stored.edge
        if stored is None:
            status = 404
        elif match == "stale":
            status = 412
        elif stored.edge and not wanted and self.children(name):
            status = 400
        elif parent:
            status = self.parent_status(name, parent, wanted)
        elif wanted and not stored.edge and parent is None and stored.parent is not None:
            status = self.parent_status(name, stored.parent, wanted)
        if_match = self.etags.get(name, "MA==") if match == "newest" else ("MA==" if match == "stale" else "*")
        draft = DeviceDraft(
            name, edge=edge, parent_scopes=self.scopes(parent), status="enabled" if enabled else "disabled"
        )
        if self.attempt(self.registry.update_device(draft, if_match), status) is not None:
            assert stored is not None
            if wanted and not stored.edge:
                stored.modules.update(SYSTEM_MODULES)
            elif not wanted:
                stored.modules.difference_update(SYSTEM_MODULES)
            stored.edge, stored.enabled = wanted, enabled
            stored.parent = stored.parent if parent is None else parent or None

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        status = None if name in self.model else 404
        self.attempt(self.registry.delete_device(name), status)
        if status is None:
            for child in self.children(name):
                self.model[child].parent = None
            del self.model[name], self.etags[name]

    @rule(name=NAMES, module=MODULES)
    def create_module(self, name: str, module: str) -> None:
        device = self.model.get(name)
        status = None
        if device is None:
            status = 404
        elif module in device.modules:
            status = 409
        elif module in SYSTEM_MODULES:
            status = 400
        if self.attempt(self.registry.create_module(ModuleDraft(name, module)), status) is not None:
            assert device is not None
            device.modules.add(module)

    @rule(name=NAMES, module=MODULES)
    def delete_module(self, name: str, module: str) -> None:
        device = self.model.get(name)
        status = None
        if device is None or module not in device.modules:
            status = 404
        elif module in SYSTEM_MODULES:
            status = 401
        self.attempt(self.registry.delete_module(name, module), status)
        if status is None and device is not None:
            device.modules.remove(module)

    # -- what must be true

    @invariant()
    def agrees(self) -> None:
        stored = {record.device: record for record in self.run(self.registry.devices())}
        assert list(stored) == sorted(self.model)
        for name, device in self.model.items():
            record = stored[name]
            assert (record.edge, record.enabled, record.parent) == (device.edge, device.enabled, device.parent)
            above = () if device.parent is None else (scope_of(device.parent, self.generations[device.parent]),)
            assert record.parent_scopes == above
            assert record.scope == (scope_of(name, record.generation) if device.edge else (above[0] if above else None))
            if record.etag != self.etags.get(name):
                assert record.etag not in self.used_etags
                self.used_etags.add(record.etag)
                self.etags[name] = record.etag

    @invariant()
    def listeners_heard_everything(self) -> None:
        assert self.heard == self.run(self.registry.last_change())

    @rule(name=NAMES)
    def look_closer(self, name: str) -> None:
        device = self.model.get(name)
        if device is None:
            return
        assert {module.module for module in self.run(self.registry.modules(name))} == device.modules
        assert list(self.run(self.registry.ancestors(name))) == self.way(name)
        if device.edge:
            page = self.run(self.registry.scope(name))
            assert [record.device for record in page.devices] == [name, *sorted(self.children(name))]


class QueueMachine(StoreMachine):
    """At least once, in order, whatever is acknowledged, released or restarted in between."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.queue: ForwardQueue = self.run(ForwardQueue.open(self.database))
        self.number = 0
        self.waiting: list[int] = []  # stored and not acknowledged, in order
        self.offsets: dict[int, int] = {}
        self.leased: list[int] = []

    @property
    def lane(self) -> Lane:
        return self.queue.lane("$upstream")

    @rule(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5))
    def append(self, sizes: list[int]) -> None:
        async def work() -> None:
            done = Outcomes()
            for size in sizes:
                numbers = range(self.number, self.number + size)
                self.queue.append([queued(number, device=f"d{number % 3}") for number in numbers], done)
                self.waiting += numbers
                self.number += size
            assert await done.wait(len(sizes)) == [None] * len(sizes)

        self.run(work())

    @rule(limit=st.integers(1, 60))
    def lease(self, limit: int) -> None:
        found = self.run(self.lane.lease(limit))
        numbers = [stored.message.enqueued_ms - 1_700_000_000_000 for stored in found]
        last = self.leased[-1] if self.leased else -1
        assert numbers == [number for number in self.waiting if number > last][:limit]
        self.leased += numbers
        self.offsets.update(zip(numbers, (stored.offset for stored in found), strict=True))

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.leased), max_size=20))
        self.run(self.lane.ack([self.offsets[number] for number in chosen]))
        self.waiting = [number for number in self.waiting if number not in set(chosen)]

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def acknowledge_up_to(self, data: st.DataObject) -> None:
        last = data.draw(st.sampled_from(self.leased))
        upto = [self.offsets[number] for number in self.waiting if number <= last]
        self.run(self.lane.ack(upto))
        self.waiting = [number for number in self.waiting if number > last]

    @rule()
    def release(self) -> None:
        self.lane.release()
        self.leased = []

    @rule()
    def restart(self) -> None:
        async def work() -> None:
            await self.queue.close()
            await self.database.close()
            self.database = await self._open()
            self.queue = await ForwardQueue.open(self.database)

        self.run(work())
        self.leased = []

    @invariant()
    def counts(self) -> None:
        assert self.run(self.queue.status()).messages == len(self.waiting)

    def teardown(self) -> None:
        self.release()
        self.lease(10**6)
        self.run(self.queue.close())
        super().teardown()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", DURABLE)
@pytest.mark.parametrize("machine", [RegistryMachine, QueueMachine])
def test_agrees_with_its_model(
    engine: str, machine: Callable[[str], StoreMachine], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    numbers = iter(range(10**6))

    def make() -> StoreMachine:
        if engine == "postgresql":
            server: PostgresServer = request.getfixturevalue("postgres")
            return machine(server.new_database())
        return machine(f"sqlite:///{tmp_path}/{next(numbers)}.db")

    profile = settings(
        max_examples=EXAMPLES[engine],
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(make, settings=profile)
