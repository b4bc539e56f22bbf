"""Enrollments for tests: individual ones and groups, as an operator would write them."""

from __future__ import annotations

import base64
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust.protocol.dps.enrollments import Enrollment, parse_enrollment
from edgetrust.trust.enrollment import CaEntry

SCOPE = "0ne00TEST"
PRIMARY, SECONDARY = b"p" * 32, b"s" * 32


def text_of(key: bytes) -> str:
    return base64.b64encode(key).decode()


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def keys(primary: bytes = PRIMARY, secondary: bytes = SECONDARY) -> dict[str, Any]:
    """Attestation by symmetric keys."""
    return {
        "type": "symmetricKey",
        "symmetricKey": {"primaryKey": text_of(primary), "secondaryKey": text_of(secondary)},
    }


def certificates(kind: str, primary: x509.Certificate, secondary: x509.Certificate | None = None) -> dict[str, Any]:
    """Attestation by certificates: `kind` is clientCertificates or signingCertificates."""
    pair = {"primary": {"certificate": pem(primary)}}
    if secondary is not None:
        pair["secondary"] = {"certificate": pem(secondary)}
    return {"type": "x509", "x509": {kind: pair}}


def references(primary: str, secondary: str | None = None) -> dict[str, Any]:
    """Attestation by CA certificates of the service."""
    return {"type": "x509", "x509": {"caReferences": {"primary": primary, "secondary": secondary}}}


def tpm(endorsement: bytes, storage_root: bytes | None = None) -> dict[str, Any]:
    """Attestation by TPM."""
    srk = {} if storage_root is None else {"storageRootKey": text_of(storage_root)}
    return {"type": "tpm", "tpm": {"endorsementKey": text_of(endorsement), **srk}}


def individual(name: str, attestation: dict[str, Any], **fields: Any) -> Enrollment:
    return parse_enrollment({"registrationId": name, "attestation": attestation, **fields}, "individual")


def group(name: str, attestation: dict[str, Any], **fields: Any) -> Enrollment:
    return parse_enrollment({"enrollmentGroupId": name, "attestation": attestation, **fields}, "group")


def authority(name: str, certificate: x509.Certificate, *, verified: bool = True) -> CaEntry:
    return CaEntry(name, certificate, verified)
