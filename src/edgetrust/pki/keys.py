"""Keys as references. Decides which keys are fit for use; holds no key bytes except as redacted secrets.

A `KeyHandle` answers with its public key and signs; where the private half lives (a file, a token, another process) is
not visible. Whoever needs to build certificates from a handle takes `signing_key`. Secrets print as `<redacted>`,
compare in constant time and give their value only through `reveal()`.

Fit for use: ECDSA on P-256, P-384 or P-521, and RSA from 2048 to 8192 bits with an odd exponent of at most 33 bits. The
upper bounds protect a verifier from peers whose keys are chosen to be slow. Must not know what a key is for.
"""

from __future__ import annotations

import hmac
from enum import StrEnum
from typing import Any, Final, NoReturn, Protocol, runtime_checkable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric import utils as asymmetric_utils

from edgetrust.errors import IntegrityError

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

RSA_BITS: Final = range(2048, 8192 + 1)
RSA_EXPONENT_BITS: Final = (
    33  # F4 has 17; OpenSSL allows 64 above 3072 bits and any size below, which is slow to verify
)
CURVES: Final = frozenset({"secp256r1", "secp384r1", "secp521r1"})


class KeyAlgorithm(StrEnum):
    """Key pairs that a store can generate; the names are those of the key service."""

    P256 = "ec-p256"
    RSA2048 = "rsa-2048"
    RSA3072 = "rsa-3072"
    RSA4096 = "rsa-4096"


class KeyMissingError(IntegrityError):
    """The store has no key of that identifier (reason `key-missing`)."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no key {key_id!r} in the key store", reason="key-missing")
        self.key_id = key_id


class KeyExistsError(IntegrityError):
    """The store holds a key of that identifier already; creating never overwrites (reason `key-exists`)."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"the key store has a key {key_id!r} already", reason="key-exists")
        self.key_id = key_id


class KeyUnfitError(IntegrityError):
    """Stored or imported material is not a usable key: not a key, encrypted, of an unsupported kind, too weak."""


class _Secret:
    """What secrets share: redaction. A secret can be neither pickled nor seen in a traceback."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")


class SecretBytes(_Secret):
    """Bytes that must not be shown: a private key, a symmetric key. `len()` and equality are all that can be asked."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """The bytes themselves; call this only where they are used."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return hmac.compare_digest(self._value, other._value) if isinstance(other, SecretBytes) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value)


class SecretText(_Secret):
    """Text that must not be shown: a password, a connection string's key. As `SecretBytes`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself; call this only where it is used."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretText):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)


class KeyHandle(Protocol):
    """A reference to a key pair whose private half need not be in this process."""

    @property
    def key_id(self) -> str: ...

    def public_key(self) -> PublicKey: ...

    def sign(self, data: bytes) -> bytes:
        """Sign with SHA-256: a DER-encoded ECDSA signature, or RSA PKCS#1 v1.5."""
        ...


@runtime_checkable
class TlsKey(Protocol):
    """A key that this process's TLS engine can use. Only software keys offer it."""

    def private_pem(self) -> SecretBytes:
        """The private key, PKCS#8 PEM, unencrypted."""
        ...


@runtime_checkable
class HeldKey(Protocol):
    """A key elsewhere, in a token or another process, that works on what its user has hashed and padded: as TLS does.

    Methods of the other kind of key raise KeyUnfitError, all UnavailableError when the holder does not answer.
    """

    @property
    def key_id(self) -> str: ...

    def public_key(self) -> PublicKey: ...

    def sign_digest(self, digest: bytes) -> bytes:
        """ECDSA over a digest, DER."""
        ...

    def sign_padded(self, content: bytes) -> bytes:
        """RSA with PKCS#1 v1.5 padding around `content`, usually a DigestInfo."""
        ...

    def sign_raw(self, block: bytes) -> bytes:
        """RSA on a whole block, which its user has padded."""
        ...


ClientKey = TlsKey | HeldKey
"""A key that TLS clients of this process can use, wherever it is."""


