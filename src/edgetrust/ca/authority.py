"""The authorities of this CA and the one way in which any of them signs a certificate.

Rules. Only an authority that is `active`, has its key here and serves the profile signs. A certificate is linted before
it exists for anybody, stored in the same transaction as the audit record of its signature, and handed out after the
commit. The serial number is random (159 bits) and the primary key of its row, so that none is used twice; a process
that dies in between has stored nothing and sent nothing.

This is also what other actors ask for operational certificates: see `CertificateAuthority.issue`. Whether somebody may
have a certificate is decided before; this module only insists on what the profile allows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID
from sqlalchemy import Connection

from edgetrust.ca.keyring import KeyRing
from edgetrust.ca.settings import CaSettings
from edgetrust.clock import Clock
from edgetrust.errors import ConfigError, UsageError
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.csr import Csr
from edgetrust.pki.issue import Issuer
from edgetrust.pki.keys import PublicKey
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import Profile
from edgetrust.store import chained
from edgetrust.store.authorities import AuthorityRow, read_authorities
from edgetrust.store.engine import Database
from edgetrust.store.issuance import CROSS, IssuedRow, add_issued, find_issued, key_digest, serial_text
from edgetrust.store.rotations import RotationRow, read_rotations
from edgetrust.trust.verdict import Check

PREPARED, DISTRIBUTED, ACTIVE, TAINTED, RETIRED = "prepared", "distributed", "active", "tainted", "retired"
OWN_LISTENER: Final = "own-listener"  # the operation of certificates that the authority serves with
IN_BUNDLES: Final = frozenset({DISTRIBUTED, ACTIVE, TAINTED})


@dataclass(frozen=True, slots=True)
class Authority:
    """One CA as it is now: its row, the certificates from it to its root, and what signs with it if its key is here."""

    row: AuthorityRow
    chain: Chain
    issuer: Issuer | None

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def key(self) -> str:
        """Its public key, as rows have it."""
        return key_digest(self.row.certificate.public_key())


@dataclass(frozen=True, slots=True)
class Order:
    """A certificate to be issued. `identity` is whose it is; `credential` and `checks` say why it was granted.

    `place` and `peer` tell where it was asked, `operation` how (`simpleenroll`, `dps`, `operator`, ...).
    """

    subject_key: Csr | PublicKey
    profile: Profile
    names: Names
    identity: str
    operation: str
    credential: str
    place: str = ""
    peer: str = ""
    checks: Sequence[Check] = ()
    validity: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """A stored certificate with its chain: the end entity, its issuer, and so on up to the root."""

    row: IssuedRow
    chain: Chain


class CertificateAuthority:
    """Make it with `await CertificateAuthority.open(...)`. Other processes' changes are seen after `refresh`."""

    def __init__(self, settings: CaSettings, database: Database, clock: Clock) -> None:
        self.settings, self.database, self.clock = settings, database, clock
        self.keyring = KeyRing(
            settings.data,
            module=settings.pkcs11_module,
            token=settings.pkcs11_token,
            pin_file=settings.pkcs11_pin_file,
        )
        self.authorities: dict[str, Authority] = {}
        self.cross: tuple[x509.Certificate, ...] = ()  # roots certified by each other, while both are in circulation
        self._successors: dict[str, str] = {}
        self._bundles: dict[tuple[x509.Certificate, ...], TrustBundle] = {}
        self._keys: dict[str, frozenset[str]] = {}

    @classmethod
    async def open(cls, settings: CaSettings, database: Database, clock: Clock) -> CertificateAuthority:
        """The authorities in a migrated database. Raises ConfigError, IntegrityError, UnavailableError."""
        opened = cls(settings, database, clock)
        await opened.refresh()
        return opened

    async def refresh(self) -> None:
        """Read the authorities again."""
        found, rotating, crossed = await self.database.read(_snapshot)
        rows = {row.name: row for row in found}
        self.authorities = {name: self._authority(row, rows) for name, row in rows.items()}
        self._successors = {one.old: one.new for one in rotating if one.stage not in (PREPARED, DISTRIBUTED)}
        self.cross = tuple(row.certificate for row in crossed if self._circulates(row))
        self._bundles = {}
        keys: dict[str, set[str]] = {}
        for one in self.authorities.values():
            keys.setdefault(one.key, set()).add(one.name)
        self._keys = {key: frozenset(names) for key, names in keys.items()}

    def _authority(self, row: AuthorityRow, rows: dict[str, AuthorityRow]) -> Authority:
        chain = Chain(tuple(one.certificate for one in _upwards(row, rows)))
        known = self.authorities.get(row.name)
        if known is not None and known.issuer is not None and known.row.certificate == row.certificate:
            return Authority(row, chain, known.issuer if known.chain == chain else Issuer(known.issuer.key, chain))
        key = self.keyring.find(row.key_reference)
        return Authority(row, chain, None if key is None else Issuer(key, chain))

    # Looking --------------------------------------------------------------------------------------------------------

    def named(self, name: str) -> Authority:
        """UsageError (`authority-unknown`) if there is none."""
        found = self.authorities.get(name)
        if found is None:
            raise UsageError(
                f"there is no CA {name!r}",
                reason="authority-unknown",
                fix=f"use one of {', '.join(self.authorities)}" if self.authorities else "edgetrust ca init",
            )
        return found

    def addressed(self, label: str | None) -> Authority | None:
        """The CA behind an EST label, or the default one; whoever uses the label of a CA that has a successor means
        that.
        """
        if label is None:
            return self.default()
        while label in self._successors:
            label = self._successors[label]
        return self.authorities.get(label)

    def _circulates(self, row: IssuedRow) -> bool:
        both = (self.authorities.get(row.authority), self.authorities.get(row.identity.strip("<>")))
        return all(one is not None and one.row.state in IN_BUNDLES for one in both)

    def default(self) -> Authority | None:
        """The CA behind EST without a label."""
        return next((one for one in self.authorities.values() if one.row.default), None)

    def bundle(self, extra: Iterable[x509.Certificate] = ()) -> TrustBundle:
        """What to trust: the roots that are in circulation and `extra` as anchors, all other authorities as help."""
        further = tuple(extra)
        found = self._bundles.get(further)
        if found is None:
            shown = [one for one in self.authorities.values() if one.row.state in IN_BUNDLES]
            anchors = [one.row.certificate for one in shown if one.row.parent is None]
            others = [one.row.certificate for one in shown if one.row.parent is not None]
            found = TrustBundle((*anchors, *further), tuple(others), as_of=self.clock.now())
            self._bundles[further] = found
        return found

    def of_key(self, key: str) -> frozenset[str]:
        """The CAs that have this key (`key_digest`)."""
        return self._keys.get(key, frozenset())

    def issuer_for(self, profile: str) -> Authority:
        """The CA that issues a kind of certificate: the default one or else the newest that can. ConfigError
        (`no-issuer`) if there is none.
        """
        able = [one for one in self.authorities.values() if profile in one.row.profiles and can_sign(one)]
        if not able:
            raise ConfigError(
                f"no CA here issues certificates of the profile {profile!r}",
                reason="no-issuer",
                fix="edgetrust ca list --authorities shows what each issues and whether its key is here",
            )
        return next((one for one in able if one.row.default), able[-1])

    # Signing --------------------------------------------------------------------------------------------------------

    async def issue(self, order: Order, *, authority: str | None = None) -> Issued:
        """Issue, lint, store and record a certificate; it comes back after the commit.

        `authority`: which CA signs; None: the one that issues this kind. Raises ConfigError (`no-issuer`), UsageError,
        IntegrityError (`lint-...`, `issuer-expired`), UnavailableError; then nothing was stored.
        """
        signer = self.issuer_for(order.profile.name) if authority is None else self.named(authority)
        return await self.database.write(lambda connection: self.sign(connection, signer, order))

    def sign(self, connection: Connection, authority: Authority, order: Order) -> Issued:
        """`issue`, as part of a transaction that decides and records more than this."""
        if authority.issuer is None or authority.row.state != ACTIVE:
            raise ConfigError(
                f"the CA {authority.name!r} cannot sign: "
                + (f"it is {authority.row.state}" if authority.issuer is not None else "its key is not here"),
                reason="no-issuer",
            )
        now = self.clock.now()
        extras = _extras(self.settings, authority.name)
        profile = replace(order.profile, extras=(*order.profile.extras, *extras)) if extras else order.profile
        validity = order.validity or self.settings.lifetimes.get(order.profile.name)
        chain = authority.issuer.issue(order.subject_key, profile, order.names, now, validity=validity)
        certificate = chain.end_entity
        row = IssuedRow(
            authority.name,
            serial_text(certificate.serial_number),
            order.profile.name,
            order.identity,
            certificate,
            now,
            order.operation,
            order.credential,
        )
        add_issued(connection, row)
        chained.append(connection, _entry(row, order, now))
        return Issued(row, chain)


