"""What the key service does with a private or symmetric key. Bytes in, bytes out; keys do not leave.

Rules (edge specification 2.1, 2.4). ECDSA takes a digest and returns DER. The RSA operations are the private-key
operation itself: with type 1 padding around what the caller supplies, or on a whole block. AEAD is AES-256-GCM with
the caller's IV; what is encrypted begins with the version byte 2. Derived keys are HMAC-SHA256 of their data. Must
not know handles or callers.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric import utils as asymmetric_utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgetrust.errors import PeerError
from edgetrust.pki.keys import HeldKey, KeyHandle, KeyUnfitError, PublicKey, SecretBytes, TlsKey

_VERSION_TAG_LAST, _VERSION_TAG_FIRST = 2, 1
_TAG_BYTES, _IV_BYTES, _KEY_BYTES = 16, range(8, 129), 32
_DIGESTS: Final[dict[int, hashes.HashAlgorithm]] = {32: hashes.SHA256(), 48: hashes.SHA384(), 64: hashes.SHA512()}
_CURVES: Final = {"secp256r1": "1.2.840.10045.3.1.7", "secp384r1": "1.3.132.0.34", "secp521r1": "1.3.132.0.35"}


class KeyUseError(PeerError):
    """The key cannot be used in this way, or not for this (reason `key-use`)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="key-use")


@runtime_checkable
class DigestSigner(Protocol):
    """A key outside this process that signs digests, such as one in a token."""

    def sign_digest(self, digest: bytes) -> bytes: ...


@runtime_checkable
class PaddingSigner(Protocol):
    """An RSA key outside this process that signs what was hashed by its caller."""

    def sign_padded(self, content: bytes) -> bytes: ...


def sign_digest(handle: KeyHandle, digest: bytes) -> bytes:
    """ECDSA over a digest, DER. Raises KeyUseError."""
    if isinstance(handle, DigestSigner):
        return _by_holder(handle.sign_digest, digest)
    key, algorithm = _private(handle), _DIGESTS.get(len(digest))
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyUseError("ECDSA needs an elliptic curve key")
    if algorithm is None:
        raise KeyUseError(f"a digest has 32, 48 or 64 bytes, not {len(digest)}")
    return key.sign(digest, ec.ECDSA(asymmetric_utils.Prehashed(algorithm)))


def rsa_pkcs1(handle: KeyHandle, content: bytes) -> bytes:
    """The private-key operation with type 1 padding around `content`, usually a DigestInfo. Raises KeyUseError."""
    if isinstance(handle, PaddingSigner):
        return _by_holder(handle.sign_padded, content)
    key = _private(handle)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise KeyUseError("RSA-PKCS1 needs an RSA key")
    try:
        return key.sign(content, padding.PKCS1v15(), asymmetric_utils.NoDigestInfo())
    except ValueError as problem:
        raise KeyUseError(f"{len(content)} bytes are too many for this key") from problem


def rsa_raw(handle: KeyHandle, block: bytes) -> bytes:
    """The private-key operation on a whole block, blinded. Raises KeyUseError."""
    if isinstance(handle, HeldKey):
        return _by_holder(handle.sign_raw, block)
    key = _private(handle)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise KeyUseError("RSA-NO-PADDING needs an RSA key")
    numbers = key.private_numbers()
    modulus, exponent = numbers.public_numbers.n, numbers.public_numbers.e
    size = key.key_size // 8
    value = int.from_bytes(block, "big")
    if len(block) != size or value >= modulus:
        raise KeyUseError(f"a block of this key has {size} bytes and is less than its modulus")
    blind = secrets.randbelow(modulus - 2) + 2
    blinded = pow(value * pow(blind, exponent, modulus), numbers.d, modulus)
    return (blinded * pow(blind, -1, modulus) % modulus).to_bytes(size, "big")


def derive(base: SecretBytes, data: bytes) -> SecretBytes:
    """A derived key."""
    return SecretBytes(hmac.new(base.reveal(), data, hashlib.sha256).digest())


def mac(key: SecretBytes, message: bytes) -> bytes:
    """HMAC-SHA256."""
    return hmac.new(key.reveal(), message, hashlib.sha256).digest()


def encrypt(key: SecretBytes, iv: bytes, aad: bytes, plaintext: bytes) -> bytes:
    """AES-256-GCM. Raises KeyUseError."""
    return bytes([_VERSION_TAG_LAST]) + _aes(key, iv).encrypt(iv, plaintext, aad)


def decrypt(key: SecretBytes, iv: bytes, aad: bytes, ciphertext: bytes) -> bytes:
    """What `encrypt` made, or the older form with the tag first. Raises KeyUseError."""
    version, content = ciphertext[:1], ciphertext[1:]
    if version == bytes([_VERSION_TAG_FIRST]):
        content = content[_TAG_BYTES:] + content[:_TAG_BYTES]
    elif version != bytes([_VERSION_TAG_LAST]):
        raise KeyUseError("the ciphertext is of no known version")
    try:
        return _aes(key, iv).decrypt(iv, content, aad)
    except InvalidTag as problem:
        raise KeyUseError("the ciphertext was not made with this key, IV and additional data") from problem


def parameter(public: PublicKey, name: str) -> str | None:
    """A public parameter by the name of the key service; None for one that this kind of key does not have."""
    if isinstance(public, ec.EllipticCurvePublicKey):
        point = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
        known = {"algorithm": "ECDSA", "ec-curve-oid": _base64(_oid(_CURVES[public.curve.name]))}
        return {**known, "ec-point": _base64(point)}.get(name)
    numbers = public.public_numbers()
    known = {"algorithm": "RSA", "rsa-modulus": _base64(_unsigned(numbers.n))}
    return {**known, "rsa-exponent": _base64(_unsigned(numbers.e))}.get(name)


def _by_holder(sign: Callable[[bytes], bytes], content: bytes) -> bytes:
    try:
        return sign(content)
    except KeyUnfitError as problem:
        raise KeyUseError(problem.message) from problem


def _private(handle: KeyHandle) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    if not isinstance(handle, TlsKey):
        raise KeyUseError(f"the key {handle.key_id!r} does not do this where it is")
    key = serialization.load_pem_private_key(handle.private_pem().reveal(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey), "a store holds nothing else"
    return key


def _aes(key: SecretBytes, iv: bytes) -> AESGCM:
    if len(iv) not in _IV_BYTES:
        raise KeyUseError(f"an IV has {_IV_BYTES.start} to {_IV_BYTES.stop - 1} bytes, not {len(iv)}")
    if len(key) != _KEY_BYTES:
        raise KeyUseError(f"AEAD needs a key of {_KEY_BYTES} bytes")
    return AESGCM(key.reveal())


def _unsigned(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _oid(dotted: str) -> bytes:
    """The content octets of an object identifier (X.690, 8.19)."""
    first, second, *rest = (int(part) for part in dotted.split("."))
    octets = bytearray([40 * first + second])
    for part in rest:
        groups = [part & 0x7F]
        while part := part >> 7:
            groups.append(part & 0x7F | 0x80)
        octets += bytes(reversed(groups))
    return bytes(octets)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
