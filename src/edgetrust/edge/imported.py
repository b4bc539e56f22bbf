"""What a `config.yaml` of version 1.1 becomes: the `config.toml` that says the same.

Rules. The device CA of version 1.1 is the Edge CA now; its trusted CA certificates are the trust bundle. Provisioning
keeps its meaning. Paths become `file://` URLs. What concerns containers is not carried over, and said so. What cannot
be carried over without changing who is trusted is an error. Nothing is read but the text; whether the named files
exist is found when the new file is served. Source: edge specification 1, 9.1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edgetrust.errors import ConfigError

_CARRIED = ("hostname", "parent_hostname", "certificates", "provisioning")
_CERTIFICATES = ("device_ca_cert", "device_ca_pk", "trusted_ca_certs", "auto_generated_ca_lifetime_days")
_MISSING = "config-missing-key"


@dataclass(frozen=True, slots=True)
class Imported:
    """The text of a `config.toml`, and what of the old file is not in it."""

    toml: str
    left_out: tuple[str, ...]


def import_config(text: str, source: str) -> Imported:
    """Translate the text of a `config.yaml`; `source` names it in errors. Raises ConfigError (exit code 2)."""
    old = _Old(source, _parsed(text, source))
    root, edge_ca = old.root(), old.edge_ca()
    tables = [("", root), *old.provisioning()]
    if edge_ca:
        tables.append(("edge_ca", edge_ca))
    left_out = [name for name in old.values if name not in _CARRIED]
    left_out += [f"certificates.{name}" for name in old.table("certificates") if name not in _CERTIFICATES]
    return Imported("\n".join(_written(name, values) for name, values in tables), tuple(left_out))


def _parsed(text: str, source: str) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        where = getattr(problem, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        raise ConfigError(f"{source}{line}: not YAML", reason="config-not-yaml") from problem
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigError(f"{source} is not a config.yaml of version 1.1", reason="config-wrong-value")
    return values


class _Old:
    """Reads single keys of the old file; errors name the file and the key."""

    def __init__(self, source: str, values: Mapping[str, Any]) -> None:
        self._source = source
        self.values = values

    def root(self) -> dict[str, str | int]:
        """The keys above all tables."""
        new: dict[str, str | int] = {}
        for name in ("hostname", "parent_hostname"):
            if self.values.get(name) is not None:
                new[name] = self._text(self.values, name, name)
        certificates = self.table("certificates")
        if certificates.get("trusted_ca_certs") is not None:
            new["trust_bundle_cert"] = self._url(certificates, "trusted_ca_certs", "certificates.trusted_ca_certs")
        provisioning = self.table("provisioning")
        if provisioning.get("dynamic_reprovisioning") is True:
            new["auto_reprovisioning_mode"] = "Dynamic"
        elif provisioning.get("always_reprovision_on_startup") is True:
            new["auto_reprovisioning_mode"] = "AlwaysOnStartup"
        return new

    def edge_ca(self) -> dict[str, str | int]:
        """`[edge_ca]`, empty for the default."""
        table = self.table("certificates")
        given = [name for name in ("device_ca_cert", "device_ca_pk") if table.get(name) is not None]
        if len(given) == 1:
            raise self._wrong("certificates needs both device_ca_cert and device_ca_pk", _MISSING)
        if given:
            return {
                "cert": self._url(table, "device_ca_cert", "certificates.device_ca_cert"),
                "pk": self._url(table, "device_ca_pk", "certificates.device_ca_pk"),
            }
        days = table.get("auto_generated_ca_lifetime_days")
        if days is None:
            return {}
        if not isinstance(days, int) or isinstance(days, bool) or days < 1:
            raise self._wrong("certificates.auto_generated_ca_lifetime_days is not a number of days")
        return {"auto_generated_edge_ca_expiry_days": days}

    def provisioning(self) -> list[tuple[str, dict[str, str | int]]]:
        """`[provisioning]` and the table below it."""
        table = self.table("provisioning")
        if not table:
            raise self._wrong("provisioning is missing", _MISSING)
        match table.get("source"):
            case "manual" if table.get("device_connection_string") is not None:
                text = self._text(table, "device_connection_string", "provisioning.device_connection_string")
                return [("provisioning", {"source": "manual", "connection_string": text})]
            case "manual":
                return self._manual(table)
            case "dps":
                return self._dps(table)
            case other:
                raise self._wrong(f"provisioning.source {str(other)[:40]!r} has no successor: manual and dps have")

    def _manual(self, table: Mapping[str, Any]) -> list[tuple[str, dict[str, str | int]]]:
        path = "provisioning.authentication"
        old = self._below(table, "authentication", path)
        hub = {name: self._text(old, name, f"{path}.{name}") for name in ("iothub_hostname", "device_id")}
        return [("provisioning", {"source": "manual", **hub}), (path, self._x509(old, path))]

    def _dps(self, table: Mapping[str, Any]) -> list[tuple[str, dict[str, str | int]]]:
        path = "provisioning.attestation"
        old = self._below(table, "attestation", path)
        new: dict[str, str | int] = {"source": "dps"}
        for before, now in (("global_endpoint", "global_endpoint"), ("scope_id", "id_scope")):
            new[now] = self._text(table, before, f"provisioning.{before}")
        attestation: dict[str, str | int] = {"method": self._text(old, "method", f"{path}.method")}
        if old.get("registration_id") is not None:
            attestation["registration_id"] = self._text(old, "registration_id", f"{path}.registration_id")
        match attestation["method"]:
            case "x509":
                attestation |= self._x509(old, path)
            case "symmetric_key":
                key = self._text(old, "symmetric_key", f"{path}.symmetric_key")
                return [("provisioning", new), (path, attestation), (f"{path}.symmetric_key", {"value": key})]
            case "tpm":
                pass
            case other:
                raise self._wrong(f"{path}.method is {other!r}: x509, symmetric_key and tpm are known")
        return [("provisioning", new), (path, attestation)]

    def _x509(self, old: Mapping[str, Any], path: str) -> dict[str, str | int]:
        if self._text(old, "method", f"{path}.method") != "x509":
            raise self._wrong(f"{path}.method must be x509")
        return {
            "method": "x509",
            "identity_cert": self._url(old, "identity_cert", f"{path}.identity_cert"),
            "identity_pk": self._url(old, "identity_pk", f"{path}.identity_pk"),
        }

    # Values ---------------------------------------------------------------------------------------------------------

    def table(self, name: str) -> Mapping[str, Any]:
        """A table of the old file; empty when it is not there."""
        return {} if self.values.get(name) is None else self._below(self.values, name, name)

    def _below(self, table: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
        found = table.get(name)
        if not isinstance(found, dict):
            raise self._wrong(f"{path} is {'missing' if found is None else 'not a table'}", _MISSING)
        return found

    def _text(self, table: Mapping[str, Any], name: str, path: str) -> str:
        found = table.get(name)
        if not isinstance(found, str) or not found.isprintable() or not found:
            raise self._wrong(f"{path} is {'missing' if found is None else 'not a text on one line'}", _MISSING)
        return found

    def _url(self, table: Mapping[str, Any], name: str, path: str) -> str:
        text = self._text(table, name, path)
        if "://" in text:
            return text
        if not text.startswith("/"):
            raise self._wrong(f"{path} is {text[:200]!r}, which is no absolute path")
        return Path(text).as_uri()

    def _wrong(self, message: str, reason: str = "config-wrong-value") -> ConfigError:
        return ConfigError(f"{self._source}: {message}", reason=reason)


def _written(name: str, values: Mapping[str, str | int]) -> str:
    """One table as TOML; the strings of JSON are strings of TOML when they are printable."""
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join([f"[{name}]"] * bool(name) + lines) + "\n"
