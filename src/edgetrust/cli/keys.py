"""Symmetric keys of registrations: new ones, and the connection strings that carry them.

A key is made here and written with the etag that was read, so that two operators who roll at the same time do not undo
each other. The other key stays valid: clients move to it before the next roll.
"""

from __future__ import annotations

import base64
import secrets
from typing import Annotated, Any

import typer

from edgetrust.cli.at_hub import at_hub
from edgetrust.cli.client import HubClient
from edgetrust.cli.output import Json, print_json, print_line
from edgetrust.cli.registrations import KeysOption, print_registration
from edgetrust.errors import UsageError

KEY_BYTES = 32

Device = Annotated[str, typer.Argument(metavar="DEVICE", help="The device's identifier; case-sensitive.")]
Module = Annotated[str, typer.Argument(metavar="MODULE", help="The module's identifier.")]
Primary = Annotated[bool, typer.Option("--primary", help="Make a new primary key.")]
Secondary = Annotated[bool, typer.Option("--secondary", help="Make a new secondary key.")]
Both = Annotated[bool, typer.Option("--both", help="Make both anew: open connections end.")]
Swap = Annotated[
    bool, typer.Option("--swap", help="The primary key becomes the secondary one, and the other way round.")
]
UseSecondary = Annotated[bool, typer.Option("--secondary", help="With the secondary key.")]
Through = Annotated[
    str | None, typer.Option("--gateway", metavar="HOST", help="The gateway's host name, for a device behind one.")
]


def chosen_key(*, primary: bool, secondary: bool, both: bool, swap: bool) -> str:
    """`primary`, `secondary`, `both` or `swap`: the one that was given. Raises UsageError."""
    wanted = {"primary": primary, "secondary": secondary, "both": both, "swap": swap}
    given = [name for name, said in wanted.items() if said]
    if len(given) != 1:
        raise UsageError(
            "say which key", reason="key-not-named", fix="give one of --primary, --secondary, --both, --swap"
        )
    return given[0]


def _rolled(keys: dict[str, Any], key: str) -> dict[str, Any]:
    if key == "swap":
        return {"primaryKey": keys.get("secondaryKey"), "secondaryKey": keys.get("primaryKey")}
    made = dict(keys)
    if key in ("primary", "both"):
        made["primaryKey"] = _new_key()
    if key in ("secondary", "both"):
        made["secondaryKey"] = _new_key()
    return made


@at_hub
async def roll_device(
    client: HubClient,
    device: Device,
    *,
    primary: Primary = False,
    secondary: Secondary = False,
    both: Both = False,
    swap: Swap = False,
    keys: KeysOption = False,
    json: Json = False,
) -> None:
    key = chosen_key(primary=primary, secondary=secondary, both=both, swap=swap)
    await _roll(client, ("devices", device), key, keys=keys, json=json)


@at_hub
async def roll_module(
    client: HubClient,
    device: Device,
    module: Module,
    *,
    primary: Primary = False,
    secondary: Secondary = False,
    both: Both = False,
    swap: Swap = False,
    keys: KeysOption = False,
    json: Json = False,
) -> None:
    key = chosen_key(primary=primary, secondary=secondary, both=both, swap=swap)
    await _roll(client, ("devices", device, "modules", module), key, keys=keys, json=json)


@at_hub
async def device_connection_string(
    client: HubClient,
    device: Device,
    *,
    secondary: UseSecondary = False,
    gateway: Through = None,
    json: Json = False,
) -> None:
    await _print_string(client, ("devices", device), secondary=secondary, gateway=gateway, json=json)


@at_hub
async def module_connection_string(
    client: HubClient,
    device: Device,
    module: Module,
    *,
    secondary: UseSecondary = False,
    gateway: Through = None,
    json: Json = False,
) -> None:
    path = ("devices", device, "modules", module)
    await _print_string(client, path, secondary=secondary, gateway=gateway, json=json)


async def _roll(client: HubClient, path: tuple[str, ...], key: str, *, keys: bool, json: bool) -> None:
    body = await client.get(*path)
    body["authentication"] = {"type": "sas", "symmetricKey": _rolled(_keys_of(body, path), key)}
    changed = await client.put(*path, body=body, etag=str(body["etag"]))
    print_registration(changed, client.hub.host_name, keys=keys, json=json)


async def _print_string(
    client: HubClient, path: tuple[str, ...], *, secondary: bool, gateway: str | None, json: bool
) -> None:
    body = await client.get(*path)
    words = [f"HostName={client.hub.host_name}", f"DeviceId={body['deviceId']}"]
    if body.get("moduleId"):
        words.append(f"ModuleId={body['moduleId']}")
    if (body.get("authentication") or {}).get("type") in ("selfSigned", "certificateAuthority"):
        words.append("x509=true")
    else:
        words.append(f"SharedAccessKey={_keys_of(body, path)['secondaryKey' if secondary else 'primaryKey']}")
    if gateway:
        words.append(f"GatewayHostName={gateway}")
    text = ";".join(words)
    if json:
        print_json({"connectionString": text})
    else:
        print_line(text)


def _keys_of(body: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    authentication = body.get("authentication") or {}
    if authentication.get("type") != "sas":
        raise UsageError(
            f"{'/'.join(path[1::2])} does not authenticate by symmetric keys",
            reason="auth-not-sas",
            fix="edgetrust device show tells how it does; edgetrust device update --auth sas gives it keys",
        )
    return dict(authentication.get("symmetricKey") or {})


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
