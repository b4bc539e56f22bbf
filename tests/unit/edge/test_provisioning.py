"""A gateway and its provisioning service: what is remembered, what is waited for, and how often it is asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgetrust.clock import ManualClock, SystemClock
from edgetrust.edge.credentials import Assignment
from edgetrust.edge.files import Layout
from edgetrust.edge.keyd import open_keys
from edgetrust.edge.pairs import CertificateStore
from edgetrust.edge.provisioning import Provisioning, as_assigned
from edgetrust.edge.settings import Settings, load_settings
from edgetrust.errors import ConfigError, RefusedError
from edgetrust.limits import PROVISION_AGAIN_SECONDS
from edgetrust.pki.keys import SecretBytes
from support.fake_hub import Asked, FakeHub
from support.pki import Pki

HERE = Assignment("hub.example", "EdgeGateway")
BY_KEY = 'method = "symmetric_key"\nsymmetric_key = { value = "a2V5" }'


class Story:
    """A service that assigns, or does what `status` says, and gateways that ask it."""

    def __init__(self, folder: Path) -> None:
        self.service = FakeHub(Pki(now=SystemClock().now()), folder, hosts=("localhost",))
        self.service.answers["PUT register"] = self.register
        self.service.answers["GET operation"] = self.poll
        self.folder = folder
        self.layout = Layout(folder / "root")
        self.layout.make()
        self.clock = ManualClock(SystemClock().now())
        self.status = 202
        self.hub, self.device = "Hub.Example", "EdgeGateway"
        self.pauses: list[float] = []
        self.heal_after = 0

    def register(self, asked: Asked) -> tuple[int, Any]:
        if self.status != 202:
            return self.status, {"errorCode": self.status * 1000, "message": "no"}
        return 202, {"operationId": "operation", "status": "assigning"}

    def poll(self, _asked: Asked) -> tuple[int, Any]:
        state = {"assignedHub": self.hub, "deviceId": self.device, "payload": {"site": "north"}}
        return 200, {"operationId": "operation", "status": "assigned", "registrationState": state}

    def settings(
        self, mode: str = "Dynamic", scope: str = "0ne", registration: str = "gateway-1", attestation: str = BY_KEY
    ) -> Settings:
        (self.folder / "root.pem").write_text(self.service.pki.bundle.pem())
        (self.folder / "payload.json").write_text('{"model": 1}')
        path = self.folder / "config.toml"
        path.write_text(
            f"""
