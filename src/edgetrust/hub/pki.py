"""The throw-away PKI that `edgetrust up` makes in its directory: a root, an issuing CA, and the hub's server
certificate.

Made once and kept; the server certificate is made again when it has less than a tenth of its life left or lacks a
name it needs now. Keys never leave the directory and are readable by their owner only.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from edgetrust.errors import IntegrityError
from edgetrust.pki.chain import Chain, key_matches
from edgetrust.pki.issue import Issuer, self_signed
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.names import Names, as_ip, covers
from edgetrust.pki.profiles import HUB_SERVER, ISSUING, ROOT
from edgetrust.pki.softkeys import SoftKey, load_key_file, write_private, write_public

_RENEW_FRACTION = 0.1


@dataclass(frozen=True, slots=True)
class HubPki:
    """Where the files are: the server's chain and key, and the root that clients must trust."""

    certificate: Path
    key: Path
    trust_bundle: Path


def ensure_pki(directory: Path, hosts: tuple[str, ...], now: datetime) -> HubPki:
    """Make what is missing in `directory`; `hosts` are the names and addresses the server certificate must be good
    for.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = HubPki(directory / "hub.cert.pem", directory / "hub.key.pem", directory / "root.cert.pem")
    if not files.trust_bundle.exists() or not _still_good(files, hosts, now):
        issuing = _issuing(directory, now)
        key = SoftKey.generate("hub", KeyAlgorithm.P256)
        chain = issuing.issue(key.public_key(), HUB_SERVER, Names.for_hosts(*hosts), now)
        write_private(files.key, key.private_pem().reveal())
        write_public(files.certificate, chain.pem().encode())
    return files


def _issuing(directory: Path, now: datetime) -> Issuer:
    """Its file holds the root too: that of the trust bundle may hold others by now."""
    known = (directory / "issuing.cert.pem").exists() and (directory / "root.cert.pem").exists()
    root = None if known else _authority(directory, "root", None, now)
    return _authority(directory, "issuing", root, now)


def _authority(directory: Path, name: str, parent: Issuer | None, now: datetime) -> Issuer:
    certificate, key_file = directory / f"{name}.cert.pem", directory / f"{name}.key.pem"
    if certificate.exists() and key_file.exists():
        return Issuer(load_key_file(key_file), Chain.from_pem(certificate.read_bytes()))
    key = SoftKey.generate(name, KeyAlgorithm.P256)
    names = Names(f"edgetrust development {name} CA", organization="edgetrust development")
    chain = (
        self_signed(key, ROOT, names, now) if parent is None else parent.issue(key.public_key(), ISSUING, names, now)
    )
    write_private(key_file, key.private_pem().reveal())
    write_public(certificate, chain.pem().encode())
    return Issuer(key, chain)


def _still_good(files: HubPki, hosts: tuple[str, ...], now: datetime) -> bool:
    if not (files.certificate.exists() and files.key.exists()):
        return False
    chain = Chain.from_pem(files.certificate.read_bytes())
    try:
        key_matches(chain, load_key_file(files.key))
    except IntegrityError:  # the process ended between writing the one and the other
        return False
    certificate = chain.end_entity
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end - now < (end - start) * _RENEW_FRACTION:
        return False
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    dns, ips = names.get_values_for_type(x509.DNSName), names.get_values_for_type(x509.IPAddress)
    addresses = [address for ip in ips if (address := as_ip(str(ip))) is not None]
    return all(covers(dns, addresses, host) is not None for host in hosts)
