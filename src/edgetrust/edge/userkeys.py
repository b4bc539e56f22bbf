"""Keys that stand in files of the user: read where they are, at every use, and never changed here.

So replacing such a file needs no restart, and the key service is the only process that must be able to read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgetrust.edge.files import DEVICE_ID, EDGE_CA, LOCAL_CA
from edgetrust.edge.settings import DeviceCertificate, EdgeCaFiles, Settings
from edgetrust.errors import ConfigError, IntegrityError
from edgetrust.pki.keys import KeyAlgorithm, KeyExistsError, KeyHandle, KeyStore, KeyUnfitError, SecretBytes
from edgetrust.pki.softkeys import load_key_file


def user_key_files(settings: Settings) -> dict[str, Path]:
    """The files of keys that a configuration names, by the identifier that each is used under."""
    files: dict[str, Path] = {}
    if isinstance(settings.credential, DeviceCertificate):
        files[DEVICE_ID] = settings.credential.key
    if isinstance(settings.edge_ca, EdgeCaFiles):
        files[EDGE_CA] = settings.edge_ca.key
    if settings.issuing.local_ca is not None:
        files[LOCAL_CA] = settings.issuing.local_ca.key
    return files


class UserKeys:
    """A KeyStore in which some keys are files of the user; all others are in the store behind it."""

    def __init__(self, behind: KeyStore, files: Mapping[str, Path]) -> None:
        self._behind = behind
        self._files = files

    def create(self, key_id: str, algorithm: KeyAlgorithm) -> KeyHandle:
        if key_id in self._files:
            raise KeyExistsError(key_id)
        return self._behind.create(key_id, algorithm)

    def load(self, key_id: str) -> KeyHandle:
        path = self._files.get(key_id)
        if path is None:
            return self._behind.load(key_id)
        try:
            return load_key_file(path)
        except ConfigError as problem:
            raise IntegrityError(problem.message, reason=problem.reason, fix=problem.fix) from problem

    def import_pem(self, key_id: str, pem: SecretBytes) -> KeyHandle:
        self._refuse(key_id)
        return self._behind.import_pem(key_id, pem)

    def create_secret(self, key_id: str) -> SecretBytes:
        self._refuse(key_id)
        return self._behind.create_secret(key_id)

    def load_secret(self, key_id: str) -> SecretBytes:
        self._refuse(key_id)
        return self._behind.load_secret(key_id)

    def import_secret(self, key_id: str, value: SecretBytes) -> None:
        self._refuse(key_id)
        self._behind.import_secret(key_id, value)

    def exists(self, key_id: str) -> bool:
        return key_id in self._files or self._behind.exists(key_id)

    def delete(self, key_id: str) -> None:
        self._refuse(key_id)
        self._behind.delete(key_id)

    def move(self, source: str, target: str) -> None:
        self._refuse(source)
        self._refuse(target)
        self._behind.move(source, target)

    def _refuse(self, key_id: str) -> None:
        if key_id in self._files:
            message = f"the key {key_id!r} is the file {self._files[key_id]}, which is its user's"
            raise KeyUnfitError(message, reason="key-unfit", fix="replace the file")
