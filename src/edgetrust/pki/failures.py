"""What path validation can say: the purposes that certificates are verified for and the reasons for which they fail."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn


class Purpose(StrEnum):
    """What the end entity of a chain is to be used for: the named verification profiles."""

    DEVICE = "device"
    SERVER = "server"
    CA = "ca"


class ChainReason(StrEnum):
    """Why a chain is not verified. Stable slugs: log field, metric label, documentation anchor."""

    UNTRUSTED = "chain-untrusted"
    EXPIRED = "chain-expired"
    NOT_YET_VALID = "chain-not-yet-valid"
    WRONG_USAGE = "chain-wrong-usage"
    INTERMEDIATE_MISSING = "chain-intermediate-missing"
    PATH_LENGTH = "chain-path-length"
    NOT_A_CA = "chain-issuer-not-a-ca"
    SIGNATURE = "chain-bad-signature"
    NAME = "name-mismatch"
    LEAF_IS_CA = "end-entity-is-a-ca"
    UNKNOWN_CRITICAL = "chain-unknown-critical-extension"
    NAME_CONSTRAINTS = "chain-name-constraints"
    WEAK_KEY = "chain-weak-key"
    TOO_LONG = "chain-too-long"


@dataclass(frozen=True, slots=True)
class ChainFailure:
    """The first check that failed: why, the subject of the certificate at fault (RFC 4514), and a sentence for a
    person.
    """

    reason: ChainReason
    certificate: str
    detail: str

    def __bool__(self) -> NoReturn:
        raise TypeError("match on the outcome of a path validation; it has no truth value")
