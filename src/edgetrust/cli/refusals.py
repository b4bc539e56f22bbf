"""`edgetrust refusals`: the last refused connections at a hub, each with its checks in the order made."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgetrust.cli.at_hub import at_hub
from edgetrust.cli.client import HubClient
from edgetrust.cli.output import Json, print_json, print_line, say
from edgetrust.limits import REFUSALS_KEPT
from edgetrust.trust.explain import explain
from edgetrust.trust.verdict import Reason

app = typer.Typer()


@app.command(help="The last refused connections, newest first, with all their checks.")
@at_hub
async def refusals(
    client: HubClient,
    *,
    limit: Annotated[int, typer.Option(min=1, max=REFUSALS_KEPT, help="At most that many.")] = 20,
    identity: Annotated[
        str | None, typer.Option("--identity", metavar="ID", help="Only of this DEVICE or DEVICE/MODULE.")
    ] = None,
    json: Json = False,
) -> None:
    only = {} if identity is None else {"identity": identity}
    print_refusals((await client.get("edgetrust", "refusals", limit=str(limit), **only))["refusals"], json=json)


def print_refusals(entries: list[dict[str, Any]], *, json: bool) -> None:
    """Refusals as a hub or a gateway keeps them, newest first."""
    if json:
        print_json(entries)
    elif entries:
        for entry in entries:
            print_refusal(entry)
    else:
        say("nothing was refused")


def print_refusal(entry: dict[str, Any]) -> None:
    """One refusal: a headline, its checks, and the fix."""
    who = entry.get("identity") or "(nobody)"
    print_line(f"{entry['at']}  {who}  {entry['reason']}  from {entry.get('peer', '')} at {entry.get('place', '')}")
    for check in entry.get("checks", ()):
        detail = f": {check['detail']}" if check.get("detail") else ""
        print_line(f"   {'passed' if check['passed'] else 'FAILED'}  {check['name']}{detail}")
    if entry["reason"] in set(Reason):
        print_line(f"   fix     {explain(Reason(entry['reason'])).fix}")
