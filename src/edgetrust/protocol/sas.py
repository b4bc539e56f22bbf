"""Shared access signatures: the text of a SAS token to a value and back, its signature, and what its resource names.

Rules (hub specification 4.1, 4.2):
1. `SharedAccessSignature`, spaces, then `&`-joined pairs in any order, each split at its first `=`. `sr`, `sig` and
   `se` come exactly once, `skn` at most once, other keys are ignored.
2. Signed is the text of `sr` exactly as received, a line feed, and the text of `se`. So nothing is decoded before the
   signature is checked, and `se` has one spelling only: decimal digits without sign, fraction or leading zero.
3. `sig` is percent-encoded base64 of 32 bytes; callers encode differently, so it is decoded, and its base64 must be
   canonical: two texts of one signature differ in percent-encoding only.
4. The resource is compared part by part, letter case ignored (the Rust clients fold it), each part as it is or decoded
   once more (edge modules encode twice). It says what a token is good for, never who acts.

It must not know keys' owners, the time, or what a policy may do: `trust` decides. No error contains token text.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from edgetrust.errors import PeerError
from edgetrust.limits import KEY_BYTES_MAX, KEY_BYTES_MIN, PASSWORD_BYTES

SCHEME = "SharedAccessSignature"
_EXPIRY_MAX = 2**63 - 1  # what the services' own parsers hold
_EXPIRY_DIGITS = 19
_DEVICE_PARTS, _MODULE_PARTS = 3, 5
_DIGEST_BYTES = hashlib.sha256().digest_size


class SasError(PeerError):
    """A text that is no SAS token. The message says what is wrong, without the text."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="sas-malformed", status=401)