class KeyStore(Protocol):
    """Where keys live. Key pairs and symmetric keys share one space of identifiers.

    `create` and `create_secret` never overwrite (KeyExistsError); `import_pem`, `import_secret` and the target of
    `move` are replaced in one step. Whatever is absent raises KeyMissingError, material of the other kind
    KeyUnfitError.
    """

    def create(self, key_id: str, algorithm: KeyAlgorithm) -> KeyHandle: ...

    def load(self, key_id: str) -> KeyHandle: ...

    def import_pem(self, key_id: str, pem: SecretBytes) -> KeyHandle: ...

    def create_secret(self, key_id: str) -> SecretBytes: ...

    def load_secret(self, key_id: str) -> SecretBytes: ...

    def import_secret(self, key_id: str, value: SecretBytes) -> None: ...

    def exists(self, key_id: str) -> bool: ...

    def delete(self, key_id: str) -> None: ...

    def move(self, source: str, target: str) -> None: ...


def key_fault(key: object) -> str | None:
    """Why a public key is unfit for use, for a person; None if it is fit."""
    match key:
        case ec.EllipticCurvePublicKey():
            return None if key.curve.name in CURVES else f"elliptic curve {key.curve.name} is not supported"
        case rsa.RSAPublicKey():
            return _rsa_fault(key)
        case _:
            return f"keys of kind {type(key).__name__} are not supported"


def _rsa_fault(key: rsa.RSAPublicKey) -> str | None:
    if key.key_size not in RSA_BITS:
        return f"RSA with {key.key_size} bits is outside {RSA_BITS.start} to {RSA_BITS.stop - 1}"
    exponent = key.public_numbers().e
    if exponent.bit_length() > RSA_EXPONENT_BITS:
        return f"the RSA exponent has {exponent.bit_length()} bits, more than {RSA_EXPONENT_BITS}"
    return None


def public_der(key: PublicKey) -> bytes:
    """SubjectPublicKeyInfo, DER: equal bytes mean the same key."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def signing_key(handle: KeyHandle) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    """A private key object that certificate, CSR, CRL and OCSP builders accept and that forwards every signature to
    `handle`.

    Raises KeyUnfitError if the handle's key is of a kind that nobody here signs with.
    """
    public = handle.public_key()
    fault = key_fault(public)
    if fault is not None:
        raise KeyUnfitError(f"key {handle.key_id!r}: {fault}", reason="key-unfit")
    return _EcAdapter(handle, public) if isinstance(public, ec.EllipticCurvePublicKey) else _RsaAdapter(handle, public)


def _only_signs(what: str) -> UnsupportedAlgorithm:
    return UnsupportedAlgorithm(f"a key handle only signs, with SHA-256; it cannot {what}")


class _EcAdapter(ec.EllipticCurvePrivateKey):
    def __init__(self, handle: KeyHandle, public: ec.EllipticCurvePublicKey) -> None:
        self._handle, self._public = handle, public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        if not isinstance(signature_algorithm.algorithm, hashes.SHA256):
            raise _only_signs("use another hash")
        return self._handle.sign(bytes(data))

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        raise _only_signs("agree on keys")

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        raise _only_signs("leave its store")

    def private_bytes(self, *_: object, **__: object) -> bytes:
        raise _only_signs("leave its store")

    def __copy__(self) -> _EcAdapter:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> _EcAdapter:
        return self


class _RsaAdapter(rsa.RSAPrivateKey):
    def __init__(self, handle: KeyHandle, public: rsa.RSAPublicKey) -> None:
        self._handle, self._public = handle, public

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        return self._public

    def sign(
        self,
        data: Any,
        padding: padding.AsymmetricPadding,
        algorithm: asymmetric_utils.Prehashed | hashes.HashAlgorithm | asymmetric_utils.NoDigestInfo,
    ) -> bytes:
        if padding.name != "EMSA-PKCS1-v1_5" or not isinstance(algorithm, hashes.SHA256):
            raise _only_signs("use another padding or hash")
        return self._handle.sign(bytes(data))

    def decrypt(self, ciphertext: bytes, padding: padding.AsymmetricPadding) -> bytes:
        raise _only_signs("decrypt")

    def private_numbers(self) -> rsa.RSAPrivateNumbers:
        raise _only_signs("leave its store")

    def private_bytes(self, *_: object, **__: object) -> bytes:
        raise _only_signs("leave its store")

    def __copy__(self) -> _RsaAdapter:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> _RsaAdapter:
        return self
