"""The independent check of what was issued: does a certificate say exactly what its profile demands, and does it fit
its issuer?

Rules: RFC 5280's for every certificate (version, serial number, dates, signature, names, key identifiers, criticality),
then the profile's (basic constraints, key usage, extended key usage, SAN, validity, no extension beyond it), then the
issuer's (name, signature, path length, key usage, dates). It reads the finished DER and shares no code with `issue`;
every finding is a reason not to let the certificate out. Must not repair anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from edgetrust.pki.keys import key_fault
from edgetrust.pki.names import COMMON_NAME_CHARACTERS, dns_fault
from edgetrust.pki.profiles import Profile, SanRule

E = TypeVar("E", bound=x509.ExtensionType)

_SERIAL_OCTETS: Final = 20
_SERIAL_LEAST_BITS: Final = 64  # of randomness; a generator of 159 bits yields fewer about once in 2**95 certificates
_UNREADABLE: Final = (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
_STRONG: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_NEVER_CRITICAL: Final = frozenset[type](
    (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier, x509.ExtendedKeyUsage)
)
_ALLOWED_BESIDE: Final = frozenset[type]((x509.CRLDistributionPoints, x509.AuthorityInformationAccess))
_ALLOWED: Final = _ALLOWED_BESIDE | {
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.SubjectKeyIdentifier,
    x509.AuthorityKeyIdentifier,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
}
_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that a certificate breaks: a stable slug and a sentence."""

    rule: str
    detail: str


