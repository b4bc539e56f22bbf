"""The port to hubs: its fake, the hub of this process, and a hub by REST keep the same promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from edgetrust.clock import ManualClock
from edgetrust.errors import ConfigError, PeerError, UnavailableError
from edgetrust.hub.policies import OWNER, load_policies
from edgetrust.pki.chain import Thumbprint, TrustBundle
from edgetrust.pki.keys import SecretBytes
from edgetrust.provisioning.hubs import Hub, HubDevice, HubHere, HubTwin, pinned
from edgetrust.provisioning.remote import RemoteHub
from edgetrust.provisioning.settings import HubLink
from edgetrust.store.engine import Database
from edgetrust.store.identities import Identities
from edgetrust.store.policyfile import connection_string
from edgetrust.store.twins import Twins
from edgetrust.trust.registration import SasKeys
from support.hub import NAME, World, new_pki, running
from support.pki import NOW
from support.provisioning import FakeHub

KEYS = SasKeys(SecretBytes(b"p" * 32), SecretBytes(b"s" * 32))
OTHER = SasKeys(SecretBytes(b"q" * 32), SecretBytes(b"t" * 32))
TWIN = HubTwin({"site": "north"}, {"rate": 5})


def link(world: World, folder: Path, **changes: Any) -> HubLink:
    secret = folder / "link.txt"
    owner = load_policies(world.settings.data / "policies.json")[OWNER]
    secret.write_text(changes.pop("text", connection_string(NAME, owner)))
    return HubLink(**{"name": NAME, "connection_string_file": secret, "url": world.base, **changes})


def trust(world: World) -> TrustBundle:
    return TrustBundle.from_pem(world.root.read_bytes(), as_of=datetime.now(UTC))


@pytest_asyncio.fixture(params=["fake", "here", "remote"])
async def hub(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Hub]:
    if request.param == "fake":
        yield FakeHub()
    elif request.param == "here":
        database, clock = Database("sqlite://"), ManualClock(NOW)
        await database.migrate()
        yield HubHere(Identities(database, clock, NAME), Twins(database, clock))
        await database.close()
    else:
        async with running(tmp_path / "hub", new_pki(tmp_path)) as world:
            made = RemoteHub(link(world, tmp_path), trust(world))
            yield made
            await made.close()


async def test_a_device_is_put_changed_and_deleted(hub: Hub) -> None:
    assert await hub.twin("d 1".replace(" ", "-")) is None
    await hub.put(HubDevice("d-1", KEYS, twin=TWIN))
    assert await hub.twin("d-1") == TWIN
    await hub.put(HubDevice("d-1", KEYS, twin=HubTwin({"site": "south"})))  # data stay
    assert await hub.twin("d-1") == TWIN
    await hub.put(HubDevice("d-1", pinned(Thumbprint("sha256", b"x" * 32)), edge=True))
    assert await hub.twin("d-1") == TWIN
    await hub.put(HubDevice("d-1", OTHER, edge=True, twin=HubTwin({"site": "south"}), reset=True))
    assert await hub.twin("d-1") == HubTwin({"site": "south"})
    await hub.delete("d-1")
    await hub.delete("d-1")
    assert await hub.twin("d-1") is None
    await hub.ping()


async def test_doing_it_again_changes_nothing(hub: Hub) -> None:
    for _ in range(3):
        await hub.put(HubDevice("d-1", KEYS, twin=TWIN))
    assert await hub.twin("d-1") == TWIN


async def test_what_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    async with running(tmp_path / "hub", new_pki(tmp_path)) as world:
        made = RemoteHub(link(world, tmp_path), trust(world))
        for hub in (made, HubHere(world.hub.parts.identities, world.hub.parts.twins)):
            gateway = HubDevice("d-1", pinned(Thumbprint("sha256", b"x" * 32)), edge=True)
            for device in (HubDevice("d-1", KEYS), gateway):
                await hub.put(device)
                before = (await world.ask("GET", "/devices/d-1")).json["etag"]
                await hub.put(device)
                assert (await world.ask("GET", "/devices/d-1")).json["etag"] == before
        await made.close()


async def test_a_hub_that_refuses_or_is_away(tmp_path: Path) -> None:
    async with running(tmp_path / "hub", new_pki(tmp_path)) as world:
        owner = load_policies(world.settings.data / "policies.json")[OWNER]
        wrong = connection_string(NAME, owner).partition("SharedAccessKey=")[0] + "SharedAccessKey=" + "A" * 43 + "="
        refusing = RemoteHub(link(world, tmp_path, text=wrong), trust(world))
        with pytest.raises(PeerError) as refused:
            await refusing.put(HubDevice("d-1", KEYS))
        assert (refused.value.reason, refused.value.status) == ("hub-refused", 401)
        other_name = RemoteHub(link(world, tmp_path, name="another.example"), trust(world))
        with pytest.raises(UnavailableError):  # its certificate is not for the name that devices will dial
            await other_name.ping()
        stranger = RemoteHub(link(world, tmp_path), TrustBundle((), as_of=datetime.now(UTC)))
        with pytest.raises(UnavailableError):
            await stranger.ping()
        away = RemoteHub(link(world, tmp_path, url="https://127.0.0.1:1"), trust(world))
        with pytest.raises(UnavailableError):
            await away.ping()
        for each in (refusing, other_name, stranger, away):
            await each.close()
        for text in ("", "HostName=x", "HostName=x;DeviceId=d;SharedAccessKey=AAAA", "no connection string"):
            with pytest.raises(ConfigError):
                RemoteHub(link(world, tmp_path, text=text), trust(world))
