"""Putting a configuration in its place: read, looked through with everything it names, and only then written.

Rules. Whatever is wrong is said before anything is written. The copy that the gateway reads holds keys, so it is closed
to others and replaced in one step. Certificates and keys that are there stay. Nothing is restarted: whoever supervises
the gateway does that; one that runs is told to read its names again (`rootlock`). Source: edge specification 7.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgetrust.config import read_text
from edgetrust.edge.credentials import DeviceCertificate
from edgetrust.edge.edgeca import EdgeCaFiles
from edgetrust.edge.files import Layout, read_file
from edgetrust.edge.issuing import Files
from edgetrust.edge.pairs import read_chain
from edgetrust.edge.settings import Settings, load_settings
from edgetrust.edge.tokens import load_place
from edgetrust.errors import ConfigError, Error, IntegrityError
from edgetrust.pki.chain import key_matches
from edgetrust.pki.softkeys import write_private


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done. `changed` is False when the same was there already; `warnings` are for the operator."""

    path: Path
    changed: bool
    warnings: tuple[str, ...]


def apply(config: Path, root: Path) -> Applied:
    """Validate `config` and write it below `root`. Raises ConfigError; then nothing was written."""
    settings = load_settings(config)
    look_through(settings)
    target = Layout(root).config
    warnings = list(settings.warnings)
    before = _hostname_before(target)
    if before is not None and before != settings.hostname:
        warnings.append(f"hostname was {before!r}: devices that dial it must dial {settings.hostname!r} now")
    text = read_text(config)
    changed = not target.exists() or read_text(target) != text
    if changed:
        write_private(target, text.encode())
    return Applied(target, changed, tuple(warnings))


def look_through(settings: Settings) -> None:
    """Read every file that a configuration names, and see that certificates belong to keys. Raises ConfigError."""
    credential, edge_ca = settings.credential, settings.edge_ca
    pairs = [Files(one.certificate, one.key) for one in (credential, edge_ca)
             if isinstance(one, DeviceCertificate | EdgeCaFiles)]  # fmt: skip
    pairs += [settings.issuing.local_ca] if isinstance(settings.issuing.local_ca, Files) else []
    for order in settings.issuing.orders.values():
        if order.est is not None:
            pairs += [files for files in (order.est.auth.bootstrap, order.est.auth.identity) if files is not None]
    for pair in pairs:
        _belong(pair)
    dps = settings.dps
    named = (settings.trust_bundle, settings.upstream.ca, None if dps is None else dps.ca)
    certificates = [*settings.issuing.trusted, *(one for one in named if one)]
    certificates += [place for place in settings.serving.preloaded.values() if isinstance(place, Path)]
    for path in certificates:
        read_chain(path)
    if dps is not None and dps.payload is not None:
        read_file(dps.payload)


def _belong(files: Files) -> None:
    chain, key = read_chain(files.certificate), load_place(files.key)
    try:
        key_matches(chain, key)
    except IntegrityError as problem:
        raise ConfigError(
            f"the key {files.key} does not belong to the certificate {files.certificate}",
            reason=problem.reason,
            fix=f"compare: openssl x509 -noout -pubkey -in {files.certificate}; openssl pkey -pubout -in {files.key}",
        ) from problem


def _hostname_before(applied: Path) -> str | None:
    try:
        return load_settings(applied).hostname if applied.exists() else None
    except Error:  # what is there cannot be read, so it gives way
        return None
