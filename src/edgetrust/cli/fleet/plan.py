"""What has to change at a hub so that it holds a fleet: the topology against the registry. Pure.

Rules. What belongs to a fleet carries the tag `fleet` with its name. Somebody of that name without the tag is somebody
else's and stays as he is, unless he may be adopted. Only what the topology says is compared: whether an identity is
enabled, its other tags and its desired properties are the operator's business. A gateway that is to be provisioned
carries the tag `fleetAuth`; it is registered with keys that nobody gets, so that it has its place, and its
authentication is from then on what the provisioning service makes it. A new thumbprint takes the first slot
and the one it replaces the second, so that the device is let in until it has its new certificate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgetrust.cli.fleet.topology import DPS_EST, Member, Topology
from edgetrust.cli.registrations import GENERATED_KEYS, auth_word, parent_of

TAG: Final = "fleet"
AUTH_TAG: Final = "fleetAuth"
Key = tuple[str, str | None]
State = Mapping[Key, Mapping[str, Any]]
"""The registry as it is exported: bodies by device and module."""
_TYPES: Final = {"sas": "sas", "thumbprint": "selfSigned", "ca": "certificateAuthority"}


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one identity. `verb` is `create`, `update` or `delete`; `facts` say what of it."""

    verb: str
    key: Key
    facts: tuple[str, ...]

    @property
    def name(self) -> str:
        """`DEVICE` or `DEVICE/MODULE`."""
        return self.key[0] if self.key[1] is None else f"{self.key[0]}/{self.key[1]}"


def belongs(body: Mapping[str, Any], fleet: str) -> bool:
    """Whether an identity of the registry carries the mark of the fleet."""
    return (body.get("tags") or {}).get(TAG) == fleet


def auth_tag(body: Mapping[str, Any]) -> str:
    """How it is said to get what it authenticates with; empty for who brings it along."""
    return str((body.get("tags") or {}).get(AUTH_TAG) or "")


def strangers(topology: Topology, state: State) -> list[Member]:
    """Members whose name somebody else has at the hub."""
    fleet = topology.file.name
    return [
        member
        for member in topology.members
        if (body := state.get((member.id, None))) is not None and not belongs(body, fleet)
    ]


def leavers(topology: Topology, state: State) -> list[Change]:
    """Who carries the fleet's mark at the hub and is not in the topology any more; modules of those that stay too."""
    wanted: set[Key] = set()
    for member in topology.members:
        wanted.add((member.id, None))
        wanted.update((member.id, module) for module in member.table.modules)
    gone = [key for key, body in state.items() if key not in wanted and belongs(body, topology.file.name)]
    devices = {key[0] for key in gone if key[1] is None}
    return [Change("delete", key, ()) for key in gone if key[1] is None or key[0] not in devices]


def device_change(member: Member, state: State, fleet: str, thumbprint: str | None) -> Change | None:
    """What has to happen to a device; None: nothing. `thumbprint` is that of its certificate, "" for one that is still
    to be made.
    """
    body = state.get((member.id, None))
    if body is None:
        return Change("create", (member.id, None), (f"authentication {member.auth}", f"below {_above(member)}"))
    facts = list(_differences(member, body, state, fleet, thumbprint))
    return Change("update", (member.id, None), tuple(facts)) if facts else None


def module_changes(member: Member, state: State, fleet: str) -> Iterator[Change]:
    """Modules that are missing, or lack the mark."""
    for module in member.table.modules:
        body = state.get((member.id, module))
        if body is None:
            yield Change("create", (member.id, module), ("authentication sas",))
        elif not belongs(body, fleet):
            yield Change("update", (member.id, module), (f"tag {TAG} = {fleet}",))


