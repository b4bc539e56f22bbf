"""Certificates of a fleet: who issues them, and whether those that are there still serve.

    CaSource      a certificate authority of `edgetrust ca`; what it issues is in its store and its audit log
    DemoSource    a root and an issuing CA in a folder, made when they are missing; for trials

Rules. A certificate is taken again while it is of the name that is wanted, belongs to the key beside it, ends at a
root of the source and has more than a third of its life left. Everything else is issued anew with a new key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from edgetrust.cli.certificates import read_chain
from edgetrust.cli.demo_pki import without_root
from edgetrust.clock import SystemClock
from edgetrust.errors import Error
from edgetrust.pki.chain import Chain, key_matches
from edgetrust.pki.issue import Issuer, self_signed
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import BOOTSTRAP, DEVICE, EDGE_CA, INTERMEDIATE, ROOT, Profile
from edgetrust.pki.softkeys import SoftKey, load_key_file, write_private, write_public

_LEFT = 1 / 3  # of its life: less is renewed by the next apply
_LEVELS = 8  # of issuers in a file


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its chain as it lies in a file, and its key."""

    chain: Chain
    key: SoftKey


class Source(Protocol):
    """Who issues. `anchors` are its roots, for everybody's trust bundle."""

    @property
    def anchors(self) -> tuple[x509.Certificate, ...]: ...

    async def issue(
        self, key: SoftKey, profile: Profile, names: Names, identity: str, life: timedelta | None
    ) -> Chain: ...


class CaSource:
    """The certificate authority of a ca.toml, opened."""

    def __init__(self, authority: object) -> None:
        from edgetrust.ca.authority import CertificateAuthority

        assert isinstance(authority, CertificateAuthority)
        self._authority = authority

    @property
    def anchors(self) -> tuple[x509.Certificate, ...]:
        return self._authority.bundle().anchors

    async def issue(self, key: SoftKey, profile: Profile, names: Names, identity: str, life: timedelta | None) -> Chain:
        from edgetrust.ca.authority import Order

        order = Order(
            key.public_key(), profile, names, identity, "fleet", "operator", place="fleet apply", validity=life
        )
        return (await self._authority.issue(order)).chain


class DemoSource:
    """A root and an issuing CA in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._now = SystemClock().now()
        root = self._authority(folder, "root", None)
        self._issuer = self._authority(folder, "issuing", root)
        self.anchors = (root.certificate,)

    def _authority(self, folder: Path, name: str, above: Issuer | None) -> Issuer:
        certificate, key_file = folder / f"{name}.cert.pem", folder / f"{name}.key.pem"
        if certificate.exists() and key_file.exists():
            return Issuer(load_key_file(key_file), read_chain(certificate))
        key, names = SoftKey.generate(name), Names(f"edgetrust fleet demo {name} CA")
        if above is None:
            chain = self_signed(key, ROOT, names, self._now)
        else:
            chain = above.issue(key.public_key(), INTERMEDIATE, names, self._now)
        write_private(key_file, key.private_pem().reveal())
        write_public(certificate, chain.pem().encode())
        return Issuer(key, chain)

    async def issue(self, key: SoftKey, profile: Profile, names: Names, identity: str, life: timedelta | None) -> Chain:
        return self._issuer.issue(key.public_key(), profile, names, self._now, validity=life)


@asynccontextmanager
async def opened(ca: Path | None, demo: Path | None) -> AsyncIterator[Source]:
    """The source that one of the two names. Raises ConfigError, IntegrityError, UnavailableError."""
    if ca is None:
        assert demo is not None
        yield await asyncio.to_thread(DemoSource, demo)
        return
    from edgetrust.ca.settings import load_settings
    from edgetrust.cli.at_ca import opened as opened_ca

    async with opened_ca(load_settings(ca)) as authority:
        yield CaSource(authority)


async def identity_pair(source: Source, device: str, life: timedelta) -> Pair:
    """An identity certificate for `device`, its common name, without the root."""
    key = await asyncio.to_thread(SoftKey.generate, device, KeyAlgorithm.P256)
    return Pair(without_root(await source.issue(key, DEVICE, Names(device), device, life)), key)


async def edge_ca_pair(source: Source, device: str, life: timedelta) -> Pair:
    """An Edge CA for the gateway `device`, with its issuers up to the root."""
    key = await asyncio.to_thread(SoftKey.generate, f"{device} Edge CA", KeyAlgorithm.P256)
    chain = await source.issue(key, EDGE_CA, Names(edge_ca_name(device)), device, life)
    return Pair(chain, key)


async def bootstrap_pair(source: Source, device: str) -> Pair:
    """A bootstrap certificate for `device`, which buys it a first certificate of its name by EST and nothing else. It
    lives as long as the authority lets such ones live.
    """
    key = await asyncio.to_thread(SoftKey.generate, f"{device} bootstrap", KeyAlgorithm.P256)
    return Pair(without_root(await source.issue(key, BOOTSTRAP, Names(device), device, None)), key)


def edge_ca_name(device: str) -> str:
    """The common name of a gateway's Edge CA, as IoT Edge has it."""
    return f"aziot-edge CA {device}"


def held(
    certificate: Path, key_file: Path, common_name: str, anchors: tuple[x509.Certificate, ...], now: datetime
) -> tuple[Pair | None, str]:
    """The pair that lies there if it still serves, and else why not: `missing`, or what is wrong with it."""
    if not certificate.exists() or not key_file.exists():
        return None, "missing"
    try:
        pair = Pair(read_chain(certificate), load_key_file(key_file))
        key_matches(pair.chain, pair.key)
    except Error as problem:
        return None, problem.reason
    found = pair.chain.end_entity
    names = [one.value for one in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    begin, end = found.not_valid_before_utc, found.not_valid_after_utc
    if names != [common_name]:
        return None, "of another name"
    if not _below(pair.chain, anchors):
        return None, "of another CA"
    if end <= now:
        return None, "expired"
    if end - now < (end - begin) * _LEFT:
        return None, "due"
    return pair, ""


def _below(chain: Chain, anchors: tuple[x509.Certificate, ...]) -> bool:
    """Whether each certificate of a file is issued by the next, and the last by an anchor or is one."""
    certificates = chain.certificates[:_LEVELS]
    for child, issuer in pairwise(certificates):
        if child in anchors or not _issued(child, issuer):
            return child in anchors
    return any(certificates[-1] == anchor or _issued(certificates[-1], anchor) for anchor in anchors)


def _issued(child: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        child.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
