"""The bundle of one device: everything that it needs, in one folder and one archive, with a README of what to do.

    gateway   config.toml, identity and Edge CA with keys (or a symmetric key), the roots that it trusts; one that is
              provisioned has a bootstrap certificate (or a password in config.toml) and the roots of the services
    device    connection.json, certificate and key (or a connection string), the roots that it trusts
    both      a connection string for each module; README.txt

Rules. What is a secret has mode 0600, so has the archive. Files say where they will lie (`install_dir`), not where they
are made. The same content makes the same bytes: nothing is written when nothing has changed.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from edgetrust.cli.fleet.config import config_text
from edgetrust.cli.fleet.files import (
    BOOTSTRAP,
    BOOTSTRAP_KEY,
    CONFIG,
    CONNECTION,
    DPS_TRUST,
    EDGE_CA,
    EDGE_CA_KEY,
    EST_TRUST,
    HUB_TRUST,
    IDENTITY,
    IDENTITY_KEY,
    README,
    STRING,
    SYMMETRIC_KEY,
    TRUST,
    HubPlace,
)
from edgetrust.cli.fleet.material import Pair
from edgetrust.cli.fleet.readme import device_readme, gateway_readme
from edgetrust.cli.fleet.services import Dps, Est, Services
from edgetrust.cli.fleet.topology import DPS_EST, GatewayTable, Member
from edgetrust.pki.chain import TrustBundle
from edgetrust.pki.softkeys import write_private, write_public
from edgetrust.protocol.sas import decode_key

MODULES: Final = "modules"
_KNOWN: Final = frozenset(
    {IDENTITY, IDENTITY_KEY, EDGE_CA, EDGE_CA_KEY, BOOTSTRAP, BOOTSTRAP_KEY, TRUST, HUB_TRUST, EST_TRUST, DPS_TRUST}
    | {SYMMETRIC_KEY, CONFIG, CONNECTION, STRING, README}
)


@dataclass(frozen=True, slots=True)
class Held:
    """The certificates of a member that its bundle has: all that are needed."""

    identity: Pair | None = None
    edge_ca: Pair | None = None
    bootstrap: Pair | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """A file: its bytes, and whether others may not read it."""

    data: bytes
    secret: bool = False


Files = dict[str, Content]


def folder_name(device: str) -> str:
    """The identifier as the name of a folder: what has a meaning in paths is encoded."""
    name = quote(device, safe="")
    return f"%2E{name[1:]}" if name.startswith(".") else name


def gateway_files(
    member: Member,
    hub: HubPlace,
    services: Services | None,
    installed: Path,
    roots: TrustBundle,
    held: Held,
    keys: Mapping[str | None, str],
) -> Files:
    """The files of a gateway. `keys` are the symmetric keys of it (None) and its modules, base64."""
    gateway = member.gateway
    assert gateway is not None
    files: Files = {
        TRUST: Content(roots.pem().encode()),
        **_pair(held.identity, IDENTITY, IDENTITY_KEY),
        **_pair(held.edge_ca, EDGE_CA, EDGE_CA_KEY),
        **_pair(held.bootstrap, BOOTSTRAP, BOOTSTRAP_KEY),
    }
    if member.auth == "sas":
        files[SYMMETRIC_KEY] = Content(decode_key(keys[None]), secret=True)
    if member.auth == DPS_EST:
        est, dps = _both(services)
        files[EST_TRUST] = Content(est.roots.pem().encode())
        if dps.roots is not None:
            files[DPS_TRUST] = Content(dps.roots.pem().encode())
    if member.parent is None and hub.roots is not None:
        files[HUB_TRUST] = Content(hub.roots.pem().encode())
    config = config_text(member, hub, services, installed, files)
    secret = member.auth == DPS_EST and BOOTSTRAP not in files
    files[CONFIG] = Content(config.encode(), secret=secret)
    files |= _modules(member, hub, gateway.hostname, keys)
    files[README] = Content(gateway_readme(member, hub.name, services, installed).encode())
    return files


def _both(services: Services | None) -> tuple[Est, Dps]:
    assert services is not None
    assert services.est is not None
    assert services.dps is not None
    return services.est, services.dps


def device_files(
    member: Member,
    hub: HubPlace,
    installed: Path,
    roots: TrustBundle,
    identity: Pair | None,
    keys: Mapping[str | None, str],
) -> Files:
    """The files of a device that is no gateway."""
    above = None if member.parent is None else member.parent.gateway
    trusted = hub.roots if above is None else roots
    files: Files = {} if trusted is None else {TRUST: Content(trusted.pem().encode())}
    files |= _pair(identity, IDENTITY, IDENTITY_KEY)
    place: dict[str, Any] = {"hub": hub.name, "device": member.id}
    if above is None:
        place |= {"host": hub.name, "address": hub.address, "mqttPort": hub.mqtt_port, "httpsPort": hub.https_port}
    else:
        place |= {"gateway": above.hostname, "host": above.hostname, "address": above.address}
        place |= {"mqttPort": above.mqtt_port, "httpsPort": above.https_port}
    place["authentication"] = member.auth
    if trusted is not None:
        place["trust"] = str(installed / TRUST)
    if identity is None:
        string = _connection_string(hub.name, member.id, None, keys[None], above)
        files[STRING] = Content(f"{string}\n".encode(), secret=True)
        files[SYMMETRIC_KEY] = Content(f"{keys[None]}\n".encode(), secret=True)
        place["connectionString"] = str(installed / STRING)
    else:
        place |= {"certificate": str(installed / IDENTITY), "key": str(installed / IDENTITY_KEY)}
    files[CONNECTION] = Content((json.dumps(place, indent=2, ensure_ascii=False) + "\n").encode())
    files |= _modules(member, hub, None if above is None else above.hostname, keys)
    files[README] = Content(device_readme(member, place, installed).encode())
    return files


def _pair(pair: Pair | None, certificate: str, key: str) -> Files:
    if pair is None:
        return {}
    return {
        certificate: Content(pair.chain.pem().encode()),
        key: Content(pair.key.private_pem().reveal(), secret=True),
    }


def _modules(member: Member, hub: HubPlace, gateway: str | None, keys: Mapping[str | None, str]) -> Files:
    above = None if gateway is None else GatewayTable(id="-", hostname=gateway)
    return {
        f"{MODULES}/{folder_name(module)}.{STRING}": Content(
            f"{_connection_string(hub.name, member.id, module, keys[module], above)}\n".encode(), secret=True
        )
        for module in member.table.modules
    }


def _connection_string(hub: str, device: str, module: str | None, key: str, above: GatewayTable | None) -> str:
    words = [f"HostName={hub}", f"DeviceId={device}", *([f"ModuleId={module}"] if module else [])]
    words += [f"SharedAccessKey={key}", *([f"GatewayHostName={above.hostname}"] if above else [])]
    return ";".join(words)


# On the disk --------------------------------------------------------------------------------------------------------


def write(folder: Path, files: Files) -> bool:
    """Make `folder` and `folder.tar.gz` hold these files. Whether anything was written or removed."""
    changed = False
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        if path.exists() and path.read_bytes() == content.data:
            continue
        (write_private if content.secret else write_public)(path, content.data)
        changed = True
    for path in _ours(folder):
        if path.relative_to(folder).as_posix() not in files:
            path.unlink()
            changed = True
    packed = archive(folder.name, files)
    target = folder.with_name(f"{folder.name}.tar.gz")
    if not target.exists() or target.read_bytes() != packed:
        write_private(target, packed)
        changed = True
    return changed


def _ours(folder: Path) -> list[Path]:
    """What earlier runs may have left."""
    return [path for name in sorted(_KNOWN) if (path := folder / name).exists()] + sorted(
        (folder / MODULES).glob(f"*.{STRING}")
    )


def remove(folder: Path) -> bool:
    """Remove a bundle with its archive. Whether there was one."""
    target = folder.with_name(f"{folder.name}.tar.gz")
    there = (folder / README).exists() or target.exists()
    target.unlink(missing_ok=True)
    if (folder / README).exists():
        shutil.rmtree(folder)
    return there


def archive(name: str, files: Files) -> bytes:
    """A .tar.gz of one folder `name`; the same files make the same bytes."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for folder in dict.fromkeys((name, *(f"{name}/{Path(one).parent}" for one in sorted(files) if "/" in one))):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o700
            tar.addfile(entry)
        for one in sorted(files):
            entry = tarfile.TarInfo(f"{name}/{one}")
            entry.size, entry.mode = len(files[one].data), 0o600 if files[one].secret else 0o644
            tar.addfile(entry, io.BytesIO(files[one].data))
    return packed.getvalue()
