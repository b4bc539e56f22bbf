"""May this gateway speak for that identity? Asked when a connection comes with an auth-chain (hub specification 9.4).

    leaf;child;parent       the module `$edgeHub` of `parent` connects as `leaf`, which is below `child`, below `parent`

Rules: the chain begins with the identity that is claimed and ends with the gateway whose `$edgeHub` has proved itself;
each is registered, enabled, and a child of the next: a device's module, or a device below an edge device. The
credential of whom the gateway speaks for is never asked: its gateway has done that. Pure and total, like
`authenticate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Missing, Registration
from edgetrust.trust.verdict import Accepted, Check, How, Reason, Refused, Verdict


def speak_for(
    actor: Accepted,
    claim: Identity,
    chain: Sequence[Identity],
    links: Sequence[Registration | Missing],
) -> Verdict:
    """`actor`, an accepted `$edgeHub`, connects as `claim`. `chain`: who speaks for whom, the claim first, then devices
    up to the actor's; `links`: what is registered for each of them. Both have the same length, at least 2.
    """
    made = list(actor.checks)
    if chain[0] != claim or chain[-1] != actor.identity.of_device:
        detail = f"from {chain[0]} to {chain[-1]}; {actor.identity} speaks for {claim}"
        return _refused(claim, made, "auth-chain", Reason.AUTH_CHAIN_MISMATCH, detail)
    for identity, link in zip(chain, links, strict=True):
        if not isinstance(link, Registration) or link.identity != identity:
            why = Reason(link.why.value) if isinstance(link, Missing) else Reason.UNKNOWN_IDENTITY
            return _refused(claim, made, "auth-chain-registered", why, f"{identity} in the auth-chain is not known")
        if not link.enabled:
            return _refused(claim, made, "auth-chain-enabled", Reason.DISABLED, f"{identity} is disabled")
        if not link.device_enabled:
            return _refused(claim, made, "auth-chain-enabled", Reason.DEVICE_DISABLED, f"{identity.device} is disabled")
    registrations = [link for link in links if isinstance(link, Registration)]
    for child, parent in pairwise(registrations):
        if not _is_child(child, parent):
            detail = f"{child.identity} is no child of {parent.identity}"
            return _refused(claim, made, "auth-chain-children", Reason.NOT_A_CHILD, detail)
    made.append(Check("auth-chain", True, " < ".join(map(str, chain))))
    return Accepted(claim, How.ON_BEHALF, tuple(made), actor.valid_until)


def _is_child(child: Registration, parent: Registration) -> bool:
    if child.identity.module is not None:
        return child.identity.of_device == parent.identity
    return parent.edge and parent.scope is not None and parent.scope in child.parents


def _refused(claim: Identity, made: list[Check], name: str, reason: Reason, detail: str) -> Refused:
    return Refused(claim, reason, (*made, Check(name, False, detail)))
