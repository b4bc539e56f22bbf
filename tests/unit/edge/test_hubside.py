"""Between a gateway and its hub: who we are at the start, and what keeps running without the hub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from edgetrust.clock import SystemClock
from edgetrust.edge import hubside as module
from edgetrust.edge.files import Layout
from edgetrust.edge.hubapi import HubNotTrustedError
from edgetrust.edge.hubside import HubSide
from edgetrust.edge.identityd import DeviceRefusedError
from edgetrust.edge.keyd import open_keys
from edgetrust.edge.settings import Settings
from edgetrust.errors import RefusedError, UnavailableError
from edgetrust.protocol.messages import Message
from edgetrust.transport.mqtt import ConnackError
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Missing, MissingWhy
from support.fake_hub import Asked, FakeHub

SettingsFor = Callable[[FakeHub], Settings]


class FakeRegistry:
    """Counts synchronisations, and fails when it is told to."""

    def __init__(self) -> None:
        self.synchronised = 0
        self.fails: list[Exception] = []
        self.missing = MissingWhy.UNKNOWN
        self.refreshed: list[str] = []
        self.confirmed = 0

    def confirm(self, since: datetime, asked_at: datetime) -> None:
        assert since <= asked_at
        self.confirmed += 1

    async def synchronise(self) -> None:
        self.synchronised += 1
        if self.fails:
            raise self.fails.pop(0)

    async def refresh(self, identity: Identity) -> bool:
        self.refreshed.append(str(identity))
        return True

    async def find(self, identity: Identity) -> Missing:
        return Missing(self.missing)


class OwnTwin:
    """Hears nothing."""

    def heard(self, message: object) -> None: ...

    def attach(self, link: object) -> None: ...


class Link:
    """A connection that somebody may end."""

    aborted = False

    def abort(self, cause: str) -> None:
        assert cause
        self.aborted = True


class Story:
    def __init__(self, hub: FakeHub, settings: Settings, folder: Path) -> None:
        self.hub = hub
        self.settings = settings
        self.layout = Layout(folder / "root")
        self.layout.make()
        self.generation = "638"
        hub.answers["GET $edgeHub"] = lambda _: (200, {"generationId": self.generation})
        hub.answers["PUT $edgeHub"] = self.write
        self.registry = FakeRegistry()
        self.changes = 0
        self.opened: list[HubSide] = []

    def write(self, asked: Asked) -> tuple[int, Any]:
        return 200, {"generationId": self.generation, **asked.body}

    def open(self) -> HubSide:
        made = HubSide(self.settings, self.layout, open_keys(self.layout), SystemClock())
        made.attach(self.registry, None, OwnTwin(), None, self.changed)  # type: ignore[arg-type]
        self.opened.append(made)
        return made

    def changed(self) -> None:
        self.changes += 1


@pytest.fixture
async def story(hub: FakeHub, settings_for: SettingsFor, tmp_path: Path) -> AsyncIterator[Story]:
    made = Story(hub, settings_for(hub), tmp_path)
    yield made
    for one in made.opened:
        await one.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "UPSTREAM_RETRY_SECONDS": (0.01,),
        "SCOPE_RETRY_SECONDS": 0.02,
        "SCOPE_SYNCHRONISE_SPACING_SECONDS": 0.001,
        "SCOPE_WATCH_RETRY_SECONDS": 0.01,
    }.items():
        monkeypatch.setattr(module, name, value)


@asynccontextmanager
async def running(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.002)


async def test_the_first_start_waits_for_the_hub(story: Story) -> None:
    await story.hub.stop()
    side = story.open()
    async with running(side.begin()):
        await until(lambda: "waiting to be provisioned" in side.degraded)
        await story.hub.start()
        await until(lambda: side._edge_hub is not None)
    assert side.generation == "638"


async def test_the_first_start_ends_when_the_hub_says_no(story: Story) -> None:
    story.hub.answers["GET $edgeHub"] = (401, {})
    with pytest.raises(DeviceRefusedError):
        await story.open().begin()


async def test_the_first_start_ends_when_the_hub_is_not_the_hub(story: Story) -> None:
    story.settings = replace(story.settings, upstream=replace(story.settings.upstream, name="other.example"))
    with pytest.raises(HubNotTrustedError):
        await story.open().begin()


@pytest.mark.parametrize("how", ["away", "refuses", "is silent"])
async def test_a_later_start_goes_on_with_the_backup(story: Story, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await story.open().begin()
    if how == "away":
        await story.hub.stop()
    elif how == "refuses":
        story.hub.answers["GET $edgeHub"] = (401, {})
    else:
        monkeypatch.setattr(module, "START_WAIT_SECONDS", 0.0)
    side = story.open()
    await side.begin()
    assert side.generation == "638"
    assert side.degraded
    if how == "away":
        await story.hub.start()


async def test_a_start_that_prefers_the_backup_does_not_ask(story: Story) -> None:
    await story.open().begin()
    story.hub.asked.clear()
    story.settings = replace(story.settings, prefer_backup=True)
    await story.open().begin()
    assert story.hub.asked == []


async def test_a_module_that_was_made_anew_is_told(story: Story) -> None:
    side = story.open()
    await side.begin()
    assert story.changes == 0
    story.generation = "639"
    await side._make_sure()
    assert (side.generation, story.changes) == ("639", 1)


async def connecting(story: Story, monkeypatch: pytest.MonkeyPatch, connect: Callable[..., Awaitable[Any]]) -> HubSide:
    monkeypatch.setattr(module, "connect_mqtt", connect)
    side = story.open()
    await side.begin()
    return side


async def test_the_connection_is_that_of_the_module(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    async def connect(*arguments: Any, **options: Any) -> str:
        seen.append((arguments, options))
        return "link"

    side = await connecting(story, monkeypatch, connect)
    assert await side._connect() == "link"  # type: ignore[comparison-overlap]
    (host, port, _, packet), options = seen[0]
    assert (host, port, options["server_name"]) == ("127.0.0.1", 1, "hub.example")
    assert packet.client_id == "EdgeGateway/$edgeHub"
    assert packet.user_name.startswith("hub.example/EdgeGateway/$edgeHub/?api-version=")
    assert packet.password.startswith(b"SharedAccessSignature sr=hub.example%2Fdevices%2FEdgeGateway")


async def test_a_refused_connection_looks_at_the_module_before_the_next(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect(*_: Any, **__: Any) -> str:
        raise ConnackError(5)

    side = await connecting(story, monkeypatch, connect)
    with pytest.raises(ConnackError):
        await side._connect()
    story.hub.asked.clear()
    story.generation = "700"
    with pytest.raises(ConnackError):
        await side._connect()
    assert story.hub.asked
    assert side.generation == "700"
    story.hub.answers["GET $edgeHub"] = (401, {})
    with pytest.raises(ConnackError):
        await side._connect()
    assert "refuses device" in side.degraded


async def test_nothing_is_forwarded_before_the_copy_is_up_to_date(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Link] = []

    async def connect(*_: Any, **__: Any) -> Link:
        made.append(Link())
        return made[-1]

    side = await connecting(story, monkeypatch, connect)
    story.registry.fails = [UnavailableError("away")]
    with pytest.raises(UnavailableError, match="nothing is forwarded before it does"):
        await side._connect()
    assert made[0].aborted
    assert await side._connect() is made[1]  # type: ignore[comparison-overlap]
    assert not made[1].aborted
    assert story.registry.synchronised == 2


async def test_the_copy_is_synchronised_when_asked_and_again_when_it_failed(story: Story) -> None:
    side = story.open()
    story.registry.fails = [UnavailableError("away"), RefusedError("no", reason="gateway-refused")]
    async with running(side.keep_synchronised()):
        await until(lambda: story.registry.synchronised == 3)
        await asyncio.sleep(0.05)
        assert story.registry.synchronised == 3
        side.synchronise_soon()
        await until(lambda: story.registry.synchronised == 4)


async def test_a_change_at_the_hub_asks_for_a_synchronisation(story: Story) -> None:
    side = story.open()
    await side.begin()
    answers: list[tuple[int, Any]] = [(200, {"version": 1}), (503, ""), (404, {}), (200, {"version": 1})]
    later = asyncio.Event()

    def answer(_: Asked) -> tuple[int, Any]:
        if answers:
            return answers.pop(0)
        return 200, {"version": 2 if later.is_set() else 1}

    story.hub.answers["GET scopeVersion"] = answer
    async with running(side.watch_scope()):
        await until(side._synchronise_now.is_set)
        side._synchronise_now.clear()
        await until(lambda: not answers)
        await asyncio.sleep(0.02)
        assert not side._synchronise_now.is_set()
        await until(lambda: story.registry.confirmed > 0)  # nothing has changed: the copy is as good as new
        later.set()
        await until(side._synchronise_now.is_set)


async def test_what_can_never_be_delivered(story: Story) -> None:
    side = story.open()
    one = Message("Sensor", "m", "", b"", 0, "", "")
    assert await side._undeliverable(one)
    story.registry.missing = MissingWhy.UNAVAILABLE
    assert not await side._undeliverable(one)
    assert story.registry.refreshed == ["Sensor", "Sensor"]
