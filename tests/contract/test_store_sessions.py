"""Stored sessions and cloud-to-device queues, on every engine."""

from __future__ import annotations

import pytest

from edgetrust.clock import ManualClock
from edgetrust.errors import UnavailableError
from edgetrust.store.c2d import C2dDraft, C2dMessage, C2dQueues
from edgetrust.store.engine import Database
from edgetrust.store.feedback import Outcome
from edgetrust.store.identities import Identities
from edgetrust.store.records import DeviceDraft, ModuleDraft, RegistryError
from edgetrust.store.sessions import Sessions
from support.database import Outcomes

C2D = "devices/d1/messages/devicebound/#"


@pytest.fixture
async def registry(database: Database, clock: ManualClock) -> Identities:
    registry = Identities(database, clock, "hub.example")
    await registry.create_device(DeviceDraft("d1"))
    await registry.create_module(ModuleDraft("d1", "m1"))
    return registry


@pytest.fixture
def sessions(database: Database, clock: ManualClock) -> Sessions:
    return Sessions(database, clock)


@pytest.fixture
def queues(database: Database, clock: ManualClock, registry: Identities) -> C2dQueues:
    return C2dQueues(database, clock)


async def save(sessions: Sessions, client: str, filters: dict[str, int]) -> None:
    done = Outcomes()
    sessions.save(client, filters, done)
    assert await done.wait() == [None]


# -- sessions ----------------------------------------------------------------------------------------------------------


async def test_a_session_is_its_filters(sessions: Sessions) -> None:
    assert await sessions.load("d1") is None
    await save(sessions, "d1", {})
    assert await sessions.load("d1") == {}
    await save(sessions, "d1", {C2D: 1, "$iothub/twin/res/#": 0})
    await save(sessions, "d1", {C2D: 0})
    await save(sessions, "d1/m1", {"devices/d1/modules/m1/#": 1})
    assert await sessions.load("d1") == {C2D: 0}
    assert await sessions.load("d1/m1") == {"devices/d1/modules/m1/#": 1}


async def test_the_last_of_several_saves_counts(sessions: Sessions) -> None:
    done = Outcomes()
    for qos in (0, 1, 0, 1):
        sessions.save("d1", {C2D: qos}, done)
    sessions.discard("d1/m1", done)
    assert await done.wait(5) == [None] * 5
    assert await sessions.load("d1") == {C2D: 1}


async def test_a_discarded_session_is_gone(sessions: Sessions) -> None:
    await save(sessions, "d1", {C2D: 1})
    await save(sessions, "d1/m1", {C2D: 1})
    done = Outcomes()
    sessions.discard("d1", done)
    await done.wait()
    assert await sessions.load("d1") is None
    assert await sessions.load("d1/m1") == {C2D: 1}


async def test_sessions_go_with_their_identity(sessions: Sessions, registry: Identities) -> None:
    await save(sessions, "d1", {C2D: 1})
    await save(sessions, "d1/m1", {C2D: 1})
    await registry.delete_module("d1", "m1")
    sessions.forget("d1", "m1")
    assert await sessions.load("d1/m1") is None
    await save(sessions, "d1/m1", {C2D: 1})
    await registry.delete_device("d1")
    sessions.forget("d1")
    assert await sessions.load("d1") is None
    assert await sessions.load("d1/m1") is None


async def test_what_was_loaded_is_remembered_until_it_is_forgotten(sessions: Sessions, registry: Identities) -> None:
    await save(sessions, "d1", {C2D: 1})
    await registry.delete_device("d1")
    assert await sessions.load("d1") == {C2D: 1}
    sessions.forget("d1")
    assert await sessions.load("d1") is None


async def test_with_all_sessions_at_hand_a_new_client_costs_no_query(
    database: Database, clock: ManualClock, sessions: Sessions, registry: Identities
) -> None:
    await save(sessions, "d1", {C2D: 1})
    await save(sessions, "d1/m1", {})
    fresh = Sessions(database, clock)
    await fresh.preload()
    await registry.delete_device("d1")
    assert await fresh.load("d1") == {C2D: 1}
    assert await fresh.load("d1/m1") == {}
    assert await fresh.load("nobody") is None
    fresh.forget("d1", "m1")
    assert await fresh.load("d1") == {C2D: 1}
    assert await fresh.load("d1/m1") is None
    crowded = Sessions(database, clock, remembered=0)
    await crowded.preload()
    assert await crowded.load("d1") is None


async def test_a_closed_store_says_so(durable_url: str, clock: ManualClock) -> None:
    database = Database(durable_url)
    await database.close()
    done = Outcomes()
    Sessions(database, clock).save("d1", {}, done)
    assert isinstance((await done.wait())[0], UnavailableError)


# -- cloud to device ---------------------------------------------------------------------------------------------------


async def enqueue(queues: C2dQueues, *bodies: bytes, device: str = "d1", module: str | None = None) -> list[int]:
    return [await queues.enqueue(C2dDraft(device, body, module)) for body in bodies]


def bodies(messages: tuple[C2dMessage, ...]) -> list[bytes]:
    return [message.body for message in messages]


async def test_messages_are_leased_in_order_and_once(queues: C2dQueues, clock: ManualClock) -> None:
    await enqueue(queues, b"1", b"2", b"3")
    await enqueue(queues, b"module", module="m1")
    first = await queues.lease("d1", 2)
    assert bodies(first) == [b"1", b"2"]
    assert {message.deliveries for message in first} == {1}
    assert first[0].enqueued_at == clock.now()
    assert first[0].message_id != first[1].message_id
    assert bodies(await queues.lease("d1", 9)) == [b"3"]
    assert bodies(await queues.lease("d1", 9)) == []
    assert bodies(await queues.lease("d1", 9, module="m1")) == [b"module"]


