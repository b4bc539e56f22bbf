"""How an identity authenticates, as registry bodies say it: between hubs, gateways and services, both ways."""

from __future__ import annotations

import base64
from typing import assert_never

from edgetrust.pki.chain import Thumbprint
from edgetrust.pki.keys import SecretBytes
from edgetrust.protocol.registry import AuthenticationBody, AuthenticationType, SymmetricKeyBody, ThumbprintBody
from edgetrust.protocol.sas import decode_key
from edgetrust.trust.registration import (
    Authentication,
    CertificateAuthority,
    NoAuthentication,
    SasKeys,
    Thumbprints,
)

_KINDS: dict[type[Authentication], AuthenticationType] = {
    SasKeys: AuthenticationType.SAS,
    Thumbprints: AuthenticationType.SELF_SIGNED,
    CertificateAuthority: AuthenticationType.CERTIFICATE_AUTHORITY,
    NoAuthentication: AuthenticationType.NONE,
}


def authentication_body(authentication: Authentication) -> AuthenticationBody:
    """`authentication` with null where there is nothing."""
    keys, thumbprints = SymmetricKeyBody(), ThumbprintBody()
    match authentication:
        case SasKeys(primary, secondary):
            keys = SymmetricKeyBody(_base64(primary), _base64(secondary))
        case Thumbprints(first, second):
            thumbprints = ThumbprintBody(first.hex() if first else None, second.hex() if second else None)
        case CertificateAuthority() | NoAuthentication():
            pass
        case _:
            assert_never(authentication)
    return AuthenticationBody(keys, thumbprints, _KINDS[type(authentication)])


def authentication_from(body: AuthenticationBody | None) -> Authentication:
    """What a hub says of an identity; nothing that lacks a credential authenticates. Raises PeerError."""
    match body:
        case AuthenticationBody(type=AuthenticationType.SAS, symmetric_key=keys) if keys is not None:
            if keys.primary_key is None or keys.secondary_key is None:
                return NoAuthentication()
            primary, secondary = decode_key(keys.primary_key), decode_key(keys.secondary_key)
            return SasKeys(SecretBytes(primary), SecretBytes(secondary))
        case AuthenticationBody(type=AuthenticationType.SELF_SIGNED, x509_thumbprint=slots) if slots is not None:
            return Thumbprints(_thumbprint(slots.primary_thumbprint), _thumbprint(slots.secondary_thumbprint))
        case AuthenticationBody(type=AuthenticationType.CERTIFICATE_AUTHORITY):
            return CertificateAuthority()
        case _:
            return NoAuthentication()


def _thumbprint(text: str | None) -> Thumbprint | None:
    return Thumbprint.parse(text) if text else None


def _base64(secret: SecretBytes) -> str:
    return base64.b64encode(secret.reveal()).decode()
