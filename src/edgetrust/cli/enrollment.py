"""`edgetrust enrollment`: individual enrollments, each for one device, and many of them from a CSV file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgetrust.cli import enrollment_bodies as bodies
from edgetrust.cli import enrollments
from edgetrust.cli.at_hub import at_dps
from edgetrust.cli.client import HubClient
from edgetrust.cli.enrollment_bodies import (
    AgainOption,
    AllocationOption,
    EdgeOption,
    HubOption,
    KeysOption,
    StatusOption,
    TwinOption,
    WebhookOption,
    common_fields,
)
from edgetrust.cli.enrollment_csv import import_csv
from edgetrust.cli.output import Json, print_facts, print_json, say
from edgetrust.errors import UsageError

app = typer.Typer(help="Individual enrollments: who may register, and how.", no_args_is_help=True)
app.command("import", help="Enroll the devices of a CSV file, with progress; a row that fails stops no other.")(
    at_dps(import_csv)
)

NOUN = "enrollments"
Id = Annotated[str, typer.Argument(metavar="ID", help="The registration identifier; the same in any letter case.")]
CertificateOption = Annotated[
    Path | None, typer.Option("--certificate", metavar="FILE", help="By X.509: the device's very certificate.")
]
SecondOption = Annotated[
    Path | None, typer.Option("--secondary-certificate", metavar="FILE", help="One that it may show instead.")
]
DeviceOption = Annotated[str | None, typer.Option("--device-id", metavar="ID", help="Its name at the hub.")]


@app.command(help="Enroll a device. Without a certificate or TPM it gets a pair of symmetric keys.")
@at_dps
async def create(
    client: HubClient,
    registration: Id,
    *,
    certificate: CertificateOption = None,
    secondary_certificate: SecondOption = None,
    endorsement_key: Annotated[
        Path | None, typer.Option("--endorsement-key", metavar="FILE", help="By TPM: the public area of its EK.")
    ] = None,
    storage_root_key: Annotated[
        Path | None, typer.Option("--storage-root-key", metavar="FILE", help="By TPM: that of its SRK too.")
    ] = None,
    device_id: DeviceOption = None,
    hub_name: HubOption = None,
    allocation: AllocationOption = None,
    webhook: WebhookOption = None,
    initial_twin: TwinOption = None,
    edge: EdgeOption = None,
    again: AgainOption = None,
    enabled: StatusOption = None,
    keys: KeysOption = False,
    json: Json = False,
) -> None:
    if endorsement_key is not None and certificate is not None:
        raise UsageError("a certificate and a TPM exclude each other", reason="options-exclude", fix="give one of them")
    if endorsement_key is not None:
        attestation = bodies.tpm(endorsement_key, storage_root_key)
    elif certificate is not None:
        attestation = bodies.certificates("clientCertificates", certificate, secondary_certificate)
    else:
        attestation = {"type": "symmetricKey"}
    body = {"registrationId": registration, "attestation": attestation}
    if device_id is not None:
        body["deviceId"] = device_id
    body.update(common_fields(hub_name, allocation, webhook, initial_twin, edge, again, enabled))
    made = await client.put(NOUN, registration, body=body)
    await enrollments.print_enrollment(client, NOUN, made, keys=keys, json=json)


@app.command(help="Show one enrollment and its registration.")
@at_dps
async def show(client: HubClient, registration: Id, *, keys: KeysOption = False, json: Json = False) -> None:
    await enrollments.print_enrollment(client, NOUN, await client.get(NOUN, registration), keys=keys, json=json)


@app.command("list", help="List individual enrollments.")
@at_dps
async def list_(client: HubClient, *, json: Json = False) -> None:
    await enrollments.print_all(client, NOUN, json=json)


@app.command(help="Change an enrollment. What is not said stays.")
@at_dps
async def update(
    client: HubClient,
    registration: Id,
    *,
    certificate: CertificateOption = None,
    secondary_certificate: SecondOption = None,
    device_id: DeviceOption = None,
    hub_name: HubOption = None,
    allocation: AllocationOption = None,
    webhook: WebhookOption = None,
    initial_twin: TwinOption = None,
    edge: EdgeOption = None,
    again: AgainOption = None,
    enabled: StatusOption = None,
    json: Json = False,
) -> None:
    fields = common_fields(hub_name, allocation, webhook, initial_twin, edge, again, enabled)
    if device_id is not None:
        fields["deviceId"] = device_id
    await enrollments.update(
        client, NOUN, registration, fields, "clientCertificates", certificate, secondary_certificate, json=json
    )


@app.command(help="Delete an enrollment and its registration. The device stays at its hub.")
@at_dps
async def delete(client: HubClient, registration: Id) -> None:
    await client.delete(NOUN, registration)
    say(f"deleted {registration}")


@app.command(help="Let the device register again.")
@at_dps
async def enable(client: HubClient, registration: Id, *, json: Json = False) -> None:
    await enrollments.set_status(client, NOUN, registration, "enabled", json=json)


@app.command(help="Refuse the device, also when a group would let it in. At its hub it stays as it is.")
@at_dps
async def disable(client: HubClient, registration: Id, *, json: Json = False) -> None:
    await enrollments.set_status(client, NOUN, registration, "disabled", json=json)


@app.command(help="Show the registration of a device, of a group too: its hub, and by which certificate.")
@at_dps
async def registration(client: HubClient, registration: Id, *, json: Json = False) -> None:
    state = await client.get("registrations", registration)
    if json:
        print_json(state)
        return
    shown = (state.get("x509") or {}).get("certificateInfo") or {}
    group = next((held.get("enrollmentGroupId") for held in state.values() if isinstance(held, dict)), None)
    print_facts(
        [
            ("registration", str(state["registrationId"])),
            ("status", str(state["status"])),
            ("hub", str(state.get("assignedHub") or "")),
            ("device", str(state.get("deviceId") or "")),
            ("substatus", str(state.get("substatus") or "")),
            ("group", str(group or "")),
            ("SHA-1", str(shown.get("sha1Thumbprint") or "")),
            ("SHA-256", str(shown.get("sha256Thumbprint") or "")),
            ("error", f"{state['errorCode']} {state.get('errorMessage', '')}" if "errorCode" in state else ""),
            ("updated", str(state.get("lastUpdatedDateTimeUtc") or "")),
        ]
    )
