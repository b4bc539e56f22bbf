"""Certificate profiles as data: what each kind of certificate of this system carries. One table for issuing and
linting.

Every certificate is X.509 v3, signed with SHA-256, with a random serial number of 20 octets, a subject key identifier
(RFC 5280, 4.2.1.2, method 1) and, unless self-signed, an authority key identifier that holds the key identifier only.
Basic constraints and key usage are critical, extended key usage is not. Must not know keys or issuers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

BACKDATE: Final = timedelta(minutes=5)  # a verifier whose clock is a little behind accepts a new certificate
BOOTSTRAP_URI: Final = (
    "https://bootstrap.edgetrust.invalid/"  # marks bootstrap certificates; .invalid can belong to nobody
)

_SIGN_CA: Final = frozenset({"key_cert_sign", "crl_sign"})
_SIGN_ALL: Final = _SIGN_CA | {"digital_signature"}
_SIGN: Final = frozenset({"digital_signature"})
_YEAR: Final = timedelta(days=365)


class SanRule(StrEnum):
    """Whether a certificate of a kind carries a subject alternative name."""

    FORBIDDEN = "forbidden"
    OPTIONAL = "optional"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of certificate. `key_usage` uses the attribute names of `cryptography.x509.KeyUsage`."""

    name: str
    is_ca: bool
    path_length: int | None
    key_usage: frozenset[str]
    eku: tuple[ObjectIdentifier, ...]
    validity: timedelta
    max_validity: timedelta
    san: SanRule
    rsa_key_encipherment: bool = False  # TLS 1.2 key exchange without forward secrecy, which old RSA clients ask for
    self_signed: bool = False
    backdate: timedelta = BACKDATE
    uris: tuple[str, ...] = ()  # always in the SAN, beside what the names ask for
    extras: tuple[x509.ExtensionType, ...] = ()  # further non-critical extensions

    def with_path_length(self, path_length: int | None) -> Profile:
        """The same kind of CA with room for another number of CAs below it."""
        return replace(self, path_length=path_length)

    def with_validity(self, validity: timedelta) -> Profile:
        """The same kind with this default validity, which may be longer than the kind's usual limit."""
        return replace(self, validity=validity, max_validity=max(validity, self.max_validity))


def _ca(name: str, path_length: int | None, validity: timedelta, most: timedelta, *, root: bool = False) -> Profile:
    usage = _SIGN_CA if root else _SIGN_ALL
    return Profile(name, True, path_length, usage, (), validity, most, SanRule.FORBIDDEN, self_signed=root)


def _end_entity(
    name: str, eku: ObjectIdentifier, days: int, most: int, san: SanRule, *, rsa_key_encipherment: bool = False
) -> Profile:
    validity, limit = timedelta(days=days), timedelta(days=most)
    return Profile(name, False, None, _SIGN, (eku,), validity, limit, san, rsa_key_encipherment=rsa_key_encipherment)


ROOT: Final = _ca("root", None, 10 * _YEAR, 20 * _YEAR + timedelta(days=5), root=True)
INTERMEDIATE: Final = _ca("intermediate", 1, 5 * _YEAR, 5 * _YEAR + timedelta(days=2))
ISSUING: Final = _ca("issuing", 0, 5 * _YEAR, 5 * _YEAR + timedelta(days=2))
EDGE_CA: Final = _ca("edge-ca", 0, timedelta(days=90), timedelta(days=90))
# The quickstart Edge CA: without a PKI behind it, it is its own root.
EDGE_CA_SELF_SIGNED: Final = replace(EDGE_CA, name="edge-ca-self-signed", self_signed=True)
GATEWAY_SERVER: Final = _end_entity(
    "gateway-server", ExtendedKeyUsageOID.SERVER_AUTH, 30, 30, SanRule.REQUIRED, rsa_key_encipherment=True
)
DEVICE: Final = _end_entity("device", ExtendedKeyUsageOID.CLIENT_AUTH, 90, 90, SanRule.OPTIONAL)
BOOTSTRAP: Final = replace(
    _end_entity("bootstrap", ExtendedKeyUsageOID.CLIENT_AUTH, 365, 10 * 365, SanRule.REQUIRED), uris=(BOOTSTRAP_URI,)
)
DOWNSTREAM: Final = _end_entity("downstream", ExtendedKeyUsageOID.CLIENT_AUTH, 30, 30, SanRule.OPTIONAL)
HUB_SERVER: Final = _end_entity("hub-server", ExtendedKeyUsageOID.SERVER_AUTH, 90, 90, SanRule.REQUIRED)
EST_SERVER: Final = _end_entity("est-server", ExtendedKeyUsageOID.SERVER_AUTH, 90, 90, SanRule.REQUIRED)
OCSP: Final = replace(
    _end_entity("ocsp", ExtendedKeyUsageOID.OCSP_SIGNING, 7, 7, SanRule.FORBIDDEN), extras=(x509.OCSPNoCheck(),)
)

PROFILES: Final = {
    profile.name: profile
    for profile in (
        ROOT,
        INTERMEDIATE,
        ISSUING,
        EDGE_CA,
        EDGE_CA_SELF_SIGNED,
        GATEWAY_SERVER,
        DEVICE,
        BOOTSTRAP,
        DOWNSTREAM,
        HUB_SERVER,
        EST_SERVER,
        OCSP,
    )
}
