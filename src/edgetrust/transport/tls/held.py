"""TLS client certificates of the standard library whose key is elsewhere: in a token, or in another process.

The standard library reads keys from files only. Its OpenSSL takes a key that consists of the public half and of a
function to call when something is to be signed; this module makes such keys by ctypes, in the very library that `ssl`
uses, and puts them into an `ssl.SSLContext`. The OpenSSL inside `cryptography` has no such functions any more, so that
pyOpenSSL's contexts cannot do this.

Rules. `AVAILABLE` says whether this Python's `ssl` can; it is decided by trying, and nothing is called otherwise. The
signer is found by the key's address, and forgotten with its context. TLS does the hashing and the padding. A signer
that fails ends the handshake; why is in the log. It must not know where keys are.
"""

from __future__ import annotations

import ctypes
import ssl
import sys
import tempfile
import weakref
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_long, c_ubyte, c_uint, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgetrust.errors import Error, IntegrityError
from edgetrust.pki.chain import Chain
from edgetrust.pki.keys import HeldKey
from edgetrust.telemetry import EVENT_HELD_KEY_FAILED

_PKCS1, _RAW = 1, 3  # RSA_PKCS1_PADDING, RSA_NO_PADDING
_EXTERNAL_KEY = 0x20  # RSA_FLAG_EXT_PKEY: there are no private numbers to look at
_FAILED = -1
_CURVES: Final = {"secp256r1": 415, "secp384r1": 715, "secp521r1": 716}  # OpenSSL's numbers of them

_RsaPrivate = CFUNCTYPE(c_int, c_int, POINTER(c_ubyte), POINTER(c_ubyte), c_void_p, c_int)
_EcSign = CFUNCTYPE(
    c_int, c_int, POINTER(c_ubyte), c_int, POINTER(c_ubyte), POINTER(c_uint), c_void_p, c_void_p, c_void_p
)
_SIGNATURES: Final[dict[str, tuple[Any, list[Any]]]] = {
    "SSL_CTX_get_options": (c_uint64, [c_void_p]),
    "SSL_CTX_use_certificate_chain_file": (c_int, [c_void_p, c_char_p]),
    "SSL_CTX_use_PrivateKey": (c_int, [c_void_p, c_void_p]),
    "EVP_PKEY_new": (c_void_p, []),
    "EVP_PKEY_free": (None, [c_void_p]),
    "EVP_PKEY_set1_RSA": (c_int, [c_void_p, c_void_p]),
    "EVP_PKEY_set1_EC_KEY": (c_int, [c_void_p, c_void_p]),
    "BN_bin2bn": (c_void_p, [c_char_p, c_int, c_void_p]),
    "RSA_new": (c_void_p, []),
    "RSA_free": (None, [c_void_p]),
    "RSA_set0_key": (c_int, [c_void_p, c_void_p, c_void_p, c_void_p]),
    "RSA_set_method": (c_int, [c_void_p, c_void_p]),
    "RSA_get_default_method": (c_void_p, []),
    "RSA_meth_dup": (c_void_p, [c_void_p]),
    "RSA_meth_set_priv_enc": (c_int, [c_void_p, _RsaPrivate]),
    "RSA_meth_set_flags": (c_int, [c_void_p, c_int]),
    "EC_KEY_new_by_curve_name": (c_void_p, [c_int]),
    "EC_KEY_free": (None, [c_void_p]),
    "EC_KEY_oct2key": (c_int, [c_void_p, c_char_p, ctypes.c_size_t, c_void_p]),
    "EC_KEY_set_method": (c_int, [c_void_p, c_void_p]),
    "EC_KEY_OpenSSL": (c_void_p, []),
    "EC_KEY_METHOD_new": (c_void_p, [c_void_p]),
    "EC_KEY_METHOD_set_sign": (None, [c_void_p, _EcSign, c_void_p, c_void_p]),
    "ERR_clear_error": (None, []),
    "OpenSSL_version_num": (c_long, []),
}
_log = structlog.get_logger()


def _opened() -> Any:
    """The OpenSSL that `ssl` uses, None when it cannot be used here."""
    if sys.implementation.name != "cpython":
        return None
    try:
        library = ctypes.CDLL(sys.modules["_ssl"].__file__)
        for name, (returns, takes) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = returns, takes
    except (AttributeError, OSError, TypeError, KeyError):
        return None
    return library if library.OpenSSL_version_num() == ssl.OPENSSL_VERSION_NUMBER else None


def _pointer(context: ssl.SSLContext) -> int:
    """The SSL_CTX of a context: the first field after an object's head."""
    return int(c_void_p.from_address(id(context) + object.__basicsize__).value or 0)


def _available() -> bool:
    """Whether the library is there and contexts are laid out as expected; options are compared, twice."""
    if _lib is None:
        return False
    for option in (ssl.OP_NO_TICKET, ssl.OP_NO_RENEGOTIATION | ssl.OP_SINGLE_ECDH_USE):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.options |= option
        pointer = _pointer(context)
        if not pointer or _lib.SSL_CTX_get_options(pointer) != int(context.options) & 0xFFFF_FFFF_FFFF_FFFF:
            return False
    return True


