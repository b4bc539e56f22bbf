"""Keys of a gateway in a PKCS#11 token: those that sign certificates. All others are in files.

Rules (edge specification 2.4). The object's label is the key's identifier. A key that is made for the token is made in
it and never leaves. Keys that TLS needs stay in files: TLS cannot use a token here. What is imported stays in a file
too, since a key that was outside gains nothing in a token. A key of the token goes before a file of the same
identifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from edgetrust.pki.keys import KeyAlgorithm, KeyHandle, KeyStore, SecretBytes
from edgetrust.pki.pkcs11 import Token


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """A PKCS#11 module and the URI of a token with its PIN: `[aziot_keys]`."""

    module: Path
    uri: str

    def __repr__(self) -> str:
        return f"TokenPlace({str(self.module)!r}, <redacted>)"  # the URI may hold the PIN


class TokenKeyStore:
    """A KeyStore whose keys of the identifiers `inside` are in a token."""

    def __init__(self, token: Token, uri: str, files: KeyStore, inside: frozenset[str]) -> None:
        self._token = token
        self._uri = uri.partition("?")[0]
        self._files = files
        self._inside = inside

    def create(self, key_id: str, algorithm: KeyAlgorithm) -> KeyHandle:
        return (self._token if key_id in self._inside else self._files).create(key_id, algorithm)

    def load(self, key_id: str) -> KeyHandle:
        if self._held(key_id):
            return self._token.find(f"{self._uri};object={quote(key_id, safe='')}")
        return self._files.load(key_id)

    def import_pem(self, key_id: str, pem: SecretBytes) -> KeyHandle:
        return self._files.import_pem(key_id, pem)

    def create_secret(self, key_id: str) -> SecretBytes:
        return self._files.create_secret(key_id)

    def load_secret(self, key_id: str) -> SecretBytes:
        return self._files.load_secret(key_id)

    def import_secret(self, key_id: str, value: SecretBytes) -> None:
        self._files.import_secret(key_id, value)

    def exists(self, key_id: str) -> bool:
        return self._held(key_id) or self._files.exists(key_id)

    def delete(self, key_id: str) -> None:
        (self._token if self._held(key_id) else self._files).delete(key_id)

    def move(self, source: str, target: str) -> None:
        if not self._held(source):
            self._files.move(source, target)
            return
        self._token.rename(source, target)
        if self._files.exists(target):  # it came from a file before, and must not stay there
            self._files.delete(target)

    def _held(self, key_id: str) -> bool:
        return key_id in self._inside and self._token.has(key_id)
