"""The module $edgeHub: made, updated, remembered."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgetrust.clock import SystemClock
from edgetrust.edge.credentials import DeviceCertificate
from edgetrust.edge.files import Layout
from edgetrust.edge.hubapi import HubTrust
from edgetrust.edge.identityd import DeviceRefusedError, Identities
from edgetrust.edge.keyd import open_keys
from edgetrust.edge.settings import Settings
from edgetrust.errors import UnavailableError
from edgetrust.protocol.sas import covers, parse_token, signature_matches
from support.fake_hub import Asked, FakeHub

SettingsFor = Callable[[FakeHub], Settings]


class Story:
    """A device at a hub that keeps its module as real hubs do."""

    def __init__(self, hub: FakeHub, settings: Settings, folder: Path) -> None:
        self.hub = hub
        self.settings = settings
        self.layout = Layout(folder / "root")
        self.layout.make()
        self.module: dict[str, Any] | None = None
        hub.answers["GET $edgeHub"] = self.read
        hub.answers["PUT $edgeHub"] = self.write
        self.open()

    def open(self) -> None:
        clock = SystemClock()
        trust = HubTrust(self.settings.upstream, clock)
        self.identities = Identities(self.settings, self.layout, open_keys(self.layout), trust, clock)

    def read(self, _: Asked) -> tuple[int, Any]:
        return (404, {"Message": "ErrorCode:ModuleNotFound;"}) if self.module is None else (200, self.module)

    def write(self, asked: Asked) -> tuple[int, Any]:
        if "If-Match" not in asked.headers and self.module is not None:
            return 409, {"Message": "ErrorCode:ModuleAlreadyExistsOnDevice;"}
        self.module = {**(self.module or {"generationId": "638"}), **asked.body}
        return 200, self.module

    def methods(self) -> list[str]:
        return [f"{one.method}{' *' if 'If-Match' in one.headers else ''}" for one in self.hub.asked]


@pytest.fixture
async def story(hub: FakeHub, settings_for: SettingsFor, tmp_path: Path) -> Any:
    made = Story(hub, settings_for(hub), tmp_path)
    yield made
    await made.identities.api.close()


async def test_a_module_is_made_and_told_its_keys(story: Story) -> None:
    made = await story.identities.ensure_edge_hub()
    assert story.methods() == ["GET", "PUT", "PUT *"]
    assert story.module is not None
    keys = story.module["authentication"]["symmetricKey"]
    assert base64.b64decode(keys["primaryKey"]) == made.primary.reveal()
    assert base64.b64decode(keys["secondaryKey"]) == made.secondary.reveal()
    assert story.hub.asked[1].body == {"moduleId": "$edgeHub", "managedBy": "IotEdge", "deviceId": "EdgeGateway"}
    assert story.hub.asked[0].query == {"api-version": "2017-11-08-preview"}
    token = parse_token(story.hub.asked[0].headers["Authorization"])
    assert covers(token, {"hub.example"}, "EdgeGateway", None)
    assert signature_matches(token, b"d" * 32)


async def test_a_module_that_is_as_it_should_be_is_left_alone(story: Story) -> None:
    first = await story.identities.ensure_edge_hub()
    story.hub.asked.clear()
    assert await story.identities.ensure_edge_hub() == first
    assert story.methods() == ["GET"]


@pytest.mark.parametrize("authentication", [None, {"type": "none"}, {"type": "sas", "symmetricKey": {}}])
async def test_a_module_with_other_keys_is_updated(story: Story, authentication: Any) -> None:
    story.module = {"generationId": "7", "authentication": authentication}
    assert (await story.identities.ensure_edge_hub()).generation == "7"
    assert story.methods() == ["GET", "PUT *"]


async def test_a_module_that_somebody_makes_in_between(story: Story) -> None:
    story.module = {"generationId": "9"}
    answers = iter([(404, {}), (200, story.module)])
    story.hub.answers["GET $edgeHub"] = lambda _: next(answers)
    assert (await story.identities.ensure_edge_hub()).generation == "9"
    assert story.methods() == ["GET", "PUT", "GET", "PUT *"]


async def test_the_backup_works_without_the_hub_and_holds_no_key(story: Story) -> None:
    assert story.identities.backup() is None
    made = await story.identities.ensure_edge_hub()
    path = story.layout.module_backup("hub.example", "EdgeGateway", "$edgeHub")
    assert "authentication" not in json.loads(path.read_text())
    assert 'device_id = "EdgeGateway"' in (story.layout.identities / "device_info").read_text()
    await story.identities.api.close()
    story.open()
    assert story.identities.backup() == made
    path.write_text("[]")
    assert story.identities.backup() is None
    path.write_text("not json")
    assert story.identities.backup() is None


async def test_a_module_that_is_gone_takes_its_backup_with_it(story: Story) -> None:
    await story.identities.ensure_edge_hub()
    story.hub.answers["GET $edgeHub"] = (404, {"Message": "ErrorCode:DeviceNotFound;EdgeGateway"})
    story.hub.answers["PUT $edgeHub"] = (404, {"Message": "ErrorCode:DeviceNotFound;EdgeGateway"})
    with pytest.raises(DeviceRefusedError) as caught:
        await story.identities.ensure_edge_hub()
    assert caught.value.reason == "device-unknown"
    assert "create the edge device" in caught.value.fix
    assert story.identities.backup() is None


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "device-refused"), (403, "device-refused"), (400, "module-refused")]
)
async def test_a_hub_that_says_no(story: Story, status: int, reason: str) -> None:
    await story.identities.ensure_edge_hub()
    story.hub.answers["GET $edgeHub"] = (status, {"Message": "ErrorCode:IotHubUnauthorizedAccess;no"})
    with pytest.raises(DeviceRefusedError) as caught:
        await story.identities.ensure_edge_hub()
    assert caught.value.reason == reason
    assert "IotHubUnauthorizedAccess" in caught.value.message
    assert story.identities.backup() is not None


async def test_an_answer_without_a_generation(story: Story) -> None:
    story.module = {"moduleId": "$edgeHub"}
    with pytest.raises(UnavailableError, match="generationId"):
        await story.identities.ensure_edge_hub()


async def test_a_device_with_a_certificate_sends_no_token(
    hub: FakeHub, settings_for: SettingsFor, tmp_path: Path
) -> None:
    credential = DeviceCertificate(tmp_path / "a", tmp_path / "b")
    story = Story(hub, replace(settings_for(hub), credential=credential), tmp_path)
    holder = hub.pki.device("EdgeGateway")
    keys = open_keys(story.layout)
    from edgetrust.edge.pairs import CertificateStore
    from edgetrust.pki.keys import SecretBytes

    keys.import_pem("device-id", SecretBytes(holder.key_pem()))
    CertificateStore(story.layout.certificates).save("device-id", holder.chain)
    await story.identities.ensure_edge_hub()
    await story.identities.api.close()
    assert {one.client for one in hub.asked} == {"EdgeGateway"}
    assert all("Authorization" not in one.headers for one in hub.asked)
