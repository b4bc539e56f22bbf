"""The certificate authority that `edgetrust up` brings along: below the development root, in the hub's own store, with
EST on the hub's HTTPS listener.

One user name and password, made once, may enrol any name; an Edge CA only goes to a device that is registered as a
gateway. What the hub takes over from it while both run is in `up_trust`.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from edgetrust.ca.authority import ACTIVE, CertificateAuthority
from edgetrust.ca.ceremony import make_hierarchy, store
from edgetrust.ca.service import open_guest, registry_of
from edgetrust.ca.settings import CaSettings
from edgetrust.cli.certificates import read_chain
from edgetrust.cli.up_trust import HubFollows
from edgetrust.clock import SystemClock
from edgetrust.hub.service import Hub
from edgetrust.pki.keys import SecretText
from edgetrust.pki.profiles import ROOT
from edgetrust.pki.softkeys import write_private
from edgetrust.store.authorities import AuthorityRow
from edgetrust.store.engine import Database
from edgetrust.store.passwords import UNLIMITED, find_password, matches, new_password, put_password
from edgetrust.transport.guests import Guest

USERNAME = "est"
_ORGANIZATION = "edgetrust development"
_SECRET_BYTES = 24


def password_file(directory: Path) -> Path:
    """Where the password of the user `est` lies."""
    return directory / "ca" / "est.password"


async def invited(hub: Hub) -> Guest:
    """The certificate authority as a guest of this hub."""
    directory, clock = hub.settings.data / "ca", SystemClock()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = CaSettings(data=directory, database=hub.settings.database, names=(hub.settings.name,))
    _write_config(settings)
    authority = await CertificateAuthority.open(settings, hub.database, clock)
    if not authority.authorities:
        await _found(authority, hub.settings.trust_bundle)
    await _password(hub.database, password_file(hub.settings.data))
    follow = HubFollows(hub).follow
    return await open_guest(settings, clock, hub.database, registry_of(hub.parts.identities), follow)


def _write_config(settings: CaSettings) -> None:
    """For `edgetrust ca`: the same store, and the same registry. JSON strings are TOML strings."""
    url, names = json.dumps(settings.database), json.dumps(list(settings.names))
    text = f"[ca]\ndatabase = {url}\nregistry = {url}\n\n[listen]\nnames = {names}\n"
    write_private(settings.data / "ca.toml", text.encode())


async def _found(authority: CertificateAuthority, root_file: Path) -> None:
    """Take the development root, whose key lies beside its certificate, and make the issuing CAs below it."""
    root, now = read_chain(root_file).end_entity, authority.clock.now()
    reference = f"file:{root_file.parent / 'root.key.pem'}"
    row = AuthorityRow("root", ROOT.name, None, ACTIVE, False, reference, root, now, 0, frozenset())
    await authority.database.write(lambda connection: store(connection, row, now, "install"))
    await authority.refresh()
    await make_hierarchy(authority, _ORGANIZATION, below="root")


async def _password(database: Database, path: Path) -> None:
    """The file and the store must agree: either may have been removed."""
    stored = await database.read(lambda connection: find_password(connection, USERNAME))
    known = _held(path)
    if stored is not None and known is not None and matches(stored, known):
        return
    secret = known or SecretText(secrets.token_urlsafe(_SECRET_BYTES))
    write_private(path, secret.reveal().encode() + b"\n")
    made = new_password(USERNAME, secret, "*", UNLIMITED, None, SystemClock().now())
    await database.write(lambda connection: put_password(connection, made))


def _held(path: Path) -> SecretText | None:
    try:
        return SecretText(path.read_text().strip())
    except FileNotFoundError:
        return None
