"""Making authorities: a root, departments below it, and the CAs that issue; chains across companies by CSR files.

Rules. A root signs CAs only, and its key may lie anywhere: it is needed again only when a CA is made or renewed. Every
CA certificate is a row like any other certificate and a record of the audit log. Two companies share a chain without
sharing a key: one makes a key and a CSR (`request`), the other certifies it (an `Order` with a CA profile), the first
installs the chain that comes back (`install`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID
from sqlalchemy import Connection

from edgetrust.ca.authority import ACTIVE, PREPARED, CertificateAuthority
from edgetrust.errors import UsageError
from edgetrust.pki.chain import Chain, key_matches
from edgetrust.pki.csr import build_csr
from edgetrust.pki.issue import Issuer, self_signed
from edgetrust.pki.keys import KeyAlgorithm, KeyHandle
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import (
    BOOTSTRAP,
    DEVICE,
    DOWNSTREAM,
    EDGE_CA,
    EST_SERVER,
    GATEWAY_SERVER,
    HUB_SERVER,
    INTERMEDIATE,
    ISSUING,
    OCSP,
    ROOT,
    Profile,
)
from edgetrust.store import chained
from edgetrust.store.authorities import AuthorityRow, add_authority
from edgetrust.store.issuance import IssuedRow, add_issued, serial_text

OPERATOR: Final = "operator"
# What every request of a CA asks for, beside its basic constraints.
CA_EXTENSIONS: Final = (
    (
        x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        ),
        True,
    ),
)


@dataclass(frozen=True, slots=True)
class Purpose:
    """One issuing CA of a new hierarchy: what it is called, how deep it may go, what it issues."""

    name: str
    title: str
    profile: Profile
    profiles: tuple[Profile, ...]
    default: bool = False


# EST without a label is the first: one CA for a gateway's identity and its Edge CA, since certd appends one bundle.
PURPOSES: Final = (
    Purpose("edge", "edge", INTERMEDIATE, (DEVICE, DOWNSTREAM, EDGE_CA, OCSP), default=True),
    Purpose("devices", "device identity", ISSUING, (DEVICE, DOWNSTREAM, OCSP)),
    Purpose("servers", "server", ISSUING, (GATEWAY_SERVER, HUB_SERVER, EST_SERVER, OCSP)),
    Purpose("bootstrap", "bootstrap", ISSUING, (BOOTSTRAP, OCSP)),
)


@dataclass(frozen=True, slots=True)
class NewAuthority:
    """What is wanted. `parent` None: a root. `key` may be given; else one is made by `algorithm`."""

    name: str
    names: Names
    profile: Profile
    parent: str | None
    profiles: frozenset[str] = frozenset()
    default: bool = False
    state: str = ACTIVE
    algorithm: KeyAlgorithm = KeyAlgorithm.P256
    validity: timedelta | None = None


async def make_hierarchy(
    authority: CertificateAuthority,
    organization: str,
    *,
    departments: Sequence[str] = (),
    purposes: Sequence[Purpose] = PURPOSES,
    algorithm: KeyAlgorithm = KeyAlgorithm.P256,
    below: str | None = None,
) -> tuple[str, ...]:
    """A root (unless `below` names a CA that exists), departments under it in a row, and an issuing CA per purpose
    under the last. Returns the names of what was made. UsageError (`authority-exists`) if one is there already.
    """
    made: list[str] = []
    parent = below
    if parent is None:
        names = Names(f"{organization} root CA", organization=organization)
        parent = await make_authority(authority, NewAuthority("root", names, ROOT, None, algorithm=algorithm))
        made.append(parent)
    for number, department in enumerate(departments):
        profile = INTERMEDIATE.with_path_length(len(departments) - number + 1)
        names = Names(f"{organization} {department} CA", organization=organization)
        wanted = NewAuthority(f"department-{number + 1}", names, profile, parent, algorithm=algorithm)
        parent = await make_authority(authority, wanted)
        made.append(parent)
    for purpose in purposes:
        names = Names(f"{organization} {purpose.title} CA", organization=organization)
        profiles = frozenset(profile.name for profile in purpose.profiles)
        wanted = NewAuthority(
            purpose.name, names, purpose.profile, parent, profiles, default=purpose.default, algorithm=algorithm
        )
        made.append(await make_authority(authority, wanted))
    return tuple(made)


async def make_authority(authority: CertificateAuthority, wanted: NewAuthority) -> str:
    """Make a key and a certificate for one CA and store both; returns its name. Raises UsageError, ConfigError."""
    if wanted.name in authority.authorities:
        raise UsageError(f"there is a CA {wanted.name!r} already", reason="authority-exists")
    parent = None if wanted.parent is None else authority.named(wanted.parent)
    if parent is not None and parent.issuer is None:
        raise UsageError(
            f"the key of {parent.name!r} is not here, so that it cannot certify {wanted.name!r}",
            reason="authority-key-missing",
            fix="bring the key back for the moment, or use a CSR: edgetrust ca request",
        )
    reference, key = authority.keyring.create(wanted.name, wanted.algorithm)
    now = authority.clock.now()
    issuer = None if parent is None else parent.issuer
    chain = certify(key, wanted, issuer, now)
    row = AuthorityRow(
        wanted.name,
        wanted.profile.name,
        wanted.parent,
        wanted.state,
        wanted.default,
        reference,
        chain.end_entity,
        now,
        0,
        wanted.profiles,
    )
    await authority.database.write(lambda connection: store(connection, row, now))
    await authority.refresh()
    return wanted.name


def certify(key: KeyHandle, wanted: NewAuthority, issuer: Issuer | None, now: datetime) -> Chain:
    """The certificate of a CA, by its issuer or by itself."""
    if issuer is None:
        return self_signed(key, wanted.profile, wanted.names, now, validity=wanted.validity)
    return issuer.issue(key.public_key(), wanted.profile, wanted.names, now, validity=wanted.validity)


def store(connection: Connection, row: AuthorityRow, now: datetime, operation: str = "make") -> None:
    """Store a CA, the row of its certificate if another CA here signed it, and the record of the signature."""
    add_authority(connection, row)
    certificate = row.certificate
    if row.parent is not None and operation == "make":
        serial = serial_text(certificate.serial_number)
        holder = f"<{row.name}>"
        issued = IssuedRow(row.parent, serial, row.kind, holder, certificate, now, operation, OPERATOR)
        add_issued(connection, issued)
    detail = {
        "authority": row.parent or row.name,
        "serial": serial_text(certificate.serial_number),
        "subject": certificate.subject.rfc4514_string(),
        "profiles": sorted(row.profiles),
        "not_after": f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
    }
    entry = chained.Entry(now, "authority", OPERATOR, "", f"<{row.name}>", operation, json.dumps(detail))
    chained.append(connection, entry)


def names_of(certificate: x509.Certificate) -> Names | None:
    """The names in a CA's certificate, as far as this authority writes them; None without a common name."""
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    organizations = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if not common:
        return None
    return Names(str(common[0].value), organization=str(organizations[0].value) if organizations else None)


