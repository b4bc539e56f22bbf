"""Signing what a CSR asks for, as the real certificate service does it for whoever may ask it.

Rules. Subject, public key and every extension come from the CSR, critical flags included; subject and life may be
overridden. A subject key identifier, and below an issuer that has one an authority key identifier, are added where the
CSR has none. Nothing outlives its issuer. Serial numbers are random (the real product writes 0, which is not a valid
serial number). Source: edge specification 3.3.

It must not know who may ask: that is decided before.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from edgetrust.errors import IntegrityError
from edgetrust.pki.chain import Chain
from edgetrust.pki.csr import Csr
from edgetrust.pki.issue import Issuer, not_yet_valid
from edgetrust.pki.keys import KeyHandle, public_der, signing_key

Extensions = tuple[tuple[x509.ExtensionType, bool], ...]
DEFAULT_LIFE = timedelta(days=30)


def ca_extensions(*, path_length: int | None) -> Extensions:
    """What a CA asks for (edge specification 5.2)."""
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return ((x509.BasicConstraints(ca=True, path_length=path_length), True), (usage, True))


def sign_by(
    issuer: Issuer, csr: Csr, now: datetime, *, life: timedelta | None = None, subject: x509.Name | None = None
) -> Chain:
    """A certificate for `csr`, followed by the issuer's whole file. Raises IntegrityError (`issuer-expired`,
    `issuer-not-yet-valid`).
    """
    above = issuer.certificate
    end = min(now + (life or DEFAULT_LIFE), above.not_valid_after_utc)
    if end <= now:
        raise IntegrityError(
            f"the issuer {above.subject.rfc4514_string()!r} ended at {above.not_valid_after_utc:%Y-%m-%dT%H:%MZ}",
            reason="issuer-expired",
            fix="renew the issuing certificate first",
        )
    begin = max(now, above.not_valid_before_utc)
    if begin >= end:
        raise not_yet_valid(above)
    builder = _builder(csr, subject, begin, end).issuer_name(above.subject)
    if not _asks_for(csr, x509.AuthorityKeyIdentifier) and (key_id := _key_identifier(above)) is not None:
        authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)
        builder = builder.add_extension(authority, critical=False)
    return Chain((builder.sign(signing_key(issuer.key), hashes.SHA256()), *issuer.chain.certificates))


def sign_itself(
    key: KeyHandle, csr: Csr, now: datetime, *, life: timedelta | None = None, subject: x509.Name | None = None
) -> Chain:
    """A self-signed certificate for `csr`, whose key is `key`. Raises IntegrityError (`key-certificate-mismatch`)."""
    if public_der(key.public_key()) != public_der(csr.public_key):
        raise IntegrityError(f"the CSR is not for the key {key.key_id!r}", reason="key-certificate-mismatch")
    builder = _builder(csr, subject, now, now + (life or DEFAULT_LIFE)).issuer_name(subject or csr.subject)
    return Chain((builder.sign(signing_key(key), hashes.SHA256()),))


def _builder(csr: Csr, subject: x509.Name | None, begin: datetime, end: datetime) -> x509.CertificateBuilder:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject or csr.subject)
        .public_key(csr.public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin.replace(microsecond=0))
        .not_valid_after(end.replace(microsecond=0))
    )
    for extension in csr.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    if not _asks_for(csr, x509.SubjectKeyIdentifier):
        key_id = x509.SubjectKeyIdentifier.from_public_key(csr.public_key)
        builder = builder.add_extension(key_id, critical=False)
    return builder


def _asks_for(csr: Csr, kind: type[x509.ExtensionType]) -> bool:
    return any(isinstance(extension.value, kind) for extension in csr.extensions)


def _key_identifier(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return None
