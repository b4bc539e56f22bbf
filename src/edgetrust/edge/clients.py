"""Who is connected to this gateway, as `$edgeHub` reports it: `clients` in its reported properties.

    {"clients": {"Sensor": {"status": "Connected", "lastConnectedTimeUtc": ..., "lastDisconnectedTimeUtc": ...}}}

Rules (edge specification 6.11): a client is named by its identity, `DEVICE` or `DEVICE/MODULE`, with `%`, `.`, `$` and
blanks encoded, which a property name cannot have. It is there from its first connection on; a restart begins anew, as
with the real edgeHub. At most CLIENTS_REPORTED_BYTES of them are told, since all that is reported has to fit into one
twin: those who are connected first, then who went away last. Only what changed is told.

Pure. When it is told is `owntwin`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import msgspec

from edgetrust.limits import CLIENTS_REMEMBERED, CLIENTS_REPORTED_BYTES
from edgetrust.protocol.twin import Json, merge
from edgetrust.trust.identity import Identity

_AROUND: Final = 6  # characters that JSON puts around a name and its value
_ENCODED: Final = {ord(one): f"%{ord(one):02X}" for one in "%.$ "}


@dataclass(frozen=True, slots=True)
class _Client:
    connected_at: datetime | None = None
    disconnected_at: datetime | None = None
    here: bool = False

    def told(self) -> dict[str, str]:
        entry = {"status": "Connected" if self.here else "Disconnected"}
        if self.connected_at is not None:
            entry["lastConnectedTimeUtc"] = _text(self.connected_at)
        if self.disconnected_at is not None:
            entry["lastDisconnectedTimeUtc"] = _text(self.disconnected_at)
        return entry


class Clients:
    """What there is to tell, and what the hub knows of it."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client] = {}
        self._known: Json = {}  # by the hub, as far as it has said or answered

    def seen(self, identity: Identity, here: bool, now: datetime) -> None:
        """A client has come or gone."""
        name = str(identity).translate(_ENCODED)
        before = self._clients.pop(name, _Client())  # put at the end: the order is that of the last change
        changed = {"connected_at": now} if here else {"disconnected_at": now}
        self._clients[name] = replace(before, here=here, **changed)
        if len(self._clients) > CLIENTS_REMEMBERED:
            gone = next((one for one, client in self._clients.items() if not client.here), None)
            if gone is not None:
                del self._clients[gone]

    def known(self, reported: Any) -> None:
        """The hub has this as `clients`."""
        self._known = dict(reported) if isinstance(reported, Mapping) else {}

    def news(self) -> dict[str, Any]:
        """What the hub does not know yet, as a merge patch of `clients`; empty for nothing."""
        wanted = self._wanted()
        patch: dict[str, Any] = {name: None for name in self._known if name not in wanted}
        for name, entry in wanted.items():
            before = self._known.get(name)
            if before != entry:
                gone = {member: None for member in before if member not in entry} if isinstance(before, Mapping) else {}
                patch[name] = {**gone, **entry}
        return patch

    def told(self, patch: Mapping[str, Any]) -> None:
        """The hub has taken a patch."""
        self._known = merge(self._known, patch)

    def _wanted(self) -> dict[str, dict[str, str]]:
        latest_first = list(reversed(self._clients.items()))
        latest_first.sort(key=lambda one: not one[1].here)  # stable: who is here comes first
        wanted: dict[str, dict[str, str]] = {}
        room = CLIENTS_REPORTED_BYTES
        for name, client in latest_first:
            entry = client.told()
            room -= len(name.encode()) + len(msgspec.json.encode(entry)) + _AROUND
            if room < 0:
                break
            wanted[name] = entry
        return wanted


def _text(at: datetime) -> str:
    return at.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
