"""Certificate signing requests (PKCS#10, RFC 2986): building ours, and reading a peer's into checked values.

Rules. A parsed CSR has a valid signature (proof of possession) by a key fit for use. What it asks for is only a wish:
the names and extensions are reported, never granted here. libest's requests carry attributes that cannot be decoded;
their extensions count as absent and everything else still holds. Must not know policies or profiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AttributeOID, NameOID

from edgetrust import limits
from edgetrust.errors import PeerError
from edgetrust.pki.keys import KeyHandle, PublicKey, key_fault, signing_key
from edgetrust.pki.names import Names
from edgetrust.pki.oddities import accept_oddities

E = TypeVar("E", bound=x509.ExtensionType)


class CsrError(PeerError):
    """The request cannot be used. Reasons: `not-a-csr`, `bad-signature`, `weak-signature`, `weak-key`, `too-large`."""


@dataclass(frozen=True, slots=True)
class Csr:
    """A request with a verified signature. `dns`, `ips` and `uris` come from the requested SAN, in its order."""

    der: bytes
    subject: x509.Name
    public_key: PublicKey
    extensions: tuple[x509.Extension[x509.ExtensionType], ...]
    challenge_password: bytes | None

    @property
    def common_name(self) -> str | None:
        """The one common name of the subject; None if there is none or more than one."""
        found = self.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(found[0].value) if len(found) == 1 else None

    @property
    def dns(self) -> tuple[str, ...]:
        found = self.alternative
        return () if found is None else tuple(found.get_values_for_type(x509.DNSName))

    @property
    def ips(self) -> tuple[str, ...]:
        found = self.alternative
        return () if found is None else tuple(str(ip) for ip in found.get_values_for_type(x509.IPAddress))

    @property
    def uris(self) -> tuple[str, ...]:
        found = self.alternative
        return () if found is None else tuple(found.get_values_for_type(x509.UniformResourceIdentifier))

    @property
    def alternative(self) -> x509.SubjectAlternativeName | None:
        """The subject alternative name that is asked for."""
        return self.find(x509.SubjectAlternativeName)

    def find(self, kind: type[E]) -> E | None:
        """The value of an extension that is asked for."""
        found: E | None = next((one.value for one in self.extensions if type(one.value) is kind), None)
        return found

    def pem(self) -> str:
        """The request as PEM text."""
        return x509.load_der_x509_csr(self.der).public_bytes(serialization.Encoding.PEM).decode("ascii")


def build_csr(
    handle: KeyHandle,
    names: Names,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    *,
    challenge_password: str | None = None,
) -> bytes:
    """A CSR as PEM. The SAN comes from `names`; further extensions are (value, critical) pairs.

    `challenge_password` is what EST uses to link the proof of possession to the connection (RFC 7030, 3.5).
    """
    alternative = names.alternative()
    san = () if alternative is None else ((alternative, False),)
    return request_for(handle, names.subject(), (*san, *extensions), challenge_password=challenge_password)


def request_for(
    handle: KeyHandle,
    subject: x509.Name,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    *,
    challenge_password: str | None = None,
) -> bytes:
    """A CSR as PEM for any subject; otherwise as `build_csr`."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    if challenge_password is not None:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge_password.encode())
    return builder.sign(signing_key(handle), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def renewal_csr(
    handle: KeyHandle,
    certificate: x509.Certificate,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
) -> bytes:
    """A CSR (PEM) that asks for the same subject and SAN as `certificate`: what a server compares (RFC 7030, 4.2.2)."""
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return request_for(handle, certificate.subject, extensions)
    return request_for(handle, certificate.subject, ((alternative.value, alternative.critical), *extensions))


def parse_csr(data: bytes, instead: PublicKey | None = None) -> Csr:
    """A CSR from PEM or DER. Raises CsrError.

    `instead`: the key that the certificate is to have; the CSR's own key and signature are then ignored, as EST's
    serverkeygen demands (RFC 7030, 4.4.1).
    """
    if len(data) > limits.PEM_BYTES:
        raise CsrError(f"a CSR of {len(data)} bytes", reason="too-large", status=413)
    accept_oddities()
    pem = data.lstrip().startswith(b"-----BEGIN")
    try:
        request = x509.load_pem_x509_csr(data) if pem else x509.load_der_x509_csr(data)
        subject = request.subject
        subject.rfc4514_string()
    except (ValueError, x509.InvalidVersion) as error:
        raise CsrError(f"not a PKCS#10 request: {error}", reason="not-a-csr") from error
    key = _proven_key(request) if instead is None else instead
    der = request.public_bytes(serialization.Encoding.DER)
    return Csr(der, subject, key, _extensions(request), _challenge_password(request))


def _proven_key(request: x509.CertificateSigningRequest) -> PublicKey:
    key = _fit_key(request)
    if _signature_is_weak(request):
        raise CsrError("the request is signed with SHA-1 or MD5", reason="weak-signature")
    if not request.is_signature_valid:
        raise CsrError("the signature does not fit the public key", reason="bad-signature")
    return key


def _fit_key(request: x509.CertificateSigningRequest) -> PublicKey:
    try:
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CsrError(f"the public key cannot be used: {error}", reason="weak-key") from error
    fault = key_fault(key)
    if fault is not None or not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise CsrError(f"the public key cannot be used: {fault}", reason="weak-key")
    return key


def _signature_is_weak(request: x509.CertificateSigningRequest) -> bool:
    try:
        return isinstance(request.signature_hash_algorithm, hashes.SHA1 | hashes.MD5)
    except UnsupportedAlgorithm:  # then its signature is not valid either
        return False


def _extensions(request: x509.CertificateSigningRequest) -> tuple[x509.Extension[x509.ExtensionType], ...]:
    try:
        return tuple(request.extensions)
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return ()


def _challenge_password(request: x509.CertificateSigningRequest) -> bytes | None:
    try:
        return request.attributes.get_attribute_for_oid(AttributeOID.CHALLENGE_PASSWORD).value
    except (ValueError, x509.AttributeNotFound):
        return None
