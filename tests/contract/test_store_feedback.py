"""What becomes of cloud-to-device messages, told to their senders, on every engine."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from edgetrust.clock import ManualClock
from edgetrust.limits import C2D_DELIVERIES, C2D_LOCK_SECONDS, FEEDBACK_LOCK_SECONDS, FEEDBACK_TTL_SECONDS
from edgetrust.store.c2d import C2dDraft, C2dQueues
from edgetrust.store.engine import Database
from edgetrust.store.feedback import Feedback, Outcome
from edgetrust.store.identities import Identities
from edgetrust.store.records import DeviceDraft, RegistryError
from support.database import Outcomes

End = Callable[[C2dQueues, ManualClock], Coroutine[Any, Any, None]]


@pytest.fixture
async def registry(database: Database, clock: ManualClock) -> Identities:
    registry = Identities(database, clock, "hub.example")
    await registry.create_device(DeviceDraft("d1"))
    return registry


@pytest.fixture
def queues(database: Database, clock: ManualClock, registry: Identities) -> C2dQueues:
    return C2dQueues(database, clock)


@pytest.fixture
def feedback(database: Database, clock: ManualClock) -> Feedback:
    return Feedback(database, clock)


async def complete(queues: C2dQueues, _clock: ManualClock) -> None:
    for leased in await queues.lease("d1", 9):
        done = Outcomes()
        queues.complete("d1", leased.sequence, done)
        assert await done.wait() == [None]


async def complete_by_token(queues: C2dQueues, _clock: ManualClock) -> None:
    for leased in await queues.lease("d1", 9):
        await queues.settle("d1", leased.lock_token, Outcome.SUCCESS)


async def reject(queues: C2dQueues, _clock: ManualClock) -> None:
    for leased in await queues.lease("d1", 9):
        await queues.settle("d1", leased.lock_token, Outcome.REJECTED)


async def purge(queues: C2dQueues, _clock: ManualClock) -> None:
    assert await queues.purge("d1") == 4


async def let_expire(queues: C2dQueues, clock: ManualClock) -> None:
    clock.advance(3601)
    assert await queues.expire() == 4


async def find_expired(queues: C2dQueues, clock: ManualClock) -> None:
    clock.advance(3601)
    assert await queues.lease("d1", 9) == ()


async def deliver_in_vain(queues: C2dQueues, clock: ManualClock) -> None:
    for _ in range(C2D_DELIVERIES):
        assert len(await queues.lease("d1", 9)) == 4
        clock.advance(C2D_LOCK_SECONDS)
    assert await queues.expire() == 4


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (complete, Outcome.SUCCESS),
        (complete_by_token, Outcome.SUCCESS),
        (reject, Outcome.REJECTED),
        (purge, Outcome.PURGED),
        (let_expire, Outcome.EXPIRED),
        (find_expired, Outcome.EXPIRED),
        (deliver_in_vain, Outcome.DELIVERY_COUNT_EXCEEDED),
    ],
)
async def test_who_asked_is_told(
    queues: C2dQueues, registry: Identities, feedback: Feedback, clock: ManualClock, end: End, outcome: Outcome
) -> None:
    for ack in ("none", "positive", "negative", "full"):
        await queues.enqueue(C2dDraft("d1", b"x", message_id=f"id-{ack}", ack=ack))
    await end(queues, clock)
    batch = await feedback.lease()
    assert batch is not None
    asked = "positive" if outcome is Outcome.SUCCESS else "negative"
    assert [record.message_id for record in batch.records] == [f"id-{asked}", "id-full"]
    assert {record.outcome for record in batch.records} == {outcome}
    generation = (await registry.device("d1")).generation
    assert {(record.device, record.module, record.generation, record.at) for record in batch.records} == {
        ("d1", None, generation, clock.now())
    }
    assert await queues.lease("d1", 9) == ()


async def test_abandoned_nobody_is_told_anything(queues: C2dQueues, feedback: Feedback) -> None:
    await queues.enqueue(C2dDraft("d1", b"x", ack="full"))
    (leased,) = await queues.lease("d1", 1)
    await queues.abandon("d1", leased.lock_token)
    assert await feedback.lease() is None
    assert len(await queues.lease("d1", 1)) == 1


async def told(queues: C2dQueues, count: int) -> None:
    for number in range(count):
        await queues.enqueue(C2dDraft("d1", b"x", message_id=str(number), ack="full"))
    await queues.purge("d1")


def identifiers(batch: Any) -> list[str]:
    return [] if batch is None else [record.message_id for record in batch.records]


async def test_batches_are_locked_completed_and_abandoned(
    queues: C2dQueues, feedback: Feedback, clock: ManualClock
) -> None:
    await told(queues, 5)
    first, second = await feedback.lease(2), await feedback.lease(9)
    assert first is not None
    assert second is not None
    assert (identifiers(first), identifiers(second)) == (["0", "1"], ["2", "3", "4"])
    assert await feedback.lease() is None
    await feedback.settle(first.lock_token, keep=True)
    await feedback.settle(second.lock_token, keep=False)
    again = await feedback.lease()
    assert identifiers(again) == ["0", "1"]
    clock.advance(FEEDBACK_LOCK_SECONDS)
    assert again is not None
    for keep in (True, False):
        with pytest.raises(RegistryError) as lost:
            await feedback.settle(again.lock_token, keep=keep)
        assert (lost.value.reason, lost.value.status) == ("device-message-lock-lost", 412)
    assert identifiers(await feedback.lease()) == ["0", "1"]


async def test_old_records_go_and_so_do_too_many(queues: C2dQueues, feedback: Feedback, clock: ManualClock) -> None:
    await told(queues, 3)
    assert await feedback.trim() == 0
    assert await feedback.trim(kept=2) == 1
    assert identifiers(await feedback.lease()) == ["1", "2"]
    clock.advance(FEEDBACK_TTL_SECONDS)
    assert await feedback.lease() is None
    assert await feedback.trim() == 2
