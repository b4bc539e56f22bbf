"""Connection strings: how people hand a credential to a device or a service (hub specification 4.3).

    HostName=H;SharedAccessKeyName=P;SharedAccessKey=K                                      a service
    HostName=H;DeviceId=D[;ModuleId=M];SharedAccessKey=K[;GatewayHostName=G]                a device or module
    HostName=H;DeviceId=D[;ModuleId=M];x509=true[;GatewayHostName=G]                        the same, by certificate

Rules: names are case-sensitive, none is unknown, none comes twice; exactly one of these forms. The key stays base64
text here. No error contains the key.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgetrust.errors import ConfigError
from edgetrust.protocol.iothub.identifiers import valid_identifier

_CHARACTERS = 4096  # host, identifiers and key are under 1,000
_HOST, _GATEWAY, _DEVICE, _MODULE = "HostName", "GatewayHostName", "DeviceId", "ModuleId"
_POLICY, _KEY, _X509 = "SharedAccessKeyName", "SharedAccessKey", "x509"
_NAMES = (_HOST, _DEVICE, _MODULE, _POLICY, _KEY, _GATEWAY, _X509)


class ConnectionStringError(ConfigError):
    """A text that is no connection string. The message says what is wrong, without the key."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            reason="connection-string-malformed",
            fix="use the connection string as it was shown, in one line",
        )


@dataclass(frozen=True, slots=True)
class ConnectionString:
    """A connection string. Either `key` or `x509`; `policy` instead of `device` for a service."""

    host_name: str
    device: str | None = None
    module: str | None = None
    key: str | None = field(default=None, repr=False)
    policy: str | None = None
    gateway: str | None = None
    x509: bool = False


def parse_connection_string(text: str) -> ConnectionString:
    """Read a connection string. Raises ConnectionStringError."""
    if len(text) > _CHARACTERS:
        raise ConnectionStringError(f"a connection string of {len(text)} characters")
    values = _values(text.strip())
    parsed = ConnectionString(
        values.get(_HOST, ""),
        values.get(_DEVICE),
        values.get(_MODULE),
        values.get(_KEY),
        values.get(_POLICY),
        values.get(_GATEWAY),
        _is_true(values.get(_X509)),
    )
    problem = _problem(parsed)
    if problem:
        raise ConnectionStringError(problem)
    return parsed


def _values(text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for pair in text.removesuffix(";").split(";"):
        name, _, value = pair.partition("=")
        if name not in _NAMES:
            raise ConnectionStringError(f"{name[:40]!r} is not a part of a connection string")
        if name in values or not value:
            raise ConnectionStringError(f"{name} comes twice or has no value")
        values[name] = value
    return values


def _is_true(text: str | None) -> bool:
    if text is None:
        return False
    if text.lower() not in ("true", "false"):
        raise ConnectionStringError(f"{_X509} is true or false")
    return text.lower() == "true"


def _problem(parsed: ConnectionString) -> str:
    if not parsed.host_name:
        return f"{_HOST} is missing"
    if parsed.x509 == (parsed.key is not None):
        return f"either {_KEY} or {_X509}=true"
    for name, value in ((_DEVICE, parsed.device), (_MODULE, parsed.module)):
        if value is not None and not valid_identifier(value):
            return f"{name} is no identifier"
    if parsed.device is None:
        return "" if parsed.policy and not parsed.module else f"{_DEVICE} or {_POLICY} is missing"
    return f"{_DEVICE} and {_POLICY} exclude each other" if parsed.policy else ""


def format_connection_string(parsed: ConnectionString) -> str:
    """The text of `parsed`. Contains the key."""
    pairs = (
        (_HOST, parsed.host_name),
        (_DEVICE, parsed.device),
        (_MODULE, parsed.module),
        (_POLICY, parsed.policy),
        (_KEY, parsed.key),
        (_GATEWAY, parsed.gateway),
        (_X509, "true" if parsed.x509 else None),
    )
    return ";".join(f"{name}={value}" for name, value in pairs if value is not None)
