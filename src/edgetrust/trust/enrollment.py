"""Enrollments: what the provisioning service knows of devices before they register, read for a decision.

An individual enrollment is for one registration identifier; a group is for all devices that hold a key derived from the
group's, or a certificate below one of its CAs. `Groups` is all groups at one moment, with the CA certificates that make
their certificates count: a group's signing certificate counts when it, or a CA above it, is verified.

It must not know where enrollments are stored, nor hubs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import assert_never

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust.pki.chain import Chain, ChainError, TrustBundle
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.verify import ChainFailure, Purpose, VerifiedChain, verify_chain
from edgetrust.protocol.dps.enrollments import Certificates, Enrollment, Kind, Tpm, bad, decoded
from edgetrust.protocol.sas import decode_key
from edgetrust.trust.registration import SasKeys


@dataclass(frozen=True, slots=True)
class SymmetricKeys:
    """The device's own keys, or the group's, from which those of its devices are derived."""

    keys: SasKeys


@dataclass(frozen=True, slots=True)
class ClientCertificates:
    """The very certificates that the device may show."""

    primary: x509.Certificate
    secondary: x509.Certificate | None


@dataclass(frozen=True, slots=True)
class SigningCertificates:
    """CAs, below which a device's certificate may lie."""

    primary: x509.Certificate
    secondary: x509.Certificate | None


@dataclass(frozen=True, slots=True)
class CaNames:
    """CA certificates of this service by their names."""

    primary: str
    secondary: str | None


@dataclass(frozen=True, slots=True)
class TpmPublic:
    """The public areas of the TPM's keys."""

    endorsement: bytes
    storage_root: bytes | None


Attestation = SymmetricKeys | ClientCertificates | SigningCertificates | CaNames | TpmPublic


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An enrollment and how its devices prove themselves. `body` is what the operator wrote."""

    body: Enrollment = field(repr=False)
    attestation: Attestation = field(repr=False)

    @classmethod
    def of(cls, body: Enrollment) -> Enrolled:
        """Read the attestation of a body whose form was checked. Raises DpsError 400."""
        return cls(body, _attestation(body))

    @property
    def kind(self) -> Kind:
        return self.body.kind

    @property
    def name(self) -> str:
        return self.body.name

    @property
    def enabled(self) -> bool:
        return self.body.provisioning_status == "enabled"

    def __str__(self) -> str:
        return f"{'enrollment' if self.kind == 'individual' else 'group'} {self.name}"


def _attestation(body: Enrollment) -> Attestation:
    said = body.attestation
    if said.symmetric_key is not None:
        keys = said.symmetric_key
        return SymmetricKeys(SasKeys(_key(keys.primary_key), _key(keys.secondary_key)))
    if said.tpm is not None:
        return _tpm(said.tpm)
    held = said.x509
    if held is None:
        raise bad("the attestation says nothing")
    if held.ca_references is not None:
        return CaNames(held.ca_references.primary or "", held.ca_references.secondary)
    if held.client_certificates is not None:
        return ClientCertificates(*_pair(held.client_certificates))
    primary, secondary = _pair(held.signing_certificates or Certificates())
    for certificate in (primary, secondary):
        if certificate is not None and not is_ca(certificate):
            raise bad(f"{_subject(certificate)!r} is no CA certificate", "certificate-not-a-ca")
    return SigningCertificates(primary, secondary)


def _key(text: str | None) -> SecretBytes:
    return SecretBytes(decode_key(text or ""))


def _tpm(tpm: Tpm) -> TpmPublic:
    return TpmPublic(
        decoded(tpm.endorsement_key), None if tpm.storage_root_key is None else decoded(tpm.storage_root_key)
    )


def _pair(pair: Certificates) -> tuple[x509.Certificate, x509.Certificate | None]:
    first = None if pair.primary is None else pair.primary.certificate
    second = None if pair.secondary is None else pair.secondary.certificate
    if first is None:
        raise bad("the primary certificate is missing")
    return read_certificate(first), None if second is None else read_certificate(second)


def read_certificate(text: str) -> x509.Certificate:
    """PEM text, base64 of PEM, or base64 of DER. Raises DpsError 400."""
    data = text.encode() if text.lstrip().startswith("-----BEGIN") else decoded(text)
    try:
        return (Chain.from_pem(data) if b"-----BEGIN" in data else Chain.from_der((data,))).end_entity
    except ChainError as problem:
        raise bad("a certificate is neither PEM nor base64 of DER", "certificate-malformed") from problem


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether the certificate says that it is a CA's."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


# Groups -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CaEntry:
    """A CA certificate of the service."""

    name: str
    certificate: x509.Certificate
    verified: bool


@dataclass(frozen=True, slots=True)
class Anchor:
    """A certificate that belongs to a group."""

    group: Enrolled
    certificate: x509.Certificate


class Groups:
    """All groups at one moment: `symmetric` by name, certificates by what they are good for.

    `trusted` ends the paths of devices; `unverified` are CAs that nobody has proven possession of, of groups or of the
    service; `ungrouped` are verified CAs that no group names.
    """

    def __init__(self, groups: Sequence[Enrolled], authorities: Sequence[CaEntry], now: datetime) -> None:
        self.as_of = now
        named = {entry.name: entry for entry in authorities}
        verified = TrustBundle(tuple(e.certificate for e in authorities if e.verified), as_of=now)
        self.symmetric = tuple(group for group in groups if isinstance(group.attestation, SymmetricKeys))
        anchors = [Anchor(group, one) for group in groups for one in _certificates(group, named)]
        counts = {anchor.certificate: _counts(anchor.certificate, verified, now) for anchor in anchors}
        self._groups = {
            anchor.certificate.public_bytes(Encoding.DER): anchor.group for anchor in reversed(anchors)
        }  # of two groups with one certificate the first by name has it
        trusted = [anchor.certificate for anchor in anchors if counts[anchor.certificate]]
        unverified = [anchor.certificate for anchor in anchors if not counts[anchor.certificate]]
        self.trusted = TrustBundle(tuple(trusted), as_of=now)
        self.unverified = TrustBundle((*unverified, *(e.certificate for e in authorities if not e.verified)), as_of=now)
        self.ungrouped = TrustBundle(tuple(one for one in verified.anchors if one not in set(trusted)), as_of=now)

    def of(self, path: Sequence[x509.Certificate]) -> Enrolled | None:
        """The group of the first certificate on the way up that belongs to one."""
        found = (self._groups.get(certificate.public_bytes(Encoding.DER)) for certificate in path)
        return next((group for group in found if group is not None), None)


def _certificates(group: Enrolled, named: dict[str, CaEntry]) -> list[x509.Certificate]:
    match group.attestation:
        case SigningCertificates(primary, secondary):
            return [one for one in (primary, secondary) if one is not None]
        case CaNames(first, second):
            return [named[name].certificate for name in (first, second) if name is not None and name in named]
        case SymmetricKeys() | ClientCertificates() | TpmPublic():
            return []
        case _:
            assert_never(group.attestation)


def _counts(certificate: x509.Certificate, verified: TrustBundle, now: datetime) -> bool:
    """Whether the certificate is a verified CA, or lies below one."""
    if certificate in verified.anchors:
        return True
    match verify_chain(Chain((certificate,)), verified, Purpose.CA, now):
        case VerifiedChain():
            return True
        case ChainFailure():
            return False
        case other:
            assert_never(other)


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()
