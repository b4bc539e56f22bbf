"""HTTPS to the hub: whom it trusts, whom it dials, what it sends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgetrust.clock import ManualClock, SystemClock
from edgetrust.edge.hubapi import Client, HubApi, HubNotTrustedError, HubTrust, hub_path
from edgetrust.edge.settings import Settings
from edgetrust.errors import ConfigError, UnavailableError
from edgetrust.pki.chain import Chain
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.softkeys import SoftKey
from support.fake_hub import FakeHub
from support.pki import EXPIRED, Pki

SettingsFor = Callable[[FakeHub], Settings]


def api(settings: Settings, *, client: Client | None = None, token: str | None = "token") -> HubApi:
    return HubApi(settings, HubTrust(settings.upstream, SystemClock()), authorization=lambda: token, client=client)


async def get(settings: Settings, **options: object) -> object:
    made = api(settings, **options)  # type: ignore[arg-type]
    try:
        return (await made.call("GET", hub_path("x"), api_version="1", timeout_seconds=2)).body
    finally:
        await made.close()


async def test_a_call_carries_version_token_body_and_condition(hub: FakeHub, settings_for: SettingsFor) -> None:
    hub.answers["PUT $edgeHub"] = (200, {"ok": True})
    made = api(settings_for(hub))
    path = hub_path("devices", "a b", "modules", "$edgeHub")
    answer = await made.call("PUT", path, api_version="2", query={"q": "ü"}, body={"a": 1}, if_match="*")
    await made.close()
    assert (answer.status, answer.body) == (200, {"ok": True})
    asked = hub.asked[0]
    assert asked.path.startswith("/devices/a%20b/modules/%24edgeHub?")
    assert asked.query == {"q": "ü", "api-version": "2"}
    assert asked.headers["Authorization"] == "token"
    assert asked.headers["If-Match"] == "*"
    assert asked.headers["Host"].startswith("hub.example")
    assert asked.body == {"a": 1}


async def test_a_client_certificate_instead_of_a_token(hub: FakeHub, settings_for: SettingsFor) -> None:
    hub.answers["GET x"] = (200, {})
    shown: list[tuple[Chain, SoftKey]] = []
    for name in ("EdgeGateway", "Replaced"):
        holder = hub.pki.device(name)
        shown.append((holder.chain, SoftKey.from_pem(name, SecretBytes(holder.key_pem()))))
        if name == "EdgeGateway":
            made = api(settings_for(hub), client=lambda: shown[-1], token=None)
        else:
            made.forget_certificate()
        await made.call("GET", "/x", api_version="1")
        await made.close()
    assert [one.client for one in hub.asked] == ["EdgeGateway", "Replaced"]
    assert "Authorization" not in hub.asked[0].headers
    shown.append((shown[0][0], shown[1][1]))
    with pytest.raises(ConfigError, match="device identity"):
        await get(settings_for(hub), client=lambda: shown[-1])


async def test_a_hub_below_another_root_is_not_trusted(hub: FakeHub, settings_for: SettingsFor, tmp_path: Path) -> None:
    settings = settings_for(hub)
    (tmp_path / "hub-root.pem").write_text(Pki(now=hub.pki.now).impostor().root.chain.pem())
    with pytest.raises(HubNotTrustedError) as caught:
        await get(settings)
    assert caught.value.exit_code == 1
    assert "hub-root.pem" in caught.value.message
    assert hub.asked == []


async def test_a_hub_of_another_name_is_not_trusted(hub: FakeHub, settings_for: SettingsFor) -> None:
    with pytest.raises(HubNotTrustedError, match="not trusted"):
        settings = settings_for(hub)
        await get(replace(settings, upstream=replace(settings.upstream, name="other.example")))


async def test_an_expired_hub_is_not_trusted(tmp_path: Path, settings_for: SettingsFor) -> None:
    late = FakeHub(Pki(now=SystemClock().now()), tmp_path, server_fields=EXPIRED)
    await late.start()
    with pytest.raises(HubNotTrustedError, match="expired"):
        await get(settings_for(late))
    await late.stop()


async def test_the_systems_store_is_used_when_nothing_is_configured(
    hub: FakeHub, settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.answers["GET x"] = (200, {"found": 1})
    settings = settings_for(hub)
    ca, settings = settings.upstream.ca, replace(settings, upstream=replace(settings.upstream, ca=None))
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    assert await get(settings) == {"found": 1}
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    with pytest.raises(HubNotTrustedError, match="trust store of this machine"):
        await get(settings)


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_hub_that_cannot_answer_is_away(hub: FakeHub, settings_for: SettingsFor, status: int) -> None:
    hub.answers["GET x"] = (status, "")
    with pytest.raises(UnavailableError, match=str(status)):
        await get(settings_for(hub))


async def test_a_hub_that_is_not_there(hub: FakeHub, settings_for: SettingsFor) -> None:
    settings = settings_for(hub)
    await hub.stop()
    with pytest.raises(UnavailableError, match="cannot be reached"):
        await get(settings)
    await hub.start()


async def test_an_answer_without_json_has_no_body(hub: FakeHub, settings_for: SettingsFor) -> None:
    hub.answers["GET x"] = (200, "<html>")
    made = api(settings_for(hub))
    answer = await made.call("GET", "/x", api_version="1")
    assert (answer.body, answer.problem) == (None, "HTTP 200")
    hub.answers["GET x"] = (404, {"errorMessage": "not here"})
    assert (await made.call("GET", "/x", api_version="1")).problem == "404 not here"
    await made.close()


def test_a_replaced_trust_file_is_read_at_once(hub_files: tuple[Settings, Path]) -> None:
    settings, file = hub_files
    trust = HubTrust(settings.upstream, ManualClock())
    first = trust.bundle()
    assert trust.bundle() is first
    file.write_text(Pki(root_name="New Root").root.chain.pem())
    assert trust.bundle().version != first.version
    file.unlink()
    with pytest.raises(ConfigError, match="does not exist"):
        trust.bundle()


def test_the_machines_trust_store_is_read_again_every_minute(
    hub_files: tuple[Settings, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = replace(hub_files[0].upstream, ca=None)
    clock = ManualClock()
    trust = HubTrust(address, clock)
    monkeypatch.setenv("SSL_CERT_FILE", str(hub_files[1]))
    first = trust.bundle()
    hub_files[1].write_text(Pki(root_name="New Root").root.chain.pem())
    assert trust.bundle() is first
    clock.advance(61)
    assert trust.bundle().version != first.version


@pytest.fixture
def hub_files(tmp_path: Path, settings_for: SettingsFor) -> tuple[Settings, Path]:
    settings = settings_for(FakeHub(Pki(), tmp_path))
    return settings, tmp_path / "hub-root.pem"
