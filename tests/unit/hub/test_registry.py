"""The hub's registry in memory: quick for those in use, and never behind what was heard."""

from __future__ import annotations

import asyncio

import pytest

from edgetrust.hub.registry import HubRegistry
from edgetrust.pki.chain import TrustBundle
from edgetrust.pki.keys import SecretBytes
from edgetrust.store.records import Change, ChangeKind
from edgetrust.trust.identity import Identity
from edgetrust.trust.policies import Right, SharedAccessPolicy
from edgetrust.trust.registration import Missing, MissingWhy, Registration, SasKeys
from support.decisions import HUB, KEYS, NOW, registered
from support.fakes import Gate

DEVICE, MODULE, SECOND = Identity(HUB, "d1"), Identity(HUB, "d1", "m1"), Identity(HUB, "d1", "m2")
OWNER = SharedAccessPolicy("owner", SasKeys(SecretBytes(b"o" * 32), SecretBytes(b"w" * 32)), frozenset(Right))
SERVICE = SharedAccessPolicy("service", OWNER.keys, frozenset({Right.SERVICE_CONNECT}))


class Store:
    """Identities and CA certificates, as much of them as the registry uses."""

    def __init__(self) -> None:
        self.version = 1
        self.asked: list[str] = []
        self.known: dict[Identity, Registration] = {}
        self.gate = Gate()

    async def find(self, identity: Identity) -> Registration | Missing:
        self.asked.append(str(identity))
        found = self.known.get(identity, Missing(MissingWhy.UNKNOWN, NOW))
        while not self.gate.is_open:
            await asyncio.sleep(0)
        return found

    async def is_below(self, device: str, gateway: Identity) -> bool:
        return (device, gateway.device) == ("leaf", "gw")

    def bundle(self) -> TrustBundle:
        return TrustBundle((), as_of=NOW)


@pytest.fixture
def store() -> Store:
    store = Store()
    for identity in (DEVICE, MODULE, SECOND, Identity(HUB, "d2"), Identity(HUB, "d3")):
        store.known[identity] = registered(KEYS, identity)
    return store


def registry(store: Store, kept: int = 100) -> HubRegistry:
    policies = {"owner": OWNER, "service": SERVICE}
    return HubRegistry(store, store, policies, kept=kept)  # type: ignore[arg-type]


def change(store: Store, made: HubRegistry, identity: Identity | None, kind: ChangeKind = ChangeKind.UPDATED) -> None:
    store.version += 1
    device, module = (None, None) if identity is None else (identity.device, identity.module)
    made.heard(Change(store.version, kind, device, module), HUB)


async def test_asked_once(store: Store) -> None:
    made = registry(store)
    first = await made.find(DEVICE)
    assert isinstance(first, Registration)
    assert await made.find(DEVICE) is first
    assert store.asked == ["d1"]


async def test_only_policies_that_connect_devices_may_sign(store: Store) -> None:
    found = await registry(store).find(DEVICE)
    assert isinstance(found, Registration)
    assert found.policy_keys == (("owner", OWNER.keys),)


async def test_strangers_are_not_kept(store: Store) -> None:
    made = registry(store)
    for _ in range(2):
        assert isinstance(await made.find(Identity(HUB, "nobody")), Missing)
    assert store.asked == ["nobody", "nobody"]
    assert made._kept == {}


async def test_a_change_drops_the_device_and_its_modules(store: Store) -> None:
    made = registry(store)
    for identity in (DEVICE, MODULE, SECOND, Identity(HUB, "d2")):
        await made.find(identity)
    change(store, made, DEVICE)
    store.asked.clear()
    for identity in (DEVICE, MODULE, SECOND, Identity(HUB, "d2")):
        await made.find(identity)
    assert store.asked == ["d1", "d1/m1", "d1/m2"]
    change(store, made, MODULE)
    store.asked.clear()
    for identity in (DEVICE, MODULE, SECOND):
        await made.find(identity)
    assert store.asked == ["d1/m1"]


async def test_what_was_read_before_a_change_is_not_kept(store: Store) -> None:
    made = registry(store)
    store.gate.is_open = False
    asking = asyncio.create_task(made.find(DEVICE))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    store.known[DEVICE] = registered(KEYS, DEVICE, enabled=False)
    change(store, made, DEVICE)
    store.gate.is_open = True
    stale = await asking
    assert isinstance(stale, Registration)
    assert stale.enabled
    fresh = await made.find(DEVICE)
    assert isinstance(fresh, Registration)
    assert not fresh.enabled


async def test_a_change_of_authorities_drops_nothing(store: Store) -> None:
    made = registry(store)
    await made.find(DEVICE)
    change(store, made, None, ChangeKind.AUTHORITIES)
    await made.find(DEVICE)
    assert store.asked == ["d1"]


async def test_the_longest_unused_make_room(store: Store) -> None:
    made = registry(store, kept=3)
    for identity in (MODULE, SECOND, DEVICE):
        await made.find(identity)
    await made.find(MODULE)
    await made.find(Identity(HUB, "d2"))  # SECOND goes
    await made.find(Identity(HUB, "d3"))  # DEVICE goes
    store.asked.clear()
    await made.find(MODULE)
    assert store.asked == []
    await made.find(SECOND)
    assert store.asked == ["d1/m2"]
    assert len(made._kept) == 3


async def test_nothing_is_left_behind(store: Store) -> None:
    """Modules come and go in a fleet: what is remembered about them does not grow."""
    made = registry(store, kept=2)
    for identity in (MODULE, SECOND, Identity(HUB, "d2"), Identity(HUB, "d3")):
        await made.find(identity)
    assert made._modules == {}
    await made.find(MODULE)
    change(store, made, MODULE)
    assert made._modules == {}
    change(store, made, SECOND)  # never asked for
    await made.find(MODULE)
    await made.find(SECOND)
    change(store, made, MODULE)
    assert made._modules == {DEVICE: {SECOND}}


async def test_waiting_for_a_change(store: Store) -> None:
    made = registry(store)
    waiting = asyncio.create_task(made.wait_for_change(store.version, 600))
    await asyncio.sleep(0)
    assert not waiting.done()
    change(store, made, DEVICE)
    await asyncio.wait_for(waiting, 60)
    await asyncio.wait_for(made.wait_for_change(0, 600), 60)
    await asyncio.wait_for(made.wait_for_change(store.version, 0.01), 60)


async def test_the_rest_is_the_stores(store: Store) -> None:
    made = registry(store)
    assert await made.is_below("leaf", Identity(HUB, "gw"))
    assert not await made.is_below("other", Identity(HUB, "gw"))
    assert made.bundle().anchors == ()
    assert made.version == 1
