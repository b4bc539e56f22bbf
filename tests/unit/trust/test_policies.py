"""Services: a policy's token with the right that is needed, and nothing else."""

from __future__ import annotations

from itertools import product

import pytest

from edgetrust.pki.keys import SecretBytes
from edgetrust.trust.authenticate import Policy
from edgetrust.trust.credential import Credential, MalformedToken, NoCredential
from edgetrust.trust.policies import Right, SharedAccessPolicy, authenticate_service
from edgetrust.trust.registration import SasKeys
from edgetrust.trust.verdict import Accepted, How, Reason, Refused, Verdict
from support.decisions import HUB, NOW, POLICY, Pki, shown, token

KEYS = SasKeys(SecretBytes(b"1" * 32), SecretBytes(b"2" * 32))
POLICIES = {
    "owner": SharedAccessPolicy("owner", KEYS, frozenset(Right)),
    "reader": SharedAccessPolicy(
        "reader", SasKeys(SecretBytes(b"3" * 32), SecretBytes(b"4" * 32)), frozenset({Right.REGISTRY_READ})
    ),
    "none": SharedAccessPolicy("none", KEYS, frozenset()),
}


def decide(credential: Credential, needed: Right = Right.REGISTRY_READ, policy: Policy = POLICY) -> Verdict:
    return authenticate_service(credential, POLICIES, (frozenset({needed}),), NOW, policy)


def refused(credential: Credential, reason: Reason, needed: Right = Right.REGISTRY_READ) -> None:
    verdict = decide(credential, needed)
    assert isinstance(verdict, Refused)
    assert verdict.reason is reason
    assert verdict.detail


@pytest.mark.parametrize(("key", "right"), list(product((b"1", b"2"), Right)))
def test_either_key_of_a_policy_with_the_right(key: bytes, right: Right) -> None:
    verdict = decide(token(key * 32, HUB, policy="owner"), right)
    assert isinstance(verdict, Accepted)
    assert verdict.how is How.SAS_POLICY


@pytest.mark.parametrize("right", [right for right in Right if right is not Right.REGISTRY_READ])
def test_a_right_that_the_policy_does_not_hold(right: Right) -> None:
    refused(token(b"3" * 32, HUB, policy="reader"), Reason.NOT_AUTHORIZED, right)
    refused(token(b"1" * 32, HUB, policy="none"), Reason.NOT_AUTHORIZED, right)


def test_not_a_services_token() -> None:
    refused(token(b"1" * 32, HUB, policy="nobody"), Reason.SAS_UNKNOWN_POLICY)
    refused(token(b"3" * 32, HUB, policy="owner"), Reason.SAS_SIGNATURE_MISMATCH)
    refused(token(b"1" * 32, HUB), Reason.WRONG_KIND_OF_CREDENTIAL)
    refused(token(b"1" * 32, "other.example", policy="owner"), Reason.SAS_OTHER_RESOURCE)
    refused(token(b"1" * 32, f"{HUB}%2Fdevices%2Fd1", policy="owner"), Reason.SAS_OTHER_RESOURCE)
    refused(token(b"1" * 32, HUB, expires_in=-301, policy="owner"), Reason.SAS_EXPIRED)
    refused(MalformedToken("no token"), Reason.SAS_MALFORMED)
    refused(NoCredential(), Reason.NO_CREDENTIAL)
    refused(shown(Pki().device()), Reason.NO_AUTHENTICATION_REGISTERED)


def test_a_hub_without_a_name_refuses() -> None:
    verdict = decide(token(b"1" * 32, HUB, policy="owner"), policy=Policy(frozenset()))
    assert isinstance(verdict, Refused)
    assert verdict.reason is Reason.SAS_OTHER_RESOURCE


def test_alternatives_and_rights_together() -> None:
    reader = token(b"3" * 32, HUB, policy="reader")
    owner = token(b"1" * 32, HUB, policy="owner")
    read, serve = frozenset({Right.REGISTRY_READ}), frozenset({Right.SERVICE_CONNECT})
    assert isinstance(authenticate_service(reader, POLICIES, (serve, read), NOW, POLICY), Accepted)
    assert isinstance(authenticate_service(owner, POLICIES, (frozenset(Right),), NOW, POLICY), Accepted)
    verdict = authenticate_service(reader, POLICIES, (serve | read, serve), NOW, POLICY)
    assert isinstance(verdict, Refused)
    assert verdict.detail == "policy 'reader' does not hold RegistryRead and ServiceConnect or ServiceConnect"
