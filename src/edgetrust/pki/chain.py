"""Certificates in order: thumbprints, chains and trust bundles. Decides what is well-formed, never what is trusted.

Rules. A chain has the end-entity certificate first and is never empty. Thumbprints of different algorithms are never
equal. A trust bundle is immutable and replaced whole; its `version` depends on its certificates only, so that equal
bundles share what was remembered about them. The system's store is found where OpenSSL finds it, `SSL_CERT_FILE` and
`SSL_CERT_DIR` first.

Must not know purposes, names or dates: that is `verify`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import Store

from edgetrust import limits
from edgetrust.errors import ConfigError, IntegrityError, PeerError
from edgetrust.pki.keys import KeyHandle, public_der
from edgetrust.pki.oddities import accept_oddities

_HEX_DIGITS: Final[Mapping[int, Literal["sha1", "sha256"]]] = {40: "sha1", 64: "sha256"}
_PEM_BLOCK: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_HASHED_NAME: Final = re.compile(r"[0-9a-f]{8}\.[0-9]+")
_SYSTEM_FILES: Final = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Ubuntu, Alpine, Arch
    Path("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),  # Fedora, RHEL
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # older Fedora, RHEL
    Path("/etc/ssl/ca-bundle.pem"),  # SUSE
    Path("/etc/ssl/cert.pem"),  # Alpine, BSDs
)
_SYSTEM_DIRECTORIES: Final = (Path("/etc/ssl/certs"), Path("/etc/pki/tls/certs"))


class ThumbprintError(PeerError):
    """The text is not a thumbprint (reason `thumbprint-malformed`)."""


class ChainError(PeerError):
    """The bytes are not certificates (reason `chain-malformed`)."""


@dataclass(frozen=True, slots=True)
class Thumbprint:
    """The hash of a DER certificate, as identity registries store it."""

    algorithm: Literal["sha1", "sha256"]
    digest: bytes

    def __post_init__(self) -> None:
        if _HEX_DIGITS.get(2 * len(self.digest)) != self.algorithm:
            raise ThumbprintError(
                f"{len(self.digest)} bytes are no {self.algorithm} digest", reason="thumbprint-malformed"
            )

    @classmethod
    def of(cls, certificate: x509.Certificate | bytes, algorithm: Literal["sha1", "sha256"] = "sha256") -> Thumbprint:
        """The thumbprint of a certificate (or of its DER)."""
        der = certificate if isinstance(certificate, bytes) else certificate.public_bytes(Encoding.DER)
        return cls(algorithm, hashlib.new(algorithm, der, usedforsecurity=algorithm != "sha1").digest())

    @classmethod
    def parse(cls, text: str) -> Thumbprint:
        """40 (SHA-1) or 64 (SHA-256) hexadecimal digits in any case; `:`, `-` and spaces between them are ignored."""
        digits = re.sub(r"[:\- ]", "", text) if len(text) <= 3 * limits.IDENTIFIER_CHARACTERS else ""
        algorithm = _HEX_DIGITS.get(len(digits))
        if algorithm is None or not re.fullmatch(r"[0-9A-Fa-f]+", digits):
            raise ThumbprintError(
                "a thumbprint has 40 (SHA-1) or 64 (SHA-256) hexadecimal digits",
                reason="thumbprint-malformed",
                fix="openssl x509 -noout -fingerprint -sha256 -in CERTIFICATE",
            )
        return cls(algorithm, bytes.fromhex(digits))

    def hex(self) -> str:
        """Upper-case hexadecimal digits without separators: Azure's spelling."""
        return self.digest.hex().upper()

    def openssl(self) -> str:
        """`AA:BB:...`, exactly as `openssl x509 -fingerprint` prints it."""
        return self.digest.hex(":").upper()

    def __str__(self) -> str:
        return self.openssl()


def _parse(pem: bytes) -> tuple[x509.Certificate, ...]:
    if len(pem) > limits.PEM_BYTES:
        raise ChainError(f"more than {limits.PEM_BYTES} bytes of certificates", reason="chain-malformed", status=413)
    accept_oddities()
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except (ValueError, x509.InvalidVersion) as error:
        raise ChainError(f"not certificates in PEM form: {error}", reason="chain-malformed") from error


def _to_pem(certificates: Iterable[x509.Certificate]) -> str:
    return "".join(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in certificates)


@dataclass(frozen=True, slots=True)
class Chain:
    """Certificates as they are sent: the end entity first. Nothing about them has been verified."""

    certificates: tuple[x509.Certificate, ...]

    def __post_init__(self) -> None:
        if not self.certificates:
            raise ChainError("a chain has at least one certificate", reason="chain-malformed")

    @classmethod
    def from_pem(cls, pem: bytes | str) -> Chain:
        """Every certificate of a PEM file, in its order; other blocks are ignored. Raises ChainError."""
        return cls(_parse(pem.encode() if isinstance(pem, str) else pem))

    @classmethod
    def from_der(cls, certificates: Iterable[bytes]) -> Chain:
        """Certificates as a TLS peer sent them. Raises ChainError."""
        accept_oddities()
        try:
            return cls(tuple(x509.load_der_x509_certificate(der) for der in certificates))
        except (ValueError, x509.InvalidVersion) as error:
            raise ChainError(f"not a certificate: {error}", reason="chain-malformed") from error

    @property
    def end_entity(self) -> x509.Certificate:
        return self.certificates[0]

    @property
    def intermediates(self) -> tuple[x509.Certificate, ...]:
        """Everything after the end entity; may hold a root or certificates of no use."""
        return self.certificates[1:]

    def pem(self) -> str:
        return _to_pem(self.certificates)

    def thumbprint(self, algorithm: Literal["sha1", "sha256"] = "sha256") -> Thumbprint:
        """The end entity's thumbprint."""
        return Thumbprint.of(self.end_entity, algorithm)


