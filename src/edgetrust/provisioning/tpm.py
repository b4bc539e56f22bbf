"""Devices that prove themselves by their TPM (hub specification 14.4).

    first request       the public areas of the TPM's keys  =>  401 with a key that only this TPM can decrypt
    second request      a token signed with that key        =>  registered, with a hub key wrapped the same way

Rules. The endorsement key must be the enrolled one, and the storage root key too if one is enrolled. A challenge is
kept in memory for a quarter of an hour, under the registration identifier; the newest counts. A process that is
restarted forgets it, and the device begins again.
"""

from __future__ import annotations

import base64
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field

from edgetrust.clock import Clock
from edgetrust.limits import TPM_CHALLENGE_SECONDS, TPM_CHALLENGES_KEPT
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.tpm import parse_public, wrapped_key
from edgetrust.protocol.dps.bodies import TpmKeys
from edgetrust.protocol.dps.names import registration_key
from edgetrust.trust.attest import Known
from edgetrust.trust.enrollment import TpmPublic
from edgetrust.trust.identity import Identity
from edgetrust.trust.verdict import Check, Reason, Refused

_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class _Challenge:
    key: SecretBytes
    keys: TpmKeys = field(repr=False)
    until: float


class Challenges:
    """What was given to which TPM."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, _Challenge] = OrderedDict()

    def begin(self, claim: Identity, known: Known, keys: TpmKeys) -> str | Refused:
        """A new challenge in base64, if these are the enrolled TPM's keys. Raises TpmError for what are no keys."""
        enrolled = known.individual
        if enrolled is None:
            return _refused(claim, Reason.ENROLLMENT_UNKNOWN, f"{claim} has no enrollment, and groups take no TPM")
        held = enrolled.attestation
        if not isinstance(held, TpmPublic):
            detail = f"{enrolled} is for {enrolled.body.attestation.type}, a TPM came"
            return _refused(claim, Reason.WRONG_KIND_OF_CREDENTIAL, detail)
        if keys.endorsement != held.endorsement:
            return _refused(claim, Reason.TPM_KEY_MISMATCH, f"another endorsement key than that of {enrolled}")
        if held.storage_root is not None and keys.storage_root != held.storage_root:
            return _refused(claim, Reason.TPM_KEY_MISMATCH, f"another storage root key than that of {enrolled}")
        key = SecretBytes(secrets.token_bytes(_KEY_BYTES))
        wrapped = wrap(keys, key)
        name = registration_key(claim.device)
        self._kept[name] = _Challenge(key, keys, self._clock.monotonic() + TPM_CHALLENGE_SECONDS)
        self._kept.move_to_end(name)
        if len(self._kept) > TPM_CHALLENGES_KEPT:
            self._kept.popitem(last=False)
        return wrapped

    def key(self, registration_id: str) -> SecretBytes | None:
        """The key that a device's TPM was given, if it still counts."""
        found = self._found(registration_id)
        return None if found is None else found.key

    def keys(self, registration_id: str) -> TpmKeys | None:
        """The TPM that it was given to."""
        found = self._found(registration_id)
        return None if found is None else found.keys

    def _found(self, registration_id: str) -> _Challenge | None:
        found = self._kept.get(registration_key(registration_id))
        return found if found is not None and self._clock.monotonic() < found.until else None


def wrap(keys: TpmKeys, key: SecretBytes) -> str:
    """`key` for one TPM, base64. Raises TpmError."""
    wrapped = wrapped_key(parse_public(keys.endorsement), parse_public(keys.storage_root), key)
    return base64.b64encode(wrapped).decode()


def _refused(claim: Identity, reason: Reason, detail: str) -> Refused:
    return Refused(claim, reason, (Check("tpm", False, detail),))
