"""A gateway's copies of twins, on every engine: sealed, complete, and honest about what waits."""

from __future__ import annotations

import pytest

from edgetrust.errors import ConfigError, IntegrityError
from edgetrust.limits import TWIN_REPORTS_KEPT
from edgetrust.pki.keys import SecretBytes
from edgetrust.protocol.twin import TwinError
from edgetrust.store.engine import Database
from edgetrust.store.twin_copies import TwinCopies, TwinCopy
from edgetrust.trust.identity import Identity

HUB = "hub.example"
DEVICE, MODULE, OTHER = Identity(HUB, "d1"), Identity(HUB, "d1", "m"), Identity(HUB, "d2")
KEY = SecretBytes(b"k" * 32)
TOLD = TwinCopy({"rate": {"fast": 1}}, 4, {"site": "north"}, 7)


@pytest.fixture
def copies(database: Database) -> TwinCopies:
    return TwinCopies(database, KEY)


async def test_nothing_is_known_at_first(copies: TwinCopies) -> None:
    copy = await copies.find(DEVICE)
    assert copy == TwinCopy()
    assert not copy.is_known
    assert await copies.waiting(HUB) == ()


async def test_kept_and_found(copies: TwinCopies) -> None:
    await copies.keep(DEVICE, TOLD)
    await copies.keep(MODULE, TwinCopy({}, 1, {}, 1))
    assert await copies.find(DEVICE) == TOLD
    assert (await copies.find(MODULE)).desired_version == 1
    await copies.keep(DEVICE, TOLD.with_report({"a": 1}))
    assert await copies.waiting(HUB) == (DEVICE,)


async def test_a_device_is_forgotten_with_its_modules(copies: TwinCopies) -> None:
    for identity in (DEVICE, MODULE, OTHER):
        await copies.keep(identity, TOLD)
    await copies.forget(DEVICE)
    assert [(await copies.find(each)).is_known for each in (DEVICE, MODULE, OTHER)] == [False, False, True]
    await copies.keep(MODULE, TOLD)
    await copies.keep(DEVICE, TOLD)
    await copies.forget(MODULE)
    assert (await copies.find(DEVICE)).is_known


async def test_nobody_reads_it_without_the_key(copies: TwinCopies, database: Database) -> None:
    await copies.keep(DEVICE, TOLD)
    rows = await database.read(lambda c: c.exec_driver_sql("SELECT sealed FROM twin_copies").all())
    assert b"north" not in bytes(rows[0][0])
    with pytest.raises(IntegrityError) as other_key:
        await TwinCopies(database, SecretBytes(b"x" * 32)).find(DEVICE)
    assert other_key.value.reason == "snapshot-unreadable"
    with pytest.raises(ConfigError):
        TwinCopies(database, SecretBytes(b"short"))


async def test_a_copy_cannot_be_given_to_somebody_else(copies: TwinCopies, database: Database) -> None:
    await copies.keep(DEVICE, TOLD)
    await database.write(lambda c: c.exec_driver_sql("UPDATE twin_copies SET device = 'd2'").close())
    with pytest.raises(IntegrityError):
        await copies.find(OTHER)


def test_reports_count_at_once_and_wait_in_order() -> None:
    copy = TOLD.with_report({"site": None, "a": {"b": 1}}).with_report({"a": {"c": 2}})
    assert copy.waiting == ({"site": None, "a": {"b": 1, "c": 2}},)  # as one, since that changes nothing
    assert copy.reported == {"a": {"b": 1, "c": 2}}
    copy = copy.with_report({"a": None}).with_report({"a": {"d": 3}})
    assert len(copy.waiting) == 2  # an object in place of another: no patch says that
    assert copy.twin().reported.values == {"a": {"d": 3}}
    assert copy.twin().reported.version == 9
    copy = copy.taken(8)
    assert (copy.reported_version, copy.waiting) == (8, ({"a": {"d": 3}},))


def test_what_the_hub_tells_comes_below_what_waits() -> None:
    copy = TOLD.with_report({"a": 1}).told({"rate": 2}, 5, {"site": "south"}, 8)
    assert (copy.desired, copy.desired_version) == ({"rate": 2}, 5)
    assert copy.twin().reported.values == {"site": "south", "a": 1}
    assert copy.waiting == ({"a": 1},)


@pytest.mark.parametrize("patch", [{"not.a.name": 1}, {"a": "x" * 5000}, {"$version": 3, "a": 1}])
def test_a_report_that_the_hub_would_refuse(patch: dict[str, object]) -> None:
    with pytest.raises(TwinError):
        TOLD.with_report(patch)


def test_reports_are_bounded() -> None:
    copy = TOLD.with_report({"a": 0})
    with pytest.raises(TwinError) as full:
        for number in range(2 * TWIN_REPORTS_KEPT):  # overwriting and then patching inside cannot be stacked
            copy = copy.with_report({"a": number}).with_report({"a": {"b": number}})
    assert len(copy.waiting) == TWIN_REPORTS_KEPT
    assert full.value.status == 429


def test_an_empty_report_is_nothing() -> None:
    assert TOLD.with_report({}) is TOLD
