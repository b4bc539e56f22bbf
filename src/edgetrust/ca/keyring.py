"""Where the keys of authorities are: `file:NAME`, a file in the authority's directory, or a `pkcs11:` URI.

A key that is not there (an offline root's) is not an error: the authority then certifies nothing until it is back. New
keys are made in the token if one is configured, else in files.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from edgetrust.errors import ConfigError
from edgetrust.pki.keys import KeyAlgorithm, KeyHandle, KeyMissingError
from edgetrust.pki.pkcs11 import SCHEME, Token, read_pin
from edgetrust.pki.softkeys import SoftKey, load_key_file, write_private

FILE = "file:"


class KeyRing:
    """Finds and makes the keys of authorities. `module`, `token` and `pin_file` name a PKCS#11 token."""

    def __init__(
        self, directory: Path, *, module: Path | None = None, token: str | None = None, pin_file: Path | None = None
    ) -> None:
        self._directory, self._module, self._uri, self._pin_file = directory, module, token, pin_file
        self._token: Token | None = None

    def find(self, reference: str | None) -> KeyHandle | None:
        """The key, None if it is not here. Raises ConfigError when it is here and cannot be used."""
        if reference is None:
            return None
        if reference.startswith(SCHEME):
            try:
                return self._opened().find(reference)
            except KeyMissingError:
                return None
        path = self.path(reference)
        return load_key_file(path) if path.exists() else None

    def reference(self, name: str) -> str:
        """Where a new key of this name is made."""
        if self._uri is None:
            return f"{FILE}keys/{name}.key.pem"
        return f"{self._uri.partition('?')[0]};object={quote(name, safe='')}"

    def create(self, name: str, algorithm: KeyAlgorithm) -> tuple[str, KeyHandle]:
        """A new key and its reference. Never overwrites."""
        reference = self.reference(name)
        if self._uri is not None:
            return reference, self._opened().create(name, algorithm)
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

    def _opened(self) -> Token:
        if self._token is None:
            if self._module is None or self._uri is None:
                raise ConfigError(
                    "a key is in a PKCS#11 token, and none is configured",
                    reason="pkcs11-token",
                    fix="set module, token and pin_file of [pkcs11] in ca.toml",
                )
            pin = None if self._pin_file is None else read_pin(self._pin_file)
            self._token = Token.open(self._module, self._uri, pin)
        return self._token

    def close(self) -> None:
        """Log out of the token, if one was opened."""
        if self._token is not None:
            self._token.close()
            self._token = None
