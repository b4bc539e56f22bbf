"""What an accepted identity may do."""

from __future__ import annotations

import pytest

from edgetrust.trust.authorize import EDGE_HUB, Operation, authorize
from edgetrust.trust.identity import Identity
from edgetrust.trust.verdict import Accepted, How, Reason, Refused

HUB = "hub.example"
GATEWAY, LEAF = Identity(HUB, "gw"), Identity(HUB, "leaf")
EDGE = Identity(HUB, "gw", EDGE_HUB)
AGENT = Identity(HUB, "gw", "$edgeAgent")


def asks(actor: Identity, operation: Operation, subject: Identity, *, below: bool = False) -> bool:
    verdict = authorize(Accepted(actor, How.SAS_PRIMARY, (), None), operation, subject, below=below)
    if isinstance(verdict, Refused):
        assert verdict.reason is Reason.NOT_AUTHORIZED
        assert verdict.claim == subject
        assert operation.value in verdict.detail
        assert str(subject) in verdict.detail
        return False
    assert verdict.identity == actor
    return True


@pytest.mark.parametrize("operation", Operation)
class TestAnyOperation:
    def test_for_itself(self, operation: Operation) -> None:
        assert asks(LEAF, operation, LEAF)
        assert asks(EDGE, operation, EDGE)

    def test_for_another_device(self, operation: Operation) -> None:
        assert not asks(LEAF, operation, GATEWAY)
        assert not asks(LEAF, operation, GATEWAY, below=True)

    def test_a_module_for_its_device_or_its_sibling(self, operation: Operation) -> None:
        assert not asks(AGENT, operation, GATEWAY)
        assert not asks(AGENT, operation, EDGE)

    def test_a_gateway_for_those_below(self, operation: Operation) -> None:
        assert asks(EDGE, operation, LEAF, below=True)
        assert asks(EDGE, operation, Identity(HUB, "leaf", "m"), below=True)
        assert not asks(EDGE, operation, LEAF)

    def test_a_gateway_for_its_own_device(self, operation: Operation) -> None:
        assert asks(EDGE, operation, GATEWAY)
        assert asks(EDGE, operation, AGENT)

    def test_a_module_of_the_same_name_elsewhere(self, operation: Operation) -> None:
        assert not asks(Identity("other", "gw", EDGE_HUB), operation, GATEWAY)

    def test_a_device_for_its_modules(self, operation: Operation) -> None:
        assert asks(GATEWAY, operation, AGENT) is (operation is Operation.WRITE_MODULES)
        assert not asks(LEAF, operation, AGENT)
