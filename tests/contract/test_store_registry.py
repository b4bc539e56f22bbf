"""The identity registry, on every engine."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from edgetrust.clock import ManualClock
from edgetrust.pki.chain import Thumbprint
from edgetrust.store.engine import Database
from edgetrust.store.identities import Identities
from edgetrust.store.records import (
    AuthenticationDraft,
    Change,
    ChangeKind,
    DeviceDraft,
    ModuleDraft,
    RegistryError,
    ScopeEntry,
)
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

HUB = "hub.example"
ONE, TWO = "AB" * 32, "cd" * 20


@pytest.fixture
def registry(database: Database, clock: ManualClock) -> Identities:
    return Identities(database, clock, HUB)


def self_signed(primary: str | None = ONE, secondary: str | None = None) -> AuthenticationDraft:
    return AuthenticationDraft("selfSigned", primary_thumbprint=primary, secondary_thumbprint=secondary)


async def refused(call: Any) -> RegistryError:
    with pytest.raises(RegistryError) as caught:
        await call
    return caught.value


# -- creating ----------------------------------------------------------------------------------------------------------


async def test_a_device_is_created_with_generated_keys(registry: Identities) -> None:
    created = await registry.create_device(DeviceDraft("d1", AuthenticationDraft("sas", "", None)))
    assert isinstance(created.authentication, SasKeys)
    keys = {created.authentication.primary.reveal(), created.authentication.secondary.reveal()}
    assert len(keys) == 2
    assert {len(key) for key in keys} == {32}
    assert len(created.generation) == 18
    assert created.generation.isdigit()
    assert base64.b64decode(created.etag).isdigit()
    assert created == await registry.device("d1")
    assert (created.enabled, created.connected, created.edge, created.scope, created.parent_scopes) == (
        True,
        False,
        False,
        None,
        (),
    )
    assert (created.status_changed_at, created.connection_changed_at, created.last_activity_at) == (None, None, None)


async def test_given_keys_are_kept(registry: Identities) -> None:
    primary, secondary = base64.b64encode(b"p" * 16).decode(), base64.b64encode(b"s" * 64).decode()
    created = await registry.create_device(DeviceDraft("d1", AuthenticationDraft(None, primary, secondary)))
    assert isinstance(created.authentication, SasKeys)
    assert created.authentication.primary.reveal() == b"p" * 16
    assert created.authentication.secondary.reveal() == b"s" * 64


@pytest.mark.parametrize("key", ["not base64!", "c2hvcnQ=", base64.b64encode(bytes(65)).decode()])
async def test_a_bad_key_is_refused(registry: Identities, key: str) -> None:
    error = await refused(registry.create_device(DeviceDraft("d1", AuthenticationDraft("sas", key))))
    assert (error.status, error.reason) == (400, "argument-invalid")
    assert key not in error.message


async def test_thumbprints_without_a_type_mean_self_signed(registry: Identities) -> None:
    created = await registry.create_device(
        DeviceDraft("d1", AuthenticationDraft(primary_thumbprint="ab:" * 31 + "AB", secondary_thumbprint=""))
    )
    assert created.authentication == Thumbprints(Thumbprint.parse(ONE), None)


@pytest.mark.parametrize(
    ("kind", "stored"),
    [("CERTIFICATEAUTHORITY", CertificateAuthority()), ("None", NoAuthentication())],
)
async def test_types_are_read_in_any_case(registry: Identities, kind: str, stored: object) -> None:
    created = await registry.create_device(DeviceDraft("d1", AuthenticationDraft(kind), status="DISABLED"))
    assert created.authentication == stored
    assert not created.enabled


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (DeviceDraft("d1", self_signed(None)), "thumbprint-missing"),
        (DeviceDraft("d1", self_signed("xyz")), "thumbprint-malformed"),
        (DeviceDraft("d1", self_signed(), edge=True), "edge-thumbprint-missing"),
        (DeviceDraft("d1", self_signed(None, ONE), edge=True), "edge-thumbprint-missing"),
        (DeviceDraft("d1", AuthenticationDraft("certificateAuthority"), edge=True), "edge-device-by-ca"),
        (DeviceDraft("d1", AuthenticationDraft("magic")), "argument-invalid"),
        (DeviceDraft("d1", status="asleep"), "argument-invalid"),
        (DeviceDraft(""), "identifier-malformed"),
        (DeviceDraft("a b"), "identifier-malformed"),
        (DeviceDraft("a/b"), "identifier-malformed"),
        (DeviceDraft("x" * 129), "identifier-malformed"),
        (DeviceDraft("d1", scope="ms-azure-iot-edge://nobody-1"), "invalid-device-scope"),
        (DeviceDraft("d1", scope="gibberish"), "invalid-device-scope"),
        (DeviceDraft("d1", parent_scopes=("a", "b")), "invalid-device-scope"),
        (DeviceDraft("d1", scope="a", parent_scopes=("b",)), "invalid-device-scope"),
        (DeviceDraft("d1", edge=True, scope="ms-azure-iot-edge://other-1"), "invalid-device-scope"),
    ],
)
async def test_what_a_device_may_not_be(registry: Identities, draft: DeviceDraft, reason: str) -> None:
    error = await refused(registry.create_device(draft))
    assert (error.status, error.reason) == (400, reason)
    assert await registry.devices() == ()
    assert await registry.last_change() == 0


async def test_an_edge_device_by_ca_where_it_is_allowed(database: Database, clock: ManualClock) -> None:
    registry = Identities(database, clock, HUB, allow_edge_ca=True)
    draft = DeviceDraft("e1", AuthenticationDraft("certificateAuthority"), edge=True)
    assert (await registry.create_device(draft)).authentication == CertificateAuthority()


async def test_identifiers_are_case_sensitive_and_listed_in_byte_order(registry: Identities) -> None:
    names = ["b", "B", "a", "A", "a-", "a.1", "$x", "zz", "_", "10", "9"]
    for name in names:
        await registry.create_device(DeviceDraft(name))
    assert [device.device for device in await registry.devices()] == sorted(names)
    behind = [name for name in sorted(names) if name > "B"]
    assert [device.device for device in await registry.devices("B", 3)] == behind[:3]
    assert (await refused(registry.device("ZZ"))).status == 404


# -- etags -------------------------------------------------------------------------------------------------------------


async def test_the_rules_of_if_match(registry: Identities) -> None:
    created = await registry.put_device(DeviceDraft("d1"), None)
    conflict = await refused(registry.put_device(DeviceDraft("d1"), None))
    assert (conflict.status, conflict.reason, conflict.code) == (409, "device-already-exists", "DeviceAlreadyExists")
    stale = await refused(registry.put_device(DeviceDraft("d1"), '"AAAA"'))
    assert (stale.status, stale.reason) == (412, "precondition-failed")
    missing = await refused(registry.put_device(DeviceDraft("d2"), "*"))
    assert (missing.status, missing.reason) == (404, "device-not-found")
    second = await registry.put_device(DeviceDraft("d1", status="disabled", status_reason="lost"), created.etag)
    third = await registry.put_device(DeviceDraft("d1", status="Enabled"), f'"{second.etag}"')
    fourth = await registry.put_device(DeviceDraft("d1"), '"*"')
    assert len({created.etag, second.etag, third.etag, fourth.etag}) == 4
    assert (await refused(registry.delete_device("d1", created.etag))).status == 412
    await registry.delete_device("d1", fourth.etag)
    assert (await refused(registry.delete_device("d1", "*"))).status == 404


async def test_an_etag_and_a_generation_never_come_back(registry: Identities) -> None:
    first = await registry.create_device(DeviceDraft("d1"))
    await registry.delete_device("d1")
    second = await registry.create_device(DeviceDraft("d1"))
    assert first.etag != second.etag
    assert first.generation != second.generation


async def test_an_update_keeps_what_it_does_not_say(registry: Identities, clock: ManualClock) -> None:
    edge = await registry.create_device(DeviceDraft("e1", edge=True))
    leaf = await registry.create_device(
        DeviceDraft("d1", self_signed(), status="disabled", status_reason="lost", scope=edge.scope)
    )
    clock.advance(60)
    same = await registry.update_device(DeviceDraft("d1"), "*")
    assert same.authentication == leaf.authentication
    assert (same.enabled, same.status_reason, same.scope, same.parent) == (False, "lost", edge.scope, "e1")
    assert same.status_changed_at is None
    enabled = await registry.update_device(DeviceDraft("d1", status="enabled"), "*")
    assert enabled.status_changed_at == clock.now()


async def test_keys_stay_when_an_update_leaves_them_empty(registry: Identities) -> None:
    created = await registry.create_device(DeviceDraft("d1"))
    again = await registry.update_device(DeviceDraft("d1", AuthenticationDraft("sas", "", "")), "*")
    assert again.authentication == created.authentication
    await registry.update_device(DeviceDraft("d1", self_signed()), "*")
    fresh = await registry.update_device(DeviceDraft("d1", AuthenticationDraft("sas")), "*")
    assert isinstance(fresh.authentication, SasKeys)
    assert fresh.authentication != created.authentication


async def test_enable_and_disable(registry: Identities, clock: ManualClock) -> None:
    await registry.create_device(DeviceDraft("d1"))
    disabled = await registry.set_enabled("d1", False, "stolen")
    assert (disabled.enabled, disabled.status_reason, disabled.status_changed_at) == (False, "stolen", clock.now())
    assert (await registry.set_enabled("d1", True)).status_reason is None
    assert (await refused(registry.set_enabled("d2", True))).status == 404


# -- modules -----------------------------------------------------------------------------------------------------------


async def test_modules_have_the_same_rules(registry: Identities) -> None:
    missing = await refused(registry.put_module(ModuleDraft("d1", "m1"), None))
    assert missing.reason == "device-not-found"
    await registry.create_device(DeviceDraft("d1"))
    assert (await refused(registry.module("d1", "m1"))).reason == "module-not-found"
    created = await registry.put_module(ModuleDraft("d1", "m1", managed_by="IotEdge"), None)
    assert isinstance(created.authentication, SasKeys)
    assert (created.managed_by, len(created.generation)) == ("IotEdge", 18)
    conflict = await refused(registry.put_module(ModuleDraft("d1", "m1"), None))
    assert (conflict.status, conflict.reason) == (409, "module-already-exists")
    assert (await refused(registry.put_module(ModuleDraft("d1", "m1"), "AAAA"))).status == 412
    updated = await registry.put_module(ModuleDraft("d1", "m1", self_signed()), "*")
    assert (updated.managed_by, updated.generation) == ("IotEdge", created.generation)
    assert isinstance(updated.authentication, Thumbprints)
    assert (await refused(registry.create_module(ModuleDraft("d1", "m 1")))).reason == "identifier-malformed"
    assert (await refused(registry.delete_module("d1", "m1", created.etag))).status == 412
    await registry.delete_module("d1", "m1", updated.etag)
    assert await registry.modules("d1") == ()
    assert (await refused(registry.modules("d2"))).status == 404


async def test_a_device_has_at_most_fifty_modules(registry: Identities) -> None:
    await registry.create_device(DeviceDraft("d1"))
    for number in range(50):
        await registry.create_module(ModuleDraft("d1", f"m{number}"))
    error = await refused(registry.create_module(ModuleDraft("d1", "one-more")))
    assert (error.status, error.reason) == (413, "too-many-modules-on-device")


async def test_system_modules_come_and_go_with_the_edge_capability(registry: Identities) -> None:
    created = await registry.create_device(DeviceDraft("e1", edge=True))
    assert [module.module for module in await registry.modules("e1")] == ["$edgeAgent", "$edgeHub"]
    assert created.scope == f"ms-azure-iot-edge://e1-{created.generation}"
    assert (await refused(registry.delete_module("e1", "$edgeHub"))).status == 401
    leaf = await registry.update_device(DeviceDraft("e1", edge=False, scope=created.scope), "*")
    assert leaf.scope is None
    assert await registry.modules("e1") == ()
    assert (await refused(registry.create_module(ModuleDraft("e1", "$edgeHub")))).status == 400
    again = await registry.update_device(DeviceDraft("e1", edge=True), "*")
    assert again.scope == created.scope
    assert len(await registry.modules("e1")) == 2


async def test_becoming_an_edge_device_needs_both_thumbprints(registry: Identities) -> None:
    await registry.create_device(DeviceDraft("d1", self_signed()))
    assert (
        await refused(registry.update_device(DeviceDraft("d1", edge=True), "*"))
    ).reason == "edge-thumbprint-missing"
    both = await registry.update_device(DeviceDraft("d1", self_signed(ONE, TWO), edge=True), "*")
    assert both.edge


# -- parents -----------------------------------------------------------------------------------------------------------


async def edge_device(registry: Identities, name: str, parent: str | None = None) -> str:
    scopes = (parent,) if parent else None
    created = await registry.create_device(DeviceDraft(name, edge=True, parent_scopes=scopes))
    assert created.scope is not None
    assert created.scope != parent
    assert created.parent_scopes == ((parent,) if parent else ())
    return created.scope


async def test_scopes_of_parents_and_children(registry: Identities) -> None:
    top = await edge_device(registry, "top")
    middle = await edge_device(registry, "middle", top)
    leaf = await registry.create_device(DeviceDraft("leaf", scope=middle))
    assert (leaf.scope, leaf.parent_scopes, leaf.parent) == (middle, (middle,), "middle")
    assert await registry.ancestors("leaf") == ("leaf", "middle", "top")
    assert await registry.is_below("leaf", Identity(HUB, "top"))
    assert not await registry.is_below("top", Identity(HUB, "leaf"))
    await registry.set_enabled("middle", False)
    assert not await registry.is_below("leaf", Identity(HUB, "top"))  # who is between is not trusted any more
    assert await registry.is_below("leaf", Identity(HUB, "middle"))  # whether it may come at all is another question
    assert await registry.is_below("middle", Identity(HUB, "top"))
    assert not await registry.is_below("nobody", Identity(HUB, "top"))
    moved = await registry.update_device(DeviceDraft("leaf", scope=top, parent_scopes=(middle,)), "*")
    assert moved.parent == "top"
    moved = await registry.update_device(DeviceDraft("leaf", scope=top, parent_scopes=(middle,)), "*")
    assert moved.parent == "middle"
    alone = await registry.update_device(DeviceDraft("leaf", scope="", parent_scopes=(middle,)), "*")
    assert (alone.scope, alone.parent_scopes) == (None, ())
    alone = await registry.update_device(DeviceDraft("leaf", parent_scopes=(top,)), "*")
    alone = await registry.update_device(DeviceDraft("leaf", parent_scopes=()), "*")
    assert alone.parent is None


async def test_only_edge_devices_are_parents_and_no_cycles(registry: Identities) -> None:
    top = await edge_device(registry, "top")
    middle = await edge_device(registry, "middle", top)
    leaf = await registry.create_device(DeviceDraft("leaf"))
    for draft in (
        DeviceDraft("top", parent_scopes=(middle,)),
        DeviceDraft("top", parent_scopes=(top,)),
        DeviceDraft("top", parent_scopes=(f"ms-azure-iot-edge://leaf-{leaf.generation}",)),
        DeviceDraft("top", parent_scopes=("ms-azure-iot-edge://middle-1",)),
    ):
        error = await refused(registry.update_device(draft, "*"))
        assert (error.status, error.reason) == (400, "invalid-device-scope")


async def test_at_most_five_gateways_in_a_row(registry: Identities) -> None:
    scope = None
    for depth in range(1, 6):
        scope = await edge_device(registry, f"e{depth}", scope)
    await registry.create_device(DeviceDraft("leaf", scope=scope))
    other = await edge_device(registry, "other")
    assert (await refused(registry.update_device(DeviceDraft("leaf", edge=True), "*"))).status == 400
    too_deep = await refused(registry.create_device(DeviceDraft("e6", edge=True, parent_scopes=(scope or "",))))
    assert too_deep.reason == "invalid-device-scope"
    assert (await refused(registry.update_device(DeviceDraft("e1", parent_scopes=(other,)), "*"))).status == 400


async def test_a_parent_cannot_stop_being_an_edge_device(registry: Identities) -> None:
    top = await edge_device(registry, "top")
    await registry.create_device(DeviceDraft("leaf", scope=top))
    error = await refused(registry.update_device(DeviceDraft("top", edge=False), "*"))
    assert (error.status, error.reason) == (400, "edge-device-has-children")


async def test_deleting_cascades_and_orphans(registry: Identities) -> None:
    top = await edge_device(registry, "top")
    await registry.create_device(DeviceDraft("leaf", scope=top))
    await registry.create_module(ModuleDraft("top", "m1"))
    await registry.revoke(Identity(HUB, "top", "m1"), Thumbprint.parse(ONE))
    before = await registry.last_change()
    await registry.delete_device("top")
    leaf = await registry.device("leaf")
    assert (leaf.scope, leaf.parent) == (None, None)
    assert await registry.find(Identity(HUB, "top", "m1")) == Missing(MissingWhy.UNKNOWN, ManualClock().now())
    kinds = [(change.kind, change.device) for change in await registry.changes_after(before)]
    assert kinds == [(ChangeKind.UPDATED, "leaf"), (ChangeKind.DELETED, "top")]


# -- decisions ---------------------------------------------------------------------------------------------------------


async def test_find_says_what_decisions_need(registry: Identities, clock: ManualClock) -> None:
    top = await edge_device(registry, "top")
    leaf = await registry.create_device(DeviceDraft("leaf", self_signed(ONE, TWO), scope=top))
    module = await registry.create_module(ModuleDraft("leaf", "m1"))
    await registry.set_enabled("leaf", False)
    etag = (await registry.device("leaf")).etag
    assert await registry.find(Identity(HUB, "leaf")) == Registration(
        Identity(HUB, "leaf"),
        Thumbprints(Thumbprint.parse(ONE), Thumbprint.parse(TWO)),
        enabled=False,
        edge=False,
        generation=leaf.generation,
        etag=etag,
        scope=top,
        parents=(top,),
        as_of=clock.now(),
        device_enabled=False,
    )
    found = await registry.find(Identity(HUB, "leaf", "m1"))
    assert isinstance(found, Registration)
    assert (found.authentication, found.enabled, found.device_enabled) == (module.authentication, True, False)
    assert (found.device_keys, found.generation) == (None, module.generation)
    hub_module = await registry.find(Identity(HUB, "top", "$edgeHub"))
    assert isinstance(hub_module, Registration)
    assert hub_module.device_keys == (await registry.device("top")).authentication


async def test_find_what_is_not_there(registry: Identities, clock: ManualClock) -> None:
    await registry.create_device(DeviceDraft("d1"))
    for identity in (Identity(HUB, "d2"), Identity(HUB, "d1", "m1"), Identity("other.example", "d1")):
        assert await registry.find(identity) == Missing(MissingWhy.UNKNOWN, clock.now())


async def test_holders_of_a_thumbprint(registry: Identities) -> None:
    await registry.create_device(DeviceDraft("d1", self_signed(ONE)))
    await registry.create_device(DeviceDraft("d2", self_signed(TWO, ONE)))
    await registry.create_module(ModuleDraft("d2", "m1", self_signed(ONE)))
    assert set(await registry.holders(Thumbprint.parse(ONE.lower()))) == {
        Identity(HUB, "d1"),
        Identity(HUB, "d2"),
        Identity(HUB, "d2", "m1"),
    }
    assert await registry.holders(Thumbprint.parse("00" * 32)) == ()


async def test_a_revoked_certificate_stays_revoked(registry: Identities) -> None:
    await registry.create_device(DeviceDraft("d1"))
    await registry.create_module(ModuleDraft("d1", "m1"))
    for _again in range(2):
        await registry.revoke(Identity(HUB, "d1"), Thumbprint.parse(ONE))
    await registry.revoke(Identity(HUB, "d1", "m1"), Thumbprint.parse(TWO))
    device, module = await registry.find(Identity(HUB, "d1")), await registry.find(Identity(HUB, "d1", "m1"))
    assert isinstance(device, Registration)
    assert isinstance(module, Registration)
    assert device.revoked == (Thumbprint.parse(ONE),)
    assert module.revoked == (Thumbprint.parse(TWO),)
    assert (await refused(registry.revoke(Identity(HUB, "d2"), Thumbprint.parse(ONE)))).status == 404


# -- scope -------------------------------------------------------------------------------------------------------------


async def test_a_scope_listing_holds_one_level(registry: Identities) -> None:
    top = await edge_device(registry, "top")
    middle = await edge_device(registry, "middle", top)
    await registry.create_device(DeviceDraft("grandchild", scope=middle))
    await registry.create_device(DeviceDraft("stranger"))
    for number in range(5):
        await registry.create_device(DeviceDraft(f"leaf{number}", scope=top))
    await registry.create_module(ModuleDraft("leaf0", "m1"))
    page = await registry.scope("top", 3)
    assert [device.device for device in page.devices] == ["top", "leaf0", "leaf1"]
    assert [(module.device, module.module) for module in page.modules] == [("top", "$edgeAgent"), ("top", "$edgeHub")]
    names = [device.device for device in page.devices]
    while page.continuation is not None:
        page = await registry.scope("top", 3, page.continuation)
        assert page.modules == ()
        names += [device.device for device in page.devices]
    assert names == ["top", "leaf0", "leaf1", "leaf2", "leaf3", "leaf4", "middle"]
    assert (await registry.scope("middle")).continuation is None
    assert (await refused(registry.scope("nobody"))).status == 404
    assert (await refused(registry.scope("leaf0"))).reason == "invalid-device-scope"
    assert (await refused(registry.scope("top", 3, "???"))).status == 400


async def test_a_single_look_up_reaches_every_depth(registry: Identities) -> None:
    top = await edge_device(registry, "top")
    middle = await edge_device(registry, "middle", top)
    await registry.create_device(DeviceDraft("leaf", scope=middle))
    await registry.create_module(ModuleDraft("leaf", "m1"))
    await registry.create_device(DeviceDraft("stranger"))
    found = await registry.below("top", "leaf", "m1")
    assert isinstance(found, ScopeEntry)
    assert (found.device.device, found.chain) == ("leaf", ("leaf", "middle", "top"))
    assert found.module is not None
    itself = await registry.below("top", "top", "$edgeHub")
    assert isinstance(itself, ScopeEntry)
    assert itself.chain == ("top",)
    for gateway, device, module, why in (
        ("top", "stranger", None, MissingWhy.NOT_A_CHILD),
        ("middle", "top", None, MissingWhy.NOT_A_CHILD),
        ("top", "nobody", None, MissingWhy.UNKNOWN),
        ("top", "leaf", "m2", MissingWhy.UNKNOWN),
    ):
        missing = await registry.below(gateway, device, module)
        assert isinstance(missing, Missing)
        assert missing.why is why


# -- presence and changes ----------------------------------------------------------------------------------------------


async def test_presence_is_no_change_of_the_registry(registry: Identities, clock: ManualClock) -> None:
    created = await registry.create_device(DeviceDraft("d1"))
    await registry.create_device(DeviceDraft("d2", status="disabled"))
    await registry.create_module(ModuleDraft("d1", "m1"))
    before = await registry.last_change()
    states = {Identity(HUB, "d1"): True, Identity(HUB, "d1", "m1"): True, Identity(HUB, "gone"): True}
    await registry.record_presence(states, clock.now())
    device = await registry.device("d1")
    assert (device.connected, device.connection_changed_at, device.etag) == (True, clock.now(), created.etag)
    assert (await registry.module("d1", "m1")).connected
    assert await registry.last_change() == before
    statistics = await registry.statistics()
    assert (statistics.total, statistics.enabled, statistics.disabled, statistics.connected) == (2, 1, 1, 1)
    await registry.forget_presence()
    assert not (await registry.device("d1")).connected
    assert not (await registry.module("d1", "m1")).connected
    await registry.record_presence({}, clock.now())


async def test_listeners_hear_before_the_caller_goes_on(registry: Identities) -> None:
    heard: list[Change] = []
    end = registry.listen(heard.append)
    await registry.create_device(DeviceDraft("d1"))
    assert [(change.kind, change.device, change.module) for change in heard] == [(ChangeKind.CREATED, "d1", None)]
    assert registry.version == heard[0].sequence
    await refused(registry.create_device(DeviceDraft("d1")))
    assert len(heard) == 1
    end()
    await registry.delete_device("d1")
    assert len(heard) == 1
    assert [change.kind for change in await registry.changes_after(0)] == [ChangeKind.CREATED, ChangeKind.DELETED]


async def test_old_changes_are_forgotten_and_numbers_go_on(registry: Identities) -> None:
    for number in range(5):
        await registry.create_device(DeviceDraft(f"d{number}"))
    newest = await registry.last_change()
    await registry.trim_changes(2)
    assert [change.device for change in await registry.changes_after(0)] == ["d3", "d4"]
    await registry.trim_changes(0)
    await registry.create_device(DeviceDraft("d9"))
    assert await registry.last_change() > newest


async def test_other_processes_catch_up(durable_url: str, clock: ManualClock) -> None:
    first, second = Database(durable_url), Database(durable_url)
    await first.migrate()
    await second.migrate()
    here, there = Identities(first, clock, HUB), Identities(second, clock, HUB)
    heard: list[str | None] = []
    there.listen(lambda change: heard.append(change.device))
    await here.create_device(DeviceDraft("before"))
    assert await there.catch_up() == 0
    await here.create_device(DeviceDraft("d1"))
    await there.create_device(DeviceDraft("d2"))
    await here.create_device(DeviceDraft("d3"))
    assert heard == ["d2"]
    assert await there.catch_up() == 2
    assert heard == ["d2", "d1", "d3"]
    assert await there.catch_up() == 0
    assert there.version == await here.last_change()
    await first.close()
    await second.close()
