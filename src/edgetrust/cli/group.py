"""`edgetrust group`: enrollment groups, each for a fleet of devices."""

from __future__ import annotations

import base64
import json as json_text
from pathlib import Path
from typing import Annotated, Any

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
from edgetrust.cli.output import Json, print_json, print_line, print_table, say
from edgetrust.errors import UsageError
from edgetrust.protocol.sas import decode_key, derive_key

app = typer.Typer(help="Enrollment groups: fleets that may register.", no_args_is_help=True)

NOUN = "enrollmentGroups"
Id = Annotated[str, typer.Argument(metavar="GROUP", help="The group's name; the same in any letter case.")]
CaOption = Annotated[
    list[str] | None,
    typer.Option("--ca-name", metavar="NAME", help="By X.509: a CA certificate of the service (dps ca add)."),
]
CertificateOption = Annotated[
    Path | None,
    typer.Option("--certificate", metavar="FILE", help="By X.509: the certificate of a CA, root or not."),
]
SecondOption = Annotated[
    Path | None, typer.Option("--secondary-certificate", metavar="FILE", help="A second one, for its renewal.")
]


@app.command(help="Make a group. Without a CA it gets a pair of symmetric keys, from which its devices' are derived.")
@at_dps
async def create(
    client: HubClient,
    group: Id,
    *,
    ca_name: CaOption = None,
    certificate: CertificateOption = None,
    secondary_certificate: SecondOption = None,
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
    if ca_name and certificate is not None:
        raise UsageError(
            "--ca-name and --certificate exclude each other", reason="options-exclude", fix="give one of them"
        )
    if ca_name:
        names = dict(zip(("primary", "secondary"), ca_name[:2], strict=False))
        attestation: dict[str, Any] = {"type": "x509", "x509": {"caReferences": names}}
    elif certificate is not None:
        attestation = bodies.certificates("signingCertificates", certificate, secondary_certificate)
    else:
        attestation = {"type": "symmetricKey"}
    fields = common_fields(hub_name, allocation, webhook, initial_twin, edge, again, enabled)
    made = await client.put(NOUN, group, body={"enrollmentGroupId": group, "attestation": attestation, **fields})
    await enrollments.print_enrollment(client, NOUN, made, keys=keys, json=json)


@app.command(help="Show one group.")
@at_dps
async def show(client: HubClient, group: Id, *, keys: KeysOption = False, json: Json = False) -> None:
    await enrollments.print_enrollment(client, NOUN, await client.get(NOUN, group), keys=keys, json=json)


@app.command("list", help="List groups.")
@at_dps
async def list_(client: HubClient, *, json: Json = False) -> None:
    await enrollments.print_all(client, NOUN, json=json)


@app.command(help="Change a group. What is not said stays.")
@at_dps
async def update(
    client: HubClient,
    group: Id,
    *,
    certificate: CertificateOption = None,
    secondary_certificate: SecondOption = None,
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
    await enrollments.update(
        client, NOUN, group, fields, "signingCertificates", certificate, secondary_certificate, json=json
    )


@app.command(help="Delete a group and the registrations of its devices. Devices stay at their hubs.")
@at_dps
async def delete(client: HubClient, group: Id) -> None:
    await client.delete(NOUN, group)
    say(f"deleted {group}")


@app.command(help="Let the group's devices register again.")
@at_dps
async def enable(client: HubClient, group: Id, *, json: Json = False) -> None:
    await enrollments.set_status(client, NOUN, group, "enabled", json=json)


@app.command(help="Refuse the group's devices. At their hubs they stay as they are.")
@at_dps
async def disable(client: HubClient, group: Id, *, json: Json = False) -> None:
    await enrollments.set_status(client, NOUN, group, "disabled", json=json)


@app.command(help="Derive the key of a device from the group's: put it on that device, and the group's on none.")
@at_dps
async def key(
    client: HubClient,
    group: Id,
    registration: Annotated[str, typer.Argument(metavar="ID", help="Exactly as the device will send it.")],
    *,
    secondary: Annotated[bool, typer.Option("--secondary", help="From the group's secondary key.")] = False,
    json: Json = False,
) -> None:
    attestation = await client.post(NOUN, group, "attestationmechanism")
    held = attestation.get("symmetricKey")
    if not held:
        raise UsageError(f"group {group} has no symmetric keys", reason="group-without-keys")
    derived = derive_key(decode_key(str(held["secondaryKey" if secondary else "primaryKey"])), registration)
    text = base64.b64encode(derived).decode()
    if json:
        print_json({"registrationId": registration, "key": text})
    else:
        print_line(text)


@app.command(help="List the registrations of the group's devices.")
@at_dps
async def registrations(client: HubClient, group: Id, *, json: Json = False) -> None:
    states: list[dict[str, Any]] = []
    async for page in client.pages("POST", ("registrations", group, "query"), body={"query": "SELECT *"}):
        states += json_text.loads(page)
    if json:
        print_json(states)
        return
    rows = [
        (
            str(state["registrationId"]),
            str(state["status"]),
            str(state.get("assignedHub") or ""),
            str(state.get("deviceId") or ""),
            str(state.get("lastUpdatedDateTimeUtc") or ""),
        )
        for state in states
    ]
    print_table(("REGISTRATION", "STATUS", "HUB", "DEVICE", "UPDATED"), rows)
