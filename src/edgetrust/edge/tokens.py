"""Keys of a gateway in a PKCS#11 token: all key pairs that are made, where TLS can use such keys, or else those that
sign certificates. All others are in files.

Rules (edge specification 2.4). The object's label is the key's identifier. A key that is made for the token is made in
it and never leaves. What is imported stays in a file, since a key that was outside gains nothing in a token. A key of
the token goes before a file of the same identifier. A single key may be named by its own URI.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from edgetrust.errors import UnavailableError
from edgetrust.pki.keys import KeyAlgorithm, KeyHandle, KeyMissingError, KeyStore, SecretBytes
from edgetrust.pki.pkcs11 import KeyUri, Token
from edgetrust.pki.softkeys import load_key_file

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """A PKCS#11 module and the URI of a token with its PIN: `[aziot_keys]`."""

    module: Path
    uri: str

    def __repr__(self) -> str:
        return f"TokenPlace({str(self.module)!r}, <redacted>)"  # the URI may hold the PIN


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key in a token, by its URI: where a configuration says `pkcs11:` instead of `file://`."""

    module: Path
    uri: str

    def __str__(self) -> str:
        return self.uri.partition("?")[0]

    def __repr__(self) -> str:
        return f"TokenKey({str(self.module)!r}, {str(self)!r})"  # the rest may hold the PIN

    def load(self) -> KeyHandle:
        """The key. Raises KeyMissingError, KeyUnfitError, ConfigError, UnavailableError."""
        return self._with(lambda token: token.find(self.uri))

    def exists(self) -> bool:
        """Whether it is there. Raises ConfigError, UnavailableError."""
        try:
            self.load()
        except KeyMissingError:
            return False
        return True

    def create(self, algorithm: KeyAlgorithm) -> KeyHandle:
        """Make it in the token. Raises KeyExistsError, ConfigError, UnavailableError."""
        label = KeyUri.parse(self.uri).label or ""
        return self._with(lambda token: token.create(label, algorithm))

    def _with(self, work: Callable[[Token], T]) -> T:
        """Work with the open token; one that was taken out and put in again is opened anew."""
        try:
            return work(_opened(self))
        except UnavailableError:
            _forget(self)
            return work(_opened(self))


KeyPlace = Path | TokenKey
"""Where a configuration says that a key is."""


def load_place(place: KeyPlace) -> KeyHandle:
    """The key in a place. Raises ConfigError, IntegrityError, UnavailableError."""
    return place.load() if isinstance(place, TokenKey) else load_key_file(place)


_tokens: dict[tuple[Path, str | None, int | None], Token] = {}  # logging in takes time, and counts for the process
_tokens_turn = threading.Lock()


def _name(key: TokenKey) -> tuple[Path, str | None, int | None]:
    uri = KeyUri.parse(key.uri)
    return key.module, uri.token, uri.slot


def _opened(key: TokenKey) -> Token:
    with _tokens_turn:
        token = _tokens.get(_name(key))
        if token is None:
            token = _tokens[_name(key)] = Token.open(key.module, key.uri)
        return token


def _forget(key: TokenKey) -> None:
    with _tokens_turn:
        _tokens.pop(_name(key), None)


class TokenKeyStore:
    """A KeyStore whose key pairs are in a token, if `inside` says so of their identifier."""

    def __init__(self, token: Token, uri: str, files: KeyStore, inside: Callable[[str], bool]) -> None:
        self._token = token
        self._uri = uri.partition("?")[0]
        self._files = files
        self._inside = inside

    def create(self, key_id: str, algorithm: KeyAlgorithm) -> KeyHandle:
        return (self._token if self._inside(key_id) else self._files).create(key_id, algorithm)

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
        return self._inside(key_id) and self._token.has(key_id)
