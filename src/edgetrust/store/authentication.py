"""From an authentication that is asked for to the columns that are stored, and back.

Rules (hub specification 4.4 to 4.9): nothing said means `sas` with generated keys when creating, and what is stored
when updating; thumbprints without a type mean `selfSigned`; a key that is missing is generated, or kept where the
identity already authenticates by keys; `selfSigned` needs a thumbprint, and both of them for an edge device, whose
certificate changes while it runs; X.509 CA authentication of an edge device is refused unless a switch allows it.

Pure: what it may need of the registry is given.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from sqlalchemy import RowMapping

from edgetrust.errors import IntegrityError
from edgetrust.limits import KEY_BYTES_MAX, KEY_BYTES_MIN
from edgetrust.pki.chain import Thumbprint, ThumbprintError
from edgetrust.pki.keys import SecretBytes
from edgetrust.store.records import AuthenticationDraft, AuthenticationKind, RegistryError
from edgetrust.trust.registration import Authentication, CertificateAuthority, NoAuthentication, SasKeys, Thumbprints

Row = RowMapping | Mapping[str, Any]  # by the names of the columns

_GENERATED_KEY_BYTES = 32
_KINDS = {kind.lower(): kind for kind in AuthenticationKind}
# What `aziot-identityd` knows of X.509 is one word (hub specification 5.2).
_KINDS["x509"] = AuthenticationKind.SELF_SIGNED


@dataclass(frozen=True, slots=True)
class Rules:
    """What the identity is, as far as its authentication cares."""

    what: str
    edge: bool
    allow_edge_ca: bool


def decide_authentication(
    draft: AuthenticationDraft | None, stored: Authentication | None, rules: Rules
) -> Authentication:
    """What is to be stored. `stored` is None when the identity is being created. Raises RegistryError 400."""
    wanted = (
        stored if draft is None and stored is not None else _from_draft(draft or AuthenticationDraft(), stored, rules)
    )
    return _fitting(wanted, rules)


def _from_draft(draft: AuthenticationDraft, stored: Authentication | None, rules: Rules) -> Authentication:
    match _kind(draft, rules):
        case AuthenticationKind.SAS:
            old = stored if isinstance(stored, SasKeys) else None
            return SasKeys(
                _key(draft.primary_key, "primary", old.primary if old else None, rules),
                _key(draft.secondary_key, "secondary", old.secondary if old else None, rules),
            )
        case AuthenticationKind.SELF_SIGNED:
            return Thumbprints(
                _thumbprint(draft.primary_thumbprint, "primary", rules),
                _thumbprint(draft.secondary_thumbprint, "secondary", rules),
            )
        case AuthenticationKind.CERTIFICATE_AUTHORITY:
            return CertificateAuthority()
        case AuthenticationKind.NONE:
            return NoAuthentication()
        case kind:
            assert_never(kind)


def _kind(draft: AuthenticationDraft, rules: Rules) -> AuthenticationKind:
    if draft.kind:
        try:
            return _KINDS[draft.kind.lower()]
        except KeyError:
            raise _bad(f"{rules.what}: {draft.kind[:40]!r} is no type of authentication") from None
    thumbprints = draft.primary_thumbprint or draft.secondary_thumbprint
    return AuthenticationKind.SELF_SIGNED if thumbprints else AuthenticationKind.SAS


def _key(text: str | None, slot: str, old: SecretBytes | None, rules: Rules) -> SecretBytes:
    if not text:
        return old if old is not None else SecretBytes(secrets.token_bytes(_GENERATED_KEY_BYTES))
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _bad(f"{rules.what}: the {slot} key is not base64") from None
    if not KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX:
        raise _bad(f"{rules.what}: the {slot} key has {len(key)} bytes, not {KEY_BYTES_MIN} to {KEY_BYTES_MAX}")
    return SecretBytes(key)


def _thumbprint(text: str | None, slot: str, rules: Rules) -> Thumbprint | None:
    if not text:
        return None
    try:
        return Thumbprint.parse(text)
    except ThumbprintError as problem:
        raise _bad(f"{rules.what}: the {slot} thumbprint: {problem.message}", "thumbprint-malformed") from problem


def _fitting(wanted: Authentication, rules: Rules) -> Authentication:
    match wanted:
        case Thumbprints(primary=None, secondary=None):
            raise _bad(f"{rules.what} is selfSigned and needs a thumbprint", "thumbprint-missing")
        case Thumbprints(primary=None) | Thumbprints(secondary=None) if rules.edge:
            raise _bad(
                f"{rules.what} is an edge device: selfSigned needs the primary and the secondary thumbprint",
                "edge-thumbprint-missing",
                "register the thumbprints of two certificates, or the same one twice",
            )
        case CertificateAuthority() if rules.edge and not rules.allow_edge_ca:
            raise _bad(
                f"{rules.what} is an edge device: certificateAuthority straight to the hub is not allowed",
                "edge-device-by-ca",
                "register thumbprints, provision it with DPS, or allow edge devices by X.509 CA in the hub's settings",
            )
        case _:
            return wanted


def _bad(message: str, reason: str = "", fix: str = "") -> RegistryError:
    return RegistryError(message, code="ArgumentInvalid", status=400, reason=reason, fix=fix)


def columns_of(authentication: Authentication) -> dict[str, Any]:
    """The values of the columns; those that do not belong to the type are None."""
    columns: dict[str, Any] = dict.fromkeys(
        ("key_primary", "key_secondary", "thumbprint_primary", "thumbprint_secondary")
    )
    match authentication:
        case SasKeys():
            columns["authentication"] = AuthenticationKind.SAS.value
            columns["key_primary"] = authentication.primary.reveal()
            columns["key_secondary"] = authentication.secondary.reveal()
        case Thumbprints():
            columns["authentication"] = AuthenticationKind.SELF_SIGNED.value
            columns["thumbprint_primary"] = authentication.primary.hex() if authentication.primary else None
            columns["thumbprint_secondary"] = authentication.secondary.hex() if authentication.secondary else None
        case CertificateAuthority():
            columns["authentication"] = AuthenticationKind.CERTIFICATE_AUTHORITY.value
        case NoAuthentication():
            columns["authentication"] = AuthenticationKind.NONE.value
        case _:
            assert_never(authentication)
    return columns


def authentication_from(row: Row) -> Authentication:
    """Read back what `columns_of` stored. Raises IntegrityError if somebody else wrote it."""
    match row["authentication"]:
        case "sas" if row["key_primary"] and row["key_secondary"]:
            return SasKeys(SecretBytes(bytes(row["key_primary"])), SecretBytes(bytes(row["key_secondary"])))
        case "selfSigned":
            slots = (row["thumbprint_primary"], row["thumbprint_secondary"])
            return Thumbprints(*(Thumbprint.parse(slot) if slot else None for slot in slots))
        case "certificateAuthority":
            return CertificateAuthority()
        case "none":
            return NoAuthentication()
        case kind:
            raise IntegrityError(
                f"a stored identity has authentication {kind!r} without its values", reason="store-row"
            )
