"""What a gateway tells gateways below it: to whom, about whom, and what it passes on to its hub."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from edgetrust.clock import ManualClock
from edgetrust.edge.callers import Callers
from edgetrust.edge.hubapi import Answer
from edgetrust.edge.nested import Nested
from edgetrust.edge.scope import ScopeRegistry
from edgetrust.errors import UnavailableError
from edgetrust.pki.chain import TrustBundle
from edgetrust.pki.keys import SecretBytes
from edgetrust.protocol.registry import scope_id
from edgetrust.protocol.sas import resource_text, sign
from edgetrust.store.engine import Database
from edgetrust.store.snapshot import ScopeSnapshot
from edgetrust.trust.authenticate import Policy
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Missing, MissingWhy, Registration, SasKeys
from support.decisions import HUB, KEYS, NOW, registered
from support.fakes import FakeAuditor

EDGE_HUB = "/devices/{}/modules/$edgeHub/{}"


def edge(name: str, parent: str | None = None) -> Registration:
    parents = () if parent is None else (scope_id(parent, "1"),)
    return registered(KEYS, Identity(HUB, name), edge=True, scope=scope_id(name, "1"), parents=parents)


FAMILY = [
    edge("upper"),
    edge("lower", "upper"),
    edge("lowest", "lower"),
    edge("beside", "upper"),
    registered(KEYS, Identity(HUB, "leaf"), scope=scope_id("lower", "1"), parents=(scope_id("lower", "1"),)),
    *(registered(KEYS, Identity(HUB, name, "$edgeHub")) for name in ("upper", "lower", "lowest", "beside", "leaf")),
]


class Source:
    """The hub, as far as the copy asks it. `news` is what it knows since the copy was made."""

    def __init__(self) -> None:
        self.news: list[Registration] = []
        self.silent = False

    async def everything(self) -> list[Registration]:
        return list(FAMILY)

    async def one(self, identity: Identity) -> tuple[Registration, ...] | Missing:
        if self.silent:
            await asyncio.Event().wait()
        if news := tuple(one for one in self.news if one.identity in (identity, identity.of_device)):
            return news
        if known := tuple(one for one in FAMILY if one.identity in (identity, identity.of_device)):
            return known
        match identity.device:
            case "elsewhere":
                return Missing(MissingWhy.NOT_A_CHILD, NOW)
            case "unanswered":
                raise UnavailableError("away", reason="hub-unreachable")
            case _:
                return Missing(MissingWhy.UNKNOWN, NOW)

    async def authorities(self) -> None:
        return None


class Api:
    """The hub, as far as calls are passed on to it."""

    def __init__(self) -> None:
        self.away = False
        self.asked: list[tuple[str, str, Any, str | None]] = []

    async def call(self, method: str, path: str, *, body: Any, if_match: str | None, **_: Any) -> Answer:
        if self.away:
            raise UnavailableError("away")
        self.asked.append((method, path, body, if_match))
        return Answer(200, b'{"moduleId":"m"}')


class World:
    def __init__(
        self, client: TestClient[Any, Any], api: Api, auditor: FakeAuditor, registry: ScopeRegistry, source: Source
    ) -> None:
        self.client = client
        self.source = source
        self.api = api
        self.auditor = auditor
        self.registry = registry

    async def ask(
        self, who: str, method: str, path: str, body: Any = None, *, key: bytes = KEYS.primary.reveal(), **headers: str
    ) -> tuple[int, Any]:
        """Status and JSON; `who` is a device or a module of it."""
        device, _, module = who.partition("/")
        token = sign(key, resource_text(HUB, device, module or None), int(NOW.timestamp()) + 600)
        sent = {"Authorization": token, **{name.replace("_", "-"): value for name, value in headers.items()}}
        data = None if body is None else json.dumps(body)
        async with self.client.request(method, path, data=data, headers=sent) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def as_edge_hub(self, actor: str, name: str, body: Any, method: str = "POST") -> tuple[int, Any]:
        return await self.ask(f"{actor}/$edgeHub", method, EDGE_HUB.format(actor, name), body)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    database = Database("sqlite://")
    await database.migrate()
    clock = ManualClock(NOW)
    snapshot = ScopeSnapshot(database, SecretBytes(b"k" * 32), HUB, "upper")
    bundle = TrustBundle((), as_of=NOW - timedelta(days=1))
    source = Source()
    registry = ScopeRegistry(source, snapshot, hub=HUB, local=lambda: bundle, authorities_file=None, clock=clock)
    await registry.synchronise()
    api, auditor = Api(), FakeAuditor()
    asks: Any = api
    policy = Policy(frozenset({HUB}), module_certificates=False)
    app = web.Application()
    callers = Callers(registry, policy, auditor, clock)
    Nested(HUB, "upper", registry, asks, callers, auditor, clock).add_to(app)
    async with TestClient(TestServer(app)) as client:
        yield World(client, api, auditor, registry, source)
    await database.close()


def names(listing: Any) -> tuple[list[str], list[str]]:
    modules = [f"{one['deviceId']}/{one['moduleId']}" for one in listing["modules"]]
    return sorted(one["deviceId"] for one in listing["devices"]), sorted(modules)


async def test_a_level_of_the_copy(world: World) -> None:
    status, listing = await world.as_edge_hub("lower", "devicesAndModulesInTargetDeviceScope", {"authChain": "lower"})
    assert status == 200
    assert names(listing) == (["leaf", "lower", "lowest"], ["lower/$edgeHub"])
    leaf = next(one for one in listing["devices"] if one["deviceId"] == "leaf")
    assert leaf["authentication"]["type"] == "sas"
    assert leaf["parentScopes"] == [scope_id("lower", "1")]
    chain = {"authChain": "lowest;lower/$edgeHub;lower"}
    assert names((await world.as_edge_hub("lower", "devicesAndModulesInTargetDeviceScope", chain))[1])[0] == ["lowest"]


@pytest.mark.parametrize("chain", ["beside", "leaf;beside;lower", "upper", "lower;beside", "nobody;lower", ";;", "a b"])
async def test_nothing_about_anybody_else(world: World, chain: str) -> None:
    status, said = await world.as_edge_hub("lower", "devicesAndModulesInTargetDeviceScope", {"authChain": chain})
    assert status in (400, 403)
    assert "Message" in said


async def test_a_chain_that_is_not_its_own_is_on_record(world: World) -> None:
    for chain, reason in (
        ("beside", "auth-chain-mismatch"),
        ("leaf;beside;lower", "not-a-child"),
        ("leaf;lower;upper;lower", "auth-chain-mismatch"),
    ):
        for name in ("devicesAndModulesInTargetDeviceScope", "getModulesOnTargetDevice"):
            assert (await world.as_edge_hub("lower", name, {"authChain": chain}))[0] == 403
            record = world.auditor.refusals[-1]
            assert (record.identity, record.reason) == ("lower/$edgeHub", reason)
    assert world.api.asked == []


async def test_a_device_that_calls_a_module_edge_hub_is_no_gateway(world: World) -> None:
    """It may give its own modules any name. The scope that it has is its parent's: that lists its siblings' keys."""
    for name, body in (
        ("devicesAndModulesInTargetDeviceScope", {"authChain": "leaf"}),
        ("getDeviceAndModuleOnBehalfOf", {"authChain": "leaf", "targetDeviceId": "leaf"}),
        ("getModulesOnTargetDevice", {"authChain": "leaf"}),
    ):
        assert (await world.as_edge_hub("leaf", name, body))[0] == 403
        record = world.auditor.refusals[-1]
        assert (record.identity, record.reason) == ("leaf/$edgeHub", "not-authorized")
    assert world.api.asked == []


async def test_no_half_a_listing(world: World) -> None:
    world.registry.as_of = None  # as after a start without the hub and without a copy of everything
    status, said = await world.as_edge_hub("lower", "devicesAndModulesInTargetDeviceScope", {"authChain": "lower"})
    assert (status, said) == (500, {"Message": "this gateway has not been told yet who is below it"})
    assert (await world.ask("lower", "GET", "/devices/lower/modules"))[
        0
    ] == 500  # not half a chain, which the hub refuses
    assert world.api.asked == []


async def test_one_identity(world: World) -> None:
    asked = {"authChain": "lower", "targetDeviceId": "lowest", "targetModuleId": "$edgeHub"}
    assert names((await world.as_edge_hub("lower", "getDeviceAndModuleOnBehalfOf", asked))[1]) == (
        ["lowest"],
        ["lowest/$edgeHub"],
    )
    for target, status in (("beside", 403), ("upper", 403), ("elsewhere", 403), ("nobody", 404), ("unanswered", 500)):
        asked = {"authChain": "lower", "targetDeviceId": target}
        assert (await world.as_edge_hub("lower", "getDeviceAndModuleOnBehalfOf", asked))[0] == status


async def test_whoever_asks_must_prove_it(world: World) -> None:
    path = EDGE_HUB.format("lower", "scopeVersion")
    assert (await world.ask("lower/$edgeHub", "GET", path, key=b"x" * 32))[0] == 401
    assert (await world.ask("beside/$edgeHub", "GET", path))[0] == 401
    assert [entry.reason for entry in world.auditor.refusals] == ["sas-signature-mismatch", "sas-other-resource"]
    module = {"deviceId": "beside", "moduleId": "m"}
    assert (await world.ask("lower", "PUT", "/devices/beside/modules/m", module))[0] == 401
    assert world.api.asked == []


async def test_whom_nobody_can_judge_now_is_not_refused_for_good(world: World) -> None:
    """A runtime that is told 401 gives up; one that is told 500 tries again. Both are on record."""
    assert (await world.ask("elsewhere", "GET", "/devices/elsewhere/modules/$edgeHub"))[0] == 401
    assert (await world.ask("unanswered", "GET", "/devices/unanswered/modules/$edgeHub"))[0] == 500
    assert [entry.reason for entry in world.auditor.refusals] == ["not-a-child", "registry-unavailable"]


OTHER_KEY = base64.b64encode(b"another key of thirty-two octets").decode()


def with_another_key(registration: Registration) -> Registration:
    key = SecretBytes(base64.b64decode(OTHER_KEY))
    return replace(registration, authentication=SasKeys(key, key))


async def test_a_gateway_whose_credential_is_new_at_the_hub_is_not_refused_by_an_old_copy(world: World) -> None:
    world.source.news = [with_another_key(FAMILY[1])]
    key = base64.b64decode(OTHER_KEY)

    assert (await world.ask("lower", "GET", "/devices/lower/modules/$edgeHub", key=key))[0] == 200
    assert not world.auditor.records
    assert (await world.ask("lower", "GET", "/devices/lower/modules/$edgeHub"))[0] == 401  # the old one is over


async def test_who_asks_about_somebody_is_told_what_the_hub_knows_now(world: World) -> None:
    world.source.news = [replace(with_another_key(FAMILY[2]), as_of=NOW)]
    body = {"targetDeviceId": "lowest", "authChain": "lower"}

    status, found = await world.as_edge_hub("lower", "getDeviceAndModuleOnBehalfOf", body)

    assert status == 200
    assert found["devices"][0]["authentication"]["symmetricKey"]["primaryKey"] == OTHER_KEY


async def test_a_hub_that_does_not_answer_leaves_it_to_the_copy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetrust.edge.nested.LOOK_UP_SECONDS", 0.01)
    world.source.silent = True
    body = {"targetDeviceId": "lowest", "authChain": "lower"}

    status, found = await world.as_edge_hub("lower", "getDeviceAndModuleOnBehalfOf", body)

    assert (status, found["devices"][0]["deviceId"]) == (200, "lowest")


async def test_a_chain_that_is_new_at_the_hub_is_known(world: World) -> None:
    world.source.news = [edge("new", "lower")]

    async def status(actor: str) -> int:
        body = {"authChain": f"new;{actor}"}
        return (await world.as_edge_hub(actor, "devicesAndModulesInTargetDeviceScope", body))[0]

    assert await status("lower") == 200
    assert await status("beside") == 403


async def test_the_version_waits_for_a_change(world: World) -> None:
    path = EDGE_HUB.format("lower", "scopeVersion")
    status, now = await world.ask("lower/$edgeHub", "GET", path)
    assert (status, now) == (200, {"version": world.registry.version})
    waiting = asyncio.create_task(world.ask("lower/$edgeHub", "GET", f"{path}?after={now['version']}"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    FAMILY.append(edge("new", "lower"))
    try:
        await world.registry.synchronise()
        assert (await waiting)[1]["version"] > now["version"]
    finally:
        FAMILY.pop()


async def test_who_waits_for_a_change_is_answered_when_the_gateway_stops(world: World) -> None:
    path = EDGE_HUB.format("lower", "scopeVersion")
    version = (await world.ask("lower/$edgeHub", "GET", path))[1]["version"]
    waiting = asyncio.create_task(world.ask("lower/$edgeHub", "GET", f"{path}?after={version}"))
    while not world.registry._listeners:
        await asyncio.sleep(0)
    await world.client.server.app.shutdown()
    async with asyncio.timeout(20):  # far less than it would wait
        assert (await waiting) == (200, {"version": version})
    assert not world.registry._listeners


async def test_modules_of_a_child_go_to_the_hub_with_its_chain(world: World) -> None:
    module = {"deviceId": "lower", "moduleId": "m"}
    assert await world.ask("lower", "PUT", "/devices/lower/modules/m", module, If_Match="*") == (200, {"moduleId": "m"})
    await world.ask("lower", "GET", "/devices/lower/modules/m")
    await world.ask("lower", "GET", "/devices/lower/modules")
    await world.ask("lower", "DELETE", "/devices/lower/modules/m")
    chain = {"authChain": "lower;upper"}
    upper = "/devices/upper/modules/%24edgeHub/"
    assert world.api.asked == [
        ("PUT", upper + "putModuleOnBehalfOf", {**chain, "module": module}, "*"),
        ("POST", upper + "getModuleOnBehalfOf", {**chain, "targetModuleId": "m"}, None),
        ("POST", upper + "getModulesOnTargetDevice", chain, None),
        ("POST", upper + "deleteModuleOnBehalfOf", {**chain, "moduleId": "m"}, None),
    ]


async def test_from_further_below_the_chain_grows(world: World) -> None:
    body = {"authChain": "lowest;lower", "targetModuleId": "m"}
    assert (await world.as_edge_hub("lower", "getModuleOnBehalfOf", body))[0] == 200
    assert world.api.asked[0][2] == {"authChain": "lowest;lower;upper", "targetModuleId": "m"}
    assert (await world.as_edge_hub("lower", "getModuleOnBehalfOf", {**body, "authChain": "beside;lower"}))[0] == 403
    foreign = {"deviceId": "beside", "moduleId": "m"}
    assert (await world.ask("lower", "PUT", "/devices/lower/modules/m", foreign))[0] == 400


async def test_without_the_hub_a_runtime_thinks_of_the_network(world: World) -> None:
    world.api.away = True
    status, said = await world.ask("lower", "GET", "/devices/lower/modules")
    assert (status, "Message" in said) == (500, True)
    listing = {"authChain": "lower"}
    assert (await world.as_edge_hub("lower", "devicesAndModulesInTargetDeviceScope", listing))[
        0
    ] == 200  # from the copy


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"authChain":1}', b"\xff"])
async def test_bodies_that_cannot_be_read(world: World, body: bytes) -> None:
    path = EDGE_HUB.format("lower", "devicesAndModulesInTargetDeviceScope")
    token = sign(KEYS.primary.reveal(), resource_text(HUB, "lower", "$edgeHub"), int(NOW.timestamp()) + 600)
    async with world.client.post(path, data=body, headers={"Authorization": token}) as answer:
        assert answer.status == 400
        assert "Message" in await answer.json()
