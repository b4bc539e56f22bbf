"""Enrollments and certificates as the service API shows them: no keys, and facts in the place of certificates (hub
specification 13.3 and 15).
"""

from __future__ import annotations

from typing import Any

import msgspec
from cryptography import x509

from edgetrust.pki.chain import Thumbprint
from edgetrust.protocol.dps.bodies import RegistrationState, RegistrationStatus
from edgetrust.protocol.dps.enrollments import Attestation, Certificates
from edgetrust.protocol.dps.errors import dps_time
from edgetrust.store.enrollments import EnrollmentRecord
from edgetrust.store.provisioned import ProvisionedRecord
from edgetrust.trust.enrollment import read_certificate


def enrollment_body(record: EnrollmentRecord, registration: ProvisionedRecord | None = None) -> dict[str, Any]:
    """An enrollment or a group. An individual one shows its registration."""
    body = record.body
    values: dict[str, Any] = msgspec.to_builtins(body)
    values["capabilities"] = {"iotEdge": body.capabilities.iot_edge}
    values["reprovisionPolicy"] = msgspec.to_builtins(body.reprovision_policy)
    values["provisioningStatus"] = body.provisioning_status
    values["attestation"] = attestation_body(body.attestation)
    if body.initial_twin is not None:
        twin = body.initial_twin
        values["initialTwin"] = {"tags": twin.tags, "properties": {"desired": twin.properties.desired}}
    values["createdDateTimeUtc"] = dps_time(record.created_at)
    values["lastUpdatedDateTimeUtc"] = dps_time(record.updated_at)
    values["etag"] = f'"{record.etag}"'
    if body.kind == "individual":
        state = RegistrationState(body.name, RegistrationStatus.UNASSIGNED)
        values["registrationState"] = (registration.state if registration is not None else state).body()
    return values


def attestation_body(attestation: Attestation, *, secrets: bool = False) -> dict[str, Any]:
    """How the devices prove themselves; keys only with `secrets`."""
    values: dict[str, Any] = {"type": attestation.type}
    if attestation.symmetric_key is not None and secrets:
        values["symmetricKey"] = msgspec.to_builtins(attestation.symmetric_key)
    if attestation.tpm is not None:
        values["tpm"] = msgspec.to_builtins(attestation.tpm)
    held = attestation.x509
    if held is not None:
        pairs = {"clientCertificates": held.client_certificates, "signingCertificates": held.signing_certificates}
        members: dict[str, Any] = {name: _pair(pair) for name, pair in pairs.items() if pair is not None}
        if held.ca_references is not None:
            members["caReferences"] = msgspec.to_builtins(held.ca_references)
        values["x509"] = members
    return values


def _pair(pair: Certificates) -> dict[str, Any]:
    slots = {"primary": pair.primary, "secondary": pair.secondary}
    return {
        name: {"info": certificate_info(read_certificate(slot.certificate))}
        for name, slot in slots.items()
        if slot is not None and slot.certificate is not None
    }


def certificate_info(certificate: x509.Certificate) -> dict[str, Any]:
    """A certificate as the service shows it: names, dates, and both thumbprints."""
    return {
        "subjectName": certificate.subject.rfc4514_string(),
        "sha1Thumbprint": Thumbprint.of(certificate, "sha1").hex(),
        "sha256Thumbprint": Thumbprint.of(certificate).hex(),
        "issuerName": certificate.issuer.rfc4514_string(),
        "notBeforeUtc": f"{certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        "notAfterUtc": f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "serialNumber": f"{certificate.serial_number:X}",
        "version": certificate.version.value + 1,
    }
