"""Who is connected, as the gateway's own twin tells it: named, bounded, gathered, and right after every restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from edgetrust.edge import clients as clients_module
from edgetrust.edge import owntwin as module
from edgetrust.edge.clients import Clients
from edgetrust.edge.owntwin import OwnTwin
from edgetrust.pki.keys import SecretBytes
from edgetrust.protocol.iothub import TwinGetTopic, TwinPatchTopic, parse_publish_topic, twin_response_topic
from edgetrust.protocol.mqtt.packets import Publish
from edgetrust.protocol.twin import merge
from edgetrust.store.engine import Database
from edgetrust.store.twin_copies import TwinCopies
from edgetrust.transport.tasks import LoopTasks
from edgetrust.trust.identity import Identity

HUB = "hub.example"
OWN = Identity(HUB, "gw", "$edgeHub")
SENSOR, FILTER = Identity(HUB, "Sensor"), Identity(HUB, "gw", "filter.1")
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)


def test_connected_and_gone_with_their_times() -> None:
    clients = Clients()
    clients.seen(SENSOR, True, NOW)
    clients.seen(FILTER, True, NOW)
    clients.seen(SENSOR, False, LATER)
    assert clients.news() == {
        "Sensor": {
            "status": "Disconnected",
            "lastConnectedTimeUtc": "2026-06-01T12:00:00.000Z",
            "lastDisconnectedTimeUtc": "2026-06-01T12:01:00.000Z",
        },
        "gw/filter%2E1": {"status": "Connected", "lastConnectedTimeUtc": "2026-06-01T12:00:00.000Z"},
    }


@pytest.mark.parametrize(("device", "name"), [("a%b", "a%25b"), ("a.b$c", "a%2Eb%24c"), ("plain:_-", "plain:_-")])
def test_names_that_a_twin_takes(device: str, name: str) -> None:
    clients = Clients()
    clients.seen(Identity(HUB, device), True, NOW)
    assert list(clients.news()) == [name]


def test_only_what_changed_is_told() -> None:
    clients = Clients()
    clients.seen(SENSOR, True, NOW)
    clients.told(clients.news())
    assert clients.news() == {}
    clients.seen(FILTER, True, NOW)
    assert list(clients.news()) == ["gw/filter%2E1"]


def test_what_is_of_before_a_restart_goes() -> None:
    clients = Clients()
    old = {"status": "Disconnected", "lastConnectedTimeUtc": "x", "lastDisconnectedTimeUtc": "y"}
    clients.known({"Sensor": old, "Gone": old, "Odd": 7})
    clients.seen(SENSOR, True, NOW)
    patch = clients.news()
    assert (patch["Gone"], patch["Odd"], patch["Sensor"]["lastDisconnectedTimeUtc"]) == (None, None, None)
    clients.told(patch)
    assert clients.news() == {}
    clients.known("no object")
    assert list(clients.news()) == ["Sensor"]


def test_no_more_than_has_room_who_is_here_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients_module, "CLIENTS_REPORTED_BYTES", 1000)
    monkeypatch.setattr(clients_module, "CLIENTS_REMEMBERED", 50)
    clients = Clients()
    for number in range(60):
        clients.seen(Identity(HUB, f"d{number}"), True, NOW)
        if number % 20:
            clients.seen(Identity(HUB, f"d{number}"), False, LATER)
    told = clients.news()
    assert len(json.dumps(told)) < 1200
    assert list(told)[:4] == ["d40", "d20", "d0", "d59"]
    clients.told(told)
    clients.seen(Identity(HUB, "new"), True, LATER)
    patch = clients.news()
    assert patch["new"] is not None
    assert None in patch.values()  # somebody makes room


class Link:
    """A hub behind a connection, with the twin of `$edgeHub`."""

    def __init__(self, own: OwnTwin, reported: dict[str, Any]) -> None:
        self._own = own
        self.reported = reported
        self.reports: list[dict[str, Any]] = []
        self.is_open = True
        self.status = 204

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> tuple[int, ...]:
        return tuple(0 for _ in filters)

    def acknowledge(self, message: Publish) -> None: ...

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1) -> None:
        asked = parse_publish_topic(topic)
        body = b""
        assert isinstance(asked, TwinGetTopic | TwinPatchTopic)
        if isinstance(asked, TwinPatchTopic):
            self.reports.append(json.loads(payload))
            self.reported = merge(self.reported, json.loads(payload))
            answer = twin_response_topic(self.status, asked.request_id, 2)
        else:
            twin = {"desired": {"$version": 1}, "reported": {**self.reported, "$version": 1}}
            body, answer = json.dumps(twin).encode(), twin_response_topic(200, asked.request_id)
        asyncio.get_running_loop().call_soon(self._own.heard, Publish(answer, body))


async def nothing() -> None: ...


@pytest_asyncio.fixture
async def own(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OwnTwin]:
    monkeypatch.setattr(module, "CLIENTS_GATHER_SECONDS", 0.02)
    database, tasks = Database("sqlite://"), LoopTasks()
    await database.migrate()
    yield OwnTwin(OWN, TwinCopies(database, SecretBytes(b"k" * 32)), tasks, lambda config: None, nothing)
    await tasks.close()
    await database.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.005)


async def test_told_together_and_again_over_the_next_connection(own: OwnTwin) -> None:
    own.seen(SENSOR, True, NOW)
    first = Link(own, {"clients": {"Gone": {"status": "Connected"}}, "other": 1})
    own.attach(first)
    await until(lambda: "Sensor" in first.reported.get("clients", {}))
    assert first.reported["clients"].keys() == {"Sensor"}
    assert first.reported["other"] == 1
    before = len(first.reports)
    for number in range(20):
        own.seen(Identity(HUB, f"d{number}"), True, NOW)
    await until(lambda: len(first.reported["clients"]) == 21)
    assert len(first.reports) == before + 1
    first.is_open = False
    own.seen(SENSOR, False, LATER)
    second = Link(own, first.reported)
    own.attach(second)
    await until(lambda: second.reported["clients"]["Sensor"]["status"] == "Disconnected")
    assert len(first.reports) == before + 1


async def test_a_hub_that_does_not_take_it_is_asked_again_with_the_next_connection(own: OwnTwin) -> None:
    own.seen(SENSOR, True, NOW)
    unwilling = Link(own, {})
    unwilling.status = 429
    own.attach(unwilling)
    await until(lambda: bool(unwilling.reports))
    link = Link(own, {})
    own.attach(link)
    await until(lambda: "Sensor" in link.reported.get("clients", {}))
