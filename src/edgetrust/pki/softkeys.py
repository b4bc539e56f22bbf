"""Software keys: key pairs and symmetric keys in files or in memory.

Rules. A private file is born with mode 0600: written under another name in the same directory, flushed to the disk,
then named, then the directory is flushed; at no time does a reader see half a key or a wider mode. Creating never
overwrites, not even when two processes race (the last step is a link, which fails if the name exists). An unreadable
file is reported with the user who tried and the one command that mends it. Must not know what the keys are for, nor how
identifiers map to file names.
"""

from __future__ import annotations

import os
import pwd
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from edgetrust import limits
from edgetrust.errors import ConfigError
from edgetrust.pki.keys import (
    KeyAlgorithm,
    KeyExistsError,
    KeyMissingError,
    KeyUnfitError,
    PublicKey,
    SecretBytes,
    key_fault,
)

SECRET_BYTES: Final = 32  # a generated symmetric key
_RSA_BITS: Final = {KeyAlgorithm.RSA2048: 2048, KeyAlgorithm.RSA3072: 3072, KeyAlgorithm.RSA4096: 4096}
_PRIVATE, _PUBLIC, _DIRECTORY = 0o600, 0o644, 0o700


class SoftKey:
    """A key pair held in this process: a KeyHandle that TLS can use too."""

    __slots__ = ("_key", "_key_id")

    def __init__(self, key_id: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
        fault = key_fault(key.public_key())
        if fault is not None:
            raise KeyUnfitError(f"key {key_id!r}: {fault}", reason="key-unfit")
        self._key_id, self._key = key_id, key

    @classmethod
    def generate(cls, key_id: str, algorithm: KeyAlgorithm = KeyAlgorithm.P256) -> SoftKey:
        """A new key pair. RSA takes from tens of milliseconds to seconds."""
        if algorithm is KeyAlgorithm.P256:
            return cls(key_id, ec.generate_private_key(ec.SECP256R1()))
        return cls(key_id, rsa.generate_private_key(65537, _RSA_BITS[algorithm]))

    @classmethod
    def from_pem(cls, key_id: str, pem: SecretBytes) -> SoftKey:
        """Parse an unencrypted private key (PKCS#8, PKCS#1 or SEC1 PEM). Raises KeyUnfitError."""
        if len(pem) > limits.PEM_BYTES:
            raise KeyUnfitError(f"key {key_id!r}: more than {limits.PEM_BYTES} bytes", reason="key-not-a-key")
        try:
            key = serialization.load_pem_private_key(pem.reveal(), password=None)
        except TypeError as error:
            raise KeyUnfitError(f"key {key_id!r} is encrypted with a password", reason="key-encrypted") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyUnfitError(f"key {key_id!r} is not a private key in PEM form", reason="key-not-a-key") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise KeyUnfitError(f"key {key_id!r}: only RSA and ECDSA keys are supported", reason="key-unfit")
        return cls(key_id, key)

    @property
    def key_id(self) -> str:
        return self._key_id

    def public_key(self) -> PublicKey:
        return self._key.public_key()

    def sign(self, data: bytes) -> bytes:
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return self._key.sign(data, ec.ECDSA(hashes.SHA256()))
        return self._key.sign(data, padding.PKCS1v15(), hashes.SHA256())

    def private_pem(self) -> SecretBytes:
        return SecretBytes(
            self._key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def __repr__(self) -> str:
        return f"SoftKey({self._key_id!r}, <redacted>)"


class MemoryKeyStore:
    """A KeyStore that forgets everything when it goes."""

    def __init__(self) -> None:
        self._held: dict[str, SoftKey | SecretBytes] = {}

    def create(self, key_id: str, algorithm: KeyAlgorithm) -> SoftKey:
        self._refuse_existing(key_id)
        self._held[key_id] = key = SoftKey.generate(key_id, algorithm)
        return key

    def load(self, key_id: str) -> SoftKey:
        held = self._get(key_id)
        if not isinstance(held, SoftKey):
            raise KeyUnfitError(f"key {key_id!r} is not a private key in PEM form", reason="key-not-a-key")
        return SoftKey.from_pem(key_id, held.private_pem())

    def import_pem(self, key_id: str, pem: SecretBytes) -> SoftKey:
        self._held[key_id] = key = SoftKey.from_pem(key_id, pem)
        return key

    def create_secret(self, key_id: str) -> SecretBytes:
        self._refuse_existing(key_id)
        self._held[key_id] = secret = SecretBytes(secrets.token_bytes(SECRET_BYTES))
        return secret

    def load_secret(self, key_id: str) -> SecretBytes:
        held = self._get(key_id)
        if isinstance(held, SoftKey):
            raise KeyUnfitError(f"key {key_id!r} is a key pair, not a symmetric key", reason="key-not-symmetric")
        return held

    def import_secret(self, key_id: str, value: SecretBytes) -> None:
        self._held[key_id] = checked_secret(key_id, value)

    def exists(self, key_id: str) -> bool:
        return key_id in self._held

    def delete(self, key_id: str) -> None:
        self._get(key_id)
        del self._held[key_id]

    def move(self, source: str, target: str) -> None:
        self._held[target] = self._get(source)
        if source != target:
            del self._held[source]

    def _get(self, key_id: str) -> SoftKey | SecretBytes:
        try:
            return self._held[key_id]
        except KeyError:
            raise KeyMissingError(key_id) from None

    def _refuse_existing(self, key_id: str) -> None:
        if key_id in self._held:
            raise KeyExistsError(key_id)


class FileKeyStore:
    """A KeyStore in one directory: PKCS#8 PEM for key pairs, raw bytes for symmetric keys, one file each.

    `file_name` maps a key identifier to the name of its file; two identifiers must never map to one name.
    """

    def __init__(self, directory: Path, file_name: Callable[[str], str]) -> None:
        self._directory, self._file_name = directory, file_name

    def create(self, key_id: str, algorithm: KeyAlgorithm) -> SoftKey:
        if self.exists(key_id):  # before an RSA key is generated in vain; the link below decides
            raise KeyExistsError(key_id)
        key = SoftKey.generate(key_id, algorithm)
        self._write_new(key_id, key.private_pem())
        return key

    def load(self, key_id: str) -> SoftKey:
        return SoftKey.from_pem(key_id, self._read(key_id))

    def import_pem(self, key_id: str, pem: SecretBytes) -> SoftKey:
        key = SoftKey.from_pem(key_id, pem)
        write_private(self._path(key_id), key.private_pem().reveal())
        return key

    def create_secret(self, key_id: str) -> SecretBytes:
        secret = SecretBytes(secrets.token_bytes(SECRET_BYTES))
        self._write_new(key_id, secret)
        return secret

    def load_secret(self, key_id: str) -> SecretBytes:
        return checked_secret(key_id, self._read(key_id))

    def import_secret(self, key_id: str, value: SecretBytes) -> None:
        write_private(self._path(key_id), checked_secret(key_id, value).reveal())

    def exists(self, key_id: str) -> bool:
        path = self._path(key_id)
        try:
            return path.is_file()
        except PermissionError as error:
            raise _not_permitted(path, error) from error

    def delete(self, key_id: str) -> None:
        path = self._path(key_id)
        try:
            path.unlink()
        except FileNotFoundError:
            raise KeyMissingError(key_id) from None
        except PermissionError as error:
            raise _not_permitted(path.parent, error) from error
        _flush_directory(path.parent)

    def move(self, source: str, target: str) -> None:
        path = self._path(source)
        try:
            path.replace(self._path(target))
        except FileNotFoundError:
            raise KeyMissingError(source) from None
        except PermissionError as error:
            raise _not_permitted(path.parent, error) from error
        _flush_directory(path.parent)

    def _path(self, key_id: str) -> Path:
        name = self._file_name(key_id)
        if not name or name != Path(name).name or name.startswith("."):
            raise ConfigError(
                f"key {key_id!r} maps to {name!r}, which is not a plain file name", reason="key-file-name"
            )
        return self._directory / name

    def _read(self, key_id: str) -> SecretBytes:
        path = self._path(key_id)
        try:
            return read_bounded(path)
        except FileNotFoundError:
            raise KeyMissingError(key_id) from None

    def _write_new(self, key_id: str, content: SecretBytes) -> None:
        try:
            _write(self._path(key_id), content.reveal(), _PRIVATE, os.link)
        except FileExistsError:
            raise KeyExistsError(key_id) from None


def checked_secret(key_id: str, value: SecretBytes) -> SecretBytes:
    """Refuse what cannot be a symmetric key: nothing at all, or a key pair's file. Raises KeyUnfitError."""
    if len(value) == 0:
        raise KeyUnfitError(f"key {key_id!r} is empty", reason="key-not-symmetric")
    if value.reveal().startswith(b"-----BEGIN"):
        raise KeyUnfitError(f"key {key_id!r} is a key pair, not a symmetric key", reason="key-not-symmetric")
    return value


def load_key_file(path: Path) -> SoftKey:
    """A private key from a file that a configuration names. Raises ConfigError, which says what is wrong and how to
    mend it.

    Reasons: `key-missing`, `key-unreadable`, `key-not-a-key`, `key-encrypted`, `key-unfit`.
    """
    try:
        return SoftKey.from_pem(str(path), read_bounded(path))
    except FileNotFoundError as error:
        raise ConfigError(f"key file {path} does not exist", reason="key-missing") from error
    except OSError as error:
        raise ConfigError(f"key file {path} cannot be read: {error.strerror}", reason="key-unreadable") from error
    except KeyUnfitError as error:
        fix = f"openssl pkey -in {path} -out {path}.plain" if error.reason == "key-encrypted" else ""
        raise ConfigError(f"key file {error.message}", reason=error.reason, fix=fix) from error


def write_private(path: Path, data: bytes) -> None:
    """Replace a file by secret content in one step, mode 0600, on the disk when this returns. Missing directories are
    made 0700.

    Raises ConfigError (reason `key-unreadable`) where permission is missing, OSError when the disk fails.
    """
    _write(path, data, _PRIVATE, os.replace)


def write_public(path: Path, data: bytes) -> None:
    """As `write_private`, for content that everybody may read: mode 0644."""
    _write(path, data, _PUBLIC, os.replace)


def _write(path: Path, data: bytes, mode: int, name_it: Callable[[Path, Path], None]) -> None:
    temporary = path.parent / f".{path.name[:200]}.{secrets.token_hex(8)}.tmp"
    try:
        path.parent.mkdir(mode=_DIRECTORY, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except PermissionError as error:
        raise _not_permitted(path.parent, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # the umask may have narrowed it
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        name_it(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()  # replaced: gone already; linked or failed: it must not stay
    _flush_directory(path.parent)


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bounded(path: Path) -> SecretBytes:
    """A secret file, not much more than the largest key. Raises ConfigError where permission is missing."""
    try:
        with path.open("rb") as file:
            content = file.read(limits.PEM_BYTES + 1)
    except PermissionError as error:
        raise _not_permitted(path, error) from error
    return SecretBytes(content)


def _not_permitted(path: Path, error: PermissionError) -> ConfigError:
    """Name who tried, and the one command that lets this user in."""
    user = user_name(os.geteuid())
    place = _first_closed(path)
    wanted = "rwx" if place.is_dir() else "rw"
    fix = f"chmod u+{wanted} {place}" if place.lstat().st_uid == os.geteuid() else f"chown {user} {place}"
    return ConfigError(
        f"user {user} may not use {path} ({error.strerror or 'permission denied'})", reason="key-unreadable", fix=fix
    )


def _first_closed(path: Path) -> Path:
    """What must be opened for this user: the outermost directory they may not enter, else the last that exists."""
    place = Path("/")
    for step in (*reversed(path.absolute().parents), path.absolute()):
        if not os.path.lexists(step):
            return place
        place = step
        if step != path.absolute() and not os.access(step, os.X_OK, effective_ids=True):
            return step
    return place


def user_name(uid: int) -> str:
    """The name of a user; its number when it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
