"""A certificate authority in a directory, and clients that ask it for certificates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust.ca.authority import CertificateAuthority, Issued, Order
from edgetrust.ca.ceremony import make_hierarchy
from edgetrust.ca.enroll import Enroller, Outcome, Peer, Registry, no_registry
from edgetrust.ca.policy import Refused, Registered
from edgetrust.ca.reasons import IssuanceReason
from edgetrust.ca.settings import CaSettings
from edgetrust.clock import ManualClock
from edgetrust.pki.keys import SecretText
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import BOOTSTRAP, DEVICE, Profile
from edgetrust.store import chained
from edgetrust.store.engine import Database
from edgetrust.store.issuance import IssuedRow, find_issued
from edgetrust.store.passwords import UNLIMITED, new_password, put_password
from edgetrust.store.schema import METADATA
from support.pki import PrivateKey, key

MISSING: Any = object()


def csr(
    common_name: str | None = "dev1",
    *,
    label: str = "",
    kind: str = "ec",
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    subject: x509.Name | None = None,
    sign: PrivateKey | None = None,
    hash_algorithm: Any = None,
) -> bytes:
    """A CSR, DER. `label` chooses the key: equal labels, equal keys."""
    own = sign or key(label or f"csr {common_name}", kind)
    names = [] if common_name is None else [x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names) if subject is None else subject)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(own, hash_algorithm or hashes.SHA256()).public_bytes(Encoding.DER)


def san(*names: str) -> tuple[x509.ExtensionType, bool]:
    """A requested subject alternative name of DNS names."""
    return x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False


def edge_ca_extensions(path_length: int | None = 0) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    """What the edge runtime asks for its Edge CA (edge specification 5.2)."""
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    return (x509.BasicConstraints(True, path_length), True), (usage, True)


@dataclass
class CaWorld:
    """A certificate authority, and a registry that a test fills."""

    authority: CertificateAuthority
    clock: ManualClock
    registered: dict[str, Registered] = field(default_factory=dict)
    enroller: Enroller = field(init=False)

    def __post_init__(self) -> None:
        self.enroller = Enroller(self.authority, self.ask)

    async def ask(self, identity: str) -> Registered:
        return self.registered.get(identity, Registered.UNKNOWN)

    def use(self, **settings: Any) -> None:
        """Other settings: rules, for example."""
        self.authority.settings = replace(self.authority.settings, **settings)

    def bootstrap_authorities(self, *certificates: x509.Certificate) -> None:
        self.enroller = Enroller(self.authority, self.ask, certificates)

    async def enroll(self, der: bytes, peer: Peer | None = None, *, label: str = "edge", **more: Any) -> Outcome:
        signer = self.authority.named(label)
        return await self.enroller.enroll(signer, der, peer or Peer("192.0.2.1"), "simpleenroll", **more)

    async def issued(self, der: bytes, peer: Peer, **more: Any) -> Issued:
        outcome = await self.enroll(der, peer, **more)
        assert isinstance(outcome, Issued), outcome
        return outcome

    async def refused(self, reason: IssuanceReason, der: bytes, peer: Peer | None = None, **more: Any) -> Refused:
        """Nothing is stored but the record."""
        before = await self.rows()
        outcome = await self.enroll(der, peer, **more)
        assert isinstance(outcome, Refused), outcome
        assert outcome.reason is reason, outcome
        assert await self.rows() == before
        newest = (await self.audit())[0]
        assert (newest.entry.event, newest.entry.reason) == ("refused", reason.value)
        return outcome

    async def password(
        self, username: str = "dev1", names: str | None = None, uses: int = UNLIMITED, hours: int | None = None
    ) -> Peer:
        """A client with a password."""
        now = self.clock.now()
        ends = None if hours is None else now + timedelta(hours=hours)
        made = new_password(username, SecretText("right"), names or username, uses, ends, now)
        await self.authority.database.write(lambda connection: put_password(connection, made))
        return Peer("192.0.2.1", basic=(username, SecretText("right")))

    async def holder(self, name: str, profile: Profile = DEVICE, **order: Any) -> Peer:
        """A client with a certificate of this CA."""
        own = key(f"holder {name}")
        wanted = Order(own.public_key(), profile, Names(name), name, "test", "operator", **order)
        issued = await self.authority.issue(wanted)
        return peer_of(issued.row.certificate)

    async def bootstrap(self, batch: str) -> Peer:
        return await self.holder(batch, BOOTSTRAP)

    async def rows(self, **conditions: Any) -> tuple[IssuedRow, ...]:
        return await self.authority.database.read(lambda connection: find_issued(connection, **conditions))

    async def audit(self) -> tuple[chained.Chained, ...]:
        return await self.authority.database.read(lambda connection: chained.entries(connection, 1000))


def peer_of(*certificates: x509.Certificate, basic: tuple[str, SecretText] | None = None) -> Peer:
    """A client that shows these certificates."""
    return Peer("192.0.2.1", tuple(one.public_bytes(Encoding.DER) for one in certificates), basic)


@asynccontextmanager
async def certificate_authority(
    directory: Path, url: str = "sqlite://", now: datetime | None = None, registry: Registry = no_registry
) -> AsyncIterator[CaWorld]:
    """A hierarchy that has just been made."""
    clock = ManualClock(now or datetime(2026, 1, 1, tzinfo=UTC))
    database = Database(url)
    await (database.write(METADATA.create_all) if database.in_memory else database.migrate())
    settings = CaSettings(data=directory, database=url)
    authority = await CertificateAuthority.open(settings, database, clock)
    await make_hierarchy(authority, "Test")
    try:
        yield CaWorld(authority, clock)
    finally:
        await database.close()
