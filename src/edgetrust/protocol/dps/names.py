"""Names in provisioning: registration identifiers, the MQTT user name, and what a token's resource names (hub
specification 1.1, 13.1).

Registration and group identifiers are the same in any letter case; `registration_key` is what they are compared by. The
user name has no question mark in the SDKs, and may have one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from edgetrust.errors import PeerError
from edgetrust.limits import IDENTIFIER_CHARACTERS, USER_NAME_BYTES
from edgetrust.protocol.sas import SasToken, resource_parts

_REGISTRATION = re.compile(rf"[A-Za-z0-9._:\-]{{0,{IDENTIFIER_CHARACTERS - 1}}}[A-Za-z0-9\-]")
_API_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(-preview)?")
_REGISTRATIONS = "registrations"
_SCOPE_PREFIX = "0ne"  # what identifier scopes of the cloud service start with
_RESOURCE_PARTS = 3


class DpsUserNameError(PeerError):
    """A user name that names no registration. Answered with CONNACK 4."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="user-name-malformed", status=4)


@dataclass(frozen=True, slots=True)
class DpsUserName:
    """A user name as claimed."""

    id_scope: str
    registration_id: str
    api_version: str


def valid_registration_id(text: str) -> bool:
    """1 to 128 letters, digits and `. _ : -`, the last a letter, a digit or `-`."""
    return _REGISTRATION.fullmatch(text) is not None


def registration_key(text: str) -> str:
    """What two spellings of one registration or group identifier have in common."""
    return text.lower()


def is_dps_user_name(text: str, id_scope: str) -> bool:
    """Whether a user name is meant for provisioning: of this scope, or of what looks like another one."""
    scope, _, rest = text.partition("/")
    return rest.startswith(f"{_REGISTRATIONS}/") and (scope == id_scope or scope.startswith(_SCOPE_PREFIX))


def parse_dps_user_name(text: str) -> DpsUserName:
    """Read `{idScope}/registrations/{registrationId}/[?]api-version=...&...`. Raises DpsUserNameError."""
    if len(text) > USER_NAME_BYTES:
        raise DpsUserNameError(f"a user name of {len(text)} characters, at most {USER_NAME_BYTES} are accepted")
    scope, _, rest = text.partition("/")
    word, _, rest = rest.partition("/")
    registration_id, _, query = rest.partition("/")
    if not scope or word != _REGISTRATIONS:
        raise DpsUserNameError(f"{text[:140]!r} is not ID_SCOPE/registrations/REGISTRATION_ID/api-version=...")
    if not valid_registration_id(registration_id):
        raise DpsUserNameError(f"{registration_id[:140]!r} is no registration identifier")
    pairs = (pair.partition("=") for pair in query.removeprefix("?").split("&"))
    version = next((unquote(value) for name, _, value in pairs if name == "api-version"), "")
    if not _API_VERSION.fullmatch(version):
        raise DpsUserNameError(f"{version[:40]!r} in the user name is no api-version")
    return DpsUserName(scope, registration_id, version)


def covers_registration(token: SasToken, id_scope: str, registration_id: str) -> bool:
    """Whether the token's resource is exactly this registration, in any letter case, encoded once or twice."""
    wanted = (id_scope.lower(), _REGISTRATIONS, registration_id.lower())
    parts = resource_parts(token)
    return len(parts) == _RESOURCE_PARTS and all(
        want in (part, unquote(part).lower()) for want, part in zip(wanted, parts, strict=True)
    )
