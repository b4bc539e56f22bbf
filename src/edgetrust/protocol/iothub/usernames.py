"""The MQTT user name: which hub, which identity, in which dialect (hub specification 3.1).

    {host}/{device}[/{module}]/[?]{name}={value}&...

Rules: identifiers stand as they are, values percent-encoded. `api-version` is required, other parameters may come in
any order and may be unknown; none comes twice. Leniency ends there: nothing is trimmed, folded or guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import quote, unquote

from edgetrust.errors import PeerError
from edgetrust.limits import USER_NAME_BYTES
from edgetrust.protocol.iothub.identifiers import (
    AuthChainError,
    client_id_for,
    format_auth_chain,
    parse_auth_chain,
    valid_identifier,
)

_HOST = re.compile(r"[A-Za-z0-9._\-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_API_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(-preview)?")
_VERSION_KEY, _CHAIN_KEY = "api-version", "auth-chain"


class UserNameError(PeerError):
    """A user name that says no identity. Answered with CONNACK 4."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="user-name-malformed", status=4)


@dataclass(frozen=True, slots=True)
class UserName:
    """A user name as claimed.

    `host` as typed, maybe with a port; `parameters` are those without a field of their own, decoded.
    """

    host: str
    device: str
    module: str | None
    api_version: str
    parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    auth_chain: tuple[str, ...] = ()

    @property
    def client_id(self) -> str:
        """The client identifier that must come with this user name."""
        return client_id_for(self.device, self.module)


def parse_user_name(text: str) -> UserName:
    """Read a user name. Raises UserNameError."""
    if len(text) > USER_NAME_BYTES:
        raise UserNameError(f"a user name of {len(text)} characters, at most {USER_NAME_BYTES} are accepted")
    host, _, rest = text.partition("/")
    device, _, rest = rest.partition("/")
    module, query = _module_and_query(rest)
    if not _HOST.fullmatch(host):
        raise UserNameError(f"{host[:80]!r} in the user name is no host name")
    if not valid_identifier(device) or (module is not None and not valid_identifier(module)):
        raise UserNameError(f"{text[:140]!r} names no device or module")
    parameters = _parameters(query)
    version = parameters.pop(_VERSION_KEY, "")
    if not _API_VERSION.fullmatch(version):
        raise UserNameError(f"{version[:40]!r} in the user name is no api-version")
    chain = parameters.pop(_CHAIN_KEY, None)
    return UserName(host, device, module, version, MappingProxyType(parameters), _chain(chain))


def _module_and_query(rest: str) -> tuple[str | None, str]:
    """Parameters start with `?`, or are known by their api-version; anything else before a slash is a module."""
    first, slash, tail = rest.partition("/")
    if rest.startswith("?") or not slash or f"{_VERSION_KEY}=" in first:
        return None, rest.removeprefix("?")
    return first, tail.removeprefix("?")


def _parameters(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name in parameters:
            raise UserNameError(f"parameter {name[:40]!r} comes twice in the user name")
        if name:
            parameters[name] = unquote(value)
    return parameters


def _chain(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    try:
        return parse_auth_chain(text)
    except AuthChainError as problem:
        raise UserNameError(problem.message) from None


def format_user_name(name: UserName) -> str:
    """The text of `name`: api-version first, then the parameters, then the auth-chain."""
    pairs = [(_VERSION_KEY, name.api_version), *name.parameters.items()]
    if name.auth_chain:
        pairs.append((_CHAIN_KEY, format_auth_chain(name.auth_chain)))
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in pairs)
    return f"{name.host}/{name.client_id}/?{query}"
