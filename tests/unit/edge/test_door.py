"""The gateway's door asks the hub before it refuses by its copy, and only where that may help."""

from __future__ import annotations

from typing import Any

import pytest

from edgetrust.broker.claim import Claim, House
from edgetrust.clock import ManualClock
from edgetrust.edge.door import GatewayDoor
from edgetrust.pki.chain import TrustBundle
from edgetrust.protocol.sas import resource_text, sign
from edgetrust.trust.authenticate import Policy
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Registration
from edgetrust.trust.verdict import Accepted, Reason, Refused
from support.decisions import HUB, KEYS, registered
from support.pki import NOW

SENSOR = Identity(HUB, "d1")


class FakeScope:
    """A copy that learns something when it is refreshed."""

    version = 1

    def __init__(self, known: Registration, fresh: Registration | None) -> None:
        self.known = known
        self.fresh = fresh
        self.refreshed = 0

    async def find(self, _: Identity) -> Registration:
        return self.known

    def bundle(self) -> TrustBundle:
        return TrustBundle((), as_of=NOW)

    async def refresh(self, _: Identity) -> bool:
        self.refreshed += 1
        if self.fresh is None:
            return False
        self.known = self.fresh
        return True


class Around:
    def __init__(self, registry: FakeScope) -> None:
        self.registry = registry
        self.clock = ManualClock(NOW)


class Stream:
    peer_chain = ()
    peer_address = "127.0.0.1"


async def decide(scope: FakeScope, password: str | None) -> Any:
    around: Any = Around(scope)
    registry: Any = scope
    auditor: Any = None
    stream: Any = Stream()
    door = GatewayDoor(House(HUB, "t", any_host=True), around, Policy(hosts=frozenset({HUB})), auditor, registry)
    verdict, _ = await door._decide(Claim(SENSOR), None if password is None else password.encode(), stream)
    return verdict


def password(key: bytes = b"p" * 32, *, life: int = 600) -> str:
    return sign(key, resource_text(HUB, "d1"), int(NOW.timestamp()) + life)


async def test_a_fresh_copy_may_accept() -> None:
    scope = FakeScope(registered(KEYS, SENSOR, enabled=False), registered(KEYS, SENSOR))
    assert isinstance(await decide(scope, password()), Accepted)
    assert scope.refreshed == 1


async def test_without_news_the_refusal_stands() -> None:
    scope = FakeScope(registered(KEYS, SENSOR), None)
    verdict = await decide(scope, password(b"x" * 32))
    assert isinstance(verdict, Refused)
    assert verdict.reason is Reason.SAS_SIGNATURE_MISMATCH
    assert scope.refreshed == 1


@pytest.mark.parametrize("given", [None, "nonsense", password(life=-900)])
async def test_the_hub_is_not_asked_about_what_it_cannot_mend(given: str | None) -> None:
    scope = FakeScope(registered(KEYS, SENSOR), registered(KEYS, SENSOR))
    assert isinstance(await decide(scope, given), Refused)
    assert scope.refreshed == 0


async def test_who_is_accepted_costs_nothing() -> None:
    scope = FakeScope(registered(KEYS, SENSOR), None)
    assert isinstance(await decide(scope, password()), Accepted)
    assert scope.refreshed == 0
