"""What a certificate authority can be told: ca.toml. Relative paths are relative to the file they stand in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal
from urllib.parse import quote, urlsplit

import msgspec

from edgetrust.ca.policy import DEFAULT_RULES, CredentialKind, Rule
from edgetrust.config import parse_toml, read_text
from edgetrust.errors import ConfigError
from edgetrust.pki.chain import TrustBundle
from edgetrust.pki.keys import SecretText
from edgetrust.pki.profiles import EDGE_CA, PROFILES
from edgetrust.pki.renewal import Period

_HERE: Final = ("localhost", "127.0.0.1", "::1")
_Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]


class CaTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[ca]`."""

    data: str = "."
    database: str | None = None
    registry: str | None = None
    bootstrap_authorities: tuple[str, ...] = ()
    crl_url: str | None = None
    ocsp_url: str | None = None


class ListenTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[listen]`."""

    host: str = "0.0.0.0"  # noqa: S104 - an authority serves its network; narrower is a setting
    https_port: _Port = 8085
    http_port: _Port | None = None
    certificate: str | None = None
    key: str | None = None
    names: tuple[str, ...] = ("localhost",)


class Pkcs11Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[pkcs11]`."""

    module: str
    token: str
    pin_file: str


class AuthoritiesTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[authorities]`."""

    renew: Literal["same-key", "new-key", "never"] = "same-key"
    renew_at: str = "80%"


class ForecastTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[forecast]`."""

    webhook: str
    days: Annotated[int, msgspec.Meta(ge=0, le=36_500)] = 30
    ca: str | None = None
    authorization_file: str | None = None


class RuleTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[rule]]`; the fields of `policy.Rule`."""

    credential: Literal["identity", "bootstrap", "password"]
    match: str = "*"
    names: tuple[str, ...] = ("{self}",)
    profiles: tuple[str, ...] = ("device",)
    also: Literal["identity", "bootstrap", "password"] | None = None
    once: bool = False
    registered: bool = False
    gateways: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    approval: bool = False
    grace: str | None = None


class CaFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    ca: CaTable = CaTable()
    listen: ListenTable = ListenTable()
    pkcs11: Pkcs11Table | None = None
    authorities: AuthoritiesTable = AuthoritiesTable()
    forecast: ForecastTable | None = None
    rule: tuple[RuleTable, ...] = ()
    lifetimes: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Webhook:
    """A web service. `bundle` verifies it, None: the machine's store; `authorization` is that header's value."""

    url: str
    days: int
    bundle: TrustBundle | None = None
    authorization: SecretText | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _HERE):
            raise ConfigError(f"{self.url!r} is no address of a webhook: it must be https://", reason="webhook-url")


@dataclass(frozen=True, slots=True)
class CaSettings:
    """One certificate authority. Everything it writes is in `data`; `database` and `registry` are SQLAlchemy URLs.

    `registry` is the database of a hub whose devices count as registered; None: there is no registry.
    `certificate` and `key` are those of its HTTPS listener; None: it issues its own, for `names`. `http_port` serves
    CRLs and OCSP without TLS; `crl_url` and `ocsp_url` are what certificates say of it; `{ca}` stands for the issuer.
    `webhook` is told what ends soon. `renew_authorities` (`same-key`, `new-key`, `never`) says how CAs are renewed that
    are past `renew_authorities_at`. `lifetimes` says how long certificates of a profile live, instead of the profile's
    own validity.
    """

    data: Path
    database: str
    registry: str | None = None
    bootstrap_authorities: tuple[Path, ...] = ()
    crl_url: str | None = None
    ocsp_url: str | None = None
    host: str = "0.0.0.0"  # noqa: S104 - as above
    https_port: int = 8085
    http_port: int | None = None
    certificate: Path | None = None
    key: Path | None = None
    names: tuple[str, ...] = ("localhost",)
    pkcs11_module: Path | None = None
    pkcs11_token: str | None = None
    pkcs11_pin_file: Path | None = None
    rules: tuple[Rule, ...] = DEFAULT_RULES
    webhook: Webhook | None = None
    renew_authorities: str = "same-key"
    renew_authorities_at: Period = field(default=Period(percent=80))
    lifetimes: Mapping[str, timedelta] = field(default_factory=lambda: MappingProxyType({}))


def load_settings(path: Path) -> CaSettings:
    """Read ca.toml. Raises ConfigError."""
    return parse_settings(read_text(path), path)


def parse_settings(text: str, path: Path) -> CaSettings:
    """The settings in the text of a ca.toml that stands, or is going to stand, at `path`. Raises ConfigError."""
    file = parse_toml(text, CaFile, str(path))
    here = path.resolve().parent
    data = here / file.ca.data
    if (file.listen.certificate is None) != (file.listen.key is None):
        raise ConfigError(f"{path}: listen needs both certificate and key, or neither", reason="config-wrong-value")
    return CaSettings(
        data=data,
        database=file.ca.database or sqlite_url(data),
        registry=file.ca.registry,
        bootstrap_authorities=tuple(here / name for name in file.ca.bootstrap_authorities),
        crl_url=file.ca.crl_url,
        ocsp_url=file.ca.ocsp_url,
        host=file.listen.host,
        https_port=file.listen.https_port,
        http_port=file.listen.http_port,
        certificate=None if file.listen.certificate is None else here / file.listen.certificate,
        key=None if file.listen.key is None else here / file.listen.key,
        names=file.listen.names,
        pkcs11_module=None if file.pkcs11 is None else here / file.pkcs11.module,
        pkcs11_token=None if file.pkcs11 is None else f"pkcs11:token={quote(file.pkcs11.token, safe='')}",
        pkcs11_pin_file=None if file.pkcs11 is None else here / file.pkcs11.pin_file,
        rules=tuple(_rule(path, rule) for rule in file.rule) or DEFAULT_RULES,
        webhook=None if file.forecast is None else _webhook(here, file.forecast),
        renew_authorities=file.authorities.renew,
        renew_authorities_at=_threshold(path, file.authorities.renew_at),
        lifetimes=MappingProxyType({name: _life(path, name, text) for name, text in file.lifetimes.items()}),
    )


def sqlite_url(data: Path) -> str:
    """The database of an authority that was given no other."""
    return f"sqlite:///{data / 'ca.sqlite'}"


def _grace(path: Path, text: str) -> timedelta:
    period = Period.parse(text)
    if period is None or period.time is None:
        raise ConfigError(
            f"{path}: a rule's grace is {text!r}", reason="config-wrong-value", fix='a number and "day" or "min"'
        )
    return period.time


def _webhook(here: Path, table: ForecastTable) -> Webhook:
    bundle = None if table.ca is None else TrustBundle.from_pem(read_text(here / table.ca), as_of=datetime.now(UTC))
    secret = (
        None if table.authorization_file is None else SecretText(read_text(here / table.authorization_file).strip())
    )
    return Webhook(table.webhook, table.days, bundle, secret)


def _threshold(path: Path, text: str) -> Period:
    period = Period.parse(text)
    if period is None:
        raise ConfigError(
            f"{path}: authorities.renew_at is {text!r}",
            reason="config-wrong-value",
            fix='a share of its life, "80%", or a time before its end, "90 day"',
        )
    return period


def _life(path: Path, name: str, text: str) -> timedelta:
    profile = PROFILES.get(name)
    if profile is None or (profile.is_ca and profile.name != EDGE_CA.name):
        raise ConfigError(
            f"{path}: lifetimes.{name} is no kind of certificate whose life is a setting", reason="config-wrong-value"
        )
    period = Period.parse(text)
    if period is None or period.time is None or period.time > profile.max_validity:
        raise ConfigError(
            f"{path}: lifetimes.{name} is {text!r}",
            reason="config-wrong-value",
            fix=f'a number and "day" or "min", at most "{profile.max_validity.days} day"',
        )
    return period.time


def _rule(path: Path, table: RuleTable) -> Rule:
    unknown = [name for name in table.profiles if name not in PROFILES or PROFILES[name].self_signed]
    if unknown:
        raise ConfigError(
            f"{path}: a rule names the profile {unknown[0]!r}, which does not exist",
            reason="config-wrong-value",
            fix=f"use one of {', '.join(name for name, profile in PROFILES.items() if not profile.self_signed)}",
        )
    return Rule(
        CredentialKind(table.credential),
        table.match,
        table.names,
        table.profiles,
        None if table.also is None else CredentialKind(table.also),
        table.once,
        table.registered,
        table.gateways,
        table.hosts,
        table.approval,
        timedelta(0) if table.grace is None else _grace(path, table.grace),
    )
