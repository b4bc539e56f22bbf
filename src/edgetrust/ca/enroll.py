"""An enrolment, from what was asked to a stored certificate, in one transaction.

    read        the CSR, the credential, what the store and the registry know        (facts)
    decide      policy.decide                                                        (nothing has happened yet)
    record      the refusal, or the signature, in the audit log
    act         take the claim, take the use of a one-time password, sign, store
    commit      then, and only then, the certificate is handed out

A process that dies at any point before the commit has changed nothing; one that dies after it answers the repeated
request of the same client with a new certificate for the same key: the claim and the one-time use are bound to the key.

A rule may ask for a person's approval: then the request waits in a row that is found again by who asked, for which
subject and key; the client repeats its request until it has been decided.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509
from sqlalchemy import Connection

from edgetrust.ca.authority import Authority, CertificateAuthority, Issued, Order, can_sign, checks_as_data
from edgetrust.ca.credentials import Credentials
from edgetrust.ca.policy import (
    CredentialKind,
    Facts,
    Granted,
    Refused,
    Registered,
    Shown,
    decide,
    shown_as,
)
from edgetrust.ca.reasons import IssuanceReason as Why
from edgetrust.ca.request import Asked, RequestError, owner_of, read_request
from edgetrust.limits import EST_REQUESTS_WAITING
from edgetrust.pki.chain import Chain, ChainError
from edgetrust.pki.keys import PublicKey, SecretText
from edgetrust.pki.profiles import EDGE_CA, PROFILES
from edgetrust.store import chained
from edgetrust.store.est import (
    APPROVED,
    DENIED,
    PENDING,
    Claim,
    RequestRow,
    add_claim,
    add_request,
    count_waiting,
    find_claim,
    find_request,
    forget_request,
)
from edgetrust.store.issuance import holdings_of_key, key_digest
from edgetrust.store.passwords import take_use
from edgetrust.trust.verdict import Check

Registry = Callable[[str], Awaitable[Registered]]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks: the address, the certificates shown (DER, the end entity first), user name and password; `binding` is
    the connection's tls-unique, None where there is none.
    """

    address: str
    chain: Sequence[bytes] = ()
    basic: tuple[str, SecretText] | None = None
    binding: bytes | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """The request waits for a person."""

    request: str


Outcome = Issued | Refused | Waiting


async def no_registry(_identity: str) -> Registered:
    """The registry of an authority that has none."""
    return Registered.NO_REGISTRY


class Enroller:
    """Answers enrolments for one CA. `registry` says what is registered."""

    def __init__(
        self,
        authority: CertificateAuthority,
        registry: Registry = no_registry,
        bootstrap: Sequence[x509.Certificate] = (),
    ) -> None:
        self.authority = authority
        self._registry = registry
        self._credentials = Credentials(authority, bootstrap)

    async def enroll(
        self,
        signer: Authority,
        der: bytes,
        peer: Peer,
        operation: str,
        *,
        renewal: bool = False,
        key: PublicKey | None = None,
    ) -> Outcome:
        """Decide about a CSR and, if it is granted, issue. Raises the store's errors; then nothing has happened.

        `renewal`: the names must be those of the certificate shown. `key`: certify this one (serverkeygen).
        """
        place = f"est/{signer.name}"
        try:
            asked = read_request(der, key)
        except RequestError as error:
            return await self._refuse_unread(error, place, peer)
        password = await self._credentials.password(peer.basic)
        username = None if peer.basic is None else peer.basic[0]
        asked = self._for_its_gateway(asked, peer, username)
        registered = await self._registry(asked.owner)
        proof = self._credentials.proof(peer.chain, self.authority.clock.now())

        def work(connection: Connection) -> Outcome:
            now = self.authority.clock.now()
            shown = self._credentials.shown(connection, proof, username, password, now)
            facts = self._facts(connection, signer, asked, shown, registered, peer.binding, renewal=renewal)
            call = _Call(self.authority, signer, asked, shown, facts, place, peer.address, operation)
            return call.answer(connection, now)

        return await self.authority.database.write(work)

    def known_as(self, peer: Peer) -> str | None:
        """The good credential on whose account a request is counted; None: it is a stranger's, as far as is known."""
        return self._credentials.known_as(peer.chain, peer.basic, self.authority.clock.now())

    async def who(self, peer: Peer) -> str | None:
        """Whose good credential this is; None for nobody's."""
        password = await self._credentials.password(peer.basic)
        username = None if peer.basic is None else peer.basic[0]
        proof = self._credentials.proof(peer.chain, self.authority.clock.now())

        def work(connection: Connection) -> Shown:
            return self._credentials.shown(connection, proof, username, password, self.authority.clock.now())

        shown = await self.authority.database.read(work)
        certificate = shown.certificate
        if certificate is not None and certificate.kind is CredentialKind.IDENTITY and certificate.fault is None:
            return owner_of(certificate.name)
        return shown.password.username if shown.password is not None and shown.password.fault is None else None

    def _facts(
        self,
        connection: Connection,
        signer: Authority,
        asked: Asked,
        shown: Shown,
        registered: Registered,
        binding: bytes | None,
        *,
        renewal: bool,
    ) -> Facts:
        key = key_digest(asked.csr.public_key)
        holdings = holdings_of_key(connection, key)
        claimable = any(rule.once and shown_as(rule.credential, shown) for rule in self.authority.settings.rules)
        holders = {who for who, _ in holdings} | {f"<{name}>" for name in self.authority.of_key(key)}
        return Facts(
            active=can_sign(signer),
            served=signer.row.profiles,
            registered=registered,
            claim=find_claim(connection, asked.common_name) if claimable else None,
            key=key,
            key_holders=frozenset(holders),
            had_before=(asked.owner, shown.name) in holdings,
            renewal=renewal,
            binding=binding,
        )

    def _for_its_gateway(self, asked: Asked, peer: Peer, username: str | None) -> Asked:
        """An Edge CA whose name spells its gateway in other letters belongs to the gateway that asks for it."""
        if asked.profile != EDGE_CA.name:
            return asked
        names = [username] if username is not None else []
        if peer.chain:
            names += [owner_of(name) for name in _names_in(peer.chain[0])]
        return next((replace(asked, owner=name) for name in names if name.lower() == asked.owner.lower()), asked)

    async def _refuse_unread(self, error: RequestError, place: str, peer: Peer) -> Refused:
        refused = Refused("", error.why, (Check("request", False, error.message),))

        def work(connection: Connection) -> None:
            record_refusal(connection, refused, place, peer.address, self.authority.clock.now())

        await self.authority.database.write(work)
        return refused


