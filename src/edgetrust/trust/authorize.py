"""May this session do this? Asked once per operation, of an identity that has been accepted.

Rules: an identity acts for itself only; a device may also act on its own modules' registrations (the edge runtime
does). The module `$edgeHub` of an edge device also acts for the identities below that device: whether one is below is
a fact that the caller looks up in the registry and passes in.
"""

from __future__ import annotations

from enum import StrEnum

from edgetrust.trust.identity import Identity
from edgetrust.trust.verdict import Accepted, Check, Reason, Refused

EDGE_HUB = "$edgeHub"


class Operation(StrEnum):
    """What a session asks for."""

    SEND_TELEMETRY = "send-telemetry"
    RECEIVE_COMMANDS = "receive-cloud-to-device"
    RECEIVE_INPUTS = "receive-inputs"
    USE_TWIN = "use-twin"
    ANSWER_METHODS = "answer-methods"
    WRITE_MODULES = "write-modules"


def authorize(
    accepted: Accepted, operation: Operation, subject: Identity, *, below: bool = False
) -> Accepted | Refused:
    """`accepted` asks to do `operation` as, or to, `subject`. `below`: the registry says that subject is below its
    device.
    """
    actor = accepted.identity
    if actor == subject:
        return accepted
    if operation is Operation.WRITE_MODULES and actor.module is None and actor == subject.of_device:
        return accepted
    if actor.module == EDGE_HUB and (below or actor.of_device == subject.of_device):
        return accepted
    check = Check("authorized", False, f"{actor} may not {operation.value} for {subject}")
    return Refused(subject, Reason.NOT_AUTHORIZED, (*accepted.checks, check))
