"""The copy of the scope: what answers of the hub do to it, and what it says without the hub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from edgetrust.clock import ManualClock
from edgetrust.edge.scope import ScopeRegistry
from edgetrust.errors import Error, RefusedError, UnavailableError
from edgetrust.pki.chain import TrustBundle
from edgetrust.pki.keys import SecretBytes
from edgetrust.store.engine import Database
from edgetrust.store.snapshot import ScopeSnapshot
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import CertificateAuthority, Missing, MissingWhy, Registration, SasKeys
from edgetrust.trust.verdict import Reason
from support.pki import NOW, Pki, root

HUB = "hub.example"
KEYS = SasKeys(SecretBytes(b"p" * 32), SecretBytes(b"s" * 32))
EDGE, SENSOR, MODULE = Identity(HUB, "Edge"), Identity(HUB, "Sensor"), Identity(HUB, "Sensor", "m")
SCOPE = "ms-azure-iot-edge://Edge-1"


def registration(identity: Identity, at: datetime = NOW, **changes: object) -> Registration:
    plain = Registration(identity, KEYS, True, False, "1", "", None, (SCOPE,), at)
    return replace(plain, **changes)  # type: ignore[arg-type]


class FakeHub:
    """A Source with the answers the test gives it."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.listed: list[Registration] = []
        self.left_out: frozenset[Identity] = frozenset()  # of listings, as modules of devices that are no gateways
        self.absent: dict[Identity, MissingWhy] = {}
        self.cas: tuple[x509.Certificate, ...] | None = ()
        self.away: Error | None = None
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def _answer(self, what: str) -> None:
        self.asked.append(what)
        await self.gate.wait()
        if self.away is not None:
            raise self.away

    async def everything(self) -> list[Registration]:
        at, listed = self.clock.now(), list(self.listed)
        await self._answer("everything")
        return [replace(one, as_of=at) for one in listed if one.identity not in self.left_out]

    async def one(self, identity: Identity) -> tuple[Registration, ...] | Missing:
        at, listed = self.clock.now(), list(self.listed)
        await self._answer(str(identity))
        found = [one for one in listed if one.identity in (identity, identity.of_device)]
        if any(one.identity == identity for one in found):
            return tuple(replace(one, as_of=at) for one in found)
        return Missing(self.absent.get(identity, MissingWhy.UNKNOWN), at)

    async def authorities(self) -> tuple[x509.Certificate, ...] | None:
        await self._answer("authorities")
        return self.cas


