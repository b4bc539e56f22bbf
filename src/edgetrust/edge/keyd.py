"""The keys of a gateway, under the identifiers and file names of the real key service.

Key pairs are PKCS#8 PEM, symmetric keys 32 random bytes. Keys of modules are derived from a master key that never
leaves this machine and depends on nothing else, so they outlive the device's certificate. Source: edge specification
2.4, 2.5, 4.7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from edgetrust.edge import keyuse
from edgetrust.edge.files import EDGE_CA, MASTER_IDENTITY_KEY, Layout, key_file_name
from edgetrust.edge.keyuse import KeyUseError
from edgetrust.edge.pairs import temporary
from edgetrust.edge.preloaded import PreloadedKeys
from edgetrust.edge.tokens import KeyPlace, TokenKeyStore, TokenPlace
from edgetrust.pki.keys import KeyStore, KeyUnfitError, SecretBytes
from edgetrust.pki.pkcs11 import Token
from edgetrust.pki.softkeys import FileKeyStore
from edgetrust.transport.tls import held


def open_keys(
    layout: Layout, token: TokenPlace | None = None, places: Mapping[str, KeyPlace] | None = None
) -> KeyStore:
    """The key store below a root. Key pairs are made in the token when there is one; keys with `places` are there.

    Raises ConfigError.
    """
    keys: KeyStore = FileKeyStore(layout.keys, key_file_name)
    if token is not None:
        keys = TokenKeyStore(Token.open(token.module, token.uri), token.uri, keys, _goes_inside)
    return PreloadedKeys(keys, places) if places else keys


def _goes_inside(key_id: str) -> bool:
    return held.AVAILABLE or key_id in (EDGE_CA, temporary(EDGE_CA))


def ensure_secret(keys: KeyStore, key_id: str) -> SecretBytes:
    """The symmetric key `key_id`, made on first use."""
    return keys.load_secret(key_id) if keys.exists(key_id) else keys.create_secret(key_id)


# Symmetric keys, wherever they are ------------------------------------------------------------------------------------


@runtime_checkable
class SecretsElsewhere(Protocol):
    """A key store that uses its symmetric keys itself and gives out none: the key service of another process."""

    def derived(self, key_id: str, data: bytes) -> SecretBytes: ...

    def mac(self, key_id: str, message: bytes) -> bytes: ...

    def encrypt(self, key_id: str, iv: bytes, aad: bytes, plaintext: bytes) -> bytes: ...

    def decrypt(self, key_id: str, iv: bytes, aad: bytes, ciphertext: bytes) -> bytes: ...


def derived(keys: KeyStore, key_id: str, data: bytes) -> SecretBytes:
    """What is derived from a symmetric key; the key is made on first use."""
    if isinstance(keys, SecretsElsewhere):
        return keys.derived(key_id, data)
    return keyuse.derive(ensure_secret(keys, key_id), data)


def module_key(keys: KeyStore, module: str, generation: str, slot: str) -> SecretBytes:
    """The SAS key of a module: derived from the master key for its name, generation and `slot`."""
    return derived(keys, MASTER_IDENTITY_KEY, f"{module}:{generation}:{slot}".encode())


def encrypt(keys: KeyStore, key_id: str, iv: bytes, aad: bytes, plaintext: bytes) -> bytes:
    """AES-256-GCM with a symmetric key. Raises KeyUseError."""
    if isinstance(keys, SecretsElsewhere):
        return _used(keys.encrypt, key_id, iv, aad, plaintext)
    return keyuse.encrypt(ensure_secret(keys, key_id), iv, aad, plaintext)


def decrypt(keys: KeyStore, key_id: str, iv: bytes, aad: bytes, ciphertext: bytes) -> bytes:
    """What `encrypt` made. Raises KeyUseError."""
    if isinstance(keys, SecretsElsewhere):
        return _used(keys.decrypt, key_id, iv, aad, ciphertext)
    return keyuse.decrypt(ensure_secret(keys, key_id), iv, aad, ciphertext)


def _used(operation: Callable[[str, bytes, bytes, bytes], bytes], *arguments: Any) -> bytes:
    try:
        return operation(*arguments)
    except KeyUnfitError as problem:
        raise KeyUseError(problem.message) from problem
