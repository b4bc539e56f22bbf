"""What an enrolling client showed: its certificate chain and its password, verified, as facts for the policy.

Rules. A client certificate must lead to an authority of this CA or to one of the listed bootstrap authorities, be for
clients, be valid now and not be revoked. One that this CA issued as a bootstrap certificate, or that leads to a
bootstrap authority of somebody else, proves a batch or a birth name (`bootstrap`); any other that this CA issued proves
its common name (`identity`). Passwords are verified on a thread, since that is slow on purpose; what was right once is
remembered for the life of this process as a keyed hash, so that a client that sends its password with every request
costs no more. Nor is a chain verified again that was good under the same trust bundle, while its dates last: a whole
batch shows one bootstrap certificate, and a connection one certificate with each request.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from sqlalchemy import Connection

from edgetrust import limits
from edgetrust.ca.authority import CertificateAuthority
from edgetrust.ca.policy import CredentialKind, Shown, ShownCertificate, ShownPassword
from edgetrust.ca.reasons import IssuanceReason as Why
from edgetrust.pki.chain import Chain, ChainError, TrustBundle
from edgetrust.pki.facts import read_once
from edgetrust.pki.keys import SecretText
from edgetrust.pki.profiles import BOOTSTRAP
from edgetrust.pki.verify import ChainFailure, ChainReason, Purpose, VerifiedChain, verify_chain
from edgetrust.store.issuance import standing_of
from edgetrust.store.passwords import Password, find_password, matches

_NOBODY = Password("", b"", b"", "", 0, None, datetime.min)
_DATES = (ChainReason.EXPIRED, ChainReason.NOT_YET_VALID)


def parse_basic(header: str | None) -> tuple[str, SecretText] | None:
    """User name and password of an Authorization header (RFC 7617); None if there is none, or it is another scheme."""
    scheme, _, value = (header or "").partition(" ")
    if scheme.lower() != "basic" or len(value) > limits.PASSWORD_BYTES:
        return None
    try:
        username, colon, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (username, SecretText(password)) if colon and "\0" not in username else None


@dataclass(frozen=True, slots=True)
class Proof:
    """A chain that was shown, after path validation; whether it is ours and revoked is in the store.

    `foreign`: it leads to a bootstrap authority of somebody else. `fault` as in `ShownCertificate`.
    """

    name: str
    thumbprint: str
    certificate: x509.Certificate
    foreign: bool = False
    fault: tuple[Why, str] | None = None
    ended_at: datetime | None = None  # if that it has ended is all that is wrong


@dataclass(frozen=True, slots=True)
class _Good:
    proof: Proof
    valid_from: datetime
    valid_until: datetime


class Credentials:
    """Verifies what clients show. `proof` and `password` belong to one event loop."""

    def __init__(self, authority: CertificateAuthority, bootstrap: Sequence[x509.Certificate] = ()) -> None:
        self._authority, self._bootstrap = authority, tuple(bootstrap)
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, None] = {}
        self._used: dict[bytes, None] = {}
        self._good: OrderedDict[tuple[bytes, str], _Good] = OrderedDict()

    async def password(self, basic: tuple[str, SecretText] | None) -> tuple[Password | None, bool] | None:
        """The stored password of a user name and whether the one that was sent is right; None if none was sent."""
        if basic is None:
            return None
        username, secret = basic
        stored = await self._authority.database.read(lambda connection: find_password(connection, username))
        if stored is None:
            await asyncio.to_thread(matches, _NOBODY, secret)  # as slow as for a name that exists
            self._used.pop(self._use(username, secret), None)
            return None, False
        proof = hmac.digest(self._key, stored.hash + secret.reveal().encode(), "sha256")
        if proof in self._right:
            return stored, True
        right = await asyncio.to_thread(matches, stored, secret)
        if right:
            _remember(self._right, proof)
            _remember(self._used, self._use(username, secret))
        else:
            self._used.pop(self._use(username, secret), None)
        return stored, right

    def known_as(self, sent: Sequence[bytes], basic: tuple[str, SecretText] | None, now: datetime) -> str | None:
        """Whose account a request is counted on, without the cost of looking at a password: a password that was right
        before, or else a certificate that leads to us. Who sends another password is nobody, whatever certificate it
        shows: it may be guessing.
        """
        if basic is not None:
            return f"password:{basic[0]}" if self._use(*basic) in self._used else None
        proof = self.proof(sent, now)
        return None if proof is None or proof.fault is not None else f"certificate:{proof.thumbprint}"

    def _use(self, username: str, secret: SecretText) -> bytes:
        return hmac.digest(self._key, f"{username}\0{secret.reveal()}".encode(), "sha256")

    def proof(self, sent: Sequence[bytes], now: datetime) -> Proof | None:
        """Verify a chain as it was sent, DER, the end entity first; None if none was."""
        if not sent:
            return None
        bundle = self._authority.bundle(self._bootstrap)
        key = (b"".join(hashlib.sha256(der).digest() for der in sent), bundle.version)
        good = self._good.get(key)
        if good is not None and good.valid_from <= now <= good.valid_until:
            self._good.move_to_end(key)
            return good.proof
        thumbprint = key[0][:32].hex()
        try:
            chain = Chain.from_der(sent)
        except ChainError as error:
            # Whatever it is, it is no certificate: the policy refuses it before it looks at the name.
            return Proof("", thumbprint, bundle.intermediates[0], fault=(Why.CERTIFICATE_UNTRUSTED, error.message))
        name, certificate = _common_name(chain.end_entity), chain.end_entity
        outcome = verify_chain(chain, bundle, Purpose.DEVICE, now)
        if isinstance(outcome, ChainFailure):
            why = Why.CERTIFICATE_EXPIRED if outcome.reason in _DATES else Why.CERTIFICATE_UNTRUSTED
            fault = (why, f"{outcome.reason.value}: {outcome.detail}")
            return Proof(name, thumbprint, certificate, fault=fault, ended_at=_ended(chain, bundle, now))
        proof = Proof(name, thumbprint, certificate, outcome.anchor in self._bootstrap)
        self._good[key] = _Good(proof, outcome.valid_from, outcome.valid_until)
        if len(self._good) > limits.EST_CHAINS_REMEMBERED:
            self._good.popitem(last=False)
        return proof

    def shown(
        self,
        connection: Connection,
        proof: Proof | None,
        username: str | None,
        password: tuple[Password | None, bool] | None,
        now: datetime,
    ) -> Shown:
        """The facts, read in the transaction that decides."""
        certificate = None if proof is None else _certificate(connection, proof)
        return Shown(certificate, _password(connection, username or "", password, now))


def _remember(kept: dict[bytes, None], proof: bytes) -> None:
    if len(kept) >= limits.EST_PASSWORDS_REMEMBERED:
        kept.pop(next(iter(kept)))
    kept[proof] = None


def _certificate(connection: Connection, proof: Proof) -> ShownCertificate:
    ours = standing_of(connection, proof.thumbprint)
    kind = CredentialKind.BOOTSTRAP if ours is None or ours.profile == BOOTSTRAP.name else CredentialKind.IDENTITY
    fault = proof.fault
    if fault is None and ours is None and not proof.foreign:
        fault = (Why.CERTIFICATE_UNTRUSTED, "it leads to this CA, which has no record of issuing it")
    elif fault is None and ours is not None and ours.revoked_at is not None:
        fault = (Why.CERTIFICATE_REVOKED, f"revoked at {ours.revoked_at:%Y-%m-%dT%H:%MZ}: {ours.revocation}")
    renewable = kind is CredentialKind.IDENTITY and ours is not None and ours.revoked_at is None
    ended = proof.ended_at if renewable else None
    return ShownCertificate(kind, proof.name, proof.thumbprint, proof.certificate, fault, ended)


def _ended(chain: Chain, bundle: TrustBundle, now: datetime) -> datetime | None:
    """When a chain's end entity ended, if it has, and was good until then."""
    end = chain.end_entity.not_valid_after_utc
    if end >= now:
        return None
    return end if isinstance(verify_chain(chain, bundle, Purpose.DEVICE, end), VerifiedChain) else None


def _common_name(certificate: x509.Certificate) -> str:
    if read_once(certificate).unreadable is not None:
        return ""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def _password(
    connection: Connection, username: str, given: tuple[Password | None, bool] | None, now: datetime
) -> ShownPassword | None:
    if given is None:
        return None
    verified, right = given
    stored = find_password(connection, username)  # again: it may have been used, or replaced, meanwhile
    if not right or stored is None or verified is None or stored.hash != verified.hash:
        return ShownPassword(username, "", 0, (Why.PASSWORD_WRONG, f"user name {username[:80]!r}"))
    if stored.expires_at is not None and stored.expires_at <= now:
        fault = (Why.PASSWORD_EXPIRED, f"at {stored.expires_at:%Y-%m-%dT%H:%MZ}")
        return ShownPassword(username, stored.names, stored.uses_left, fault)
    return ShownPassword(username, stored.names, stored.uses_left)