hostname = "edgegateway.local"
auto_reprovisioning_mode = "{mode}"
[provisioning]
source = "dps"
global_endpoint = "https://localhost:{self.service.port}"
id_scope = "{scope}"
payload = {{ uri = "file://{self.folder}/payload.json" }}
[provisioning.attestation]
registration_id = "{registration}"
{attestation}
[edgetrust.upstream]
ca = "file://{self.folder}/root.pem"
"""
        )
        return load_settings(path)

    def gateway(self, **options: str) -> Provisioning:
        settings = self.settings(**options)
        assert settings.dps is not None
        keys = open_keys(self.layout)
        return Provisioning(settings, settings.dps, self.layout, keys, self.clock, pause=self.pause)

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if len(self.pauses) >= self.heal_after:
            self.status = 202

    @property
    def registrations(self) -> list[Any]:
        return [one.body for one in self.service.asked if one.method == "PUT"]


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Story]:
    made = Story(tmp_path)
    await made.service.start()
    yield made
    await made.service.stop()


async def test_it_is_assigned_once_and_remembers(story: Story) -> None:
    assert await story.gateway().begin() == HERE
    assert await story.gateway().begin() == HERE
    assert story.registrations == [{"registrationId": "gateway-1", "payload": {"model": 1}}]
    stored = json.loads(story.layout.assignment.read_text())
    assert (stored["hub"], stored["device"], stored["payload"]) == ("hub.example", "EdgeGateway", {"site": "north"})
    assert as_assigned(story.settings(), story.layout).hub == "hub.example"


@pytest.mark.parametrize("change", [{"mode": "AlwaysOnStartup"}, {"scope": "0ther"}, {"registration": "gateway-2"}])
async def test_when_it_asks_again(story: Story, change: dict[str, str]) -> None:
    await story.gateway().begin()
    story.device = "Another"
    assert await story.gateway(**change).begin() == Assignment("hub.example", "Another")
    assert len(story.registrations) == 2


@pytest.mark.parametrize("status", [401, 503])
async def test_a_service_that_refuses_or_is_away_does_not_stop_who_was_assigned(story: Story, status: int) -> None:
    await story.gateway().begin()
    story.status, story.heal_after = status, 99
    assert await story.gateway(mode="AlwaysOnStartup").begin() == HERE
    assert story.pauses == []


async def test_who_never_was_waits_for_the_service(story: Story) -> None:
    story.status, story.heal_after = 503, 3
    assert await story.gateway().begin() == HERE
    assert len(story.pauses) == 3
    assert story.pauses == sorted(story.pauses)


async def test_who_never_was_ends_when_it_is_refused(story: Story) -> None:
    story.status, story.heal_after = 401, 99
    with pytest.raises(RefusedError) as caught:
        await story.gateway().begin()
    assert caught.value.reason == "registration-refused"
    assert not story.layout.assignment.exists()


async def test_an_answer_without_a_hub_is_none(story: Story) -> None:
    gateway = story.gateway()
    await gateway.begin()
    story.hub = ""
    assert not await story.gateway().refused()
    assert as_assigned(story.settings(), story.layout).hub == "hub.example"


async def test_refused_by_the_hub_it_asks_once_in_a_while(story: Story) -> None:
    gateway = story.gateway()
    await gateway.begin()
    assert not await gateway.refused()  # it was asked just now
    story.clock.advance(PROVISION_AGAIN_SECONDS)
    assert await gateway.refused()  # the same place: the hub has been told of it again
    assert not await gateway.refused()
    assert len(story.registrations) == 2
    assert not gateway.moved.is_set()


async def test_refused_by_the_hub_it_is_moved(story: Story) -> None:
    gateway = story.gateway()
    await gateway.begin()
    story.clock.advance(PROVISION_AGAIN_SECONDS)
    story.device = "Another"
    assert not await gateway.refused()
    assert gateway.moved.is_set()
    assert await story.gateway().begin() == Assignment("hub.example", "Another")


async def test_a_replaced_certificate_is_made_known_at_once_and_after_a_refusal_once_in_a_while(story: Story) -> None:
    (story.folder / "x").touch()
    named = "\n".join(f'identity_{one} = "file://{story.folder}/x"' for one in ("cert", "pk"))
    gateway = story.gateway(attestation=f'method = "x509"\n{named}')

    def has(name: str) -> None:
        holder = story.service.pki.device(name)
        open_keys(story.layout).import_pem("device-id", SecretBytes(holder.key_pem()))
        CertificateStore(story.layout.certificates).save("device-id", holder.chain)

    has("first")
    await gateway.begin()
    await gateway.make_known()
    assert len(story.registrations) == 1
    has("second")
    for _ in range(2):
        await gateway.make_known()
    assert len(story.registrations) == 2  # at once, though it was asked just before
    has("third")
    story.status, story.heal_after = 401, 99
    with pytest.raises(RefusedError):
        await gateway.make_known()
    await gateway.make_known()
    assert len(story.registrations) == 3
    story.clock.advance(PROVISION_AGAIN_SECONDS)
    story.status = 202
    for _ in range(2):
        await gateway.make_known()
    assert len(story.registrations) == 4
    assert gateway.current == HERE


async def test_who_has_no_certificate_has_none_to_make_known(story: Story) -> None:
    gateway = story.gateway()
    await gateway.begin()
    await gateway.make_known()
    assert len(story.registrations) == 1


async def test_a_payload_that_is_no_json(story: Story) -> None:
    gateway = story.gateway()
    (story.folder / "payload.json").write_text("{")
    with pytest.raises(ConfigError, match="is no JSON"):
        await gateway.begin()
