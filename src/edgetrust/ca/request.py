"""What a request asks for, read from its CSR before anybody decides: names, the kind of certificate, and oddities.

Rules. Nothing is granted here. The kind follows from what the CSR says: a CA if basic constraints or key usage ask for
one; a server if serverAuth is asked for and clientAuth is not; else a device. Extended key usages that no profile has
are kept as `foreign_usages`. Of the subject only the common name counts; further attributes are not copied, but two
common names, or an RDN of several attributes, are a fault. SAN entries other than DNS names, IP addresses and URIs are
a fault too. Must not know policies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgetrust.ca.reasons import IssuanceReason
from edgetrust.errors import PeerError
from edgetrust.limits import CERTIFICATE_NAMES
from edgetrust.pki.csr import Csr, CsrError, parse_csr
from edgetrust.pki.keys import PublicKey
from edgetrust.pki.names import COMMON_NAME_CHARACTERS, dns_fault
from edgetrust.pki.profiles import DEVICE, EDGE_CA, GATEWAY_SERVER

_GATEWAY_DECORATIONS: Final = ("aziot-edge CA ", "iotedged workload ca ")
_GATEWAY_ENDING: Final = ".ca"
_NAME_KINDS: Final = (x509.DNSName, x509.IPAddress, x509.UniformResourceIdentifier)
_REASONS: Final = {
    "not-a-csr": IssuanceReason.NOT_A_REQUEST,
    "too-large": IssuanceReason.NOT_A_REQUEST,
    "bad-signature": IssuanceReason.BAD_SIGNATURE,
    "weak-signature": IssuanceReason.WEAK_SIGNATURE,
    "weak-key": IssuanceReason.WEAK_KEY,
}


class RequestError(PeerError):
    """The CSR cannot be used at all. `why` is its reason as the authority names it."""

    def __init__(self, message: str, why: IssuanceReason) -> None:
        super().__init__(message, reason=why.value)
        self.why = why


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a request that could be read."""

    reason: IssuanceReason
    detail: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: `profile` is the kind it asks for, `owner` whose certificate it would be (see `owner_of`)."""

    csr: Csr
    common_name: str
    owner: str
    profile: str
    dns: tuple[str, ...]
    ips: tuple[str, ...]
    uris: tuple[str, ...]
    path_length: int | None
    foreign_usages: tuple[str, ...]
    fault: Fault | None


def owner_of(common_name: str) -> str:
    """The device that a certificate of this name belongs to: an Edge CA carries its gateway's name in its own.

    The spellings are those of the edge runtime (edge specification 5.2) and of its scripts for demonstration (8).
    """
    for start in _GATEWAY_DECORATIONS:
        if common_name.startswith(start):
            return common_name.removeprefix(start)
    return common_name.removesuffix(_GATEWAY_ENDING)


def read_request(der: bytes, instead: PublicKey | None = None) -> Asked:
    """A request from DER (or PEM). Raises RequestError when it is none, or its key or signature cannot be used.

    `instead`: the key to certify in place of the request's own, as in `parse_csr`.
    """
    try:
        csr = parse_csr(der, instead)
    except CsrError as error:
        raise RequestError(error.message, _REASONS[error.reason]) from error
    common_name = csr.common_name or ""
    wants_ca, path_length = _wants_ca(csr)
    usages = _usages(csr)
    serves = ExtendedKeyUsageOID.SERVER_AUTH in usages and ExtendedKeyUsageOID.CLIENT_AUTH not in usages
    profile = EDGE_CA if wants_ca else GATEWAY_SERVER if serves else DEVICE
    known = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
    return Asked(
        csr,
        common_name,
        owner_of(common_name),
        profile.name,
        csr.dns,
        csr.ips,
        csr.uris,
        path_length,
        tuple(usage.dotted_string for usage in usages if usage not in known),
        _fault(csr, common_name),
    )


def _wants_ca(csr: Csr) -> tuple[bool, int | None]:
    basic, usage = csr.find(x509.BasicConstraints), csr.find(x509.KeyUsage)
    wants = (basic is not None and basic.ca) or (usage is not None and (usage.key_cert_sign or usage.crl_sign))
    return wants, None if basic is None else basic.path_length


def _usages(csr: Csr) -> tuple[x509.ObjectIdentifier, ...]:
    found = csr.find(x509.ExtendedKeyUsage)
    return () if found is None else tuple(found)


def _fault(csr: Csr, common_name: str) -> Fault | None:
    names = csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not common_name:
        return Fault(IssuanceReason.NAME_MISSING, f"the subject has {len(names)} common names")
    if any(len(list(rdn)) > 1 for rdn in csr.subject.rdns):
        return Fault(IssuanceReason.NAME_MALFORMED, "a relative distinguished name has several attributes")
    if len(common_name.encode()) > COMMON_NAME_CHARACTERS or not common_name.isprintable():
        return Fault(IssuanceReason.NAME_MALFORMED, f"the common name has not 1 to {COMMON_NAME_CHARACTERS} characters")
    return _alternative_fault(csr)


def _alternative_fault(csr: Csr) -> Fault | None:
    found = csr.alternative
    names = [] if found is None else list(found)
    if len(names) > CERTIFICATE_NAMES:
        return Fault(IssuanceReason.TOO_MANY_NAMES, f"{len(names)} names, at most {CERTIFICATE_NAMES} are possible")
    odd = [name for name in names if not isinstance(name, _NAME_KINDS)]
    if odd:
        return Fault(IssuanceReason.NAME_MALFORMED, f"the SAN holds a {type(odd[0]).__name__}")
    for name in names:
        if isinstance(name, x509.DNSName) and (fault := dns_fault(name.value)) is not None:
            return Fault(IssuanceReason.NAME_MALFORMED, f"dNSName {name.value!r}: {fault}")
        if isinstance(name, x509.UniformResourceIdentifier) and ":" not in name.value:
            return Fault(IssuanceReason.NAME_MALFORMED, f"{name.value!r} is not a URI")
        if isinstance(name, x509.IPAddress) and "/" in str(name.value):
            return Fault(IssuanceReason.NAME_MALFORMED, f"{name.value} is a network, not an address")
    return None
