"""`edgetrust hub policy`: the shared access policies of a hub, which are how services prove what they may (hub
specification 4.3). Only a connection string with every right manages them.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgetrust.cli.at_hub import at_hub
from edgetrust.cli.client import HubClient
from edgetrust.cli.keys import Both, Primary, Secondary, Swap, UseSecondary, chosen_key
from edgetrust.cli.output import Json, print_facts, print_json, print_line, print_table, say
from edgetrust.errors import UsageError

app = typer.Typer(help="Shared access policies: what services may.", no_args_is_help=True)

RIGHTS = ("RegistryRead", "RegistryWrite", "ServiceConnect", "DeviceConnect")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the policy.")]
Rights = Annotated[
    list[str], typer.Option("--right", metavar="|".join(RIGHTS), help="May be repeated; in any letter case.")
]
Keys = Annotated[bool, typer.Option("--keys", help="Show the keys.")]


@app.command("list", help="List the policies.")
@at_hub
async def list_(client: HubClient, *, json: Json = False) -> None:
    policies: list[dict[str, Any]] = (await client.get("edgetrust", "policies"))["policies"]
    if json:
        print_json(policies)
    else:
        print_table(("POLICY", "RIGHTS"), [(str(one["name"]), " ".join(one["rights"])) for one in policies])


@app.command(help="Show one policy.")
@at_hub
async def show(client: HubClient, name: Name, *, keys: Keys = False, json: Json = False) -> None:
    _show(await client.get("edgetrust", "policies", name), keys=keys, json=json)


@app.command(help="Make a policy with these rights and new keys. It counts at once.")
@at_hub
async def create(client: HubClient, name: Name, *, right: Rights, keys: Keys = False, json: Json = False) -> None:
    made = await client.put("edgetrust", "policies", name, body={"rights": _rights(right)})
    _show(made, keys=keys, json=json)


@app.command(help="Give a policy these rights instead of those it has. Its keys stay.")
@at_hub
async def update(client: HubClient, name: Name, *, right: Rights, keys: Keys = False, json: Json = False) -> None:
    changed = await client.put("edgetrust", "policies", name, body={"rights": _rights(right)}, etag="*")
    _show(changed, keys=keys, json=json)


@app.command(help="Delete a policy. Its tokens count no longer; connections that rest on it end.")
@at_hub
async def delete(client: HubClient, name: Name) -> None:
    await client.delete("edgetrust", "policies", name)
    say(f"deleted {name}")


@app.command("roll-key", help="Make a key of a policy anew, or swap the two. It counts at once.")
@at_hub
async def roll_key(
    client: HubClient,
    name: Name,
    *,
    primary: Primary = False,
    secondary: Secondary = False,
    both: Both = False,
    swap: Swap = False,
    keys: Keys = False,
    json: Json = False,
) -> None:
    key = chosen_key(primary=primary, secondary=secondary, both=both, swap=swap)
    _show(await client.post("edgetrust", "policies", name, "rollKey", body={"key": key}), keys=keys, json=json)


@app.command("connection-string", help="Print the connection string of a policy. A secret.")
@at_hub
async def connection_string(
    client: HubClient, name: Name, *, secondary: UseSecondary = False, json: Json = False
) -> None:
    policy = await client.get("edgetrust", "policies", name)
    key = policy["secondaryKey" if secondary else "primaryKey"]
    text = f"HostName={client.hub.address};SharedAccessKeyName={name};SharedAccessKey={key}"
    if json:
        print_json({"connectionString": text})
    else:
        print_line(text)


def _rights(words: list[str]) -> list[str]:
    known = {right.lower(): right for right in RIGHTS}
    for word in words:
        if word.lower() not in known:
            raise UsageError(
                f"there is no right {word!r}", reason="right-unknown", fix=f"give some of {', '.join(RIGHTS)}"
            )
    return sorted({known[word.lower()] for word in words})


def _show(policy: dict[str, Any], *, keys: bool, json: bool) -> None:
    shown = policy if keys else {name: value for name, value in policy.items() if not name.endswith("Key")}
    if json:
        print_json(shown)
        return
    print_facts(
        [
            ("policy", str(shown["name"])),
            ("rights", " ".join(shown["rights"])),
            ("primary key", str(shown.get("primaryKey", "(hidden; --keys shows it)"))),
            ("secondary key", str(shown.get("secondaryKey", "(hidden; --keys shows it)"))),
        ]
    )
