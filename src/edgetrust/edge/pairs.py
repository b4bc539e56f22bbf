"""Certificates of a gateway in the files of the real certificate service, and how one takes the place of another.

Rules. Certificate and key lie in different directories, so a renewal has several steps: the key under a temporary
identifier; then, when the new certificate has been proven, the certificate under that identifier, which says that it
was; then the key is moved, then the certificate. `recover` looks which of the steps were done and finishes them, or
forgets them all: whatever was cut off, certificate and key belong together afterwards. A key that has no certificate
yet is for the next attempt, since a CA where a person approves requests knows them by their key. Source: edge
specification 0.5, 3.2, 3.6.

It must not know who issues, or when.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edgetrust.edge.files import certificate_file_name, read_file
from edgetrust.errors import ConfigError, IntegrityError
from edgetrust.pki.chain import Chain, ChainError, key_matches
from edgetrust.pki.keys import KeyAlgorithm, KeyHandle, KeyStore
from edgetrust.pki.softkeys import write_public


def temporary(identifier: str) -> str:
    """What a successor is kept under until it takes its place."""
    return f"{identifier}-temp"


class Certificates(Protocol):
    """Where certificates are kept: files of this process, or the certificate service of another."""

    def path(self, certificate_id: str) -> Path: ...

    def load(self, certificate_id: str) -> Chain | None: ...

    def save(self, certificate_id: str, chain: Chain) -> None: ...

    def text(self, certificate_id: str) -> str | None: ...

    def save_text(self, certificate_id: str, pem: str) -> None: ...

    def delete(self, certificate_id: str) -> None: ...


class CertificateStore:
    """Chains in PEM files, mode 0644, under the file names of the real certificate service."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, certificate_id: str) -> Path:
        """Where the chain is, or would be."""
        return self._directory / certificate_file_name(certificate_id)

    def load(self, certificate_id: str) -> Chain | None:
        """The stored chain, None when there is none. Raises ConfigError when it cannot be read."""
        path = self.path(certificate_id)
        return read_chain(path) if path.exists() else None

    def save(self, certificate_id: str, chain: Chain) -> None:
        """Replace the stored chain; nothing is written when it is the same."""
        pem = chain.pem().encode()
        path = self.path(certificate_id)
        if not path.exists() or path.read_bytes() != pem:
            write_public(path, pem)

    def text(self, certificate_id: str) -> str | None:
        """What is stored, as it was imported; None when there is nothing."""
        path = self.path(certificate_id)
        return read_file(path).decode("utf-8", "replace") if path.exists() else None

    def save_text(self, certificate_id: str, pem: str) -> None:
        """Replace what is stored by what somebody imports; whether it is a certificate is their business."""
        write_public(self.path(certificate_id), pem.encode())

    def delete(self, certificate_id: str) -> None:
        """Forget the chain, if it is there."""
        self.path(certificate_id).unlink(missing_ok=True)


class Pairs:
    """Certificates and keys of the same identifier, which change together."""

    def __init__(self, keys: KeyStore, store: Certificates) -> None:
        self._keys = keys
        self._store = store

    def new_key(self, identifier: str, algorithm: KeyAlgorithm) -> KeyHandle:
        """A key for the successor of `identifier`: that of an attempt that got no certificate, or a new one."""
        if self._keys.exists(temporary(identifier)):
            return self._keys.load(temporary(identifier))
        return self._keys.create(temporary(identifier), algorithm)

    def promote(self, identifier: str, chain: Chain) -> None:
        """Put a proven certificate, of the new key or of the key in use, in its place."""
        self._store.save(temporary(identifier), chain)
        self.recover(identifier)

    def recover(self, identifier: str) -> None:
        """Finish or forget what was cut off."""
        successor = self._store.load(temporary(identifier))
        if successor is None:
            return
        if self._belongs(successor, temporary(identifier)):
            self._keys.move(temporary(identifier), identifier)
        if self._belongs(successor, identifier):
            self._store.save(identifier, successor)
        self._store.delete(temporary(identifier))
        if self._keys.exists(temporary(identifier)):
            self._keys.delete(temporary(identifier))

    def _belongs(self, chain: Chain, key_id: str) -> bool:
        if not self._keys.exists(key_id):
            return False
        try:
            key_matches(chain, self._keys.load(key_id))
        except IntegrityError:
            return False
        return True


def read_chain(path: Path) -> Chain:
    """The certificates of a PEM file. Raises ConfigError."""
    try:
        return Chain.from_pem(read_file(path))
    except ChainError as problem:
        raise ConfigError(f"{path}: {problem.message}", reason="config-not-a-certificate") from problem
