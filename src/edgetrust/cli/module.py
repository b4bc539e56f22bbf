"""`edgetrust module`: the modules of a device in the registry of a hub."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgetrust.cli.at_hub import at_hub
from edgetrust.cli.client import HubClient
from edgetrust.cli.keys import module_connection_string, roll_module
from edgetrust.cli.output import Json, print_json, print_table, say
from edgetrust.cli.registrations import (
    GENERATED_KEYS,
    AuthOption,
    CertificateOption,
    KeysOption,
    SecondCertificateOption,
    SecondThumbprintOption,
    ThumbprintOption,
    auth_word,
    authentication,
    print_registration,
    without_keys,
)
from edgetrust.cli.twins import module_method, module_twin

app = typer.Typer(help="Modules of devices.", no_args_is_help=True)
app.command("roll-key", help="Make a symmetric key anew, or swap the two.")(roll_module)
app.command("connection-string", help="Print the connection string of a module. A secret.")(module_connection_string)
app.command("twin", help="Show the twin of a module, or change its tags and desired properties.")(module_twin)
app.command("method", help="Call a method of a module and print its answer. Exit 1: no success.")(module_method)

Device = Annotated[str, typer.Argument(metavar="DEVICE", help="The device's identifier.")]
Module = Annotated[str, typer.Argument(metavar="MODULE", help="The module's identifier.")]


@app.command(help="Register a module. Without --auth it gets a pair of symmetric keys.")
@at_hub
async def create(
    client: HubClient,
    device: Device,
    module: Module,
    *,
    auth: AuthOption = None,
    thumbprint: ThumbprintOption = None,
    certificate: CertificateOption = None,
    secondary_thumbprint: SecondThumbprintOption = None,
    secondary_certificate: SecondCertificateOption = None,
    keys: KeysOption = False,
    json: Json = False,
) -> None:
    wished = authentication(auth, thumbprint, certificate, secondary_thumbprint, secondary_certificate)
    body = {"deviceId": device, "moduleId": module, "authentication": wished or GENERATED_KEYS}
    made = await client.put("devices", device, "modules", module, body=body)
    print_registration(made, client.hub.host_name, keys=keys, json=json)


@app.command(help="Show one module.")
@at_hub
async def show(
    client: HubClient, device: Device, module: Module, *, keys: KeysOption = False, json: Json = False
) -> None:
    body = await client.get("devices", device, "modules", module)
    print_registration(body, client.hub.host_name, keys=keys, json=json)


@app.command("list", help="List the modules of a device.")
@at_hub
async def list_(client: HubClient, device: Device, *, json: Json = False) -> None:
    modules: list[dict[str, Any]] = await client.get("devices", device, "modules")
    if json:
        print_json([without_keys(body) for body in modules])
        return
    rows = [
        (
            str(body["moduleId"]),
            auth_word(body),
            str(body.get("managedBy") or ""),
            str(body.get("connectionState") or ""),
        )
        for body in modules
    ]
    print_table(("MODULE", "AUTH", "MANAGED BY", "CONNECTION"), rows)


@app.command(help="Delete a module. Its open connection closes.")
@at_hub
async def delete(client: HubClient, device: Device, module: Module) -> None:
    await client.delete("devices", device, "modules", module)
    say(f"deleted {device}/{module}")
