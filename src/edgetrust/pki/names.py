"""Names in certificates: what an issuer writes, and which names a server certificate is good for.

Rules. An IP address goes into an iPAddress, never into a dNSName, and is looked for only there. A wildcard is the whole
leftmost label, covers exactly one label and needs at least two labels after it. Comparison ignores case and a trailing
dot. The common name is never a server name (RFC 9525, 2). Must not know who is allowed to have which name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from edgetrust.errors import UsageError

COMMON_NAME_CHARACTERS: Final = 64  # RFC 5280, ub-common-name; counted in UTF-8 bytes, as the strictest readers do
DNS_NAME_CHARACTERS: Final = 253
_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_WILDCARD_LABELS: Final = 3  # "*.hub.example": OpenSSL's rule, so that "*.com" covers nothing

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Names:
    """What a certificate says of its subject. `ips` are literals; the SAN holds ips, then dns, then uris, in the given
    order.
    """

    common_name: str
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    organization: str | None = None

    def __post_init__(self) -> None:
        for what, text in (("a common name", self.common_name), ("an organization", self.organization or "")):
            if len(text.encode()) > COMMON_NAME_CHARACTERS:
                raise UsageError(
                    f"{what} has at most {COMMON_NAME_CHARACTERS} bytes in UTF-8, not {len(text.encode())}: {text!r}",
                    reason="common-name-too-long",
                    fix="use a shorter name; longer host names are possible only as subject alternative names",
                )
        for name in self.dns:
            if dns_fault(name) is not None:
                raise UsageError(f"{name!r} is not a DNS name: {dns_fault(name)}", reason="name-malformed")
        for literal in self.ips:
            if as_ip(literal) is None:
                raise UsageError(f"{literal!r} is not an IP address", reason="name-malformed")
        for uri in self.uris:
            if not uri.isascii() or ":" not in uri:
                raise UsageError(f"{uri!r} is not a URI", reason="name-malformed")

    @classmethod
    def for_hosts(cls, *hosts: str, common_name: str | None = None, organization: str | None = None) -> Names:
        """Server names: IP literals become iPAddress, everything else dNSName. The common name is the first host."""
        return cls(
            hosts[0] if common_name is None else common_name,
            dns=tuple(host for host in hosts if as_ip(host) is None),
            ips=tuple(host for host in hosts if as_ip(host) is not None),
            organization=organization,
        )

    def subject(self) -> x509.Name:
        attributes = [(NameOID.ORGANIZATION_NAME, self.organization), (NameOID.COMMON_NAME, self.common_name)]
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes if value])

    def alternative(self) -> x509.SubjectAlternativeName | None:
        """The subject alternative name extension; None if there is nothing to put in it."""
        general: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(literal)) for literal in self.ips]
        general += [x509.DNSName(name) for name in self.dns]
        general += [x509.UniformResourceIdentifier(uri) for uri in self.uris]
        return x509.SubjectAlternativeName(general) if general else None


def as_ip(text: str) -> IpAddress | None:
    """The address that a literal denotes (IPv6 without brackets or zone); None for anything else."""
    try:
        return ipaddress.ip_address(text) if "%" not in text else None
    except ValueError:
        return None


def dns_fault(name: str) -> str | None:
    """Why a text cannot be a dNSName, for a person; None if it can. Single labels, underscores and wildcards are
    allowed.
    """
    if as_ip(name) is not None:
        return "an IP address belongs into an iPAddress"
    if not name or len(name) > DNS_NAME_CHARACTERS:
        return f"it must have 1 to {DNS_NAME_CHARACTERS} characters"
    labels = name.split(".")
    if labels[0] == "*":
        if len(labels) < _WILDCARD_LABELS:
            return "a wildcard needs two labels after it"
        labels = labels[1:]
    wrong = [label for label in labels if not _LABEL.fullmatch(label)]
    return f"label {wrong[0]!r} is not made of letters, digits, '-' and '_'" if wrong else None


def covers(dns: Iterable[str], ips: Iterable[IpAddress], name: str) -> str | None:
    """The certificate's entry that covers the name of a server: a host name or an IP literal; None if none does."""
    address = as_ip(name)
    if address is not None:
        return next((str(ip) for ip in ips if ip == address), None)
    wanted = name.lower().removesuffix(".")
    if not wanted or "*" in wanted or not wanted.isascii():
        return None
    return next((pattern for pattern in dns if _pattern_covers(pattern.lower().removesuffix("."), wanted)), None)


def _pattern_covers(pattern: str, name: str) -> bool:
    if pattern == name:
        return True
    star, _, rest = pattern.partition(".")
    _, _, parent = name.partition(".")
    return star == "*" and rest == parent and rest.count(".") >= _WILDCARD_LABELS - 2