# Across companies -----------------------------------------------------------------------------------------------------


def request(authority: CertificateAuthority, name: str, names: Names, algorithm: KeyAlgorithm) -> bytes:
    """A new key for the CA `name` and a CSR (PEM) that another company certifies."""
    if name in authority.authorities:
        raise UsageError(f"there is a CA {name!r} already", reason="authority-exists")
    _, key = authority.keyring.create(name, algorithm)
    return build_csr(key, names, ((x509.BasicConstraints(True, None), True), *CA_EXTENSIONS))


async def install(authority: CertificateAuthority, name: str, chain: Chain, profiles: frozenset[str]) -> str:
    """Take the chain that came back for `request`: the CA's certificate first, then those above it up to the root.

    Raises UsageError (`authority-key-missing`), IntegrityError (`key-certificate-mismatch`).
    """
    reference = authority.keyring.reference(name)
    key = authority.keyring.find(reference)
    if key is None:
        raise UsageError(
            f"there is no key for {name!r} here", reason="authority-key-missing", fix="edgetrust ca request first"
        )
    key_matches(chain, key)
    now, rows = authority.clock.now(), list[AuthorityRow]()
    above: str | None = None
    for place, certificate in reversed(list(enumerate(chain.certificates))):
        known = next((one.name for one in authority.authorities.values() if one.row.certificate == certificate), None)
        row_name = name if place == 0 else known or f"{name}-above-{place}"
        kind = ROOT.name if place and place == len(chain.certificates) - 1 else INTERMEDIATE.name
        if known is None:
            own = profiles if place == 0 else frozenset[str]()
            rows.append(
                AuthorityRow(
                    row_name, kind, above, ACTIVE, False, reference if place == 0 else None, certificate, now, 0, own
                )
            )
        above = row_name

    def work(connection: Connection) -> None:
        for row in rows:
            store(connection, row, now, "install")

    await authority.database.write(work)
    await authority.refresh()
    return name


__all__ = [
    "ACTIVE",
    "CA_EXTENSIONS",
    "PREPARED",
    "PURPOSES",
    "NewAuthority",
    "Purpose",
    "certify",
    "install",
    "make_authority",
    "make_hierarchy",
    "names_of",
    "request",
    "store",
]
