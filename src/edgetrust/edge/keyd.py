"""The keys of a gateway, under the identifiers and file names of the real key service.

Key pairs are PKCS#8 PEM, symmetric keys 32 random bytes. Keys of modules are derived from a master key that never
leaves this machine and depends on nothing else, so they outlive the device's certificate. Source: edge specification
2.4, 2.5, 4.7.
"""

from __future__ import annotations

from edgetrust.edge.files import Layout, key_file_name
from edgetrust.pki.keys import KeyStore, SecretBytes
from edgetrust.pki.softkeys import FileKeyStore
from edgetrust.protocol.sas import derive_key


def open_keys(layout: Layout) -> FileKeyStore:
    """The key store below a root."""
    return FileKeyStore(layout.keys, key_file_name)


def ensure_secret(keys: KeyStore, key_id: str) -> SecretBytes:
    """The symmetric key `key_id`, made on first use."""
    return keys.load_secret(key_id) if keys.exists(key_id) else keys.create_secret(key_id)


def derive_module_key(master: SecretBytes, module: str, generation: str, slot: str) -> SecretBytes:
    """The SAS key of a module: HMAC-SHA256 over its name, generation and `slot` ("primary" or "secondary")."""
    return SecretBytes(derive_key(master.reveal(), f"{module}:{generation}:{slot}"))
