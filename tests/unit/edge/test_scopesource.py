"""Questions about the scope, and what answers mean."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from edgetrust.clock import SystemClock
from edgetrust.edge.hubapi import HubApi, HubTrust
from edgetrust.edge.scopesource import OwnTokenRefusedError, ScopeSource
from edgetrust.edge.settings import Settings
from edgetrust.errors import UnavailableError
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import (
    CertificateAuthority,
    Missing,
    MissingWhy,
    NoAuthentication,
    Registration,
    SasKeys,
    Thumbprints,
)
from support.fake_hub import Asked, FakeHub

KEY = "cHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHA="
SAS = {"type": "sas", "symmetricKey": {"primaryKey": KEY, "secondaryKey": KEY}}
LIST, ONE = "POST devicesAndModulesInTargetDeviceScope", "POST getDeviceAndModuleOnBehalfOf"
SENSOR = Identity("hub.example", "Sensor")


def device(name: str, authentication: Any = SAS, **more: Any) -> dict[str, Any]:
    return {"deviceId": name, "generationId": "1", "status": "enabled", "authentication": authentication, **more}


def page(*devices: Any, modules: Any = (), link: str | None = None) -> tuple[int, Any]:
    return 200, {"devices": list(devices), "modules": list(modules), "continuationLink": link}


@pytest.fixture
async def source(hub: FakeHub, settings_for: Callable[[FakeHub], Settings]) -> AsyncIterator[ScopeSource]:
    settings = settings_for(hub)
    api = HubApi(settings, HubTrust(settings.upstream, SystemClock()), authorization=lambda: "t")
    yield ScopeSource("hub.example", "Edge", api, SystemClock())
    await api.close()


async def test_everything_is_read_page_by_page_and_gateway_by_gateway(hub: FakeHub, source: ScopeSource) -> None:
    def answer(asked: Asked) -> tuple[int, Any]:
        match asked.body["authChain"], asked.body.get("continuationLink"):
            case "Edge", None:
                child = device("Child", capabilities={"iotEdge": True}, deviceScope="child-scope")
                own = device("Edge", capabilities={"iotEdge": True}, deviceScope="own-scope")
                return page(own, child, link="more")
            case "Edge", "more":
                return page(device("Sensor"), modules=[{"deviceId": "Edge", "moduleId": "m", "authentication": SAS}])
            case "Child;Edge", None:
                return page(device("Child", capabilities={"iotEdge": True}), device("Deep"))
        raise AssertionError(asked.body)

    hub.answers[LIST] = answer
    found = await source.everything()
    assert {str(one.identity) for one in found} == {"Edge", "Child", "Sensor", "Edge/m", "Deep"}
    assert hub.asked[0].path.startswith("/devices/Edge/modules/%24edgeHub/devicesAndModulesInTargetDeviceScope?")


async def test_what_registrations_say(hub: FakeHub, source: ScopeSource) -> None:
    hex_digits = "ab" * 32
    hub.answers[LIST] = page(
        device("sas", parentScopes=["p"], etag="e"),
        device("thumb", {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": hex_digits}}),
        device("ca", {"type": "certificateAuthority"}, status="disabled"),
        device("none", {"type": "none"}),
        device("half", {"type": "sas", "symmetricKey": {"primaryKey": KEY}}),
        device("nothing", None),
        modules=[
            {"deviceId": "sas", "moduleId": "m", "authentication": SAS},
            {"deviceId": "ca", "moduleId": "m", "authentication": {"type": "none"}},
            {"deviceId": "elsewhere", "moduleId": "m"},
        ],
    )
    found = {str(one.identity): one for one in await source.everything()}
    assert isinstance(found["sas"].authentication, SasKeys)
    assert (found["sas"].parents, found["sas"].etag, found["sas"].enabled) == (("p",), "e", True)
    thumbprints = found["thumb"].authentication
    assert isinstance(thumbprints, Thumbprints)
    assert thumbprints.primary is not None
    assert thumbprints.secondary is None
    assert isinstance(found["ca"].authentication, CertificateAuthority)
    assert not found["ca"].enabled
    for name in ("none", "half", "nothing"):
        assert isinstance(found[name].authentication, NoAuthentication)
    assert found["sas/m"].device_keys == found["sas"].authentication
    assert not found["ca/m"].device_enabled
    assert found["elsewhere/m"].device_enabled


@pytest.mark.parametrize(
    "answer",
    [
        (200, "nonsense"),
        page({"deviceId": 1}),
        page(device("x", {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "zz"}})),
        page(device("x", {"type": "sas", "symmetricKey": {"primaryKey": "%", "secondaryKey": "%"}})),
    ],
)
async def test_a_listing_that_cannot_be_read_changes_nothing(hub: FakeHub, source: ScopeSource, answer: Any) -> None:
    hub.answers[LIST] = answer
    with pytest.raises(UnavailableError, match="cannot be read"):
        await source.everything()


async def test_one(hub: FakeHub, source: ScopeSource) -> None:
    hub.answers[ONE] = page(device("Sensor"))
    found = await source.one(SENSOR)
    assert isinstance(found, tuple)
    assert isinstance(found[0], Registration)
    assert hub.asked[0].body == {"targetDeviceId": "Sensor", "targetModuleId": None, "authChain": "Edge"}
    hub.answers[ONE] = page()
    missing = await source.one(SENSOR)
    assert isinstance(missing, Missing)
    assert missing.why is MissingWhy.UNKNOWN


@pytest.mark.parametrize(
    ("status", "why"),
    [(403, MissingWhy.NOT_A_CHILD), (404, MissingWhy.UNKNOWN), (400, MissingWhy.UNKNOWN)],
)
async def test_one_that_is_not_below(hub: FakeHub, source: ScopeSource, status: int, why: MissingWhy) -> None:
    hub.answers[ONE] = (status, {"Message": "no"})
    found = await source.one(SENSOR)
    assert isinstance(found, Missing)
    assert found.why is why


async def test_a_401_may_mean_ourselves(hub: FakeHub, source: ScopeSource) -> None:
    def answer(asked: Asked) -> tuple[int, Any]:
        return (401, {}) if asked.body["targetDeviceId"] == "Sensor" else page(device("Edge"))

    hub.answers[ONE] = answer
    found = await source.one(SENSOR)
    assert isinstance(found, Missing)
    assert found.why is MissingWhy.NOT_A_CHILD
    hub.answers[ONE] = (401, {"Message": "ErrorCode:IotHubUnauthorizedAccess;"})
    with pytest.raises(OwnTokenRefusedError, match="its own registration"):
        await source.one(SENSOR)


async def test_a_401_about_ourselves_that_is_over_says_nothing_about_who_was_asked_for(
    hub: FakeHub, source: ScopeSource
) -> None:
    """A gateway above that was just started has learnt of us while we asked."""
    answers = [(401, {}), page(device("Edge")), page(device("Sensor"))]
    hub.answers[ONE] = lambda _: answers.pop(0)
    found = await source.one(SENSOR)
    assert not isinstance(found, Missing)
    assert [one.identity for one in found] == [SENSOR]
    assert answers == []


async def test_other_answers(hub: FakeHub, source: ScopeSource) -> None:
    hub.answers[ONE] = (418, {})
    with pytest.raises(UnavailableError, match="418"):
        await source.one(SENSOR)
    hub.answers[LIST] = (403, {})
    with pytest.raises(OwnTokenRefusedError, match="the device scope"):
        await source.everything()


async def test_the_hubs_cas(hub: FakeHub, source: ScopeSource) -> None:
    pem = hub.pki.root.chain.pem()
    hub.answers["GET verifiedCertificates"] = (200, {"certificates": [pem], "asOf": "now"})
    assert await source.authorities() == (hub.pki.root.certificate,)
    hub.answers["GET verifiedCertificates"] = (200, {"certificates": ["nonsense"]})
    with pytest.raises(UnavailableError, match="cannot be read"):
        await source.authorities()
    hub.answers["GET verifiedCertificates"] = (200, {})
    assert await source.authorities() is None
    hub.answers["GET verifiedCertificates"] = (404, {})
    assert await source.authorities() is None
    hub.answers["GET verifiedCertificates"] = (401, {})
    with pytest.raises(OwnTokenRefusedError):
        await source.authorities()


async def test_the_version_of_the_scope(hub: FakeHub, source: ScopeSource) -> None:
    hub.answers["GET scopeVersion"] = (200, {"version": 7})
    assert await source.scope_version(None) == 7
    assert await source.scope_version(7) == 7
    assert "wait_seconds" not in hub.asked[0].query
    assert (hub.asked[1].query["after"], hub.asked[1].query["wait_seconds"]) == ("7", "30")
    hub.answers["GET scopeVersion"] = (404, {})
    assert await source.scope_version(7) is None
    hub.answers["GET scopeVersion"] = (200, {"version": "x"})
    assert await source.scope_version(7) is None
    hub.answers["GET scopeVersion"] = (401, {})
    with pytest.raises(OwnTokenRefusedError):
        await source.scope_version(7)
