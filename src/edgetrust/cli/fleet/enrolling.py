"""What a fleet needs at its provisioning service: the group by which its gateways register, and who is to register no
more.

Rules. The group takes certificates below the roots of the authority that issues for the fleet, and nobody else's: not
those by which an EST server is verified. What the fleet makes carries its name as the tag `fleet`; a group of that
name that it has not made is left as it is. Whoever is deleted from the fleet still has a certificate of its name, so it
is barred before the hub forgets it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from edgetrust.cli.client import DpsClient, HubClient, HubError, find_hub
from edgetrust.cli.fleet.plan import TAG
from edgetrust.cli.fleet.topology import DpsTable, Topology
from edgetrust.cli.output import say
from edgetrust.pki.chain import Chain, Thumbprint

_GROUPS: Final = "enrollmentGroups"
_INDIVIDUAL: Final = "enrollments"
_SLOTS: Final = ("primary", "secondary")


def dps_client(topology: Topology, client: HubClient) -> DpsClient | None:
    """A line to the provisioning service, not yet open; None: nobody said how to prove the right to ask it."""
    table = topology.file.services.dps if topology.file.services is not None else DpsTable()
    folder = topology.source.parent
    if table.connection_string_file is not None and table.endpoint is not None:
        trust = client.hub.trust_file if table.trust is None else folder / table.trust
        return DpsClient(find_hub(None, table.endpoint, folder / table.connection_string_file, trust, dps=True))
    if client.hub.directory is None or table.endpoint is not None:
        return None
    return DpsClient(find_hub(client.hub.directory, None, None, None, dps=True))


async def keep_group(
    client: DpsClient, fleet: str, group: str, hub: str, anchors: Sequence[x509.Certificate], *, dry_run: bool
) -> list[str]:
    """Make the enrollment group what it is to be, and its CAs known; with `dry_run` only say so. What there was to do,
    in words.
    """
    anchors = anchors[: len(_SLOTS)]
    stored = await _stored(client, _GROUPS, group)
    if stored is not None and not _made_by(stored, fleet):
        say(f"the enrollment group {group} is left as it is: this fleet has not made it")
        return []
    done = await _keep_authorities(client, fleet, anchors, dry_run=dry_run)
    body = _group_body(fleet, group, hub, anchors)
    if stored is None:
        if not dry_run:
            await client.put(_GROUPS, group, body=body)
        return [*done, f"enrollment group {group}: create"]
    if _as_wished(stored, body, anchors):
        return done
    if not dry_run:
        await client.put(_GROUPS, group, body={**stored, **body}, etag=str(stored["etag"]).strip('"'))
    return [*done, f"enrollment group {group}: update"]


async def bar(client: DpsClient, fleet: str, device: str) -> None:
    """Let a gateway that has left the fleet not register again: by an enrollment of its own, which is disabled. One
    that is there already decides as it did.
    """
    if await _stored(client, _INDIVIDUAL, device) is None:
        body = {
            "registrationId": device,
            "attestation": {"type": "symmetricKey"},
            "provisioningStatus": "disabled",
            "initialTwin": {"tags": {TAG: fleet}},
        }
        await client.put(_INDIVIDUAL, device, body=body)


async def admit(client: DpsClient, fleet: str, device: str) -> None:
    """Take back what `bar` did."""
    stored = await _stored(client, _INDIVIDUAL, device)
    if stored is not None and _made_by(stored, fleet) and stored.get("provisioningStatus") == "disabled":
        await client.delete(_INDIVIDUAL, device)


def _made_by(stored: Mapping[str, Any], fleet: str) -> bool:
    return bool(((stored.get("initialTwin") or {}).get("tags") or {}).get(TAG) == fleet)


async def _stored(client: DpsClient, noun: str, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = await client.get(noun, name)
    except HubError as problem:
        if problem.reason != "enrollment-not-found":
            raise
        return None
    return found


async def _keep_authorities(
    client: DpsClient, fleet: str, anchors: Sequence[x509.Certificate], *, dry_run: bool
) -> list[str]:
    """A group's certificate counts when the service knows it as verified: the operator issues with it, and says so."""
    entries = [entry["properties"] for entry in (await client.get(*client.certificates))["value"]]
    verified = {str(one["thumbprint"]).lower() for one in entries if one["isVerified"]}
    done = []
    for anchor in anchors:
        if anchor.fingerprint(hashes.SHA1()).hex() in verified:  # noqa: S303 - as the service names it
            continue
        name = f"{fleet}-{Thumbprint.of(anchor).hex()[:8].lower()}"
        if not dry_run:
            encoded = base64.b64encode(Chain((anchor,)).pem().encode()).decode()
            await client.put(
                *client.certificates, name, body={"properties": {"certificate": encoded, "isVerified": True}}
            )
        done.append(f"CA certificate {name}: add, verified")
    return done


def _group_body(fleet: str, group: str, hub: str, anchors: Sequence[x509.Certificate]) -> dict[str, Any]:
    signing = {slot: {"certificate": Chain((anchor,)).pem()} for slot, anchor in zip(_SLOTS, anchors, strict=False)}
    return {
        "enrollmentGroupId": group,
        "attestation": {"type": "x509", "x509": {"signingCertificates": signing}},
        "capabilities": {"iotEdge": True},
        "iotHubs": [hub],
        "initialTwin": {"tags": {TAG: fleet}},
    }


def _as_wished(stored: Mapping[str, Any], body: Mapping[str, Any], anchors: Sequence[x509.Certificate]) -> bool:
    x509_part = (stored.get("attestation") or {}).get("x509") or {}
    held = x509_part.get("signingCertificates") or {}
    shown = [str(((held.get(slot) or {}).get("info") or {}).get("sha256Thumbprint") or "").lower() for slot in _SLOTS]
    wanted = [Thumbprint.of(anchor).hex().lower() for anchor in anchors]
    same = all(stored.get(name) == body[name] for name in ("capabilities", "iotHubs"))
    return same and [one for one in shown if one] == wanted