_lib: Final = _opened()
AVAILABLE: Final = _available()
_signers: dict[int, HeldKey] = {}


def _rsa_private(size: int, content: Any, out: Any, key: int, padding: int) -> int:
    if padding not in (_PKCS1, _RAW):
        return _FAILED
    signer = _signers[key]
    return _answered(signer.sign_padded if padding == _PKCS1 else signer.sign_raw, content, size, out)


def _ec_sign(
    _kind: int, digest: Any, size: int, out: Any, out_size: Any, _inverse: object, _r: object, key: int
) -> int:
    written = _answered(_signers[key].sign_digest, digest, size, out)
    out_size[0] = max(written, 0)
    return int(written > 0)


def _answered(sign: Any, content: Any, size: int, out: Any) -> int:
    try:
        signature: bytes = sign(bytes(content[:size]))
    except Error as problem:
        _log.warning(EVENT_HELD_KEY_FAILED, reason=problem.reason, detail=problem.message)
        return _FAILED
    ctypes.memmove(out, signature, len(signature))
    return len(signature)


_RSA_CALLBACK, _EC_CALLBACK = _RsaPrivate(_rsa_private), _EcSign(_ec_sign)  # OpenSSL keeps their addresses


def _methods() -> tuple[Any, Any]:
    """What keys made here do when they are to sign: one of RSA, one of elliptic curves, for the life of the process."""
    by_rsa = _lib.RSA_meth_dup(_lib.RSA_get_default_method())
    _lib.RSA_meth_set_priv_enc(by_rsa, _RSA_CALLBACK)
    _lib.RSA_meth_set_flags(by_rsa, _EXTERNAL_KEY)
    by_curve = _lib.EC_KEY_METHOD_new(_lib.EC_KEY_OpenSSL())
    _lib.EC_KEY_METHOD_set_sign(by_curve, _EC_CALLBACK, None, None)
    return by_rsa, by_curve


_RSA_METHOD, _EC_METHOD = _methods() if AVAILABLE else (None, None)


def present(context: ssl.SSLContext, chain: Chain, key: HeldKey) -> None:
    """Show `chain` when the server asks for a certificate, and have `key` sign.

    Raises IntegrityError: `held-key-unsupported` where this Python cannot, `key-certificate-mismatch` when the two do
    not belong together.
    """
    if not AVAILABLE:
        raise IntegrityError(
            f"the key {key.key_id!r} is not in a file, and the ssl module of this Python cannot use it for TLS",
            reason="held-key-unsupported",
            fix="use a Python whose ssl module is linked to a shared OpenSSL 3, or keep the key in a file",
        )
    if chain.end_entity.public_key() != key.public_key():
        raise _mismatch(chain, key)
    made = _lib.EVP_PKEY_new()
    try:
        address = (
            _rsa_key(made, key) if not isinstance(key.public_key(), ec.EllipticCurvePublicKey) else _ec_key(made, key)
        )
        _signers[address] = key
        weakref.finalize(context, _signers.pop, address, None)
        _show(context, chain, key, made)
    finally:
        _lib.EVP_PKEY_free(made)


def _show(context: ssl.SSLContext, chain: Chain, key: HeldKey, made: int) -> None:
    pointer = _pointer(context)
    with tempfile.TemporaryDirectory(prefix="edgetrust-") as directory:
        file = Path(directory) / "chain.pem"  # certificates are public
        file.write_text(chain.pem())
        shown = _lib.SSL_CTX_use_certificate_chain_file(pointer, str(file).encode())
    fits = shown == 1 and _lib.SSL_CTX_use_PrivateKey(pointer, made) == 1
    _lib.ERR_clear_error()
    if not fits:
        raise _mismatch(chain, key)


def _mismatch(chain: Chain, key: HeldKey) -> IntegrityError:
    return IntegrityError(
        f"the key {key.key_id!r} does not belong to the certificate of {chain.end_entity.subject.rfc4514_string()!r}",
        reason="key-certificate-mismatch",
        fix="use the key that the certificate was requested with, or request a new certificate",
    )


def _rsa_key(made: int, key: HeldKey) -> int:
    """An RSA key of the public half; it belongs to `made`. Its address."""
    public: Any = key.public_key()
    numbers = public.public_numbers()
    rsa = _lib.RSA_new()
    _lib.RSA_set_method(rsa, _RSA_METHOD)
    _lib.RSA_set0_key(rsa, _number(numbers.n), _number(numbers.e), None)
    _lib.EVP_PKEY_set1_RSA(made, rsa)
    _lib.RSA_free(rsa)  # `made` has its own reference
    return int(rsa)


def _ec_key(made: int, key: HeldKey) -> int:
    public: Any = key.public_key()
    point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    curve = _lib.EC_KEY_new_by_curve_name(_CURVES[public.curve.name])
    _lib.EC_KEY_set_method(curve, _EC_METHOD)
    _lib.EC_KEY_oct2key(curve, point, len(point), None)
    _lib.EVP_PKEY_set1_EC_KEY(made, curve)
    _lib.EC_KEY_free(curve)
    return int(curve)


def _number(value: int) -> Any:
    content = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return _lib.BN_bin2bn(content, len(content), None)
