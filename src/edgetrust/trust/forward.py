"""May this connection be passed on? Decided by the name that its client asks for and by how many there are already.

Nobody is authenticated: who asks for a first certificate has none to show, and the service at the other end decides for
itself. So the list of names is the whole permission, and the limits keep one address from using up what is there for
all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgetrust.limits import FORWARDED_AT_ONCE, FORWARDED_PER_ADDRESS
from edgetrust.trust.verdict import Check, Reason, Refused


@dataclass(frozen=True, slots=True)
class Forwarded:
    """It is passed on."""

    checks: tuple[Check, ...]


def pass_on(name: str, to: str, held: int, total: int) -> Forwarded | Refused:
    """Decide about a name that is on the list. `to` is where it goes, for people; `held` connections are passed on for
    the address that asks, `total` for all.
    """
    detail = f"{held} of {FORWARDED_PER_ADDRESS} for this address, {total} of {FORWARDED_AT_ONCE} altogether"
    within = held < FORWARDED_PER_ADDRESS and total < FORWARDED_AT_ONCE
    checks = (Check("name", True, f"{name} is passed on to {to}"), Check("limit", within, detail))
    return Forwarded(checks) if within else Refused(None, Reason.FORWARD_LIMIT, checks)


def meant_another(name: str, listed: Iterable[str]) -> Refused:
    """The refusal of a client that asked for `name`, got us, and left: `listed` are the names that are passed on."""
    detail = f"{name} is neither this gateway nor passed on; passed on: {', '.join(sorted(listed)) or 'nothing'}"
    return Refused(None, Reason.FORWARD_NAME_NOT_ALLOWED, (Check("name", False, detail),))
