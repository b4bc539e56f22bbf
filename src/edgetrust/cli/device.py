"""`edgetrust device`: devices in the registry of a hub, messages to them, and being one (send, listen, enroll)."""

from __future__ import annotations

import sys
from typing import Annotated, Any
from urllib.parse import quote

import typer

from edgetrust.cli.at_hub import at_hub
from edgetrust.cli.bulk import export, import_
from edgetrust.cli.client import HubClient
from edgetrust.cli.enroll import enroll, renew
from edgetrust.cli.explained import explain
from edgetrust.cli.keys import device_connection_string, roll_device
from edgetrust.cli.output import Json, pairs, print_json, print_table, say
from edgetrust.cli.provision import provision
from edgetrust.cli.query import query
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
    merged,
    parent_of,
    print_registration,
    without_keys,
)
from edgetrust.cli.traffic import listen, report, send
from edgetrust.cli.twins import device_method, device_twin
from edgetrust.errors import UsageError

app = typer.Typer(help="Devices: registry, sending, listening.", no_args_is_help=True)
app.command("send", help="Be a device: send telemetry to the hub, straight or through a gateway.")(send)
app.command("explain", help="What the hub would decide about a certificate or token, and the fix. Exit 1: refused.")(
    explain
)
app.command("provision", help="Be a device: register with a provisioning service; prints the hub it belongs to.")(
    provision
)
app.command("listen", help="Be a device: print cloud-to-device messages, calls and twin changes as they come.")(listen)
app.command("report", help="Be a device: patch the reported properties of its twin.")(report)
app.command("query", help="Ask for devices, modules and their twins in the hub's query language.")(query)
app.command("export", help="Print all devices and modules of the hub as JSON lines, secrets included.")(export)
app.command("import", help="Register, or change, the devices and modules of a file of JSON lines.")(import_)
app.command("roll-key", help="Make a symmetric key anew, or swap the two.")(roll_device)
app.command("connection-string", help="Print the connection string of a device. A secret.")(device_connection_string)
app.command("twin", help="Show the twin of a device, or change its tags and desired properties.")(device_twin)
app.command("method", help="Call a method of a device and print its answer. Exit 1: no success.")(device_method)
app.command("enroll")(enroll)
app.command("renew")(renew)

Device = Annotated[str, typer.Argument(metavar="ID", help="The device's identifier; case-sensitive.")]
Parent = Annotated[
    str | None, typer.Option("--parent", metavar="ID", help="The gateway that it connects through; '' for none.")
]


@app.command(help="Register a device. Without --auth it gets a pair of symmetric keys.")
@at_hub
async def create(
    client: HubClient,
    device: Device,
    *,
    auth: AuthOption = None,
    thumbprint: ThumbprintOption = None,
    certificate: CertificateOption = None,
    secondary_thumbprint: SecondThumbprintOption = None,
    secondary_certificate: SecondCertificateOption = None,
    edge: Annotated[bool, typer.Option("--edge", help="It is an edge gateway.")] = False,
    parent: Parent = None,
    keys: KeysOption = False,
    json: Json = False,
) -> None:
    wished = authentication(auth, thumbprint, certificate, secondary_thumbprint, secondary_certificate)
    body = {
        "deviceId": device,
        "status": "enabled",
        "capabilities": {"iotEdge": edge},
        "authentication": wished or GENERATED_KEYS,
        **(await _below(client, parent, edge=edge) if parent else {}),
    }
    made = await client.put("devices", device, body=body)
    print_registration(made, client.hub.host_name, keys=keys, json=json)


@app.command(help="Show one device.")
@at_hub
async def show(client: HubClient, device: Device, *, keys: KeysOption = False, json: Json = False) -> None:
    body = await client.get("devices", device)
    print_registration(body, client.hub.host_name, keys=keys, json=json)


@app.command("list", help="List devices.")
@at_hub
async def list_(
    client: HubClient,
    *,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most that many.")] = 1000,
    json: Json = False,
) -> None:
    devices: list[dict[str, Any]] = await client.get("devices", top=str(limit))
    if json:
        print_json([without_keys(body) for body in devices])
        return
    rows = [
        (
            str(body["deviceId"]),
            str(body.get("status", "")),
            auth_word(body),
            "edge" if (body.get("capabilities") or {}).get("iotEdge") else "",
            parent_of(body),
            str(body.get("connectionState", "")),
        )
        for body in devices
    ]
    print_table(("DEVICE", "STATUS", "AUTH", "EDGE", "PARENT", "CONNECTION"), rows)
    if len(devices) == limit:
        say(f"the first {limit}; there may be more")


