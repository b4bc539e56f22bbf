"""Certificates as the command line describes them: read from files, put into words and into JSON.

Nothing is judged here; a certificate that no verifier would take is described like any other. Whatever of it cannot be
read is said to be unreadable.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from edgetrust.cli.output import duration, iso, utc
from edgetrust.errors import UsageError
from edgetrust.limits import PEM_BYTES
from edgetrust.pki.chain import Chain, ChainError, Thumbprint

_KEY_USAGES = (
    ("digital_signature", "digitalSignature"),
    ("content_commitment", "nonRepudiation"),
    ("key_encipherment", "keyEncipherment"),
    ("data_encipherment", "dataEncipherment"),
    ("key_agreement", "keyAgreement"),
    ("key_cert_sign", "keyCertSign"),
    ("crl_sign", "cRLSign"),
)
_EXTENDED = {
    "1.3.6.1.5.5.7.3.1": "serverAuth",
    "1.3.6.1.5.5.7.3.2": "clientAuth",
    "1.3.6.1.5.5.7.3.4": "emailProtection",
    "1.3.6.1.5.5.7.3.9": "OCSPSigning",
    "1.3.6.1.5.5.7.3.28": "cmcRA",
    "2.5.29.37.0": "any",
}


def read_file(path: Path) -> bytes:
    """The bytes of a file that the user named, at most PEM_BYTES. Raises UsageError."""
    try:
        with path.open("rb") as file:
            content = file.read(PEM_BYTES + 1)
    except OSError as problem:
        raise UsageError(f"{path} cannot be read: {problem.strerror}", reason="file-unreadable") from problem
    if len(content) > PEM_BYTES:
        raise UsageError(
            f"{path} has more than {PEM_BYTES} bytes: that is no certificate file", reason="file-too-large"
        )
    return content


def read_chain(path: Path) -> Chain:
    """The certificates of a PEM or DER file. Raises UsageError."""
    content = read_file(path)
    try:
        return Chain.from_pem(content) if b"-----BEGIN" in content else Chain.from_der([content])
    except ChainError as problem:
        raise UsageError(
            f"{path} holds no certificate: {problem.message}",
            reason="file-not-a-certificate",
            fix="name a certificate file in PEM or DER form",
        ) from problem


def describe(certificate: x509.Certificate, now: datetime) -> dict[str, Any]:
    """Everything that `cert show` says of one certificate, for JSON."""
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "selfIssued": certificate.subject == certificate.issuer,
        "serial": f"{certificate.serial_number:X}",
        "notBefore": iso(certificate.not_valid_before_utc),
        "notAfter": iso(certificate.not_valid_after_utc),
        "status": status(certificate, now),
        "validFor": validity(certificate, now),
        "key": key_kind(certificate),
        "signature": _signature(certificate),
        "ca": _extension(certificate, x509.BasicConstraints, lambda value: value.ca) is True,
        "pathLength": _extension(certificate, x509.BasicConstraints, lambda value: value.path_length),
        "keyUsage": _extension(certificate, x509.KeyUsage, _key_usage) or [],
        "extendedKeyUsage": _extension(certificate, x509.ExtendedKeyUsage, _extended) or [],
        "subjectAlternativeName": _extension(certificate, x509.SubjectAlternativeName, _alternative) or [],
        "thumbprint": {
            "sha1": Thumbprint.of(certificate, "sha1").openssl(),
            "sha256": Thumbprint.of(certificate, "sha256").openssl(),
        },
    }


def facts(certificate: x509.Certificate, now: datetime) -> list[tuple[str, str]]:
    """The same as aligned lines for people."""
    known = describe(certificate, now)
    begin, end = utc(certificate.not_valid_before_utc), utc(certificate.not_valid_after_utc)
    room = "" if known["pathLength"] is None else f", CAs allowed below it: {known['pathLength']}"
    return [
        ("subject", known["subject"]),
        ("issuer", known["issuer"] + (" (self-issued)" if known["selfIssued"] else "")),
        ("serial", known["serial"]),
        ("dates", f"{begin} to {end}"),
        ("status", known["validFor"]),
        ("key", f"{known['key']}, signed with {known['signature']}"),
        ("CA", f"yes{room}" if known["ca"] else "no"),
        ("key usage", ", ".join(known["keyUsage"])),
        ("extended", ", ".join(known["extendedKeyUsage"])),
        ("SAN", ", ".join(known["subjectAlternativeName"])),
        ("SHA-1", known["thumbprint"]["sha1"]),
        ("SHA-256", known["thumbprint"]["sha256"]),
    ]


def status(certificate: x509.Certificate, now: datetime) -> str:
    """`valid`, `expired` or `not-yet-valid`."""
    if now > certificate.not_valid_after_utc:
        return "expired"
    return "not-yet-valid" if now < certificate.not_valid_before_utc else "valid"


def validity(certificate: x509.Certificate, now: datetime) -> str:
    """`valid for 28 days 3 h`, `EXPIRED 3 days ago`, `NOT YET VALID, begins in 2 h`."""
    match status(certificate, now):
        case "expired":
            return f"EXPIRED {duration(now - certificate.not_valid_after_utc)} ago"
        case "not-yet-valid":
            return f"NOT YET VALID, begins in {duration(certificate.not_valid_before_utc - now)}"
        case _:
            return f"valid for {duration(certificate.not_valid_after_utc - now)}"


def key_kind(certificate: x509.Certificate) -> str:
    """`EC P-256`, `RSA 2048`, or what it is instead."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as problem:
        return f"unreadable ({problem})"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name.replace('secp', 'P-').removesuffix('r1')}"
    return f"RSA {key.key_size}" if isinstance(key, rsa.RSAPublicKey) else type(key).__name__.removesuffix("PublicKey")


def _signature(certificate: x509.Certificate) -> str:
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return certificate.signature_algorithm_oid.dotted_string
    return algorithm.name.upper() if algorithm is not None else certificate.signature_algorithm_oid.dotted_string


def _extension(certificate: x509.Certificate, kind: Any, read: Callable[[Any], Any]) -> Any:
    """What `read` makes of the extension; None when it is absent."""
    try:
        return read(certificate.extensions.get_extension_for_class(kind).value)
    except x509.ExtensionNotFound:
        return None
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return ["unreadable"] if kind is not x509.BasicConstraints else None


def _key_usage(value: x509.KeyUsage) -> list[str]:
    return [shown for name, shown in _KEY_USAGES if getattr(value, name)]


def _extended(value: x509.ExtendedKeyUsage) -> list[str]:
    return [_EXTENDED.get(oid.dotted_string, oid.dotted_string) for oid in value]


def _alternative(value: x509.SubjectAlternativeName) -> list[str]:
    return [_general_name(name) for name in value]


def _general_name(name: x509.GeneralName) -> str:
    match name:
        case x509.DNSName(value=value):
            return f"DNS:{value}"
        case x509.IPAddress(value=value):
            return f"IP:{value}"
        case x509.UniformResourceIdentifier(value=value):
            return f"URI:{value}"
        case x509.RFC822Name(value=value):
            return f"email:{value}"
        case _:
            return type(name).__name__