def _snapshot(
    connection: Connection,
) -> tuple[tuple[AuthorityRow, ...], tuple[RotationRow, ...], tuple[IssuedRow, ...]]:
    return (
        read_authorities(connection),
        read_rotations(connection),
        find_issued(connection, profile=CROSS, revoked=False),
    )


def can_sign(authority: Authority) -> bool:
    """Whether it is active and its key is here."""
    return authority.issuer is not None and authority.row.state == ACTIVE


def checks_as_data(checks: Sequence[Check]) -> list[dict[str, object]]:
    """Checks for the audit log."""
    return [{"name": check.name, "passed": check.passed, "detail": check.detail} for check in checks]


def _entry(row: IssuedRow, order: Order, now: datetime) -> chained.Entry:
    detail = {
        "authority": row.authority,
        "serial": row.serial,
        "profile": row.profile,
        "operation": row.operation,
        "credential": row.credential,
        "subject": row.subject,
        "not_after": f"{row.not_after:%Y-%m-%dT%H:%M:%SZ}",
        "checks": checks_as_data(order.checks),
    }
    return chained.Entry(now, "issued", order.place, order.peer, row.identity, order.operation, json.dumps(detail))


def _upwards(row: AuthorityRow, rows: dict[str, AuthorityRow]) -> list[AuthorityRow]:
    """The row and what stands above it, as far as it is known here; a loop in the table ends the walk."""
    path = [row]
    while (above := rows.get(path[-1].parent or "")) is not None and above not in path:
        path.append(above)
    return path


def _extras(settings: CaSettings, authority: str) -> tuple[x509.ExtensionType, ...]:
    """Where certificates say that their revocation can be looked up, if it is served; `{ca}` stands for the issuer."""
    extras: list[x509.ExtensionType] = []
    if settings.crl_url is not None:
        where = [x509.UniformResourceIdentifier(settings.crl_url.replace("{ca}", authority))]
        extras.append(x509.CRLDistributionPoints([x509.DistributionPoint(where, None, None, None)]))
    if settings.ocsp_url is not None:
        responder = x509.UniformResourceIdentifier(settings.ocsp_url.replace("{ca}", authority))
        description = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, responder)
        extras.append(x509.AuthorityInformationAccess([description]))
    return tuple(extras)
