"""`edgetrust hub routes`: how the event routes of a hub are doing."""

from __future__ import annotations

from typing import Any

from edgetrust.cli.at_hub import at_hub
from edgetrust.cli.client import HubClient
from edgetrust.cli.output import Json, print_json, print_table, say


@at_hub
async def routes(client: HubClient, *, json: Json = False) -> None:
    found: list[dict[str, Any]] = (await client.get("edgetrust", "routes"))["routes"]
    if json:
        print_json(found)
        return
    if not found:
        say("no route delivers anywhere; every event is in the log")
        return
    rows = [
        (
            str(route["name"]),
            str(route["endpoint"]),
            str(route["offset"]),
            str(route["lag"]),
            str(route["delivered"]),
            str(route["problem"] or ""),
            str(route["condition"] or "(what no route takes)"),
        )
        for route in found
    ]
    print_table(("ROUTE", "ENDPOINT", "OFFSET", "LAG", "DELIVERED", "PROBLEM", "CONDITION"), rows)
