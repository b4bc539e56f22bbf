"""What one certificate says, read once: the facts that path validation asks for, in plain types. Judges nothing.

A certificate whose extensions, names or key cannot be decoded still yields facts; `unreadable` or `key_fault` then says
what is wrong with it. Results are kept for a while, since a fleet's chains share their intermediates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ObjectIdentifier

from edgetrust import limits
from edgetrust.pki.keys import key_fault
from edgetrust.pki.names import IpAddress

T = TypeVar("T")
E = TypeVar("E", bound=x509.ExtensionType)

_UNREADABLE_NAME: Final = "(unreadable name)"
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


@dataclass(frozen=True)
class Facts:
    """One certificate in plain types. `key_usage` holds RFC 5280's names in snake case; None means the extension is
    absent. Names are written out when somebody asks for them: most certificates are fine and need no words.
    """

    certificate: x509.Certificate
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

    @cached_property
    def subject(self) -> str:
        return _attempt(lambda: _text(self.certificate.subject), _UNREADABLE_NAME)[0]

    @cached_property
    def issuer(self) -> str:
        return _attempt(lambda: _text(self.certificate.issuer), _UNREADABLE_NAME)[0]

    @cached_property
    def subject_der(self) -> bytes:
        return _attempt(lambda: _encoded(self.certificate.subject), b"")[0]

    @cached_property
    def issuer_der(self) -> bytes:
        return _attempt(lambda: _encoded(self.certificate.issuer), b"")[0]

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
    _, odd_name = _attempt(lambda: (certificate.subject, certificate.issuer), None)
    present = _Extensions(extensions)
    constraints = present.value(x509.BasicConstraints)
    eku = present.value(x509.ExtendedKeyUsage)
    key_id = present.value(x509.SubjectKeyIdentifier)
    authority = present.value(x509.AuthorityKeyIdentifier)
    alternative = present.value(x509.SubjectAlternativeName)
    return Facts(
        certificate=certificate,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        is_ca=constraints is not None and constraints.ca,
        path_length=None if constraints is None else constraints.path_length,
        key_usage=_key_usage(present.value(x509.KeyUsage)),
        eku=None if eku is None else frozenset(eku),
        key_id=None if key_id is None else key_id.digest,
        authority_key_id=None if authority is None else authority.key_identifier,
        dns=() if alternative is None else tuple(alternative.get_values_for_type(x509.DNSName)),
        ips=() if alternative is None else _addresses(alternative),
        has_san=alternative is not None,
        constrains_names=present.value(x509.NameConstraints) is not None,
        unknown_critical=tuple(present.unknown_critical),
        key_fault=_key_fault(certificate),
        signature_fault=_signature_fault(certificate),
        unreadable=trouble or odd_name,
    )


class _Extensions:
    """Extensions by their kind; a certificate that has one twice cannot be read at all."""

    def __init__(self, extensions: x509.Extensions) -> None:
        self._values: dict[type, Any] = {}
        self.unknown_critical: list[str] = []
        for extension in extensions:
            value = extension.value
            self._values[type(value)] = value
            if extension.critical and not isinstance(value, _PROCESSED):
                self.unknown_critical.append(extension.oid.dotted_string)

    def value(self, kind: type[E]) -> E | None:
        found: E | None = self._values.get(kind)
        return found


def _attempt(reading: Callable[[], T], instead: T) -> tuple[T, str | None]:
    try:
        return reading(), None
    except _UNREADABLE as error:
        return instead, str(error) or type(error).__name__


def _text(name: x509.Name) -> str:
    return name.rfc4514_string() or "(empty subject)"


def _encoded(name: x509.Name) -> bytes:
    return name.public_bytes()


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