class KeyFormatError(PeerError):
    """A text that is no symmetric key: base64 of 16 to 64 bytes (hub specification 4.4)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="key-malformed", status=400)


@dataclass(frozen=True, slots=True)
class SasToken:
    """A token as received, not yet believed. `resource` is the raw text of `sr`; `expires_at` is in Unix seconds."""

    resource: str
    signature: bytes = field(repr=False)
    expires_at: int
    policy: str | None = None


# Text to token and back ---------------------------------------------------------------------------------------------


def parse_token(text: str) -> SasToken:
    """Read a MQTT password, Authorization header or put-token body. Raises SasError for everything that is no token."""
    if len(text) > PASSWORD_BYTES:
        raise SasError(f"longer than {PASSWORD_BYTES} characters")
    if not text.isascii() or not text.isprintable():
        raise SasError("characters that no token has")
    scheme, _, rest = text.partition(" ")
    if scheme != SCHEME:
        raise SasError(f"does not start with {SCHEME!r} and a space")
    pairs = _pairs(rest.lstrip(" "))
    policy = pairs.get("skn")
    return SasToken(
        _resource(pairs),
        _signature(_required(pairs, "sig")),
        _expiry(_required(pairs, "se")),
        unquote(policy) if policy else None,
    )


def _pairs(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in text.split("&"):
        name, _, value = pair.partition("=")
        if name in pairs:
            raise SasError("a field comes twice")
        pairs[name] = value
    return pairs


def _required(pairs: dict[str, str], name: str) -> str:
    value = pairs.get(name)
    if not value:
        raise SasError(f"field {name!r} is missing or empty")
    return value


def _resource(pairs: dict[str, str]) -> str:
    resource = _required(pairs, "sr")
    if " " in resource:
        raise SasError("a space in field 'sr'")
    return resource


def _signature(text: str) -> bytes:
    encoded = unquote(text)
    try:
        signature = b64decode(encoded, validate=True)
    except (Base64Error, ValueError):
        raise SasError("field 'sig' is not base64") from None
    if len(signature) != _DIGEST_BYTES or b64encode(signature).decode() != encoded:
        raise SasError("field 'sig' is not the base64 of 32 bytes")
    return signature


def _expiry(text: str) -> int:
    if len(text) > _EXPIRY_DIGITS or not text.isdecimal() or (text[0] == "0" and text != "0"):
        raise SasError("field 'se' is not a number of seconds")
    seconds = int(text)
    if seconds > _EXPIRY_MAX:
        raise SasError("field 'se' is not a number of seconds")
    return seconds


def format_token(token: SasToken) -> str:
    """The text of `token`: `sr`, `sig`, `se`, and `skn` when there is a policy; `sig` fully percent-encoded."""
    signature = quote(b64encode(token.signature).decode(), safe="")
    text = f"{SCHEME} sr={token.resource}&sig={signature}&se={token.expires_at}"
    return text if token.policy is None else f"{text}&skn={quote(token.policy, safe='')}"


# Signatures ---------------------------------------------------------------------------------------------------------


def string_to_sign(resource: str, expires_at: int) -> bytes:
    """What is signed: the raw resource, a line feed, the expiry."""
    return f"{resource}\n{expires_at}".encode()


def sign(key: bytes, resource: str, expires_at: int, policy: str | None = None) -> str:
    """A token for `resource` (as it shall stand in `sr`, see `resource_text`), signed with the decoded `key`."""
    signature = hmac.digest(key, string_to_sign(resource, expires_at), "sha256")
    return format_token(SasToken(resource, signature, expires_at, policy))


def signature_matches(token: SasToken, key: bytes) -> bool:
    """Whether `token` was signed with the decoded `key`.

    Constant time. The building block of the decision, not the decision.
    """
    expected = hmac.digest(key, string_to_sign(token.resource, token.expires_at), "sha256")
    return hmac.compare_digest(expected, token.signature)


def derive_key(key: bytes, text: str) -> bytes:
    """The key derived from `key` for `text`: a registration ID of an enrollment group, or a module's name and
    generation.
    """
    return hmac.digest(key, text.encode(), "sha256")


def decode_key(text: str) -> bytes:
    """A symmetric key from its base64. Raises KeyFormatError."""
    try:
        key = b64decode(text, validate=True)
    except (Base64Error, ValueError):
        raise KeyFormatError("a symmetric key must be base64") from None
    if not KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX:
        raise KeyFormatError(f"a symmetric key has {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes, this one {len(key)}")
    return key


# Resources ----------------------------------------------------------------------------------------------------------


def resource_text(host: str, device: str | None = None, module: str | None = None) -> str:
    """The `sr` of a token for a hub, a device or a module, percent-encoded."""
    path = host if device is None else f"{host}/devices/{device}"
    return quote(path if module is None else f"{path}/modules/{module}", safe="")


def resource_parts(token: SasToken) -> tuple[str, ...]:
    """The parts of the resource, decoded once, lower case; empty when it is no ASCII text."""
    decoded = unquote(token.resource)
    return tuple(decoded.removesuffix("/").lower().split("/")) if decoded.isascii() else ()


def covers(token: SasToken, hosts: Collection[str], device: str | None, module: str | None) -> bool:
    """Whether the resource is exactly this hub (no device), this device (no module) or this module.

    `hosts` are our names in lower case and without port; a port in the resource is ignored. Only meaningful together
    with a matching signature.
    """
    parts = resource_parts(token)
    if not parts or not _is_host(parts[0], hosts):
        return False
    if device is None:
        return len(parts) == 1
    if module is None:
        return len(parts) == _DEVICE_PARTS and parts[1] == "devices" and _is(parts[2], device)
    return (
        len(parts) == _MODULE_PARTS
        and (parts[1], parts[3]) == ("devices", "modules")
        and _is(parts[2], device)
        and _is(parts[4], module)
    )


def _is_host(part: str, hosts: Collection[str]) -> bool:
    name, _, port = part.rpartition(":")
    return part in hosts or (port.isdecimal() and name in hosts)


def _is(part: str, identifier: str) -> bool:
    return identifier.lower() in (part, unquote(part).lower())
