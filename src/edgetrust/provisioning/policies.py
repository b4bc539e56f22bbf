"""The provisioning service's shared access policies: the four of the cloud service, with keys of our own, made once and
kept in one private file (hub specification 15).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgetrust.store import policyfile
from edgetrust.trust.policies import DpsRight, SharedAccessPolicy

OWNER = "provisioningserviceowner"

_DEFAULTS: Mapping[str, frozenset[DpsRight]] = {
    OWNER: frozenset(DpsRight),
    "enrollmentread": frozenset({DpsRight.ENROLLMENT_READ, DpsRight.REGISTRATION_STATUS_READ}),
    "enrollmentwrite": frozenset({DpsRight.ENROLLMENT_READ, DpsRight.ENROLLMENT_WRITE}),
    "registrationstatusread": frozenset({DpsRight.REGISTRATION_STATUS_READ}),
}


def load_policies(path: Path) -> dict[str, SharedAccessPolicy[DpsRight]]:
    """The policies in `path`; made there first, mode 0600, if there are none. Raises ConfigError, IntegrityError."""
    return policyfile.load_policies(path, DpsRight, _DEFAULTS)
