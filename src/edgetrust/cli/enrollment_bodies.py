"""Enrollments as the command line makes and shows them: between options, bodies of the service API (hub specification
15) and words.
"""

from __future__ import annotations

import base64
import json as json_text
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetrust.cli.certificates import read_chain, read_file
from edgetrust.cli.client import HubClient
from edgetrust.cli.output import print_facts, print_json
from edgetrust.errors import UsageError
from edgetrust.pki.chain import Chain

HubOption = Annotated[
    list[str] | None, typer.Option("--hub-name", metavar="NAME", help="A linked hub that may be chosen. Repeatable.")
]
AllocationOption = Annotated[
    str | None,
    typer.Option("--allocation", metavar="hashed|geoLatency|static|custom", help="Default: the service's."),
]
WebhookOption = Annotated[str | None, typer.Option("--webhook", metavar="URL", help="Who chooses, with custom.")]
TwinOption = Annotated[
    Path | None,
    typer.Option("--initial-twin", metavar="FILE", help='JSON: {"tags": {}, "properties": {"desired": {}}}'),
]
EdgeOption = Annotated[bool | None, typer.Option("--edge/--no-edge", help="Its devices are edge gateways.")]
AgainOption = Annotated[
    str | None,
    typer.Option("--again", metavar="keep|reset|never", help="Registering again: keep data, reset it, never move."),
]
StatusOption = Annotated[bool | None, typer.Option("--enabled/--disabled", help="Whether it lets devices in.")]
KeysOption = Annotated[bool, typer.Option("--keys", help="Show symmetric keys.")]

_AGAIN = {
    "keep": {"updateHubAssignment": True, "migrateDeviceData": True},
    "reset": {"updateHubAssignment": True, "migrateDeviceData": False},
    "never": {"updateHubAssignment": False, "migrateDeviceData": False},
}


def common_fields(
    hubs: list[str] | None,
    allocation: str | None,
    webhook: str | None,
    twin: Path | None,
    edge: bool | None,
    again: str | None,
    enabled: bool | None,
) -> dict[str, Any]:
    """The members that individual enrollments and groups share, those that were said. Raises UsageError."""
    fields: dict[str, Any] = {}
    if hubs:
        fields["iotHubs"] = hubs
    if allocation is not None:
        fields["allocationPolicy"] = allocation
    if webhook is not None:
        fields.update(allocationPolicy="custom", customAllocationDefinition={"webhookUrl": webhook})
    if twin is not None:
        fields["initialTwin"] = _json_file(twin)
    if edge is not None:
        fields["capabilities"] = {"iotEdge": edge}
    if again is not None:
        if again not in _AGAIN:
            raise UsageError(f"--again {again!r} is none of keep, reset, never", reason="again-unknown")
        fields["reprovisionPolicy"] = _AGAIN[again]
    if enabled is not None:
        fields["provisioningStatus"] = "enabled" if enabled else "disabled"
    return fields


def certificates(kind: str, primary: Path | None, secondary: Path | None) -> dict[str, Any]:
    """Attestation by certificates in files; `kind` is clientCertificates or signingCertificates."""
    pair = {"primary": _certificate(primary), "secondary": _certificate(secondary)}
    return {"type": "x509", "x509": {kind: {slot: held for slot, held in pair.items() if held is not None}}}


def tpm(endorsement: Path, storage_root: Path | None) -> dict[str, Any]:
    """Attestation by the public areas of a TPM's keys, in files."""
    keys = {"endorsementKey": _public_area(endorsement)}
    if storage_root is not None:
        keys["storageRootKey"] = _public_area(storage_root)
    return {"type": "tpm", "tpm": keys}


async def change(client: HubClient, noun: str, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Write `fields` into a stored enrollment."""
    body = await client.get(noun, name)
    etag = str(body["etag"]).strip('"')
    changed: dict[str, Any] = await client.put(noun, name, body={**body, **fields}, etag=etag)
    return changed


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
        ("attestation", attestation_word(body)),
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


def attestation_word(body: Mapping[str, Any]) -> str:
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


def _certificate(file: Path | None) -> dict[str, str] | None:
    return None if file is None else {"certificate": Chain(read_chain(file).certificates[:1]).pem()}


def _public_area(file: Path) -> str:
    """A file of tpm2-tools (binary TPM2B_PUBLIC), or its base64."""
    content = read_file(file)
    text = content.strip()
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        return base64.b64encode(content).decode()
    return text.decode()


def _json_file(file: Path) -> Any:
    try:
        return json_text.loads(read_file(file))
    except ValueError as problem:
        raise UsageError(f"{file} holds no JSON: {problem}", reason="file-not-json") from problem
