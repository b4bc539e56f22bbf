"""Where the keys of authorities are: `file:NAME`, a file in the authority's directory, or a `pkcs11:` URI.

A key that is not there (an offline root's) is not an error: the authority then certifies nothing until it is back.
"""

from __future__ import annotations

from pathlib import Path

from edgetrust.errors import ConfigError
from edgetrust.pki.keys import KeyAlgorithm, KeyHandle
from edgetrust.pki.softkeys import SoftKey, load_key_file, write_private

FILE = "file:"
PKCS11 = "pkcs11:"


class KeyRing:
    """Finds and makes the keys of authorities."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, reference: str | None) -> KeyHandle | None:
        """The key, None if it is not here. Raises ConfigError when it is here and cannot be used."""
        if reference is None:
            return None
        path = self.path(reference)
        return load_key_file(path) if path.exists() else None

    def create(self, name: str, algorithm: KeyAlgorithm) -> tuple[str, KeyHandle]:
        """A new key and its reference. Never overwrites."""
        reference = f"{FILE}keys/{name}.key.pem"
        path = self.path(reference)
        if path.exists():
            raise ConfigError(
                f"{path} exists already", reason="key-exists", fix=f"move {path} away, or choose another name"
            )
        key = SoftKey.generate(name, algorithm)
        write_private(path, key.private_pem().reveal())
        return reference, key

    def path(self, reference: str) -> Path:
        """The file behind a reference. Raises ConfigError for anything else."""
        if not reference.startswith(FILE):
            raise ConfigError(f"a key reference {reference[:40]!r} is not understood", reason="key-reference")
        return self._directory / reference.removeprefix(FILE)