class Table:
    """A registry with its hub, its disk and a listener."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock(NOW)
        self.hub = FakeHub(self.clock)
        self.local = Pki().bundle
        self.heard: list[frozenset[Identity] | None] = []
        self.key = SecretBytes(b"k" * 32)

    async def open(self, *, anchors: bool = True, trust: timedelta | None = None) -> ScopeRegistry:
        self.database = Database(f"sqlite:///{self.folder / 'gateway.sqlite'}")
        await self.database.migrate()
        made = ScopeRegistry(
            self.hub,
            ScopeSnapshot(self.database, self.key, HUB, "Edge"),
            hub=HUB,
            local=lambda: self.local,
            authorities_file=self.folder / "cas.pem" if anchors else None,
            clock=self.clock,
            trust=trust,
        )
        await made.load()
        made.listen(self.heard.append)
        return made

    async def reopen(self) -> ScopeRegistry:
        await self.database.close()
        return await self.open()

    def away(self) -> None:
        self.hub.away = UnavailableError("away", reason="hub-unreachable")


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[Table]:
    made = Table(tmp_path)
    yield made
    await made.database.close()


def why(found: Registration | Missing) -> MissingWhy:
    assert isinstance(found, Missing)
    return found.why


async def test_a_full_synchronisation_replaces_the_copy_and_tells(table: Table) -> None:
    registry = await table.open()
    table.hub.listed = [registration(SENSOR), registration(EDGE, edge=True, scope=SCOPE, parents=())]
    before = registry.version
    await registry.synchronise()
    assert isinstance(await registry.find(SENSOR), Registration)
    assert table.heard == [frozenset({SENSOR, EDGE})]
    assert registry.version > before
    assert registry.as_of == NOW
    table.clock.advance(10)
    await registry.synchronise()
    assert len(table.heard) == 1, "nothing but its age changed"
    table.hub.listed.pop(0)
    await registry.synchronise()
    assert table.heard[1:] == [frozenset({SENSOR})]
    assert why(await registry.find(SENSOR)) is MissingWhy.NOT_A_CHILD
    assert "Sensor" not in table.hub.asked, "who was just removed is not asked for"
    assert len(registry) == 1


async def test_somebody_new_is_asked_for_at_once_and_then_not_for_two_minutes(table: Table) -> None:
    registry = await table.open()
    assert why(await registry.find(SENSOR)) is MissingWhy.UNKNOWN
    assert why(await registry.find(SENSOR)) is MissingWhy.UNKNOWN
    assert table.hub.asked == ["Sensor"]
    table.hub.absent[SENSOR] = MissingWhy.NOT_A_CHILD
    table.clock.advance(121)
    assert why(await registry.find(SENSOR)) is MissingWhy.NOT_A_CHILD
    table.hub.listed = [registration(SENSOR)]
    table.clock.advance(121)
    assert isinstance(await registry.find(SENSOR), Registration)
    assert table.hub.asked == ["Sensor"] * 3


async def test_a_module_comes_with_its_device(table: Table) -> None:
    registry = await table.open()
    table.hub.listed = [registration(SENSOR), registration(MODULE)]
    assert isinstance(await registry.find(MODULE), Registration)
    assert isinstance(await registry.find(SENSOR), Registration)
    assert table.hub.asked == ["Sensor/m"]


async def test_many_who_wait_for_the_same_ask_once(table: Table) -> None:
    registry = await table.open()
    table.hub.listed = [registration(SENSOR)]
    table.hub.gate.clear()
    waiting = [asyncio.create_task(registry.find(SENSOR)) for _ in range(5)]
    await asyncio.sleep(0.01)
    waiting[0].cancel()
    table.hub.gate.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert table.hub.asked == ["Sensor"]
    assert [isinstance(one, Registration) for one in found] == [False, True, True, True, True]


async def test_a_refusal_refreshes_once_in_two_minutes(table: Table) -> None:
    registry = await table.open()
    table.hub.listed = [registration(SENSOR)]
    await registry.synchronise()
    table.hub.listed = [registration(SENSOR, enabled=False)]
    assert await registry.refresh(SENSOR)
    found = await registry.find(SENSOR)
    assert isinstance(found, Registration)
    assert not found.enabled
    assert table.heard[-1] == frozenset({SENSOR})
    assert not await registry.refresh(SENSOR)
    table.clock.advance(121)
    table.away()
    assert not await registry.refresh(SENSOR)


@pytest.mark.parametrize("reason", [MissingWhy.NOT_A_CHILD, MissingWhy.UNKNOWN])
async def test_an_answer_that_somebody_is_gone_removes_them_with_their_modules(
    table: Table, reason: MissingWhy
) -> None:
    registry = await table.open()
    table.hub.listed = [registration(SENSOR), registration(MODULE)]
    await registry.synchronise()
    table.hub.listed, table.hub.absent[SENSOR] = [], reason
    table.clock.advance(1)
    assert await registry.refresh(SENSOR)
    assert table.heard[-1] == frozenset({SENSOR, MODULE})
    assert why(await registry.find(SENSOR)) is reason
    assert why(await registry.find(MODULE)) is reason
    table.away()
    registry = await table.reopen()
    assert why(await registry.find(SENSOR)) is MissingWhy.NOT_A_CHILD


async def test_without_an_answer_the_copy_stays_also_after_a_restart(table: Table) -> None:
    registry = await table.open()
    table.hub.listed = [registration(SENSOR)]
    await registry.synchronise()
    table.away()
    with pytest.raises(UnavailableError):
        await registry.synchronise()
    assert isinstance(await registry.find(SENSOR), Registration)
    registry = await table.reopen()
    assert isinstance(await registry.find(SENSOR), Registration)
    assert why(await registry.find(Identity(HUB, "Stranger"))) is MissingWhy.UNAVAILABLE
    assert registry.as_of == NOW


async def test_after_silence_nobody_waits_for_the_hub_for_a_moment(table: Table) -> None:
    registry = await table.open()
    table.away()
    await registry.find(SENSOR)
    await registry.find(Identity(HUB, "Other"))
    assert table.hub.asked == ["Sensor"]
    table.clock.advance(2.1)
    table.hub.away = None
    table.hub.listed = [registration(SENSOR)]
    assert isinstance(await registry.find(SENSOR), Registration)


async def test_a_hub_that_refuses_the_gateway_itself_says_nothing_about_devices(table: Table) -> None:
    registry = await table.open()
    table.hub.listed = [registration(SENSOR)]
    await registry.synchronise()
    table.hub.away = RefusedError("no", reason="gateway-refused")
    assert not await registry.refresh(SENSOR)
    assert isinstance(await registry.find(SENSOR), Registration)


async def test_an_old_answer_never_overwrites_a_newer_one(table: Table) -> None:
    registry = await table.open()
    table.hub.listed = [registration(SENSOR)]
    await registry.synchronise()
    table.clock.advance(200)
    table.hub.gate.clear()
    late = asyncio.create_task(registry.refresh(SENSOR))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    table.clock.advance(1)
    table.hub.listed = [registration(SENSOR, enabled=False)]
    newer = asyncio.create_task(registry.synchronise())
    await asyncio.sleep(0.01)
    table.hub.gate.set()
    await asyncio.gather(late, newer)
    found = await registry.find(SENSOR)
    assert isinstance(found, Registration)
    assert not found.enabled


async def test_an_old_absence_never_removes_who_came_later(table: Table) -> None:
    registry = await table.open()
    table.hub.gate.clear()
    early = asyncio.create_task(registry.find(SENSOR))
    await asyncio.sleep(0.01)
    table.clock.advance(1)
    table.hub.listed = [registration(SENSOR)]
    later = asyncio.create_task(registry.synchronise())
    await asyncio.sleep(0.01)
    table.hub.gate.set()
    await asyncio.gather(early, later)
    assert isinstance(await registry.find(SENSOR), Registration)


async def test_a_listing_older_than_an_answer_does_not_remove(table: Table) -> None:
    registry = await table.open()
    table.hub.gate.clear()
    listing = asyncio.create_task(registry.synchronise())
    await asyncio.sleep(0.01)
    table.clock.advance(1)
    table.hub.listed = [registration(SENSOR)]
    asking = asyncio.create_task(registry.find(SENSOR))
    await asyncio.sleep(0.01)
    table.hub.gate.set()
    await asyncio.gather(listing, asking)
    assert isinstance(await registry.find(SENSOR), Registration)
    registry = await table.reopen()
    assert isinstance(await registry.find(SENSOR), Registration)


async def test_a_copy_sealed_with_another_key_is_forgotten(table: Table) -> None:
    registry = await table.open()
    table.hub.listed = [registration(SENSOR)]
    await registry.synchronise()
    table.key = SecretBytes(b"x" * 32)
    table.away()
    registry = await table.reopen()
    assert why(await registry.find(SENSOR)) is MissingWhy.UNAVAILABLE


async def test_the_hubs_cas_join_the_trust_bundle_and_are_remembered(table: Table) -> None:
    registry = await table.open()
    assert registry.bundle() is table.local
    other = root("Other Root").certificate
    table.hub.cas = (other,)
    await registry.synchronise()
    assert other in registry.bundle().anchors
    assert set(table.local.anchors) <= set(registry.bundle().anchors)
    assert table.heard == [None]
    assert registry.bundle() is registry.bundle()
    table.away()
    registry = await table.reopen()
    assert other in registry.bundle().anchors
    table.local = TrustBundle((), as_of=NOW)
    assert registry.bundle().anchors == (other,)
    table.hub.away, table.hub.cas = None, None
    await registry.synchronise()
    assert other in registry.bundle().anchors, "a hub that does not tell changes nothing"
    table.hub.cas = ()
    await registry.synchronise()
    assert registry.bundle().anchors == ()
    registry = await table.reopen()
    assert registry.bundle().anchors == ()


async def test_a_module_that_listings_leave_out_is_asked_for(table: Table) -> None:
    registry = await table.open(anchors=False)
    table.hub.listed = [registration(SENSOR), registration(MODULE)]
    table.hub.left_out = frozenset({MODULE})
    await registry.find(MODULE)
    table.clock.advance(1)
    table.heard.clear()
    await registry.synchronise()
    assert table.heard == []
    assert isinstance(await registry.find(MODULE), Registration)

    table.hub.listed = [registration(SENSOR), registration(MODULE, generation="2")]
    await registry.synchronise()
    assert table.heard == [frozenset({MODULE})]

    table.hub.listed = [registration(SENSOR)]
    table.clock.advance(1)
    await registry.synchronise()
    assert table.heard[1:] == [frozenset({MODULE})]
    assert isinstance(await registry.find(MODULE), Missing)


async def test_a_module_of_a_device_that_is_gone_is_not_asked_for(table: Table) -> None:
    registry = await table.open(anchors=False)
    table.hub.listed = [registration(SENSOR), registration(MODULE)]
    await registry.synchronise()
    table.hub.listed, table.hub.asked = [], []
    table.clock.advance(1)
    await registry.synchronise()
    assert table.hub.asked == ["everything"]
    assert len(registry) == 0


async def test_a_device_by_ca_brings_the_cas_along(table: Table) -> None:
    registry = await table.open()
    table.hub.listed = [registration(SENSOR, authentication=CertificateAuthority())]
    table.hub.cas = (root("Other Root").certificate,)
    await registry.find(SENSOR)
    assert table.hub.asked == ["Sensor", "authorities"]
    assert len(registry.bundle().anchors) == 2


async def test_anchors_of_the_bundle_only(table: Table) -> None:
    registry = await table.open(anchors=False)
    await registry.synchronise()
    assert table.hub.asked == ["everything"]
    assert registry.bundle() is table.local


async def test_unreadable_remembered_cas_are_left_out(table: Table) -> None:
    (table.folder / "cas.pem").write_text("-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n")
    registry = await table.open()
    assert registry.bundle() is table.local


async def test_who_is_below_whom(table: Table) -> None:
    registry = await table.open()
    child = Identity(HUB, "ChildEdge")
    table.hub.listed = [
        registration(EDGE, edge=True, scope=SCOPE, parents=()),
        registration(child, edge=True, scope="child-scope"),
        registration(SENSOR, parents=("child-scope",)),
        registration(Identity(HUB, "Stray"), parents=()),
    ]
    await registry.synchronise()
    assert await registry.is_below("Sensor", child)
    assert await registry.is_below("Sensor", EDGE)
    assert await registry.is_below("ChildEdge", EDGE)
    assert not await registry.is_below("Stray", EDGE)
    assert not await registry.is_below("Edge", EDGE)
    assert not await registry.is_below("Nobody", EDGE)
    assert not await registry.is_below("Sensor", Identity(HUB, "Nobody"))
    assert not await registry.is_below("Sensor", SENSOR)


async def test_a_device_that_is_no_gateway_has_nobody_below_it(table: Table) -> None:
    """The hub gives a device the scope of its parent (edge specification 6.5), which makes it parent of nobody."""
    registry = await table.open()
    table.hub.listed = [
        registration(EDGE, edge=True, scope=SCOPE, parents=()),
        registration(SENSOR, scope=SCOPE),
        registration(Identity(HUB, "Other"), scope=SCOPE),
    ]
    await registry.synchronise()
    assert not await registry.is_below("Other", SENSOR)
    assert registry.level(SENSOR) == []
    assert {one.identity for one in registry.level(EDGE)} == {EDGE, SENSOR, Identity(HUB, "Other")}


async def test_why_nothing_of_somebody_is_passed_on(table: Table) -> None:
    registry = await table.open()
    assert registry.why_not_from("Sensor", EDGE) is None  # nothing is known: the hub decides
    child, deep = Identity(HUB, "ChildEdge"), registration(Identity(HUB, "Deep"), parents=("child-scope",))
    own, lower = (
        registration(EDGE, edge=True, scope=SCOPE, parents=()),
        registration(child, edge=True, scope="child-scope"),
    )
    table.hub.listed = [own, lower, registration(SENSOR), deep]
    await registry.synchronise()
    for device in ("Sensor", "Deep", "ChildEdge", "Edge"):
        assert registry.why_not_from(device, EDGE) is None
    assert await registry.is_below("Deep", EDGE)
    table.hub.listed = [own, replace(lower, enabled=False), registration(SENSOR, enabled=False), deep]
    await registry.synchronise()
    assert registry.why_not_from("Sensor", EDGE) is Reason.DISABLED
    assert registry.why_not_from("ChildEdge", EDGE) is Reason.DISABLED
    assert registry.why_not_from("Deep", EDGE) is Reason.NOT_A_CHILD  # its gateway is not trusted any more
    assert not await registry.is_below("Deep", EDGE)
    assert registry.why_not_from("Nobody", EDGE) is Reason.NOT_A_CHILD
    assert registry.why_not_from("Edge", EDGE) is None
    table.hub.listed = [own, lower, registration(SENSOR), deep]
    await registry.synchronise()
    assert registry.why_not_from("Deep", EDGE) is None


async def test_strangers_do_not_fill_the_memory(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetrust.edge.scope.ASKED_KEPT", 3)
    registry = await table.open()
    for number in range(5):
        await registry.find(Identity(HUB, f"stranger-{number}"))
    assert len(registry._absent) == 3
    assert len(registry._asked) == 3


async def test_a_copy_with_a_deadline_decides_until_then_and_again_when_it_is_confirmed(table: Table) -> None:
    registry = await table.open(trust=timedelta(days=2))
    table.hub.listed = [registration(SENSOR)]
    await registry.synchronise()
    found = await registry.find(SENSOR)
    assert isinstance(found, Registration)
    assert found.trusted_until == registry.trusted_until == NOW + timedelta(days=2)
    table.clock.advance(86_400)
    registry.confirm(NOW, table.clock.now())  # nothing has changed since
    found = await registry.find(SENSOR)
    assert isinstance(found, Registration)
    assert found.trusted_until == NOW + timedelta(days=3)
    registry.confirm(table.clock.now() + timedelta(hours=1), table.clock.now() + timedelta(hours=2))
    assert registry.trusted_until == NOW + timedelta(days=3)  # what the copy does not have yet confirms nothing


async def test_without_a_deadline_the_copy_decides_for_ever(table: Table) -> None:
    registry = await table.open()
    table.hub.listed = [registration(SENSOR)]
    await registry.synchronise()
    found = await registry.find(SENSOR)
    assert isinstance(found, Registration)
    assert (found.trusted_until, registry.trusted_until) == (None, None)
    assert (registry.has(SENSOR), registry.has(MODULE)) == (True, False)