@app.command(help="Change how a device authenticates, or its parent. What is not said stays.")
@at_hub
async def update(
    client: HubClient,
    device: Device,
    *,
    auth: AuthOption = None,
    thumbprint: ThumbprintOption = None,
    certificate: CertificateOption = None,
    secondary_thumbprint: SecondThumbprintOption = None,
    secondary_certificate: SecondCertificateOption = None,
    parent: Parent = None,
    keys: KeysOption = False,
    json: Json = False,
) -> None:
    wished = authentication(auth, thumbprint, certificate, secondary_thumbprint, secondary_certificate)
    if wished is None and parent is None:
        raise UsageError("nothing to change", reason="nothing-to-change", fix="give --auth, a thumbprint or --parent")
    body = await client.get("devices", device)
    if wished is not None:
        body["authentication"] = merged(body.get("authentication") or {}, wished)
    if parent is not None:
        body.update(await _below(client, parent, edge=_is_edge(body)))
    changed = await client.put("devices", device, body=body, etag=str(body["etag"]))
    print_registration(changed, client.hub.host_name, keys=keys, json=json)


@app.command(help="Delete a device with its modules and waiting messages. Open connections close.")
@at_hub
async def delete(client: HubClient, device: Device) -> None:
    await client.delete("devices", device)
    say(f"deleted {device}")


@app.command(help="Let a disabled device connect again.")
@at_hub
async def enable(client: HubClient, device: Device, *, json: Json = False) -> None:
    await _set_status(client, device, "enabled", None, json=json)


@app.command(help="Refuse a device from now on. Its open connections, and those of its modules, close.")
@at_hub
async def disable(
    client: HubClient,
    device: Device,
    *,
    why: Annotated[str | None, typer.Option("--why", metavar="TEXT", help="Kept with the registration.")] = None,
    json: Json = False,
) -> None:
    await _set_status(client, device, "disabled", why, json=json)


@app.command(help="Send a cloud-to-device message; it waits at the hub until the device takes it.")
@at_hub
async def c2d(
    client: HubClient,
    device: Device,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The message; - reads standard input.")],
    *,
    properties: Annotated[list[str] | None, typer.Option("--property", metavar="K=V", help="May be repeated.")] = None,
    message_id: Annotated[str | None, typer.Option("--message-id", metavar="ID")] = None,
    ack: Annotated[
        str, typer.Option("--ack", metavar="none|positive|negative|full", help="Which end you want feedback on.")
    ] = "none",
    json: Json = False,
) -> None:
    raw = sys.stdin.buffer.read() if text == "-" else text.encode()
    headers = {f"iothub-app-{quote(name, safe='')}": quote(value, safe="") for name, value in pairs(properties).items()}
    if message_id is not None:
        headers["iothub-messageid"] = message_id
    if ack != "none":
        headers["iothub-ack"] = ack
    answer = await client.request("POST", ("devices", device, "messages", "devicebound"), raw=raw, headers=headers)
    if json:
        print_json(answer or {})
    else:
        say(f"queued for {device}")


def _is_edge(body: dict[str, Any]) -> bool:
    return bool((body.get("capabilities") or {}).get("iotEdge"))


async def _below(client: HubClient, parent: str, *, edge: bool) -> dict[str, Any]:
    """The scope fields that put a device below `parent` (hub specification 4.11); "" takes it out."""
    if parent == "":
        return {"parentScopes": []} if edge else {"parentScopes": [], "deviceScope": ""}
    above = await client.get("devices", parent)
    scope = above.get("deviceScope")
    if not _is_edge(above) or not scope:
        raise UsageError(
            f"{parent} is no edge gateway", reason="parent-not-edge", fix="name a device that was created with --edge"
        )
    return {"parentScopes": [scope]} if edge else {"parentScopes": [scope], "deviceScope": scope}


async def _set_status(client: HubClient, device: str, status: str, why: str | None, *, json: bool) -> None:
    body = await client.get("devices", device)
    body.update(status=status, statusReason=why)
    changed = await client.put("devices", device, body=body, etag=str(body["etag"]))
    print_registration(changed, client.hub.host_name, keys=False, json=json)
