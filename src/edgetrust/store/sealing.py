"""Sealing: what a gateway keeps of its hub is encrypted at rest, under a key that the caller keeps elsewhere.

Rules (edge specification 6.5): AES-256-GCM with a new nonce each time; what a text is about is bound to it, so that
sealed texts cannot be exchanged for each other.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgetrust.errors import ConfigError, IntegrityError
from edgetrust.pki.keys import SecretBytes

_KEY_BYTES = 32
_NONCE_BYTES = 12


class Sealer:
    """Seals and opens with one key of 32 bytes. Raises ConfigError `snapshot-key` for another length."""

    def __init__(self, key: SecretBytes) -> None:
        if len(key) != _KEY_BYTES:
            raise ConfigError(f"the snapshot's key has {len(key)} bytes, not {_KEY_BYTES}", reason="snapshot-key")
        self._cipher = AESGCM(key.reveal())

    def seal(self, plain: bytes, *about: str) -> bytes:
        """`plain` under the key, bound to what it is about."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, _bound(about))

    def open(self, sealed: bytes, *about: str) -> bytes:
        """What was sealed. IntegrityError `snapshot-unreadable` for another key, another matter or a changed text."""
        nonce, cipher_text = bytes(sealed[:_NONCE_BYTES]), bytes(sealed[_NONCE_BYTES:])
        try:
            return self._cipher.decrypt(nonce, cipher_text, _bound(about))
        except (InvalidTag, ValueError) as problem:
            raise unreadable(about[-1]) from problem


def unreadable(what: str) -> IntegrityError:
    """A copy that nobody can read any more."""
    return IntegrityError(
        f"the copy of {what} was sealed with another key, or changed",
        reason="snapshot-unreadable",
        fix="connect the gateway to its hub, which gives it a new copy",
    )


def _bound(about: tuple[str, ...]) -> bytes:
    return "\0".join(about).encode()
