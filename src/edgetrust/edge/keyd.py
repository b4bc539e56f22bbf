"""The keys of a gateway, under the identifiers and file names of the real key service.

Key pairs are PKCS#8 PEM, symmetric keys 32 random bytes. Keys of modules are derived from a master key that never
leaves this machine and depends on nothing else, so they outlive the device's certificate. Source: edge specification
2.4, 2.5, 4.7.
"""

from __future__ import annotations

from edgetrust.edge.files import EDGE_CA, Layout, key_file_name
from edgetrust.edge.pairs import temporary
from edgetrust.edge.tokens import TokenKeyStore, TokenPlace
from edgetrust.pki.keys import KeyStore, SecretBytes
from edgetrust.pki.pkcs11 import Token
from edgetrust.pki.softkeys import FileKeyStore
from edgetrust.protocol.sas import derive_key


def open_keys(layout: Layout, token: TokenPlace | None = None) -> KeyStore:
    """The key store below a root; the Edge CA's key is in a token when there is one. Raises ConfigError."""
    files = FileKeyStore(layout.keys, key_file_name)
    if token is None:
        return files
    opened = Token.open(token.module, token.uri)
    return TokenKeyStore(opened, token.uri, files, frozenset({EDGE_CA, temporary(EDGE_CA)}))


def ensure_secret(keys: KeyStore, key_id: str) -> SecretBytes:
    """The symmetric key `key_id`, made on first use."""
    return keys.load_secret(key_id) if keys.exists(key_id) else keys.create_secret(key_id)


def derive_module_key(master: SecretBytes, module: str, generation: str, slot: str) -> SecretBytes:
    """The SAS key of a module: HMAC-SHA256 over its name, generation and `slot` ("primary" or "secondary")."""
    return SecretBytes(derive_key(master.reveal(), f"{module}:{generation}:{slot}"))
