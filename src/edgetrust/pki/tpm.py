"""A secret that only one TPM can use: wrapping a symmetric key for it, from the public areas of its two keys alone.

    credential      an AES key, encrypted to the endorsement key and bound to the storage root key by name; the TPM
                    gives it out only if both are its own (TPM 2.0 library specification, part 1, 24:
                    TPM2_ActivateCredential)
    duplicate       the symmetric key as an HMAC object, wrapped with that AES key (part 1, 23.3: TPM2_Import below the
                    storage root key), so that it never leaves the TPM

`wrapped_key` is what clients of the cloud's provisioning service take as `authenticationKey`: credential blob,
encrypted secret, duplicate, seed (empty), public area, and the size of further data, 0. Endorsement keys are RSA with
SHA-256 and AES-128, as TPM vendors certify them by default. It must not know devices or sockets.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

try:  # where newer versions keep it
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:
    from cryptography.hazmat.primitives.ciphers.modes import CFB

from edgetrust.errors import PeerError
from edgetrust.pki.keys import RSA_BITS, SecretBytes

_RSA, _KEYED_HASH, _HMAC, _AES, _SHA256, _NULL, _CFB = 0x0001, 0x0008, 0x0005, 0x0006, 0x000B, 0x0010, 0x0043
_USER_WITH_AUTH, _NO_DA, _SIGN = 1 << 6, 1 << 10, 1 << 18
_DEFAULT_EXPONENT = 65_537
_AES_BYTES: Final = 16
_DIGEST_BYTES: Final = 32
_NO_IV = bytes(16)


class TpmError(PeerError):
    """The bytes are no public area of a TPM's key that can be used (reason `tpm-public-malformed`)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="tpm-public-malformed", status=400)


@dataclass(frozen=True, slots=True)
class PublicArea:
    """A TPM2B_PUBLIC: `content` is the TPMT_PUBLIC in it, `key` the RSA key, None for other kinds."""

    content: bytes
    key: rsa.RSAPublicKey | None
    aes_bits: int

    @property
    def name(self) -> bytes:
        """What the TPM calls it: the hash algorithm and the hash of its public area."""
        return struct.pack(">H", _SHA256) + hashlib.sha256(self.content).digest()


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, form: str) -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return int(value)

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            raise TpmError("the public area ends too early")
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def sized(self) -> bytes:
        return self.take(self.number(">H"))

    @property
    def ended(self) -> bool:
        return self._at == len(self._data)


def parse_public(data: bytes) -> PublicArea:
    """Read a TPM2B_PUBLIC. Raises TpmError."""
    outer = _Reader(data)
    content = outer.sized()
    if not outer.ended:
        raise TpmError("bytes behind the public area")
    reader = _Reader(content)
    kind, name_algorithm = reader.number(">H"), reader.number(">H")
    if name_algorithm != _SHA256:
        raise TpmError("the key's name is not made with SHA-256")
    reader.number(">I")  # attributes: the TPM itself holds to them
    reader.sized()  # policy
    if kind != _RSA:
        return PublicArea(content, None, 0)
    return _rsa(reader, content)


def _rsa(reader: _Reader, content: bytes) -> PublicArea:
    symmetric, aes_bits = reader.number(">H"), 0
    if symmetric != _NULL:
        aes_bits, mode = reader.number(">H"), reader.number(">H")
        if (symmetric, mode) != (_AES, _CFB):
            aes_bits = 0
    if reader.number(">H") != _NULL:
        reader.number(">H")
    bits, exponent = reader.number(">H"), reader.number(">I") or _DEFAULT_EXPONENT
    modulus = int.from_bytes(reader.sized(), "big")
    if not reader.ended or bits not in RSA_BITS or modulus.bit_length() != bits:
        raise TpmError("the RSA key of the public area has another size than it says, or bytes follow")
    try:
        key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as problem:
        raise TpmError(f"no RSA key: {problem}") from problem
    return PublicArea(content, key, aes_bits)


def wrapped_key(endorsement: PublicArea, storage_root: PublicArea, key: SecretBytes) -> bytes:
    """`key` for the one TPM that holds both private keys. Raises TpmError for an unfit endorsement key."""
    inner = secrets.token_bytes(_AES_BYTES)
    blob, secret = make_credential(endorsement, storage_root.name, inner)
    public, duplicate = _duplicate(key.reveal(), inner)
    return b"".join((_sized(blob), _sized(secret), _sized(duplicate), _sized(b""), _sized(public), _sized(b"")))


def make_credential(endorsement: PublicArea, name: bytes, credential: bytes) -> tuple[bytes, bytes]:
    """The contents of TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET: `credential` for the object called `name`."""
    if endorsement.key is None or endorsement.aes_bits != 8 * _AES_BYTES:
        raise TpmError("the endorsement key is not an RSA key with AES-128")
    seed = secrets.token_bytes(_DIGEST_BYTES)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0")
    encrypted = _encrypted(_derived(seed, b"STORAGE", name, 8 * _AES_BYTES), _sized(credential))
    integrity = hmac.digest(_derived(seed, b"INTEGRITY", b"", 8 * _DIGEST_BYTES), encrypted + name, "sha256")
    return _sized(integrity) + encrypted, endorsement.key.encrypt(seed, oaep)


def _duplicate(key: bytes, inner: bytes) -> tuple[bytes, bytes]:
    """An HMAC key's public area, and its sensitive area in the inner wrapper."""
    seed = secrets.token_bytes(_DIGEST_BYTES)
    attributes = _USER_WITH_AUTH | _NO_DA | _SIGN
    public = struct.pack(">HHI", _KEYED_HASH, _SHA256, attributes) + _sized(b"") + struct.pack(">HH", _HMAC, _SHA256)
    public += _sized(hashlib.sha256(seed + key).digest())
    name = struct.pack(">H", _SHA256) + hashlib.sha256(public).digest()
    sensitive = _sized(struct.pack(">H", _KEYED_HASH) + _sized(b"") + _sized(seed) + _sized(key))
    integrity = hashlib.sha256(sensitive + name).digest()
    return public, _encrypted(inner, _sized(integrity) + sensitive)


def _derived(seed: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """KDFa of part 1, 11.4.10.2; one block is enough for what is asked here."""
    block = hmac.digest(seed, struct.pack(">I", 1) + label + b"\0" + context + struct.pack(">I", bits), "sha256")
    return block[: bits // 8]


def _encrypted(key: bytes, data: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), CFB(_NO_IV)).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data
