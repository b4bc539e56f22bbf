"""A support archive of a gateway: what somebody else needs to find a fault, and no secret.

Rules. Two nets, one behind the other. What goes in is chosen: configuration without the values of secret keys, state,
refusals, checks, certificates, the names (never the contents) of key files, logs that were named. Then every byte of
it is searched for the secrets of this root: symmetric keys, private keys, what the configuration holds, in raw, base64
and hexadecimal form; and for the forms that secrets have anywhere (PEM private keys, SAS tokens and keys, handles).
What is found is replaced by `<redacted>`.
"""

from __future__ import annotations

import base64
import json
import re
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgetrust.edge.files import Layout
from edgetrust.errors import ConfigError
from edgetrust.limits import BUNDLE_LOG_BYTES

REDACTED = "<redacted>"
_SECRET_NAMES = re.compile(r"connection_string|pass|secret|symmetric_key|^value$|pin|token|base_slot|^env$|_auth", re.I)
_SECRET_PARTS = re.compile(r"key$|pin-value|pass|secret|^sig$|^token$", re.I)
_SHAPES = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    rb"|SharedAccessSignature [^\s\"']+|SharedAccessKey=[^;\s\"']+|sr=[A-Za-z0-9+/=]+&sig=[A-Za-z0-9+/=%]+"
    rb"|pin-value=[^&\s\"']+",
    re.DOTALL,
)
_LEAST = 6  # shorter values would be found everywhere; those of the configuration are left out by their names


def write_bundle(
    target: Path, layout: Layout, config: Path, parts: Mapping[str, object], logs: Iterable[Path] = ()
) -> list[str]:
    """Write the archive (ZIP, mode 0600); the names of what is in it. `parts` are JSON values by name.

    Raises ConfigError when the archive or a log cannot be written or read.
    """
    secrets = _secrets_of(layout, config)
    members: dict[str, bytes] = {"config.json": _json(_without_secrets(_parsed(config)))}
    members |= {f"{name}.json": _json(value) for name, value in parts.items()}
    members["keys.json"] = _json(_key_files(layout))
    for path in sorted(layout.certificates.glob("*.cer")) if layout.certificates.is_dir() else ():
        members[f"certificates/{path.name}"] = _read(path)
    for path in logs:
        members[f"logs/{path.name}"] = _read(path)[-BUNDLE_LOG_BYTES:]
    try:
        target.touch(mode=0o600)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, scrubbed(content, secrets))
    except OSError as problem:
        raise ConfigError(f"{target} cannot be written: {problem.strerror}", reason="config-unwritable") from problem
    return sorted(members)


def scrubbed(content: bytes, secrets: Iterable[bytes]) -> bytes:
    """`content` without any of the secrets, in any of their forms, and without what has the shape of a secret."""
    content = _SHAPES.sub(REDACTED.encode(), content)
    forms = {form for secret in secrets for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):
        content = content.replace(form, REDACTED.encode())
    return content


def _forms(secret: bytes) -> set[bytes]:
    encoded, safe = base64.b64encode(secret), base64.urlsafe_b64encode(secret)
    hexadecimal = secret.hex().encode()
    found = {secret, encoded, encoded.rstrip(b"="), safe, safe.rstrip(b"="), hexadecimal, hexadecimal.upper()}
    found |= {quote(form, safe="").encode() for form in (secret, encoded)}
    found |= {json.dumps(secret.decode("utf-8", "replace"))[1:-1].encode()}
    return {form for form in found if len(form) >= _LEAST}


# What is secret -----------------------------------------------------------------------------------------------------


def _secrets_of(layout: Layout, config: Path) -> set[bytes]:
    found: set[bytes] = set()
    for path in layout.keys.glob("*.key") if layout.keys.is_dir() else ():
        content = _read(path)
        lines = content.split(b"\n") if content.startswith(b"-----BEGIN") else [content]
        found |= {line for line in lines if line and not line.startswith(b"-----")}
    return found | {secret for value in _secret_values(_parsed(config)) for secret in _of_value(value)}


def _of_value(value: str) -> Iterable[bytes]:
    """What is secret of a value, and what that is base64 of. Of a connection string or a URI only some parts are."""
    pairs = [part.partition("=") for part in re.split(r"[;?&]", value)]
    parts = [inner for name, _, inner in pairs if _SECRET_PARTS.search(name)] or [value]
    for part in parts:
        if len(part) >= _LEAST:
            yield part.encode()
            try:
                yield base64.b64decode(part, validate=True)
            except ValueError:
                continue


def _secret_values(value: Any, *, secret: bool = False) -> Iterable[str]:
    match value:
        case dict():
            for name, inner in value.items():
                yield from _secret_values(inner, secret=secret or bool(_SECRET_NAMES.search(name)))
        case list():
            for inner in value:
                yield from _secret_values(inner, secret=secret)
        case str() if secret and not value.startswith("file://"):
            yield value


def _without_secrets(value: Any, *, secret: bool = False) -> Any:
    match value:
        case dict():
            return {
                name: _without_secrets(inner, secret=secret or bool(_SECRET_NAMES.search(name)))
                for name, inner in value.items()
            }
        case list():
            return [_without_secrets(inner, secret=secret) for inner in value]
        case str() if value.startswith("file://"):
            return value
        case str() if secret:
            return REDACTED
        case str():
            return value.partition("?")[0] if value.startswith("pkcs11:") else value
        case _:
            return REDACTED if secret else value


def _parsed(config: Path) -> Any:
    try:
        return tomllib.loads(_read(config).decode("utf-8", "replace"))
    except (ConfigError, tomllib.TOMLDecodeError) as problem:
        return {"not readable": type(problem).__name__}


def _key_files(layout: Layout) -> list[dict[str, Any]]:
    found = sorted(layout.keys.glob("*.key")) if layout.keys.is_dir() else []
    return [{"file": path.name, "mode": f"{path.stat().st_mode & 0o777:04o}", "uid": path.stat().st_uid}
            for path in found]  # fmt: skip


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, default=str).encode() + b"\n"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem.strerror}", reason="config-unreadable") from problem
