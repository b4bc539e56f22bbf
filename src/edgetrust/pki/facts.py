"""What one certificate says, read once: the facts that path validation asks for, in plain types. Judges nothing.

A certificate whose extensions, names or key cannot be decoded still yields facts; `unreadable` or `key_fault` then says
what is wrong with it. Results are kept for a while, since a fleet's chains share their intermediates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ObjectIdentifier

from edgetrust import limits
from edgetrust.pki.keys import key_fault
from edgetrust.pki.names import IpAddress

T = TypeVar("T")
E = TypeVar("E", bound=x509.ExtensionType)

_UNREADABLE: Final = (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
_PROCESSED: Final = (  # extensions that path validation acts upon, or that cannot restrict it whatever they say
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.NameConstraints,
    x509.SubjectKeyIdentifier,
    x509.AuthorityKeyIdentifier,
    x509.CertificatePolicies,
)
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, slots=True)
class Facts:
    """One certificate in plain types. `key_usage` holds RFC 5280's names in snake case; None means the extension is
    absent.
    """

    certificate: x509.Certificate
    subject: str
    issuer: str
    subject_der: bytes
    issuer_der: bytes
    not_before: datetime
    not_after: datetime
    is_ca: bool
    path_length: int | None
    key_usage: frozenset[str] | None
    eku: frozenset[ObjectIdentifier] | None
    key_id: bytes | None
    authority_key_id: bytes | None
    dns: tuple[str, ...]
    ips: tuple[IpAddress, ...]
    has_san: bool
    constrains_names: bool
    unknown_critical: tuple[str, ...]
    key_fault: str | None
    signature_fault: str | None
    unreadable: str | None

    @property
    def self_issued(self) -> bool:
        return self.subject_der == self.issuer_der and not self.unreadable


@lru_cache(maxsize=limits.CERTIFICATES_READ_KEPT)
def read(certificate: x509.Certificate) -> Facts:
    """The facts of a CA's certificate, kept for the next chain that holds it. Never raises."""
    return read_once(certificate)


def read_once(certificate: x509.Certificate) -> Facts:
    """The facts of a certificate that few will ask for again, such as an end entity's. Never raises."""
    extensions, trouble = _attempt(lambda: certificate.extensions, x509.Extensions([]))
    subject, odd_subject = _attempt(lambda: _name(certificate.subject), ("(unreadable name)", b""))
    issuer, odd_issuer = _attempt(lambda: _name(certificate.issuer), ("(unreadable name)", b""))
    constraints = _value(extensions, x509.BasicConstraints)
    eku = _value(extensions, x509.ExtendedKeyUsage)
    key_id = _value(extensions, x509.SubjectKeyIdentifier)
    authority = _value(extensions, x509.AuthorityKeyIdentifier)
    alternative = _value(extensions, x509.SubjectAlternativeName)
    unknown = (e.oid.dotted_string for e in extensions if e.critical and not isinstance(e.value, _PROCESSED))
    return Facts(
        certificate=certificate,
        subject=subject[0],
        issuer=issuer[0],
        subject_der=subject[1],
        issuer_der=issuer[1],
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        is_ca=constraints is not None and constraints.ca,
        path_length=None if constraints is None else constraints.path_length,
        key_usage=_key_usage(_value(extensions, x509.KeyUsage)),
        eku=None if eku is None else frozenset(eku),
        key_id=None if key_id is None else key_id.digest,
        authority_key_id=None if authority is None else authority.key_identifier,
        dns=() if alternative is None else tuple(alternative.get_values_for_type(x509.DNSName)),
        ips=() if alternative is None else _addresses(alternative),
        has_san=alternative is not None,
        constrains_names=_value(extensions, x509.NameConstraints) is not None,
        unknown_critical=tuple(unknown),
        key_fault=_key_fault(certificate),
        signature_fault=_signature_fault(certificate),
        unreadable=trouble or odd_subject or odd_issuer,
    )


def _attempt(reading: Callable[[], T], instead: T) -> tuple[T, str | None]:
    try:
        return reading(), None
    except _UNREADABLE as error:
        return instead, str(error) or type(error).__name__


def _name(name: x509.Name) -> tuple[str, bytes]:
    return name.rfc4514_string() or "(empty subject)", name.public_bytes()


def _value(extensions: x509.Extensions, kind: type[E]) -> E | None:
    return next((extension.value for extension in extensions if isinstance(extension.value, kind)), None)


def _addresses(alternative: x509.SubjectAlternativeName) -> tuple[IpAddress, ...]:
    addresses = alternative.get_values_for_type(x509.IPAddress)
    return tuple(ip for ip in addresses if isinstance(ip, IPv4Address | IPv6Address))


def _key_usage(usage: x509.KeyUsage | None) -> frozenset[str] | None:
    if usage is None:
        return None
    names = ("digital_signature", "key_encipherment", "key_agreement", "key_cert_sign", "crl_sign")
    return frozenset(name for name in names if getattr(usage, name))


def _key_fault(certificate: x509.Certificate) -> str | None:
    try:
        return key_fault(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm) as error:
        return f"its public key cannot be used: {error}"


def _signature_fault(certificate: x509.Certificate) -> str | None:
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        algorithm = None
    if isinstance(algorithm, _HASHES):
        return None
    return f"it is signed with {'an unsupported algorithm' if algorithm is None else algorithm.name}"