@dataclass(frozen=True, slots=True)
class _Call:
    """One enrolment inside its transaction."""

    authority: CertificateAuthority
    signer: Authority
    asked: Asked
    shown: Shown
    facts: Facts
    place: str
    peer: str
    operation: str

    def answer(self, connection: Connection, now: datetime) -> Outcome:
        verdict = decide(self.asked, self.shown, self.facts, self.authority.settings.rules, now)
        if isinstance(verdict, Refused):
            record_refusal(connection, verdict, self.place, self.peer, now)
            return verdict
        if verdict.rule.approval:
            outcome = self._approval(connection, verdict, now)
            if outcome is not None:
                return outcome
        return self._issue(connection, verdict, now)

    def _approval(self, connection: Connection, granted: Granted, now: datetime) -> Outcome | None:
        """None: a person has approved it."""
        found = find_request(connection, self._request_id)
        if found is None:
            waiting = count_waiting(connection, self.shown.name)
            if waiting >= EST_REQUESTS_WAITING:
                check = Check("waiting", False, f"{waiting} requests of {self.shown.name} wait for a person")
                return self._refused(connection, granted, Why.TOO_MANY_WAITING, check, now)
            add_request(connection, self._request_row(now))
            detail = json.dumps({"request": self._request_id, "subject": self.asked.csr.subject.rfc4514_string()})
            entry = chained.Entry(
                now, "pending", self.place, self.peer, granted.identity, "enroll-waits-for-approval", detail
            )
            chained.append(connection, entry)
            return Waiting(self._request_id)
        if found.state == PENDING:
            return Waiting(found.id)
        if found.state == DENIED:
            check = Check("approval", False, found.note or "denied")
            return self._refused(connection, granted, Why.DENIED, check, now)
        assert found.state == APPROVED
        forget_request(connection, found.id)
        return None

    def _refused(self, connection: Connection, granted: Granted, why: Why, check: Check, now: datetime) -> Refused:
        refused = Refused(granted.identity, why, (*granted.checks, check))
        record_refusal(connection, refused, self.place, self.peer, now)
        return refused

    @property
    def _request_id(self) -> str:
        """Who asks for what: a CSR that is bound to its connection is signed anew and differs each time."""
        said = [self.signer.name, self.shown.name, self.asked.csr.subject.rfc4514_string(), self.facts.key]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def _request_row(self, now: datetime) -> RequestRow:
        return RequestRow(
            self._request_id,
            self.signer.name,
            self.asked.profile,
            self.asked.owner,
            self.asked.csr.subject.rfc4514_string(),
            self.facts.key,
            self.asked.csr.der,
            self.shown.name,
            self.peer,
            PENDING,
            now,
            None,
            "",
        )

    def _issue(self, connection: Connection, granted: Granted, now: datetime) -> Issued:
        if granted.claim:
            add_claim(connection, Claim(self.asked.common_name, granted.credential, self.facts.key, now))
        password = self.shown.password
        if password is not None and password.uses_left > 0 and not self.facts.had_before:
            take_use(connection, password.username)
        order = Order(
            self.asked.csr,
            PROFILES[granted.profile],
            granted.names,
            granted.identity,
            self.operation,
            granted.credential,
            self.place,
            self.peer,
            granted.checks,
        )
        return self.authority.sign(connection, self.signer, order)


def record_refusal(connection: Connection, refused: Refused, place: str, peer: str, now: datetime) -> None:
    """A refusal in the audit log, with its checks."""
    detail = json.dumps({"checks": checks_as_data(refused.checks)})
    chained.append(
        connection, chained.Entry(now, "refused", place, peer, refused.identity, refused.reason.value, detail)
    )


def _names_in(der: bytes) -> list[str]:
    try:
        subject = Chain.from_der((der,)).end_entity.subject
    except (ChainError, ValueError):
        return []
    return [str(name.value) for name in subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
