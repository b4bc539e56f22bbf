"""Credential: what the peer showed. Not yet believed.

A password, when there is one, is the credential: a certificate beside it is never looked at, so a wrong password is
not rescued by a good certificate. A password that is no SAS token is a malformed token, not the absence of one.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgetrust.pki.chain import Chain, ChainError
from edgetrust.protocol.sas import SasError, SasToken, parse_token

__all__ = [
    "ClientChain",
    "Credential",
    "MalformedChain",
    "MalformedToken",
    "NoCredential",
    "SasToken",
    "credential_from",
]


@dataclass(frozen=True, slots=True)
class MalformedToken:
    """A password or Authorization header that is no SAS token; `problem` says what is wrong, without its text."""

    problem: str


@dataclass(frozen=True, slots=True)
class ClientChain:
    """A certificate whose private key the peer has proven to hold (TLS did), with what it sent along."""

    chain: Chain


@dataclass(frozen=True, slots=True)
class MalformedChain:
    """TLS carried a certificate that cannot be read."""

    problem: str


@dataclass(frozen=True, slots=True)
class NoCredential:
    """Neither password nor certificate."""


Credential = SasToken | MalformedToken | ClientChain | MalformedChain | NoCredential


def credential_from(password: str | None, peer_chain: tuple[bytes, ...]) -> Credential:
    """The credential of a connection: its password if it sent one (also an unreadable one), else its certificate chain.

    `peer_chain` is DER, end entity first, as TLS delivered it. Total: never raises.
    """
    if password:
        try:
            return parse_token(password)
        except SasError as problem:
            return MalformedToken(problem.message)
    if peer_chain:
        try:
            return ClientChain(Chain.from_der(peer_chain))
        except ChainError as problem:
            return MalformedChain(str(problem))
    return NoCredential()
