"""Keys in PKCS#11 tokens (HSM, smart card, TPM, SoftHSM): a `KeyHandle` whose private half never leaves the token.

A key is named by a URI of RFC 7512: `pkcs11:token=LABEL;object=LABEL`, with `id=%01%02` in place of or beside the
object, and `slot-id=N` in place of the token. The PIN comes from a file (`pin-source=file:PATH`), from `pin-value` as
the edge runtime writes it (edge specification 1.5), or from whoever opens the token.

    token = Token.open(module, "pkcs11:token=gateway", pin)
    key = token.find("pkcs11:token=gateway;object=device-id")       a KeyHandle
    key = token.create("device-id", KeyAlgorithm.P256)

Rules. One use of a session at a time: tokens do not like threads. A generated key is sensitive and not extractable, and
nothing is ever overwritten. ECDSA signs a SHA-256 digest made here, since some tokens cannot hash;
RSA lets the token hash. What a token refuses is an UnavailableError or a ConfigError, never the library's own.

These keys sign certificates, CSRs, CRLs and OCSP answers, and for TLS clients of the standard library (`HeldKey`);
TLS servers cannot use them. python-pkcs11 is an optional dependency: it is imported when a token is opened.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import unquote, unquote_to_bytes

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from edgetrust.errors import ConfigError, UnavailableError
from edgetrust.pki.keys import (
    KeyAlgorithm,
    KeyExistsError,
    KeyMissingError,
    KeyUnfitError,
    PublicKey,
    SecretText,
    key_fault,
)

SCHEME: Final = "pkcs11:"
_RSA_BITS: Final = {KeyAlgorithm.RSA2048: 2048, KeyAlgorithm.RSA3072: 3072, KeyAlgorithm.RSA4096: 4096}
_KNOWN: Final = frozenset({"token", "slot-id", "object", "id", "type"})


@dataclass(frozen=True, slots=True)
class KeyUri:
    """A parsed URI. `pin` is what it holds or points to, None if neither."""

    token: str | None
    slot: int | None
    label: str | None
    key_id: bytes | None
    pin: SecretText | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ConfigError (`pkcs11-uri`) for anything that names neither a token nor a slot, or is no such URI."""
        path, _, query = text.removeprefix(SCHEME).partition("?")
        parts = [part.partition("=") for part in path.split(";") if part]
        values = {name: value for name, _, value in parts}
        asked = {name: value for name, _, value in (part.partition("=") for part in query.split("&") if part)}
        odd = set(values) - _KNOWN
        slot = values.get("slot-id", "")
        if not text.startswith(SCHEME) or odd or (slot and not slot.isdigit()) or not (slot or values.get("token")):
            raise ConfigError(
                f"not a PKCS#11 URI of a token and an object{f': {sorted(odd)[0]!r} is unknown' if odd else ''}",
                reason="pkcs11-uri",
                fix="write pkcs11:token=LABEL;object=LABEL",
            )
        return cls(
            unquote(values["token"]) if values.get("token") else None,
            int(slot) if slot else None,
            unquote(values["object"]) if values.get("object") else None,
            unquote_to_bytes(values["id"]) if values.get("id") else None,
            _pin(asked),
        )


def _pin(asked: dict[str, str]) -> SecretText | None:
    if "pin-value" in asked:
        return SecretText(unquote(asked["pin-value"]))
    source = unquote(asked.get("pin-source", "")).removeprefix("file:")
    return read_pin(Path(source)) if source else None


def read_pin(path: Path) -> SecretText:
    """A PIN from a file; a line feed at its end does not count. Raises ConfigError (`pin-unreadable`)."""
    try:
        return SecretText(path.read_text().rstrip("\r\n"))
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"the PIN file {path} cannot be read", reason="pin-unreadable") from problem