# Extensions by the class of their value. Looking one up by `isinstance` costs more than all rules together: the classes
# are abstract ones.
_ByKind = Mapping[type, x509.Extension[Any]]


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a rule looks at. `issuer` is the certificate itself if it is self-signed."""

    certificate: x509.Certificate
    extensions: _ByKind
    profile: Profile
    issuer: x509.Certificate
    issuer_extensions: _ByKind
    now: datetime
    subject: x509.Name

    @property
    def self_signed(self) -> bool:
        return self.issuer is self.certificate

    def find(self, kind: type[E]) -> x509.Extension[E] | None:
        return _find(self.extensions, kind)


def lint(
    certificate: x509.Certificate, profile: Profile, issuer: x509.Certificate | None, now: datetime
) -> tuple[Finding, ...]:
    """Every rule that the certificate breaks; empty if it may go out. `issuer` None means self-signed. Never raises."""
    signer = certificate if issuer is None else issuer
    try:
        own, above = _by_kind(certificate.extensions), _by_kind(signer.extensions)
        subject = _Subject(certificate, own, profile, signer, above, now, certificate.subject)
        return tuple(finding for rule in _RULES for finding in rule(subject))
    except (*_UNREADABLE, UnsupportedAlgorithm) as error:
        return (Finding("unreadable", f"it cannot be read: {error}"),)


def _by_kind(extensions: x509.Extensions) -> _ByKind:
    """Those that nobody here knows have one class in common and are told apart by none of the rules."""
    return {type(extension.value): extension for extension in extensions}


def _find(extensions: _ByKind, kind: type[E]) -> x509.Extension[E] | None:
    return extensions.get(kind)


# What RFC 5280 asks of every certificate ------------------------------------------------------------------------------


def _form(s: _Subject) -> Iterator[Finding]:
    if s.certificate.version is not x509.Version.v3:
        yield Finding("version", "it is not an X.509 version 3 certificate")
    serial = s.certificate.serial_number
    if serial <= 0 or serial.bit_length() > 8 * _SERIAL_OCTETS - 1:
        yield Finding("serial", f"the serial number is not positive or longer than {_SERIAL_OCTETS} octets")
    elif serial.bit_length() < _SERIAL_LEAST_BITS:
        yield Finding("serial", f"the serial number has only {serial.bit_length()} bits and may be guessed")


def _key_and_signature(s: _Subject) -> Iterator[Finding]:
    fault = key_fault(s.certificate.public_key())
    if fault is not None:
        yield Finding("key", fault)
    if not isinstance(s.certificate.signature_hash_algorithm, _STRONG):
        yield Finding("signature", "it is not signed with SHA-256 or stronger")
        return
    try:
        s.certificate.verify_directly_issued_by(s.issuer)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        yield Finding("signature", "the issuer's key did not sign it, or the issuer's name is another")


def _subject_name(s: _Subject) -> Iterator[Finding]:
    names = s.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) > 1:
        yield Finding("subject", "it has more than one common name")
    if any(not 0 < len(str(name.value).encode()) <= COMMON_NAME_CHARACTERS for name in names):
        yield Finding("subject", f"its common name has not 1 to {COMMON_NAME_CHARACTERS} bytes")
    if s.profile.is_ca and not names:
        yield Finding("subject", "a CA needs a common name")
    if not s.self_signed and s.subject == s.issuer.subject:
        yield Finding("subject", "it has its issuer's name, so that clients would see a loop")


def _subject_key_id(s: _Subject) -> Iterator[Finding]:
    found = s.find(x509.SubjectKeyIdentifier)
    if found is None:
        yield Finding("subject-key-id", "it has no subject key identifier")
    elif found.value.digest != _method_1(s.certificate):
        yield Finding("subject-key-id", "the subject key identifier is not the SHA-1 of its public key")


def _authority_key_id(s: _Subject) -> Iterator[Finding]:
    found = s.find(x509.AuthorityKeyIdentifier)
    if found is None:
        if not s.self_signed:
            yield Finding("authority-key-id", "it has no authority key identifier")
        return
    if found.value.authority_cert_issuer is not None or found.value.authority_cert_serial_number is not None:
        yield Finding(
            "authority-key-id", "it names its issuer's issuer and serial number, which strict verifiers refuse"
        )
    issuer_id = _find(s.issuer_extensions, x509.SubjectKeyIdentifier)
    wanted = _method_1(s.issuer) if issuer_id is None else issuer_id.value.digest
    if found.value.key_identifier != wanted:
        yield Finding("authority-key-id", "the authority key identifier is not the issuer's subject key identifier")


def _method_1(certificate: x509.Certificate) -> bytes:
    """RFC 5280, 4.2.1.2 (1): SHA-1 of the subjectPublicKey bit string, here taken from the SubjectPublicKeyInfo by
    hand.
    """
    info = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _, outer = _der_value(info)
    algorithm, _ = _der_value(outer)
    _, bits = _der_value(outer[algorithm:])
    return hashlib.sha1(bits[1:], usedforsecurity=False).digest()


def _der_value(data: bytes) -> tuple[int, bytes]:
    """The total length and the contents of the first DER element."""
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    return start + length, data[start : start + length]


# What the profile asks ------------------------------------------------------------------------------------------------


def _constraints(s: _Subject) -> Iterator[Finding]:
    found = s.find(x509.BasicConstraints)
    if found is None:
        yield Finding("basic-constraints", "it has no basic constraints")
        return
    if not found.critical:
        yield Finding("basic-constraints", "the basic constraints are not critical")
    if found.value.ca != s.profile.is_ca:
        yield Finding("basic-constraints", f"CA is {found.value.ca}, the profile says {s.profile.is_ca}")
    if found.value.path_length != s.profile.path_length:
        yield Finding("basic-constraints", f"path length {found.value.path_length}, not {s.profile.path_length}")


def _key_usage(s: _Subject) -> Iterator[Finding]:
    found = s.find(x509.KeyUsage)
    if found is None:
        yield Finding("key-usage", "it has no key usage")
        return
    if not found.critical:
        yield Finding("key-usage", "the key usage is not critical")
    has = {usage for usage in _USAGES if getattr(found.value, usage)}
    optional = {"key_encipherment"} if s.profile.rsa_key_encipherment and _is_rsa(s.certificate) else set()
    if has - optional != s.profile.key_usage:
        yield Finding("key-usage", f"{', '.join(sorted(has))}, not {', '.join(sorted(s.profile.key_usage))}")


def _is_rsa(certificate: x509.Certificate) -> bool:
    return certificate.public_key_algorithm_oid == x509.PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5


def _extended_key_usage(s: _Subject) -> Iterator[Finding]:
    found = s.find(x509.ExtendedKeyUsage)
    has = () if found is None else tuple(found.value)
    if has != s.profile.eku:
        wanted = ", ".join(oid.dotted_string for oid in s.profile.eku) or "none"
        yield Finding("extended-key-usage", f"{', '.join(oid.dotted_string for oid in has) or 'none'}, not {wanted}")


def _alternative_name(s: _Subject) -> Iterator[Finding]:
    found = s.find(x509.SubjectAlternativeName)
    if found is None:
        if s.profile.san is SanRule.REQUIRED or s.profile.uris:
            yield Finding("san", "it has no subject alternative name")
        return
    if s.profile.san is SanRule.FORBIDDEN:
        yield Finding("san", "its kind has no subject alternative name")
    if found.critical != (not list(s.subject)):
        yield Finding("san", "the subject alternative name is critical exactly if the subject is empty")
    if not list(found.value):
        yield Finding("san", "the subject alternative name is empty")
    for name in found.value.get_values_for_type(x509.DNSName):
        fault = dns_fault(name)
        if fault is not None:
            yield Finding("san", f"dNSName {name!r}: {fault}")
    absent = set(s.profile.uris) - set(found.value.get_values_for_type(x509.UniformResourceIdentifier))
    if absent:
        yield Finding("san", f"it lacks the URI {', '.join(sorted(absent))}")


def _extension_set(s: _Subject) -> Iterator[Finding]:
    extras = {type(extra) for extra in s.profile.extras}
    allowed = _ALLOWED | extras if not s.profile.is_ca else _ALLOWED | extras | {x509.NameConstraints}
    never_critical = _NEVER_CRITICAL | _ALLOWED_BESIDE | extras
    for kind, extension in s.extensions.items():
        if kind not in allowed:
            yield Finding("extension", f"extension {extension.oid.dotted_string} does not belong into its kind")
        elif extension.critical and kind in never_critical:
            yield Finding("extension", f"extension {extension.oid.dotted_string} must not be critical")
        elif not extension.critical and kind is x509.NameConstraints:
            yield Finding("extension", "name constraints must be critical")
    for extra in s.profile.extras:
        if s.find(type(extra)) is None:
            yield Finding("extension", f"extension {extra.oid.dotted_string} is missing")


def _validity(s: _Subject) -> Iterator[Finding]:
    begin, end = s.certificate.not_valid_before_utc, s.certificate.not_valid_after_utc
    if end <= begin:
        yield Finding("validity", "it ends before it begins")
    if end - begin > s.profile.max_validity + s.profile.backdate + timedelta(seconds=1):
        yield Finding("validity", f"{end - begin} is longer than {s.profile.max_validity}, the most for its kind")
    if end <= s.now:
        yield Finding("validity", "it has expired before it was issued")


# What the issuer allows -----------------------------------------------------------------------------------------------


def _issuer_may(s: _Subject) -> Iterator[Finding]:
    if s.self_signed:
        if not s.profile.self_signed:
            yield Finding("issuer", "its kind is not self-signed")
        return
    constraints = _find(s.issuer_extensions, x509.BasicConstraints)
    if constraints is None or not constraints.value.ca:
        yield Finding("issuer", "the issuer is not a CA")
        return
    usage = _find(s.issuer_extensions, x509.KeyUsage)
    if usage is not None and not usage.value.key_cert_sign:
        yield Finding("issuer", "the issuer's key usage does not allow signing certificates")
    if s.certificate.not_valid_after_utc > s.issuer.not_valid_after_utc:
        yield Finding("issuer", "it outlives its issuer")
    yield from _path_length(s, constraints.value.path_length)
    yield from _nesting(s)


def _path_length(s: _Subject, room: int | None) -> Iterator[Finding]:
    if room is None or not s.profile.is_ca:
        return
    own = s.profile.path_length
    if room == 0:
        yield Finding("path-length", "the issuer allows no CA below it")
    elif own is None or own >= room:
        yield Finding("path-length", f"it promises room for more CAs than its issuer's path length {room} leaves")


def _nesting(s: _Subject) -> Iterator[Finding]:
    limit = _find(s.issuer_extensions, x509.ExtendedKeyUsage)
    if limit is not None and not set(s.profile.eku) <= set(limit.value):
        yield Finding("issuer", "the issuer's extended key usage does not include its own")


_RULES: Final[tuple[Callable[[_Subject], Iterator[Finding]], ...]] = (
    _form,
    _key_and_signature,
    _subject_name,
    _subject_key_id,
    _authority_key_id,
    _constraints,
    _key_usage,
    _extended_key_usage,
    _alternative_name,
    _extension_set,
    _validity,
    _issuer_may,
)
