"""Where everything lives below one root, and what files are called.

Two rules: the name of a stored key or certificate is the ASCII alphanumerics of its identifier, `-`, and the SHA-256
of the whole identifier; and every path lies below the root, so that several gateways can run on one machine. Source:
edge specification 0.4, 0.5.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from edgetrust.errors import ConfigError
from edgetrust.limits import PEM_BYTES
from edgetrust.pki.softkeys import user_name

DEVICE_ID = "device-id"
TPM_KEY = "device-tpm"  # our own: the right to use the TPM that attests
EDGE_CA = "aziot-edged-ca"
MASTER_IDENTITY_KEY = "aziot_identityd_master_id"
MASTER_ENCRYPTION_KEY = "iotedge_master_encryption_id"
TRUST_BUNDLE_USER = "trust-bundle-user"
TRUST_BUNDLE = "aziot-edged-trust-bundle"
EST_ID = "est-id"
EST_BOOTSTRAP_ID = "est-bootstrap-id"
LOCAL_CA = "local-ca"

_DROPPED = re.compile(r"[^A-Za-z0-9]")


def file_stem(identifier: str) -> str:
    """The name of the file that holds `identifier`, without its suffix."""
    return f"{_DROPPED.sub('', identifier)}-{hashlib.sha256(identifier.encode()).hexdigest()}"


def key_file_name(identifier: str) -> str:
    return f"{file_stem(identifier)}.key"


def certificate_file_name(identifier: str) -> str:
    return f"{file_stem(identifier)}.cer"


def server_certificate_id(module: str, generation: str, *, keep_dollar: bool) -> str:
    """The identifier of a module's server certificate. Older versions keep the `$` of `$edgeHub`, newer ones strip
    it.
    """
    name = module if keep_dollar else module.removeprefix("$")
    return f"aziot-edged/module/{name}:{generation}:server"


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one gateway."""

    root: Path

    @property
    def config(self) -> Path:
        """The configuration that was applied."""
        return self.root / "etc/aziot/config.toml"

    @property
    def keys(self) -> Path:
        return self.root / "var/lib/aziot/keyd/keys"

    @property
    def certificates(self) -> Path:
        return self.root / "var/lib/aziot/certd/certs"

    @property
    def identities(self) -> Path:
        return self.root / "var/lib/aziot/identityd"

    @property
    def assignment(self) -> Path:
        """What a provisioning service has assigned."""
        return self.identities / "assignment.json"

    @property
    def own(self) -> Path:
        """What the real product keeps in containers: the queue, the copy of the scope, the state file."""
        return self.root / "var/lib/edgetrust"

    @property
    def database(self) -> Path:
        return self.own / "gateway.sqlite"

    @property
    def verified_cas(self) -> Path:
        return self.own / "hub-verified-cas.pem"

    @property
    def status(self) -> Path:
        return self.own / "status.json"

    @property
    def lock(self) -> Path:
        """Who runs below this root (`rootlock`)."""
        return self.own / "lock"

    def socket(self, service: str) -> Path:
        """Where `keyd`, `certd` or `identityd` serves."""
        return self.root / f"run/aziot/{service}.sock"

    def make(self) -> None:
        """Make what is missing, open to this user only. Raises ConfigError naming the user and the command that mends
        it.
        """
        for path in (
            self.keys.parent,
            self.keys,
            self.certificates.parent,
            self.certificates,
            self.identities,
            self.own,
        ):
            make_private_directory(path)

    def module_backup(self, hub: str, device: str, module: str) -> Path:
        """Where the identity of a module is kept for times without the hub (edge specification 4.7)."""
        folder = f"{hashlib.sha256(hub.encode()).hexdigest()}-{hashlib.sha256(device.encode()).hexdigest()}"
        return self.identities / "modules" / folder / file_stem(module)


def read_file(path: Path) -> bytes:
    """A file that a configuration names, or one of ours. Raises ConfigError with the user and the one command that
    mends it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(PEM_BYTES + 1)
    except FileNotFoundError as problem:
        raise ConfigError(f"{path} does not exist", reason="config-missing-file") from problem
    except PermissionError as problem:
        raise _not_permitted(path) from problem
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem.strerror}", reason="config-unreadable") from problem
    if len(content) > PEM_BYTES:
        raise ConfigError(f"{path} has more than {PEM_BYTES} bytes", reason="config-file-too-large")
    return content


Stamp = tuple[int, int, int]


def stamp_of(path: Path) -> Stamp | None:
    """What is different when a file was replaced or written; None when it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def make_private_directory(path: Path) -> None:
    """Make a directory (and those above it) for this user only, mode 0700. Raises ConfigError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except PermissionError as problem:
        raise _not_permitted(path) from problem
    except OSError as problem:
        raise ConfigError(f"{path} cannot be made: {problem.strerror}", reason="config-unwritable") from problem


def _not_permitted(path: Path) -> ConfigError:
    user, place = user_name(os.geteuid()), _first_closed(path)
    owned = place.stat().st_uid == os.geteuid()
    fix = f"chmod u+rwX {place}" if owned else f"sudo chown {user} {place}"
    return ConfigError(f"user {user} may not use {path}", reason="config-unreadable", fix=fix)


def _first_closed(path: Path) -> Path:
    """The outermost directory on the way that this user may not enter, else the innermost thing that exists."""
    existing = [place for place in (*reversed(path.absolute().parents), path.absolute()) if os.access(place, os.F_OK)]
    return next((place for place in existing if place.is_dir() and not os.access(place, os.X_OK)), existing[-1])
