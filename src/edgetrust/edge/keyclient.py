"""The key service of another process as a key store: keys are named and used, and never seen.

Rules. What the key service does not give out cannot be had here: no private key, no symmetric key, and no key can be
imported; the key service takes what a configuration names by itself. Derived keys are given out, as the service offers
it (edge specification 2.1). Every method waits for the key service and raises UnavailableError when it is away.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from edgetrust.edge.handles import AnyKey, DerivedId, KeyId
from edgetrust.errors import RefusedError, UnavailableError
from edgetrust.pki.keys import (
    KeyAlgorithm,
    KeyExistsError,
    KeyHandle,
    KeyMissingError,
    KeyUnfitError,
    PublicKey,
    SecretBytes,
)
from edgetrust.transport.unixclient import UnixClient

KEY_API = "2021-05-01"
_OK, _NO_CONTENT, _WRONG, _NOT_ALLOWED = 200, 204, 400, 401
_CURVES: Mapping[int, ec.EllipticCurve] = {33: ec.SECP256R1(), 49: ec.SECP384R1(), 67: ec.SECP521R1()}  # by point
_SHA256_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")  # RFC 8017, 9.2, note 1


class KeyClient:
    """A KeyStore that is the key service on a socket."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._service = UnixClient(socket, "the key service", KEY_API)

    # Key pairs ------------------------------------------------------------------------------------------------------

    def create(self, key_id: str, algorithm: KeyAlgorithm) -> KeyHandle:
        if self.exists(key_id):
            raise KeyExistsError(key_id)
        made = self._called(key_id, "POST", "/keypair", {"keyId": key_id, "preferredAlgorithms": f"{algorithm}:*"})
        return self.pair(made["keyHandle"], key_id)

    def load(self, key_id: str) -> KeyHandle:
        return self.pair(self._pair_handle(key_id), key_id)

    def pair(self, handle: str, key_id: str = "") -> KeyHandle:
        """The key pair that a handle names. Raises KeyUnfitError for a handle of anything else."""
        return RemoteKey(self, handle, key_id, self._public(handle, key_id))

    def import_pem(self, key_id: str, pem: SecretBytes) -> KeyHandle:
        del pem
        raise self._kept_there(key_id)

    def delete(self, key_id: str) -> None:
        self._called(key_id, "DELETE", "/keypair", {"keyHandle": self._pair_handle(key_id)})

    def move(self, source: str, target: str) -> None:
        self._called(source, "POST", f"/keypair/{quote(target, safe='')}", {"from": source})

    def exists(self, key_id: str) -> bool:
        for kind in ("keypair", "key"):
            try:
                self._called(key_id, "GET", f"/{kind}/{quote(key_id, safe='')}")
            except (KeyMissingError, KeyUnfitError):
                continue
            return True
        return False

    # Symmetric keys -------------------------------------------------------------------------------------------------

    def create_secret(self, key_id: str) -> SecretBytes:
        raise self._kept_there(key_id)

    def load_secret(self, key_id: str) -> SecretBytes:
        raise self._kept_there(key_id)

    def import_secret(self, key_id: str, value: SecretBytes) -> None:
        del value
        raise self._kept_there(key_id)

    def derived(self, key_id: str, data: bytes) -> SecretBytes:
        """What is derived from the symmetric key `key_id`, which is made when it is not there."""
        return self.exported(self.make(DerivedId(self.make(KeyId(key_id)), data)))

    def exported(self, handle: str) -> SecretBytes:
        """The value of a derived key."""
        return SecretBytes(_bytes(self._called("", "POST", "/derivedkey/export", {"keyHandle": handle})["key"]))

    def mac(self, key_id: str, message: bytes) -> bytes:
        """HMAC-SHA256 with the symmetric key `key_id`."""
        return self.mac_by(self.make(KeyId(key_id)), message)

    def mac_by(self, handle: str, message: bytes) -> bytes:
        """HMAC-SHA256 with the symmetric or derived key of a handle."""
        return _bytes(self._use("sign", handle, "HMAC-SHA256", {"message": message})["signature"])

    def encrypt(self, key_id: str, iv: bytes, aad: bytes, plaintext: bytes) -> bytes:
        """AES-256-GCM with the symmetric key `key_id`."""
        parameters, handle = {"iv": iv, "aad": aad}, self.make(KeyId(key_id))
        return _bytes(self._use("encrypt", handle, "AEAD", parameters, plaintext=plaintext)["ciphertext"])

    def decrypt(self, key_id: str, iv: bytes, aad: bytes, ciphertext: bytes) -> bytes:
        """What `encrypt` made."""
        parameters, handle = {"iv": iv, "aad": aad}, self.make(KeyId(key_id))
        return _bytes(self._use("decrypt", handle, "AEAD", parameters, ciphertext=ciphertext)["plaintext"])

    # Handles --------------------------------------------------------------------------------------------------------

    def make(self, key: AnyKey) -> str:
        """A handle for a key; a symmetric key is made when it is not there."""
        match key:
            case DerivedId(base, data):
                body = {"baseKeyHandle": base, "derivationData": _text(data)}
                return str(self._called("", "POST", "/derivedkey", body)["keyHandle"])
            case KeyId(key_id):
                body = {"keyId": key_id, "usage": "derive,sign,encrypt"}
                return str(self._called(key_id, "POST", "/key", body)["keyHandle"])
            case _:
                return self._pair_handle(key.key_id)

    def _pair_handle(self, key_id: str) -> str:
        return str(self._called(key_id, "GET", f"/keypair/{quote(key_id, safe='')}")["keyHandle"])

    def sign_digest(self, handle: str, digest: bytes) -> bytes:
        """ECDSA by the key of a handle, DER."""
        return _bytes(self._use("sign", handle, "ECDSA", {"digest": digest})["signature"])

    def rsa(self, handle: str, algorithm: str, content: bytes) -> bytes:
        """The private-key operation of RSA by the key of a handle."""
        return _bytes(self._use("encrypt", handle, algorithm, {}, plaintext=content)["ciphertext"])

    def _public(self, handle: str, key_id: str) -> PublicKey:
        def parameter(name: str) -> Any:
            return self._called(key_id, "POST", f"/parameters/{name}", {"keyHandle": handle})["value"]

        if parameter("algorithm") == "RSA":
            modulus, exponent = (_number(parameter(name)) for name in ("rsa-modulus", "rsa-exponent"))
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
        point = _bytes(parameter("ec-point"))
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[len(point)], point)

    def _use(self, what: str, handle: str, algorithm: str, parameters: dict[str, bytes], **content: bytes) -> Any:
        encoded = {name: _text(value) for name, value in content.items()}
        given = {name: _text(value) for name, value in parameters.items()}
        body = {"keyHandle": handle, "algorithm": algorithm, "parameters": given, **encoded}
        return self._called("", "POST", f"/{what}", body)

    def _called(self, key_id: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        status, answered = self._service.call(method, path, body)
        if status in (_OK, _NO_CONTENT):
            return answered
        message = str(answered.get("message", f"HTTP {status}"))
        if status == _WRONG and "there is no key" in message:
            raise KeyMissingError(key_id)
        if status == _WRONG:
            raise KeyUnfitError(f"the key service: {message}", reason="key-unfit")
        if status == _NOT_ALLOWED:
            raise RefusedError(f"the key service: {message}", reason="key-not-authorized")
        raise UnavailableError(f"the key service failed: {message}", reason="service-failed", fix="see its log")

    def _kept_there(self, key_id: str) -> KeyUnfitError:
        return KeyUnfitError(f"the key {key_id!r} does not leave the key service", reason="key-unfit")


class RemoteKey:
    """A key pair in the key service: a KeyHandle."""

    __slots__ = ("_client", "_handle", "_key_id", "_public")

    def __init__(self, client: KeyClient, handle: str, key_id: str, public: PublicKey) -> None:
        self._client, self._handle, self._key_id, self._public = client, handle, key_id, public

    @property
    def key_id(self) -> str:
        return self._key_id

    @property
    def handle(self) -> str:
        """What names it to the key service."""
        return self._handle

    def public_key(self) -> PublicKey:
        return self._public

    def sign(self, data: bytes) -> bytes:
        digest = hashlib.sha256(data).digest()
        if isinstance(self._public, ec.EllipticCurvePublicKey):
            return self.sign_digest(digest)
        return self.sign_padded(_SHA256_DIGEST_INFO + digest)

    def sign_digest(self, digest: bytes) -> bytes:
        """ECDSA over a digest, DER. Raises KeyUnfitError for an RSA key, UnavailableError."""
        return self._client.sign_digest(self._handle, digest)

    def sign_padded(self, content: bytes) -> bytes:
        """RSA with PKCS#1 v1.5 padding around what its user has hashed. Raises KeyUnfitError, UnavailableError."""
        return self._client.rsa(self._handle, "RSA-PKCS1", content)

    def sign_raw(self, block: bytes) -> bytes:
        """RSA on a whole block, which its user has padded. Raises KeyUnfitError, UnavailableError."""
        return self._client.rsa(self._handle, "RSA-NO-PADDING", block)

    def __repr__(self) -> str:
        return f"RemoteKey({self._key_id!r})"  # the handle is a capability


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(text: Any) -> bytes:
    return base64.b64decode(str(text), validate=True)


def _number(text: Any) -> int:
    return int.from_bytes(_bytes(text), "big")
