"""Why the certificate authority refuses: stable slugs, the HTTP status that answers each, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class IssuanceReason(StrEnum):
    """Why a certificate was not issued."""

    UNAUTHENTICATED = "enroll-unauthenticated"
    PASSWORD_WRONG = "enroll-password-wrong"  # noqa: S105 - a slug
    PASSWORD_EXPIRED = "enroll-password-expired"  # noqa: S105 - a slug
    PASSWORD_USED = "enroll-password-used"  # noqa: S105 - a slug
    CERTIFICATE_UNTRUSTED = "enroll-certificate-untrusted"
    CERTIFICATE_EXPIRED = "enroll-certificate-expired"
    CERTIFICATE_REVOKED = "enroll-certificate-revoked"
    CERTIFICATE_NEEDED = "enroll-certificate-needed"
    PASSWORD_NEEDED = "enroll-password-needed"  # noqa: S105 - a slug
    NOT_A_REQUEST = "enroll-not-a-csr"
    BAD_SIGNATURE = "enroll-bad-signature"
    WEAK_SIGNATURE = "enroll-weak-signature"
    WEAK_KEY = "enroll-weak-key"
    KEY_IN_USE = "enroll-key-in-use"
    PROOF_MISMATCH = "enroll-proof-mismatch"
    NAME_MISSING = "enroll-name-missing"
    NAME_MALFORMED = "enroll-name-malformed"
    NAME_NOT_GRANTED = "enroll-name-not-granted"
    TOO_MANY_NAMES = "enroll-too-many-names"
    CA_NOT_GRANTED = "enroll-ca-not-granted"
    USAGE_NOT_GRANTED = "enroll-usage-not-granted"
    PROFILE_NOT_SERVED = "enroll-profile-not-served"
    NOT_REGISTERED = "enroll-not-registered"
    NOT_A_GATEWAY = "enroll-not-a-gateway"
    DISABLED = "enroll-disabled"
    ALREADY_CLAIMED = "enroll-already-claimed"
    NAMES_CHANGED = "enroll-names-changed"
    TOO_MANY_WAITING = "enroll-too-many-waiting"
    DENIED = "enroll-denied"
    KEY_DELIVERY = "enroll-key-delivery-unsupported"
    AUTHORITY_RETIRED = "enroll-authority-retired"


@dataclass(frozen=True, slots=True)
class Meaning:
    """`status`: what EST answers. `text`: the cause. `confirm`: a command that shows it. `fix`: what to do."""

    status: int
    text: str
    confirm: str
    fix: str


_SHOW_CSR = "openssl req -in CSR.pem -noout -text -verify"
_SHOW_CERT = "openssl x509 -in CLIENT.cert.pem -noout -subject -issuer -dates -ext extendedKeyUsage"
_LIST = "edgetrust ca list --identity DEVICE"
_AUDIT = "edgetrust audit list --event refused"

MEANINGS: Final = {
    IssuanceReason.UNAUTHENTICATED: Meaning(
        401,
        "The client showed neither a certificate nor a user name with a password.",
        _AUDIT,
        "Enrol with a bootstrap certificate, with the certificate to be renewed, or with a user name and password.",
    ),
    IssuanceReason.PASSWORD_WRONG: Meaning(
        401,
        "The user name is unknown, or the password is not the one that belongs to it.",
        _AUDIT,
        "Give the client a new password: edgetrust ca password DEVICE",
    ),
    IssuanceReason.PASSWORD_EXPIRED: Meaning(
        403, "The password has run out.", _AUDIT, "Give the client a new password: edgetrust ca password DEVICE"
    ),
    IssuanceReason.PASSWORD_USED: Meaning(
        403,
        "The password was good for a number of enrolments, and they have been made, with other keys.",
        _LIST,
        "Give the client a new password: edgetrust ca password DEVICE",
    ),
    IssuanceReason.CERTIFICATE_UNTRUSTED: Meaning(
        403,
        "The client certificate leads to no CA that this authority accepts, or is not for clients.",
        _SHOW_CERT,
        "Use a certificate of this authority, or list the other CA in bootstrap_authorities of ca.toml.",
    ),
    IssuanceReason.CERTIFICATE_EXPIRED: Meaning(
        403,
        "The client certificate is past its end, or its beginning lies ahead.",
        _SHOW_CERT,
        "Enrol anew with the bootstrap certificate or a password; check the clocks.",
    ),
    IssuanceReason.CERTIFICATE_REVOKED: Meaning(
        403,
        "The client certificate has been revoked. Whatever it asks for is refused.",
        _LIST,
        "If the device is sound, give it a new password: edgetrust ca password DEVICE",
    ),
    IssuanceReason.CERTIFICATE_NEEDED: Meaning(
        403,
        "The rule for this request wants a client certificate; a renewal always does.",
        _AUDIT,
        "Show the certificate that is to be renewed, or the bootstrap certificate.",
    ),
    IssuanceReason.PASSWORD_NEEDED: Meaning(
        401,
        "The rule for this request wants a password beside the client certificate.",
        _AUDIT,
        "Send a user name and password with the certificate.",
    ),
    IssuanceReason.NOT_A_REQUEST: Meaning(
        400,
        "The body is not the base64 of one PKCS#10 request in DER.",
        _SHOW_CSR,
        "Send: openssl req -in CSR.pem -outform der, encoded by openssl base64.",
    ),
    IssuanceReason.BAD_SIGNATURE: Meaning(
        400,
        "The request is not signed with the key it asks a certificate for.",
        _SHOW_CSR,
        "Make the request again with the private key that belongs to it.",
    ),
    IssuanceReason.WEAK_SIGNATURE: Meaning(
        400, "The request is signed with SHA-1 or MD5.", _SHOW_CSR, "Sign the request with SHA-256 or stronger."
    ),
    IssuanceReason.WEAK_KEY: Meaning(
        400,
        "The key is of a kind or size that is not accepted.",
        _SHOW_CSR,
        "Use P-256, P-384, P-521, or RSA from 2048 to 8192 bits.",
    ),
    IssuanceReason.KEY_IN_USE: Meaning(
        403,
        "The key is certified for another identity already: two devices share a key, or one has two names.",
        "edgetrust ca list",
        "Make a new key on the device; a key is never copied.",
    ),
    IssuanceReason.PROOF_MISMATCH: Meaning(
        403,
        "The request's challengePassword is there, but it does not tie the request to this TLS connection.",
        _SHOW_CSR,
        "Send the tls-unique of this very connection over TLS 1.2 in base64, or leave challengePassword out.",
    ),
    IssuanceReason.NAME_MISSING: Meaning(
        400,
        "The request has no common name, or more than one.",
        _SHOW_CSR,
        "Put exactly one common name, the identity, into the subject.",
    ),
    IssuanceReason.NAME_MALFORMED: Meaning(
        400,
        "A name in the request cannot stand in such a certificate.",
        _SHOW_CSR,
        "Use a device identifier as common name, and DNS names, IP addresses or URIs in the SAN.",
    ),
    IssuanceReason.NAME_NOT_GRANTED: Meaning(
        403,
        "The credential may not obtain a certificate for one of the names.",
        _AUDIT,
        "Ask for the client's own name only, or widen names or hosts of the rule in ca.toml.",
    ),
    IssuanceReason.TOO_MANY_NAMES: Meaning(
        400, "The request asks for more names than a certificate may hold.", _SHOW_CSR, "Ask for fewer names."
    ),
    IssuanceReason.CA_NOT_GRANTED: Meaning(
        403,
        "The request asks for a CA certificate, which its rule does not allow, or for one that may sign other CAs.",
        _SHOW_CSR,
        "Leave basicConstraints CA:TRUE and keyCertSign out; an Edge CA needs a rule with the profile edge-ca.",
    ),
    IssuanceReason.USAGE_NOT_GRANTED: Meaning(
        403,
        "The request asks for an extended key usage that no profile of this authority has.",
        _SHOW_CSR,
        "Ask for clientAuth, or serverAuth at a CA that issues server certificates, or for none.",
    ),
    IssuanceReason.PROFILE_NOT_SERVED: Meaning(
        403,
        "The CA that was addressed does not issue certificates of this kind.",
        "edgetrust ca list --authorities",
        "Use the label of a CA that does: /.well-known/est/LABEL/simpleenroll.",
    ),
    IssuanceReason.NOT_REGISTERED: Meaning(
        403,
        "The registry has no device of this name.",
        "edgetrust device show DEVICE",
        "Create it: edgetrust device create DEVICE, or correct the name in the request.",
    ),
    IssuanceReason.NOT_A_GATEWAY: Meaning(
        403,
        "An Edge CA is issued to a registered gateway only.",
        "edgetrust device show DEVICE",
        "Register it as a gateway: edgetrust device create DEVICE --edge, or list it in the rule's gateways.",
    ),
    IssuanceReason.DISABLED: Meaning(
        403, "The device is disabled in the registry.", "edgetrust device show DEVICE", "edgetrust device enable DEVICE"
    ),
    IssuanceReason.ALREADY_CLAIMED: Meaning(
        403,
        "A bootstrap credential may claim a name once, and this one has been claimed with another key.",
        _LIST,
        "If the device was reset, let the name be claimed again: edgetrust ca release DEVICE",
    ),
    IssuanceReason.NAMES_CHANGED: Meaning(
        403,
        "A renewal must have the subject and the subject alternative names of the certificate it renews.",
        _SHOW_CSR,
        "Make the request from the certificate, or enrol anew under the other name.",
    ),
    IssuanceReason.TOO_MANY_WAITING: Meaning(
        429,
        "As many requests of this credential as may wait for a person do so already.",
        "edgetrust ca pending",
        "Approve or deny those that wait; then ask again.",
    ),
    IssuanceReason.DENIED: Meaning(
        403, "A person has denied this request.", _AUDIT, "Ask whoever runs the CA; a request with another key is new."
    ),
    IssuanceReason.KEY_DELIVERY: Meaning(
        403,
        "The client asked for the generated key encrypted in a way that this server cannot do.",
        _SHOW_CSR,
        "Leave the attributes for key delivery out; the key travels inside TLS.",
    ),
    IssuanceReason.AUTHORITY_RETIRED: Meaning(
        403,
        "The CA that was addressed does not issue any more, or does not issue yet.",
        "edgetrust ca list --authorities",
        "Use the label of the CA that took its place.",
    ),
}
