"""`edgetrust deployment`: what modules edge devices have, and with which desired properties (hub specification 6.5)."""

from __future__ import annotations

import json as encoding
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetrust.cli.at_hub import at_hub
from edgetrust.cli.client import HubClient
from edgetrust.cli.output import Json, pairs, print_facts, print_json, print_table, say
from edgetrust.errors import UsageError

app = typer.Typer(help="Deployments: content for the modules of edge devices.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the deployment, lower case.")]
File = Annotated[
    Path, typer.Argument(metavar="FILE", help="JSON with modulesContent, bare or as `content`; - is stdin.")
]
Target = Annotated[
    str,
    typer.Option("--target", metavar="CONDITION", help="Which edge devices: tags.env='prod'; * for all, '' for none."),
]
Priority = Annotated[int, typer.Option("--priority", min=0, help="The highest wins.")]


@app.command(help="Make a deployment. It reaches its devices at once, and others as soon as they fit the condition.")
@at_hub
async def create(
    client: HubClient,
    name: Name,
    file: File,
    *,
    target: Target = "",
    priority: Priority = 0,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="May be repeated.")] = None,
    json: Json = False,
) -> None:
    body = {
        "id": name,
        "content": _content(file),
        "targetCondition": target,
        "priority": priority,
        "labels": pairs(label),
    }
    _show(await client.put("configurations", name, body=body), json=json)


@app.command("list", help="List deployments, the highest priority first.")
@at_hub
async def list_(client: HubClient, *, json: Json = False) -> None:
    found: list[dict[str, Any]] = await client.get("configurations", top="100")
    if json:
        print_json(found)
        return
    rows = [(str(one["id"]), str(one["priority"]), str(one["targetCondition"]), *_counts(one)) for one in found]
    print_table(("DEPLOYMENT", "PRIORITY", "TARGET", "TARGETED", "APPLIED"), rows)


@app.command(help="Show one deployment and how far it has come.")
@at_hub
async def show(client: HubClient, name: Name, *, json: Json = False) -> None:
    _show(await client.get("configurations", name), json=json)


@app.command(help="Change target or priority. The content of a deployment never changes: make another.")
@at_hub
async def update(
    client: HubClient,
    name: Name,
    *,
    target: Annotated[str | None, typer.Option("--target", metavar="CONDITION")] = None,
    priority: Annotated[int | None, typer.Option("--priority", min=0)] = None,
    json: Json = False,
) -> None:
    stored = await client.get("configurations", name)
    wished = {"id": name, "targetCondition": target, "priority": priority}
    _show(await client.put("configurations", name, body=wished, etag=str(stored["etag"])), json=json)


@app.command(help="Delete a deployment. Its devices get what the next one says, or keep what they have.")
@at_hub
async def delete(client: HubClient, name: Name) -> None:
    await client.delete("configurations", name)
    say(f"deleted {name}")


@app.command(help="Apply content to one edge device now, without a deployment.")
@at_hub
async def apply(
    client: HubClient,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The edge device.")],
    file: File,
) -> None:
    await client.post("devices", device, "applyConfigurationContent", body=_content(file))
    say(f"applied to {device}")


def _content(file: Path) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
        content = encoding.loads(text)
    except (OSError, ValueError, RecursionError) as problem:
        raise UsageError(f"{file} cannot be read: {problem}", reason="file-unreadable") from problem
    if isinstance(content, dict) and isinstance(content.get("content"), dict):
        content = content["content"]
    if not isinstance(content, dict) or not isinstance(content.get("modulesContent"), dict):
        raise UsageError(
            f"{file} holds no modulesContent",
            reason="content-malformed",
            fix='{"modulesContent": {"$edgeAgent": {"properties.desired": {...}}, ...}}',
        )
    return {"modulesContent": content["modulesContent"]}


def _counts(body: dict[str, Any]) -> tuple[str, str]:
    results = body["systemMetrics"]["results"]
    return str(results["targetedCount"]), str(results["appliedCount"])


def _show(body: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(body)
        return
    targeted, applied = _counts(body)
    print_facts(
        [
            ("deployment", str(body["id"])),
            ("priority", str(body["priority"])),
            ("target", str(body["targetCondition"]) or "nobody"),
            ("modules", " ".join(sorted(body["content"]["modulesContent"]))),
            ("labels", " ".join(f"{name}={value}" for name, value in body["labels"].items())),
            ("targeted", targeted),
            ("applied", applied),
        ]
    )
