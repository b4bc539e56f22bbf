"""The hub as a whole: what it opens it closes, and what goes wrong beside the connections does not reach them."""

from __future__ import annotations

import base64
import shutil
import socket
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from edgetrust.clock import ManualClock
from edgetrust.errors import ConfigError, Error, IntegrityError, UnavailableError
from edgetrust.hub.pki import HubPki
from edgetrust.hub.service import Hub
from edgetrust.store.certificates import CaCertificates
from edgetrust.store.engine import Database
from edgetrust.store.identities import Identities
from edgetrust.store.records import DeviceDraft
from edgetrust.trust.identity import Identity
from support.hub import NAME, World, devices_pki, new_settings, running
from support.mosquitto import device, identity, wait


def store_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("store")}


@pytest.fixture
def threads_before() -> set[threading.Thread]:
    """What other tests of this process have not closed."""
    return store_threads()


@pytest.mark.parametrize("taken", ["mqtt_port", "https_port"])
async def test_a_port_in_use(
    tmp_path: Path, hub_pki: HubPki, threads_before: set[threading.Thread], taken: str
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = new_settings(tmp_path, hub_pki, **{taken: other.getsockname()[1]})
        with pytest.raises(Error) as caught:
            await Hub.start(settings, ManualClock())
    assert caught.value.reason
    assert store_threads() <= threads_before  # nothing was left open


async def test_files_that_do_not_fit(tmp_path: Path, hub_pki: HubPki, threads_before: set[threading.Thread]) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        await Hub.start(new_settings(tmp_path, hub_pki, certificate=tmp_path / "none.pem"), ManualClock())
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(ConfigError) as caught:
        await Hub.start(new_settings(tmp_path, hub_pki, certificate=tmp_path / "empty.pem"), ManualClock())
    assert caught.value.reason == "certificate-unreadable"
    (tmp_path / "other.pem").write_bytes(devices_pki().device("x").key_pem())
    (tmp_path / "other.pem").chmod(0o600)
    with pytest.raises(IntegrityError) as mismatch:
        await Hub.start(new_settings(tmp_path, hub_pki, key=tmp_path / "other.pem"), ManualClock())
    assert mismatch.value.reason == "key-certificate-mismatch"
    assert store_threads() <= threads_before


async def test_a_database_that_cannot_be_opened(
    tmp_path: Path, hub_pki: HubPki, threads_before: set[threading.Thread]
) -> None:
    for url in ("nonsense", "mysql://x/y", f"sqlite:///{tmp_path}/no/such/directory/hub.db"):
        with pytest.raises((ConfigError, UnavailableError)):
            await Hub.start(new_settings(tmp_path, hub_pki, url), ManualClock())
    (tmp_path / "junk.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(Error):
        await Hub.start(new_settings(tmp_path, hub_pki, f"sqlite:///{tmp_path}/junk.db"), ManualClock())
    assert store_threads() <= threads_before


async def test_stopping_closes_all(tmp_path: Path, hub_pki: HubPki, threads_before: set[threading.Thread]) -> None:
    async with running(tmp_path, hub_pki) as world:
        await world.create("d1")
        with device(world, "d1") as client:
            await wait(lambda: client.code == 0)
            await world.hub.stop()
            await wait(lambda: client.lost is not None)
        assert store_threads() <= threads_before


async def test_stopping_when_the_store_is_gone(
    tmp_path: Path, hub_pki: HubPki, threads_before: set[threading.Thread]
) -> None:
    """What fails on the way does not keep the rest open."""
    async with running(tmp_path, hub_pki) as world:
        await world.create("d1")
        with device(world, "d1") as client:
            await wait(lambda: client.code == 0)
            await world.hub._database.close()
            with pytest.raises(UnavailableError):
                await world.hub.stop()
            await wait(lambda: client.lost is not None)
        assert store_threads() <= threads_before
        world.hub.stop = _nothing  # type: ignore[method-assign]


async def _nothing() -> None:
    return None


async def test_a_failing_store_does_not_end_the_second_hand(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expired credentials are ended also after a second in which the store failed, whatever way it failed."""
    await world.create("d1")
    failures = [UnavailableError("away"), IntegrityError("odd", reason="store-row")]
    real = world.hub._identities.catch_up

    async def failing() -> int:
        if failures:
            raise failures.pop()
        return await real()

    monkeypatch.setattr(world.hub._identities, "catch_up", failing)
    with structlog.testing.capture_logs() as logs, device(world, "d1", password=world.token("d1", seconds=5)) as client:
        await wait(lambda: client.code == 0)
        await wait(lambda: not failures)
        world.clock.advance(306)
        await wait(lambda: client.lost is not None)
    assert len([entry for entry in logs if entry["event"] == "store.unavailable"]) == 2


async def test_presence_is_not_forgotten_when_it_cannot_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.create("d1")
    real = world.hub._identities.record_presence
    fail = [True]

    async def failing(*arguments: object) -> None:
        if fail:
            raise UnavailableError("away")
        await real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(world.hub._identities, "record_presence", failing)
    with device(world, "d1") as client:
        await wait(lambda: client.code == 0)
        with pytest.raises(UnavailableError):
            await world.hub._presence.write()
        world.hub._presence.note(Identity(NAME, "d2"), True)
        fail.clear()
        await world.hub._presence.write()
        assert (await world.ask("GET", "/devices/d1")).json["connectionState"] == "Connected"


class TestAnotherProcess:
    """A second process with the same database: what it changes is heard within a second or two."""

    @pytest.fixture
    async def other(self, world: World) -> Identities:
        return Identities(Database(world.settings.database), world.clock, NAME)

    async def test_disables_a_device(self, world: World, other: Identities) -> None:
        await world.create("d1")
        with device(world, "d1") as client:
            await wait(lambda: client.code == 0)
            await other.set_enabled("d1", False)
            await wait(lambda: client.lost is not None)
        with device(world, "d1") as client:
            await wait(lambda: client.code is not None)
            assert client.code == 5
        await other._database.close()

    async def test_retires_a_ca(self, world: World, other: Identities) -> None:
        pki = devices_pki()
        await world.trust(pki.root)
        await world.create("d1", authentication={"type": "certificateAuthority"})
        certificates = await CaCertificates.open(other._database, world.clock, other)
        with device(world, "d1", show=identity(pki.device("d1"), world.directory)) as client:
            await wait(lambda: client.code == 0)
            await certificates.delete("ca", "*")
            await wait(lambda: client.lost is not None)
        await other._database.close()

    async def test_creates_a_device(self, world: World, other: Identities) -> None:
        made = await other.create_device(DeviceDraft("d2"))
        world.keys["d2"] = base64.b64encode(made.authentication.primary.reveal()).decode()  # type: ignore[union-attr]
        with device(world, "d2") as client:
            await wait(lambda: client.code == 0)
        await other._database.close()


async def test_secrets_are_private_files(world: World) -> None:
    for name in ("policies.json", "hub.sqlite"):
        mode = (world.directory / name).stat().st_mode & 0o777
        assert mode == 0o600, name


async def test_an_old_directory_with_a_new_day(tmp_path: Path, hub_pki: HubPki) -> None:
    """A copy of a hub's directory is that hub: same keys, same devices."""
    async with running(tmp_path / "a", hub_pki) as world:
        await world.create("d1")
        keys = world.keys
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    clock = ManualClock(world.clock.now() + timedelta(days=1))
    async with running(tmp_path / "b", hub_pki, clock=clock) as again:
        again.keys = keys
        assert (await again.ask("GET", "/devices/d1/modules", token=again.token("d1"))).status == 200
