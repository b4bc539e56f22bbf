"""The gateway's scope snapshot and the audit trail, on every engine."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy

from edgetrust.clock import ManualClock
from edgetrust.errors import ConfigError, IntegrityError
from edgetrust.pki.chain import Thumbprint
from edgetrust.pki.keys import SecretBytes
from edgetrust.store.audit import AuditTrail
from edgetrust.store.engine import Database
from edgetrust.store.schema import scope_snapshot
from edgetrust.store.snapshot import ScopeSnapshot
from edgetrust.trust.audit import Record
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import (
    Authentication,
    CertificateAuthority,
    Missing,
    MissingWhy,
    NoAuthentication,
    Registration,
    SasKeys,
    Thumbprints,
)
from edgetrust.trust.verdict import Check

HUB = "hub.example"
KEYS = SasKeys(SecretBytes(b"p" * 32), SecretBytes(b"s" * 32))
THUMBPRINTS = Thumbprints(Thumbprint.parse("AB" * 20), Thumbprint.parse("CD" * 32))
SEAL = SecretBytes(bytes(range(32)))


@pytest.fixture
def snapshot(database: Database) -> ScopeSnapshot:
    return ScopeSnapshot(database, SEAL, HUB, "edge1")


def registration(
    clock: ManualClock, device: str, module: str | None = None, authentication: Authentication = KEYS
) -> Registration:
    return Registration(
        Identity(HUB, device, module),
        authentication,
        enabled=True,
        edge=False,
        generation="1" * 18,
        etag="MQ==",
        scope="ms-azure-iot-edge://edge1-1",
        parents=("ms-azure-iot-edge://edge1-1",),
        as_of=clock.now(),
        device_keys=KEYS if module else None,
        device_enabled=module is None,
        policy_keys=(("device", KEYS),),
        revoked=(Thumbprint.parse("EF" * 32),),
        trusted_until=clock.now() + timedelta(days=30),
    )


# -- snapshot ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authentication",
    [KEYS, THUMBPRINTS, Thumbprints(None, THUMBPRINTS.primary), CertificateAuthority(), NoAuthentication()],
)
async def test_a_registration_comes_back_as_it_was(
    snapshot: ScopeSnapshot, clock: ManualClock, authentication: Authentication
) -> None:
    for module in (None, "m1"):
        entry = registration(clock, "leaf", module, authentication)
        await snapshot.put([entry])
        assert await snapshot.find(entry.identity) == entry


async def test_what_is_not_known_and_what_is_not_below(snapshot: ScopeSnapshot, clock: ManualClock) -> None:
    stranger = Identity(HUB, "stranger")
    assert await snapshot.find(stranger) == Missing(MissingWhy.UNKNOWN)
    await snapshot.put([(stranger, clock.now())])
    assert await snapshot.find(stranger) == Missing(MissingWhy.NOT_A_CHILD, clock.now())
    assert await snapshot.load() == ()


async def test_a_full_copy_replaces_everything(snapshot: ScopeSnapshot, clock: ManualClock) -> None:
    assert await snapshot.as_of() is None
    first = [registration(clock, "a"), registration(clock, "b"), registration(clock, "b", "m1")]
    assert await snapshot.replace(first, clock.now()) == ()
    await snapshot.put([(Identity(HUB, "stranger"), clock.now())])
    clock.advance(60)
    removed = await snapshot.replace([registration(clock, "a")], clock.now())
    assert removed == (Identity(HUB, "b"), Identity(HUB, "b", "m1"))
    assert await snapshot.load() == (registration(clock, "a"),)
    assert await snapshot.as_of() == clock.now()
    assert await snapshot.replace([], clock.now()) == (Identity(HUB, "a"),)


async def test_removing_and_clearing(snapshot: ScopeSnapshot, clock: ManualClock) -> None:
    entries = [registration(clock, "a"), registration(clock, "a", "m1"), registration(clock, "a", "m2")]
    await snapshot.replace(entries, clock.now())
    await snapshot.remove(Identity(HUB, "a", "m1"))
    assert await snapshot.load() == (entries[0], entries[2])
    await snapshot.remove(Identity(HUB, "a"))
    assert await snapshot.load() == ()
    await snapshot.put(entries)
    await snapshot.clear()
    assert (await snapshot.load(), await snapshot.as_of()) == ((), None)


async def test_secrets_are_sealed(database: Database, snapshot: ScopeSnapshot, clock: ManualClock) -> None:
    await snapshot.put([registration(clock, "a")])
    rows = await database.read(lambda connection: connection.execute(sqlalchemy.select(scope_snapshot)).all())
    assert KEYS.primary.reveal() not in bytes(rows[0].sealed)
    assert b"MQ==" not in bytes(rows[0].sealed)


async def test_another_key_or_a_changed_row_is_noticed(
    database: Database, snapshot: ScopeSnapshot, clock: ManualClock
) -> None:
    entry = registration(clock, "a")
    await snapshot.put([entry, registration(clock, "b")])
    for other in (
        ScopeSnapshot(database, SecretBytes(bytes(32)), HUB, "edge1"),
        ScopeSnapshot(database, SEAL, HUB, "edge2"),
    ):
        with pytest.raises(IntegrityError) as caught:
            await other.find(entry.identity)
        assert caught.value.reason == "snapshot-unreadable"
    renamed = sqlalchemy.update(scope_snapshot).where(scope_snapshot.c.device == "b").values(device="c")
    fresher = sqlalchemy.update(scope_snapshot).where(scope_snapshot.c.device == "a").values(as_of_ms=1)
    for change, identity in ((renamed, Identity(HUB, "c")), (fresher, Identity(HUB, "a"))):
        await database.write(lambda connection, change=change: connection.execute(change).close())  # type: ignore[misc]
        with pytest.raises(IntegrityError):
            await snapshot.find(identity)
    with pytest.raises(IntegrityError):
        await snapshot.load()


def test_a_key_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError):
        ScopeSnapshot(None, SecretBytes(b"short"), HUB, "edge1")  # type: ignore[arg-type]


# -- audit -------------------------------------------------------------------------------------------------------------


def record(clock: ManualClock, identity: str, *, accepted: bool = False, checks: int = 3) -> Record:
    made = tuple(Check(f"check-{number}", number < checks - 1, f"saw {number}") for number in range(checks))
    return Record(clock.now(), "mqtt", "192.0.2.1:5", identity, accepted, "sas-expired", made)


async def test_refusals_keep_their_checks(database: Database, clock: ManualClock) -> None:
    trail = AuditTrail(database)
    refused, accepted = record(clock, "d1"), record(clock, "d2", accepted=True)
    trail.record(refused)
    trail.record(accepted)
    trail.record(record(clock, "d3", checks=0))
    await trail.flush()
    newest, second, oldest = await trail.records()
    assert oldest == refused
    assert (second.identity, second.checks) == ("d2", ())
    assert newest.identity == "d3"
    assert await trail.refusals(1) == (newest,)
    assert [found.identity for found in await trail.records(accepted=True)] == ["d2"]
    assert await trail.records(identity="d1") == (refused,)
    assert await trail.records(identity="nobody") == ()


async def test_only_the_newest_are_kept(database: Database, clock: ManualClock) -> None:
    trail = AuditTrail(database, refusals_kept=3, accepted_kept=2)
    await trail.flush()
    for number in range(10):
        trail.record(record(clock, f"refused-{number}"))
        trail.record(record(clock, f"accepted-{number}", accepted=True))
    await trail.flush()
    assert [found.identity for found in await trail.refusals()] == ["refused-9", "refused-8", "refused-7"]
    assert [found.identity for found in await trail.records(accepted=True)] == ["accepted-9", "accepted-8"]
    assert all(len(found.checks) == 3 for found in await trail.refusals())
    assert trail.dropped == 0


async def test_what_cannot_be_written_is_counted(durable_url: str, clock: ManualClock) -> None:
    database = Database(durable_url)
    await database.close()
    trail = AuditTrail(database)
    for _number in range(10_050):
        trail.record(record(clock, "d1"))
    await trail.flush()
    assert trail.dropped == 10_050