async def test_completed_messages_are_gone_and_released_ones_come_again(queues: C2dQueues) -> None:
    await enqueue(queues, b"1", b"2", b"3")
    leased = await queues.lease("d1", 3)
    done = Outcomes()
    queues.complete("d1", leased[1].sequence, done)
    queues.complete("d1", 10**6, done)
    queues.release("d1", done=done)
    assert await done.wait(3) == [None] * 3
    again = await queues.lease("d1", 3)
    assert bodies(again) == [b"1", b"3"]
    assert {message.deliveries for message in again} == {2}
    queues.release("d1")


async def test_a_lock_ends_after_a_minute(queues: C2dQueues, clock: ManualClock) -> None:
    await enqueue(queues, b"1")
    (held,) = await queues.lease("d1", 1)
    clock.advance(59)
    assert await queues.lease("d1", 1) == ()
    clock.advance(1)
    with pytest.raises(RegistryError, match="lock") as lost:
        await queues.settle("d1", held.lock_token, Outcome.SUCCESS)
    assert (lost.value.status, lost.value.reason) == (412, "device-message-lock-lost")
    assert bodies(await queues.lease("d1", 1)) == [b"1"]


async def test_who_holds_a_message_and_asks_for_more_keeps_it(queues: C2dQueues, clock: ManualClock) -> None:
    await queues.enqueue(C2dDraft("d1", b"slow", ack="full", expires_at=clock.now().replace(day=2)))
    (held,) = await queues.lease("d1", 9)
    for number in range(20):
        clock.advance(61)
        await enqueue(queues, b"%d" % number)
        (other,) = await queues.lease("d1", 9, {held.sequence})
        assert other.body == b"%d" % number
        await queues.settle("d1", other.lock_token, Outcome.SUCCESS)
    queues.release("d1")
    (again,) = await queues.lease("d1", 9)
    assert (again.body, again.deliveries) == (b"slow", 2)


async def test_settling_by_lock_token(queues: C2dQueues) -> None:
    await enqueue(queues, b"1")
    (held,) = await queues.lease("d1", 1)
    await queues.abandon("d1", held.lock_token)
    (held,) = await queues.lease("d1", 1)
    assert held.deliveries == 2
    await queues.settle("d1", held.lock_token, Outcome.SUCCESS)
    with pytest.raises(RegistryError):
        await queues.abandon("d1", held.lock_token)


async def test_messages_expire(queues: C2dQueues, clock: ManualClock) -> None:
    await queues.enqueue(C2dDraft("d1", b"short", expires_at=clock.now().replace(minute=10)))
    await queues.enqueue(C2dDraft("d1", b"default"))
    await queues.enqueue(C2dDraft("d1", b"long", expires_at=clock.now().replace(year=2030)))
    clock.advance(601)
    assert bodies(await queues.lease("d1", 9)) == [b"default", b"long"]
    clock.advance(3600)
    assert await queues.expire() == 1
    assert bodies(await queues.lease("d1", 9)) == [b"long"]
    clock.advance(48 * 3600)
    assert await queues.lease("d1", 9) == ()


async def test_ten_deliveries_and_no_more(queues: C2dQueues, clock: ManualClock) -> None:
    await queues.enqueue(C2dDraft("d1", b"1", expires_at=clock.now().replace(day=2)))
    for delivery in range(1, 11):
        (message,) = await queues.lease("d1", 1)
        assert message.deliveries == delivery
        clock.advance(61)
    assert await queues.lease("d1", 1) == ()
    assert await queues.purge("d1") == 0


async def test_a_queue_holds_fifty(queues: C2dQueues, registry: Identities) -> None:
    await enqueue(queues, *(b"%d" % number for number in range(50)))
    assert (await registry.device("d1")).c2d_messages == 50
    with pytest.raises(RegistryError) as full:
        await enqueue(queues, b"one more")
    assert (full.value.status, full.value.reason) == (403, "device-maximum-queue-depth-exceeded")
    await enqueue(queues, b"module", module="m1")
    assert (await registry.module("d1", "m1")).c2d_messages == 1
    assert await queues.purge("d1") == 50
    await enqueue(queues, b"1")


async def test_only_known_receivers(queues: C2dQueues) -> None:
    for device, module, reason in (("d2", None, "device-not-found"), ("d1", "m2", "module-not-found")):
        with pytest.raises(RegistryError) as missing:
            await enqueue(queues, b"1", device=device, module=module)
        assert (missing.value.status, missing.value.reason) == (404, reason)


async def test_messages_go_with_their_identity(queues: C2dQueues, registry: Identities) -> None:
    await enqueue(queues, b"1")
    await registry.delete_device("d1")
    await registry.create_device(DeviceDraft("d1"))
    assert await queues.lease("d1", 1) == ()


async def test_listeners_hear_of_new_messages(queues: C2dQueues) -> None:
    heard: list[tuple[str, str | None]] = []
    end = queues.listen(lambda device, module: heard.append((device, module)))
    await enqueue(queues, b"1")
    await enqueue(queues, b"1", module="m1")
    end()
    await enqueue(queues, b"2")
    assert heard == [("d1", None), ("d1", "m1")]