@dataclass(frozen=True, slots=True, repr=False)
class TrustBundle:
    """Trust anchors (roots or intermediates: a path may end at any of them) and intermediates that help to find a path.

    `as_of` is when its source was last known to say so; `version` (hexadecimal SHA-256) is a function of the
    certificates.
    """

    anchors: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...] = ()
    as_of: datetime = field(kw_only=True)
    version: str = field(init=False, compare=False)
    store: Store | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchors", tuple(dict.fromkeys(self.anchors)))
        object.__setattr__(self, "intermediates", tuple(dict.fromkeys(self.intermediates)))
        object.__setattr__(self, "version", _version(self.anchors, self.intermediates))
        object.__setattr__(self, "store", Store(list(self.anchors)) if self.anchors else None)

    @classmethod
    def from_pem(cls, anchors: bytes | str, as_of: datetime, *, intermediates: bytes | str = b"") -> TrustBundle:
        """A bundle from PEM files; an empty file is an empty list. Raises ChainError."""
        held = (pem.encode() if isinstance(pem, str) else pem for pem in (anchors, intermediates))
        parsed = [_parse(pem) if pem.strip() else () for pem in held]
        return cls(parsed[0], parsed[1], as_of=as_of)

    def with_(
        self,
        *,
        anchors: Iterable[x509.Certificate] = (),
        intermediates: Iterable[x509.Certificate] = (),
        as_of: datetime | None = None,
    ) -> TrustBundle:
        """A new bundle that holds these certificates too."""
        return TrustBundle(
            (*self.anchors, *anchors),
            (*self.intermediates, *intermediates),
            as_of=self.as_of if as_of is None else as_of,
        )

    def pem(self) -> str:
        """The anchors, for a file that another program reads as its trust store."""
        return _to_pem(self.anchors)

    def __repr__(self) -> str:
        held = f"{len(self.anchors)} anchors, {len(self.intermediates)} intermediates"
        return f"TrustBundle({held}, version={self.version[:12]}, as_of={self.as_of.isoformat()})"


def _version(*groups: tuple[x509.Certificate, ...]) -> str:
    whole = hashlib.sha256()
    for group in groups:
        for digest in sorted(Thumbprint.of(certificate).digest for certificate in group):
            whole.update(digest)
        whole.update(b"|")  # a separator, so that moving a certificate from one group to the other changes the version
    return whole.hexdigest()


def key_matches(chain: Chain, handle: KeyHandle) -> None:
    """Raises IntegrityError (`key-certificate-mismatch`) unless the end entity certifies this key."""
    try:
        certified = chain.end_entity.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        certified = b""  # a key that cannot even be read is not the handle's
    if certified != public_der(handle.public_key()):
        raise IntegrityError(
            f"key {handle.key_id!r} does not belong to the certificate {chain.end_entity.subject.rfc4514_string()!r}",
            reason="key-certificate-mismatch",
            fix="use the key that the certificate was requested with, or request a new certificate",
        )


def load_system_bundle(now: datetime, environment: Mapping[str, str] | None = None) -> TrustBundle:
    """The machine's trust store. `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the system's file and directories, as in
    OpenSSL.

    Certificates that cannot be read are left out, since one odd root must not take all others with it. Raises
    ConfigError (`trust-store-unreadable`) if a place that the environment names cannot be read.
    """
    settings = os.environ if environment is None else environment
    if named := [settings[name] for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if settings.get(name)]:
        places = [Path(part) for name in named for part in name.split(os.pathsep)]
        return TrustBundle(tuple(_read_named(places)), as_of=now)
    for place in (*_SYSTEM_FILES, *_SYSTEM_DIRECTORIES):
        if found := tuple(_read_place(place)):
            return TrustBundle(found, as_of=now)
    return TrustBundle((), as_of=now)


def _read_named(places: Iterable[Path]) -> list[x509.Certificate]:
    found: list[x509.Certificate] = []
    for place in places:
        try:
            found += _read_place(place, missing_ok=False)
        except OSError as error:
            raise ConfigError(
                f"the trust store {place} cannot be read: {error.strerror}",
                reason="trust-store-unreadable",
                fix="correct or unset SSL_CERT_FILE and SSL_CERT_DIR",
            ) from error
    return found


def _read_place(place: Path, *, missing_ok: bool = True) -> list[x509.Certificate]:
    if place.is_dir():
        hashed = sorted(entry for entry in place.iterdir() if _HASHED_NAME.fullmatch(entry.name))
        return [certificate for entry in hashed for certificate in _read_place(entry)]
    if missing_ok and not place.is_file():
        return []
    with place.open("rb") as file:
        content = file.read(limits.SYSTEM_BUNDLE_BYTES)
    return [certificate for block in _PEM_BLOCK.findall(content) for certificate in _readable(block)]


def _readable(block: bytes) -> list[x509.Certificate]:
    accept_oddities()
    try:
        return [x509.load_pem_x509_certificate(block)]
    except (ValueError, x509.InvalidVersion):
        return []