class Token:
    """An open, logged-in token. Made by `open`; kept for the life of the process."""

    def __init__(self, session: Any, name: str) -> None:
        self._session, self.name = session, name
        self._turn = threading.Lock()

    @classmethod
    def open(cls, module: Path, uri: str, pin: SecretText | None = None) -> Token:
        """Open the token that a URI names, with the URI's PIN or the one given. Raises ConfigError (`pkcs11-module`,
        `pkcs11-token`, `pkcs11-pin`, `pkcs11-missing`) or UnavailableError (`pkcs11-failed`).
        """
        wanted = KeyUri.parse(uri)
        pkcs11 = _library()
        with _translated():
            library = _load(pkcs11, module)
            name = wanted.token if wanted.token is not None else f"slot {wanted.slot}"
            token = _token(pkcs11, library, wanted)
            secret = wanted.pin or pin
            try:
                session = token.open(rw=True, user_pin=None if secret is None else secret.reveal())
            except pkcs11.exceptions.UserAlreadyLoggedIn:  # by another session of this process: that counts for all
                session = token.open(rw=True)
            except (
                pkcs11.exceptions.PinIncorrect,
                pkcs11.exceptions.PinLocked,
                pkcs11.exceptions.PinLenRange,
            ) as wrong:
                raise ConfigError(
                    f"the token {name!r} refuses the PIN ({type(wrong).__name__})",
                    reason="pkcs11-pin",
                    fix="correct the PIN before you try again: tokens lock after a few wrong ones",
                ) from wrong
        return cls(session, name)

    def find(self, uri: str) -> Pkcs11Key:
        """The key that a URI names in this token. Raises KeyMissingError, KeyUnfitError, ConfigError."""
        wanted = KeyUri.parse(uri)
        if wanted.label is None and wanted.key_id is None:
            raise ConfigError("the PKCS#11 URI names no object", reason="pkcs11-uri", fix="add object=LABEL")
        pkcs11 = _library()
        with self._turn, _translated():
            try:
                private, public = (
                    self._session.get_key(object_class=kind, label=wanted.label, id=wanted.key_id)
                    for kind in (pkcs11.ObjectClass.PRIVATE_KEY, pkcs11.ObjectClass.PUBLIC_KEY)
                )
            except pkcs11.exceptions.NoSuchKey as problem:
                raise KeyMissingError(wanted.label or "") from problem
            except pkcs11.exceptions.MultipleObjectsReturned as problem:
                raise KeyUnfitError(
                    f"the token {self.name!r} has several keys {wanted.label!r}", reason="key-unfit", fix="add id=..."
                ) from problem
            return self._key(uri, private, public)

    def create(self, label: str, algorithm: KeyAlgorithm) -> Pkcs11Key:
        """A new key pair. Raises KeyExistsError, UnavailableError."""
        pkcs11 = _library()
        with self._turn, _translated():
            attributes = {pkcs11.Attribute.LABEL: label}
            if next(iter(self._session.get_objects(attributes)), None) is not None:
                raise KeyExistsError(label)
            keep = {pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False}
            identifier = hashlib.sha256(label.encode()).digest()[:16]
            more = {"store": True, "label": label, "id": identifier, "private_template": keep}
            use = pkcs11.MechanismFlag
            try:
                public, private = self._generated(algorithm, capabilities=use.SIGN | use.VERIFY, **more)
            except pkcs11.exceptions.GeneralError:  # tpm2-pkcs11 makes only keys that may do everything
                every = use.SIGN | use.VERIFY | use.ENCRYPT | use.DECRYPT
                public, private = self._generated(algorithm, capabilities=every, **more)
            return self._key(label, private, public)

    def _generated(self, algorithm: KeyAlgorithm, **more: Any) -> Any:
        """A new pair: the public and the private object."""
        pkcs11 = _library()
        if algorithm is not KeyAlgorithm.P256:
            return self._session.generate_keypair(pkcs11.KeyType.RSA, _RSA_BITS[algorithm], **more)
        curve = pkcs11.util.ec.encode_named_curve_parameters("secp256r1")
        parameters = self._session.create_domain_parameters(
            pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: curve}, local=True
        )
        return parameters.generate_keypair(**more)

    def has(self, label: str) -> bool:
        """Whether there is a key pair of that label."""
        with self._turn, _translated():
            return bool(self._objects(label))

    def delete(self, label: str) -> None:
        """Destroy a key pair. Raises KeyMissingError."""
        with self._turn, _translated():
            found = self._objects(label)
            for one in found:
                one.destroy()
        if not found:
            raise KeyMissingError(label)

    def rename(self, label: str, target: str) -> None:
        """Give a key pair another label; a pair that had it is destroyed. Raises KeyMissingError."""
        pkcs11 = _library()
        with self._turn, _translated():
            found = self._objects(label)
            for one in self._objects(target) if found else ():
                one.destroy()
            for one in found:
                one[pkcs11.Attribute.LABEL] = target
        if not found:
            raise KeyMissingError(label)

    def _objects(self, label: str) -> list[Any]:
        return list(self._session.get_objects({_library().Attribute.LABEL: label}))

    def close(self) -> None:
        """Log out."""
        with self._turn, _translated():
            self._session.close()

    def _key(self, key_id: str, private: Any, public: Any) -> Pkcs11Key:
        pkcs11 = _library()
        if public.key_type == pkcs11.KeyType.EC:
            der = pkcs11.util.ec.encode_ec_public_key(public)
        elif public.key_type == pkcs11.KeyType.RSA:
            der = pkcs11.util.rsa.encode_rsa_public_key(public)
        else:
            raise KeyUnfitError(f"key {key_id!r}: only RSA and ECDSA keys are supported", reason="key-unfit")
        loaded = load_der_public_key(der)
        fault = key_fault(loaded)
        if fault is not None or not isinstance(loaded, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            raise KeyUnfitError(f"key {key_id!r}: {fault}", reason="key-unfit")
        return Pkcs11Key(key_id, loaded, private, self._turn)


class Pkcs11Key:
    """A key pair in a token: a KeyHandle."""

    __slots__ = ("_key_id", "_private", "_public", "_turn")

    def __init__(self, key_id: str, public: PublicKey, private: Any, turn: threading.Lock) -> None:
        self._key_id, self._public, self._private, self._turn = key_id, public, private, turn

    @property
    def key_id(self) -> str:
        return self._key_id

    def public_key(self) -> PublicKey:
        return self._public

    def sign(self, data: bytes) -> bytes:
        """As `KeyHandle.sign`. Raises UnavailableError (`pkcs11-failed`) when the token does not answer."""
        if not isinstance(self._public, rsa.RSAPublicKey):
            return self.sign_digest(hashlib.sha256(data).digest())
        pkcs11 = _library()
        with self._turn, _translated():
            return bytes(self._private.sign(data, mechanism=pkcs11.Mechanism.SHA256_RSA_PKCS))

    def sign_digest(self, digest: bytes) -> bytes:
        """ECDSA over a digest, DER. Raises KeyUnfitError for an RSA key, UnavailableError when the token fails."""
        if isinstance(self._public, rsa.RSAPublicKey):
            raise KeyUnfitError(f"the key {self._key_id!r} is RSA; ECDSA needs an elliptic curve", reason="key-unfit")
        pkcs11 = _library()
        with self._turn, _translated():
            raw = bytes(self._private.sign(digest, mechanism=pkcs11.Mechanism.ECDSA))
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    def sign_padded(self, content: bytes) -> bytes:
        """RSA PKCS#1 v1.5 around what the caller hashed. Raises KeyUnfitError, UnavailableError."""
        if not isinstance(self._public, rsa.RSAPublicKey):
            raise KeyUnfitError(f"the key {self._key_id!r} is not RSA", reason="key-unfit")
        pkcs11 = _library()
        with self._turn, _translated():
            return bytes(self._private.sign(content, mechanism=pkcs11.Mechanism.RSA_PKCS))

    def sign_raw(self, block: bytes) -> bytes:
        """RSA on a block that the caller padded. Raises KeyUnfitError, UnavailableError."""
        if not isinstance(self._public, rsa.RSAPublicKey):
            raise KeyUnfitError(f"the key {self._key_id!r} is not RSA", reason="key-unfit")
        pkcs11 = _library()
        with self._turn, _translated():
            return bytes(self._private.sign(block, mechanism=pkcs11.Mechanism.RSA_X_509))

    def __repr__(self) -> str:
        return f"Pkcs11Key({self._key_id!r})"


def _library() -> Any:
    try:
        import pkcs11  # noqa: PLC0415 - optional
        import pkcs11.util.ec  # noqa: PLC0415
        import pkcs11.util.rsa  # noqa: PLC0415
    except ImportError as problem:
        raise ConfigError(
            "python-pkcs11 is not installed", reason="pkcs11-missing", fix="pip install 'edgetrust[pkcs11]'"
        ) from problem
    return pkcs11


def _load(pkcs11: Any, module: Path) -> Any:
    if not module.is_file():
        raise ConfigError(f"the PKCS#11 module {module} does not exist", reason="pkcs11-module")
    try:
        return pkcs11.lib(str(module))
    except (pkcs11.exceptions.PKCS11Error, RuntimeError) as problem:
        raise ConfigError(
            f"{module} cannot be used as a PKCS#11 module: {problem}", reason="pkcs11-module"
        ) from problem


def _token(pkcs11: Any, library: Any, wanted: KeyUri) -> Any:
    if wanted.token is None:
        slots = [slot for slot in library.get_slots() if slot.slot_id == wanted.slot]
        if slots:
            return slots[0].get_token()
    else:
        try:
            return library.get_token(token_label=wanted.token)
        except (pkcs11.exceptions.NoSuchToken, pkcs11.exceptions.MultipleTokensReturned) as problem:
            raise ConfigError(
                f"there is not exactly one token {wanted.token!r}",
                reason="pkcs11-token",
                fix="pkcs11-tool -L lists them",
            ) from problem
    raise ConfigError(f"there is no slot {wanted.slot}", reason="pkcs11-token", fix="pkcs11-tool -L lists them")


@contextmanager
def _translated() -> Iterator[None]:
    pkcs11 = _library()
    try:
        yield
    except pkcs11.exceptions.PKCS11Error as problem:
        raise UnavailableError(
            f"the PKCS#11 token failed: {type(problem).__name__}", reason="pkcs11-failed"
        ) from problem
