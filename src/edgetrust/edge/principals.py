"""Who may do what with keys, certificates and identities: users of this machine, by their uid.

Rules (edge specification 2.3, 3.1, 4.1). Root and the user that the services run as may do everything. Everybody else
needs an entry whose pattern (`*`, `?`) matches the identifier. An entry without `idtype` is a trusted service and may
manage identities; with `module` it is a module and may learn its own; with `device` it may read the device's.
"""

from __future__ import annotations

import fnmatch
import os
import pwd
import re
from dataclasses import dataclass

from edgetrust.edge.files import TPM_KEY


@dataclass(frozen=True, slots=True)
class Principal:
    """An entry. `name` is the module's; patterns are for identifiers of keys and certificates."""

    uid: int
    name: str | None = None
    keys: tuple[str, ...] = ()
    certs: tuple[str, ...] = ()
    idtype: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ServiceUsers:
    """The users of the services that are processes of their own, by name or uid."""

    certd: str | int = "aziotcs"
    identityd: str | int = "aziotid"
    edged: str | int = "iotedge"

    def principals(self, local: tuple[str, ...] = ()) -> tuple[Principal, ...]:
        """What each may do, as the real product's configuration grants it (edge specification 7.3). `local` are the
        certificates that may be those of local identities.
        """
        certd, identityd, edged = (_uid(name) for name in (self.certd, self.identityd, self.edged))
        wanted = (
            (certd, None, ("aziot-edged-ca*", "device-id*", "est-*", "local-ca*"), ()),
            (identityd, None, ("aziot_identityd_master_id", "device-id*", TPM_KEY), ("device-id*", *local)),
            (edged, "aziot-edge", _OF_EDGED, ("aziot-edged-ca*", "aziot-edged/module/*", "trust-bundle-user")),
        )
        return tuple(Principal(uid, name, keys, certs) for uid, name, keys, certs in wanted if uid is not None)


_OF_EDGED = ("aziot-edged-ca*", "iotedge_master_encryption_id")


def _uid(user: str | int) -> int | None:
    """The uid of a user; None for one that this machine does not have, who then cannot ask either."""
    if isinstance(user, int):
        return user
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


@dataclass(frozen=True, slots=True)
class Principals:
    """The entries of one configuration."""

    entries: tuple[Principal, ...] = ()

    def trusted(self, uid: int) -> bool:
        """Root, the services' own user, or a trusted service."""
        return _is_ours(uid) or any(entry.uid == uid and entry.idtype is None and entry.name for entry in self.entries)

    def may_use_key(self, uid: int, key_id: str) -> bool:
        """Whether a user may create, load, import and move the key."""
        return _is_ours(uid) or any(_matches(entry.keys, key_id) for entry in self._of(uid))

    def may_change_certificate(self, uid: int, certificate_id: str) -> bool:
        """Whether a user may issue, import and delete the certificate."""
        return _is_ours(uid) or any(_matches(entry.certs, certificate_id) for entry in self._of(uid))

    def module_of(self, uid: int) -> str | None:
        """The module that a user is, if it is one."""
        found = (entry.name for entry in self._of(uid) if entry.idtype is not None and "module" in entry.idtype)
        return next(found, None)

    def is_local(self, uid: int, name: str) -> bool:
        """Whether a user is the local identity `name`."""
        return any(entry.name == name and "local" in (entry.idtype or ()) for entry in self._of(uid))

    def may_read_device(self, uid: int) -> bool:
        """Whether a user may read the device's identity."""
        return self.trusted(uid) or any("device" in (entry.idtype or ()) for entry in self._of(uid))

    def _of(self, uid: int) -> list[Principal]:
        return [entry for entry in self.entries if entry.uid == uid]


def _is_ours(uid: int) -> bool:
    return uid in (0, os.geteuid())


def _matches(patterns: tuple[str, ...], identifier: str) -> bool:
    """`*` and `?` only: a `[` is itself."""
    return any(
        re.fullmatch(fnmatch.translate(pattern.replace("[", "[[]")), identifier, re.DOTALL) for pattern in patterns
    )
