"""Keys that a configuration puts in a place: `[preloaded_keys]`, and keys of certificates that are in a token.

Rules (edge specification 2.4). Such a key is in exactly that place, a file of the user or an object in a token: it is
read there at every use, and made there when it is to be made and is missing. A file may hold a key pair in PEM or the
bytes of a symmetric key; a token holds key pairs only. It is neither moved nor deleted, since the place is the user's.
All other keys are in the store behind.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from edgetrust.edge.tokens import KeyPlace, TokenKey, load_place
from edgetrust.errors import ConfigError, IntegrityError
from edgetrust.pki.keys import (
    KeyAlgorithm,
    KeyExistsError,
    KeyHandle,
    KeyMissingError,
    KeyStore,
    KeyUnfitError,
    SecretBytes,
)
from edgetrust.pki.softkeys import SECRET_BYTES, SoftKey, checked_secret, read_bounded, write_private


class PreloadedKeys:
    """A KeyStore in which some keys have their places."""

    def __init__(self, behind: KeyStore, places: Mapping[str, KeyPlace]) -> None:
        self._behind = behind
        self._places = places

    def create(self, key_id: str, algorithm: KeyAlgorithm) -> KeyHandle:
        place = self._places.get(key_id)
        if place is None:
            return self._behind.create(key_id, algorithm)
        if self.exists(key_id):
            raise KeyExistsError(key_id)
        if isinstance(place, TokenKey):
            return place.create(algorithm)
        key = SoftKey.generate(key_id, algorithm)
        write_private(place, key.private_pem().reveal())
        return key

    def load(self, key_id: str) -> KeyHandle:
        place = self._places.get(key_id)
        if place is None:
            return self._behind.load(key_id)
        if isinstance(place, Path) and not place.exists():
            raise KeyMissingError(key_id)
        try:
            return load_place(place)
        except ConfigError as problem:
            raise IntegrityError(problem.message, reason=problem.reason, fix=problem.fix) from problem

    def import_pem(self, key_id: str, pem: SecretBytes) -> KeyHandle:
        self._refuse(key_id)
        return self._behind.import_pem(key_id, pem)

    def create_secret(self, key_id: str) -> SecretBytes:
        place = self._places.get(key_id)
        if place is None:
            return self._behind.create_secret(key_id)
        if self.exists(key_id):
            raise KeyExistsError(key_id)
        secret = SecretBytes(secrets.token_bytes(SECRET_BYTES))
        write_private(self._file(key_id, place), secret.reveal())
        return secret

    def load_secret(self, key_id: str) -> SecretBytes:
        place = self._places.get(key_id)
        if place is None:
            return self._behind.load_secret(key_id)
        file = self._file(key_id, place)
        if not file.exists():
            raise KeyMissingError(key_id)
        return checked_secret(key_id, read_bounded(file))

    def import_secret(self, key_id: str, value: SecretBytes) -> None:
        self._refuse(key_id)
        self._behind.import_secret(key_id, value)

    def exists(self, key_id: str) -> bool:
        place = self._places.get(key_id)
        if place is None:
            return self._behind.exists(key_id)
        return place.exists()

    def delete(self, key_id: str) -> None:
        self._refuse(key_id)
        self._behind.delete(key_id)

    def move(self, source: str, target: str) -> None:
        self._refuse(source)
        self._refuse(target)
        self._behind.move(source, target)

    def _refuse(self, key_id: str) -> None:
        if key_id in self._places:
            message = f"the key {key_id!r} is {self._places[key_id]}, which is its user's"
            raise KeyUnfitError(message, reason="key-unfit", fix="replace it in its place")

    def _file(self, key_id: str, place: KeyPlace) -> Path:
        if isinstance(place, TokenKey):
            raise KeyUnfitError(f"key {key_id!r}: symmetric keys are in files, not in tokens", reason="key-unfit")
        return place
