"""`edgetrust device query`: ask the hub's registry and twins in its query language (hub specification 6.4)."""

from __future__ import annotations

import json as encoding
from typing import Annotated, Any

import typer

from edgetrust.cli.at_hub import at_hub
from edgetrust.cli.client import HubClient
from edgetrust.cli.output import Json, print_json, print_table, say

_PAGE = "1000"
_WHOLE = ("deviceId", "moduleId", "status", "connectionState", "tags")  # of a whole twin in a table


@at_hub
async def query(
    client: HubClient,
    text: Annotated[str, typer.Argument(metavar="QUERY", help="Like: SELECT * FROM devices WHERE tags.env = 'prod'")],
    *,
    limit: Annotated[int, typer.Option(min=1, help="At most that many rows.")] = 10_000,
    json: Json = False,
) -> None:
    rows: list[dict[str, Any]] = []
    size = {"x-ms-max-item-count": _PAGE}
    async for page in client.pages("POST", ("devices", "query"), body={"query": text}, headers=size):
        rows += encoding.loads(page)
        if len(rows) > limit:
            break
    if json:
        print_json(rows[:limit])
    else:
        print_rows(rows[:limit])
    if len(rows) > limit:
        say(f"the first {limit}; there are more")


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Rows as a table: a column for each member that any of them has; of whole twins, the ones that tell most."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if "properties" in names and "deviceId" in names:
        names = [name for name in _WHOLE if name in names]
    print_table(names or ["no rows"], [[_cell(row[name]) if name in row else "" for name in names] for row in rows])


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else encoding.dumps(value, ensure_ascii=False, separators=(",", ":"))
