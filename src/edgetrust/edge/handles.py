"""Key handles: signed names of keys. Whoever holds one may use the key; nobody can make one up.

A handle is `sr=BASE64(JSON)&sig=BASE64(HMAC-SHA256(validation key, JSON))`; the JSON names the key and holds a nonce.
It has no end, and stays good over restarts, since the validation key is kept. Source: edge specification 2.2.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from typing import Any, Protocol

from edgetrust.errors import PeerError
from edgetrust.pki.keys import SecretBytes

VALIDATION_KEY = "handle-validation-key"
_NONCE_BYTES = 64
_MOST_CHARACTERS = 64 * 1024  # a derived handle holds another handle and up to a few KiB of data


class HandleError(PeerError):
    """Not a handle of ours (reason `handle-invalid`)."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the key handle is not valid: {why}", reason="handle-invalid")


@dataclass(frozen=True, slots=True)
class KeyPairId:
    """A key pair."""

    key_id: str


@dataclass(frozen=True, slots=True)
class KeyId:
    """A symmetric key."""

    key_id: str


@dataclass(frozen=True, slots=True)
class DerivedId:
    """What is derived from the key of another handle."""

    base: str
    data: bytes


AnyKey = KeyPairId | KeyId | DerivedId


class HandleMaker(Protocol):
    """Who makes handles: the key service, here or in another process."""

    def make(self, key: AnyKey) -> str: ...


class Handles:
    """Makes and reads handles."""

    def __init__(self, validation_key: SecretBytes) -> None:
        self._key = validation_key

    def make(self, key: AnyKey) -> str:
        """A new handle for a key."""
        nonce = base64.b64encode(secrets.token_bytes(_NONCE_BYTES)).decode()
        named = json.dumps({"key_id": _to_json(key), "nonce": nonce}, separators=(",", ":")).encode()
        return f"sr={base64.b64encode(named).decode()}&sig={base64.b64encode(self._signature(named)).decode()}"

    def read(self, handle: str) -> AnyKey:
        """The key that a handle names. Raises HandleError for one that was not made here."""
        named, signature = _split(handle)
        if not hmac.compare_digest(self._signature(named), signature):
            raise HandleError("its signature is not ours")
        return _from_json(json.loads(named)["key_id"])

    def _signature(self, named: bytes) -> bytes:
        return hmac.new(self._key.reveal(), named, hashlib.sha256).digest()


def _split(handle: str) -> tuple[bytes, bytes]:
    named, middle, signature = handle.partition("&sig=")
    if not middle or not named.startswith("sr=") or len(handle) > _MOST_CHARACTERS:
        raise HandleError("it is not of the form sr=...&sig=...")
    try:
        return base64.b64decode(named[3:], validate=True), base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        raise HandleError("it is not base64") from None


def _to_json(key: AnyKey) -> dict[str, Any]:
    match key:
        case KeyPairId(key_id):
            return {"KeyPair": key_id}
        case KeyId(key_id):
            return {"Key": key_id}
        case DerivedId(base, data):
            return {"Derived": [base, list(data)]}


def _from_json(value: dict[str, Any]) -> AnyKey:
    """What we signed ourselves."""
    ((kind, named),) = value.items()
    match kind:
        case "KeyPair":
            return KeyPairId(named)
        case "Key":
            return KeyId(named)
        case _:
            return DerivedId(named[0], bytes(named[1]))
