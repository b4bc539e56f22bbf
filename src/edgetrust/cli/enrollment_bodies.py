"""Enrollments as the command line makes and shows them: between options, bodies of the service API (hub specification
15) and words.
"""

from __future__ import annotations

import base64
import json as json_text
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetrust.cli.certificates import read_chain, read_file
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
