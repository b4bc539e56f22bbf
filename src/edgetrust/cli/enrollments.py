"""What `edgetrust enrollment` and `edgetrust group` do alike, with one enrollment or all: a noun says of which kind."""

from __future__ import annotations

import json as json_text
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgetrust.cli.client import HubClient
from edgetrust.cli.enrollment_bodies import certificates
from edgetrust.cli.output import print_facts, print_json, print_table
from edgetrust.errors import UsageError


async def _change(client: HubClient, noun: str, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Write `fields` into a stored enrollment."""
    body = await client.get(noun, name)
    etag = str(body["etag"]).strip('"')
    changed: dict[str, Any] = await client.put(noun, name, body={**body, **fields}, etag=etag)
    return changed


async def update(
    client: HubClient,
    noun: str,
    name: str,
    fields: dict[str, Any],
    kind: str,
    primary: Path | None,
    secondary: Path | None,
    *,
    json: bool,
) -> None:
    """Write what was said, certificates of this kind too, and print what it is now. UsageError if nothing was said."""
    if primary is not None or secondary is not None:
        fields["attestation"] = _with_certificates(await client.get(noun, name), kind, primary, secondary)
    if not fields:
        raise UsageError("nothing to change", reason="nothing-to-change", fix="give an option; --help lists them")
    await print_enrollment(client, noun, await _change(client, noun, name, fields), keys=False, json=json)


async def set_status(client: HubClient, noun: str, name: str, status: str, *, json: bool) -> None:
    """Enable or disable, and print what it is now."""
    changed = await _change(client, noun, name, {"provisioningStatus": status})
    await print_enrollment(client, noun, changed, keys=False, json=json)


async def print_enrollment(client: HubClient, noun: str, body: dict[str, Any], *, keys: bool, json: bool) -> None:
    """An enrollment on stdout, with its keys only if they were asked for."""
    name = str(body.get("registrationId") or body.get("enrollmentGroupId"))
    if keys:
        attestation = await client.post(noun, name, "attestationmechanism")
        body = {**body, "attestation": attestation}
    if json:
        print_json(body)
    else:
        print_facts(_facts(name, body, keys=keys))


def _facts(name: str, body: Mapping[str, Any], *, keys: bool) -> list[tuple[str, str]]:
    attestation = body.get("attestation") or {}
    held = attestation.get("symmetricKey") or {}
    hidden = "(hidden; --keys shows it)"
    symmetric = attestation.get("type") == "symmetricKey"
    state = body.get("registrationState") or {}
    return [
        ("group" if "enrollmentGroupId" in body else "enrollment", name),
        ("status", str(body.get("provisioningStatus", ""))),
        ("attestation", _attestation_word(body)),
        *(
            [
                ("primary key", str(held.get("primaryKey") or "") if keys else hidden),
                ("secondary key", str(held.get("secondaryKey") or "") if keys else hidden),
            ]
            if symmetric
            else []
        ),
        *_shown_certificates(attestation.get("x509") or {}),
        ("device", str(body.get("deviceId") or "")),
        ("edge", "yes" if (body.get("capabilities") or {}).get("iotEdge") else ""),
        ("allocation", str(body.get("allocationPolicy") or "")),
        ("hubs", ", ".join(body.get("iotHubs") or ()) or str(body.get("iotHubHostName") or "")),
        ("registered", _state(state)),
        ("etag", str(body.get("etag") or "").strip('"')),
    ]


def _attestation_word(body: Mapping[str, Any]) -> str:
    """`symmetricKey`, `x509` or `tpm`."""
    return str((body.get("attestation") or {}).get("type") or "")


def _shown_certificates(held: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = []
    for pair in (held.get("clientCertificates"), held.get("signingCertificates")):
        for slot, certificate in (pair or {}).items():
            info = certificate["info"]
            lines.append((f"{slot} certificate", f"{info['subjectName']}\nSHA-256 {info['sha256Thumbprint']}"))
    for slot, name in (held.get("caReferences") or {}).items():
        if name:
            lines.append((f"{slot} CA", str(name)))
    return lines


def _state(state: Mapping[str, Any]) -> str:
    if state.get("status") != "assigned":
        return str(state.get("status") or "")
    return f"{state.get('deviceId')} at {state.get('assignedHub')} ({state.get('substatus')})"


async def print_all(client: HubClient, noun: str, *, json: bool) -> None:
    """Every enrollment, page by page."""
    listed: list[dict[str, Any]] = []
    async for page in client.pages("POST", (noun, "query"), body={"query": "SELECT *"}):
        listed += json_text.loads(page)
    if json:
        print_json(listed)
        return
    rows = [
        (
            str(body.get("registrationId") or body.get("enrollmentGroupId")),
            str(body.get("provisioningStatus", "")),
            _attestation_word(body),
            "edge" if (body.get("capabilities") or {}).get("iotEdge") else "",
            str((body.get("registrationState") or {}).get("status") or ""),
        )
        for body in listed
    ]
    print_table(("NAME", "STATUS", "ATTESTATION", "EDGE", "REGISTRATION"), rows)


def _with_certificates(
    stored: dict[str, Any], kind: str, primary: Path | None, secondary: Path | None
) -> dict[str, Any]:
    """The stored attestation with the certificates that were given in the place of the old ones."""
    kept = ((stored.get("attestation") or {}).get("x509") or {}).get(kind) or {}
    given = certificates(kind, primary, secondary)["x509"][kind]
    return {"type": "x509", "x509": {kind: {**kept, **given}}}