def _differences(
    member: Member, body: Mapping[str, Any], state: State, fleet: str, thumbprint: str | None
) -> Iterator[str]:
    if not belongs(body, fleet):
        yield f"tag {TAG} = {fleet}"
    edge = bool((body.get("capabilities") or {}).get("iotEdge"))
    if edge != (member.gateway is not None):
        yield "becomes a gateway" if member.gateway is not None else "is no gateway any more"
    before = auth_tag(body) or auth_word(body)
    if before != member.auth:
        yield f"authentication {before} -> {member.auth}"
    elif member.auth == "thumbprint" and _slots(body)[0] != thumbprint:
        yield "new certificate"
    elif member.auth == "thumbprint" and not _slots(body)[1]:
        yield "second thumbprint"
    place = parent_of(body)
    wanted = member.parent.id if member.parent is not None else ""
    if place != wanted:
        yield f"parent {place or 'the hub'} -> {_above(member)}"
    elif wanted and (above := state.get((wanted, None))) is not None and not _inside(body, above):
        yield f"parent {wanted}, which was made anew"


def _inside(body: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    return above.get("deviceScope") in (body.get("parentScopes") or [])


def _slots(body: Mapping[str, Any]) -> tuple[str, str]:
    prints = (body.get("authentication") or {}).get("x509Thumbprint") or {}
    first, second = (str(prints.get(slot) or "") for slot in ("primaryThumbprint", "secondaryThumbprint"))
    return first.lower(), second.lower()


def _above(member: Member) -> str:
    return member.parent.id if member.parent is not None else "the hub"


def device_body(member: Member, state: State, fleet: str, thumbprint: str | None, scope: str | None) -> dict[str, Any]:
    """The device as the hub is to have it, for a bulk request. `scope` is that of the gateway above."""
    stored = state.get((member.id, None)) or {}
    body: dict[str, Any] = {
        "id": member.id,
        "importMode": "createOrUpdate",
        "status": stored.get("status") or "enabled",
        "statusReason": stored.get("statusReason"),
        "capabilities": {"iotEdge": member.gateway is not None},
        "authentication": _authentication(member, stored, thumbprint),
        "tags": _tags(member, stored, fleet),
        "parentScopes": [scope] if scope else [],
    }
    if member.gateway is None:
        body["deviceScope"] = scope or ""
    return {name: value for name, value in body.items() if value is not None}


def _tags(member: Member, stored: Mapping[str, Any], fleet: str) -> dict[str, Any]:
    others = {name: value for name, value in (stored.get("tags") or {}).items() if name != AUTH_TAG}
    return {**others, TAG: fleet, **({AUTH_TAG: DPS_EST} if member.auth == DPS_EST else {})}


def _authentication(member: Member, stored: Mapping[str, Any], thumbprint: str | None) -> dict[str, Any]:
    before = stored.get("authentication") or {}
    if member.auth == DPS_EST:  # what it has serves until it has registered
        return dict(before) or dict(GENERATED_KEYS)
    kind = _TYPES[member.auth]
    if kind == "sas":
        keys = before.get("symmetricKey") if before.get("type") == "sas" else None
        return {"type": kind, "symmetricKey": keys} if keys else dict(GENERATED_KEYS)
    if kind == "certificateAuthority":
        return {"type": kind}
    assert thumbprint, "a certificate is there before its thumbprint is registered"
    slots = _slots(stored) if before.get("type") == kind else ("", "")
    second = next((one for one in slots if one and one != thumbprint), thumbprint)
    return {"type": kind, "x509Thumbprint": {"primaryThumbprint": thumbprint, "secondaryThumbprint": second}}


def module_body(key: Key, state: State, fleet: str) -> dict[str, Any]:
    """The module as the hub is to have it, for a bulk request."""
    stored = state.get(key) or {}
    return {
        "id": key[0],
        "moduleId": key[1],
        "importMode": "createOrUpdate",
        "authentication": stored.get("authentication") or dict(GENERATED_KEYS),
        "tags": {**(stored.get("tags") or {}), TAG: fleet},
    }


def deletion(key: Key) -> dict[str, Any]:
    """That an identity is to go, for a bulk request."""
    named = {"id": key[0], "importMode": "delete"}
    return named if key[1] is None else {**named, "moduleId": key[1]}
