"""`edgetrust device twin` and `method`, and the same of `edgetrust module`: what services do with twins and direct
methods (hub specification 6.1, 6.2).

A change is a JSON merge patch and is printed as the twin that came of it. A method's answer is data; a status of the
device that is no success makes the command fail after it was printed.
"""

from __future__ import annotations

import json as jsonlib
from typing import Annotated, Any

import typer

from edgetrust.cli.at_hub import at_hub
from edgetrust.cli.client import HubClient
from edgetrust.cli.output import Json, parse_json, print_block, print_facts, print_json, say
from edgetrust.errors import Error, UsageError
from edgetrust.limits import (
    METHOD_CONNECT_SECONDS_MAX,
    METHOD_RESPONSE_SECONDS,
    METHOD_RESPONSE_SECONDS_MAX,
    METHOD_RESPONSE_SECONDS_MIN,
)

_SLACK_SECONDS = 10.0  # what a request to the hub takes beyond the times that the caller asked for
_SUCCESSES = range(200, 300)

Device = Annotated[str, typer.Argument(metavar="ID", help="The device's identifier; case-sensitive.")]
OfDevice = Annotated[str, typer.Argument(metavar="DEVICE", help="The device's identifier.")]
Module = Annotated[str, typer.Argument(metavar="MODULE", help="The module's identifier.")]
Tags = Annotated[str | None, typer.Option("--tags", metavar="JSON", help="Merge these into the tags; null deletes.")]
Desired = Annotated[
    str | None, typer.Option("--desired", metavar="JSON", help="Merge these into the desired properties; null deletes.")
]
Replace = Annotated[bool, typer.Option("--replace", help="Put them in place of the stored ones instead.")]
Etag = Annotated[str | None, typer.Option("--etag", metavar="E", help="Only if the twin still has this ETag.")]
Method = Annotated[str, typer.Argument(metavar="NAME", help="The method's name.")]
Payload = Annotated[str, typer.Option("--payload", metavar="JSON", help="What the method is given.")]
Timeout = Annotated[
    int,
    typer.Option(
        "--timeout",
        metavar="S",
        min=METHOD_RESPONSE_SECONDS_MIN,
        max=METHOD_RESPONSE_SECONDS_MAX,
        help="For the answer to come.",
    ),
]
Wait = Annotated[
    int,
    typer.Option(
        "--wait", metavar="S", min=0, max=METHOD_CONNECT_SECONDS_MAX, help="For a device that is away to connect."
    ),
]


@at_hub
async def device_twin(
    client: HubClient,
    device: Device,
    *,
    tags: Tags = None,
    desired: Desired = None,
    replace: Replace = False,
    etag: Etag = None,
    json: Json = False,
) -> None:
    """`device twin`."""
    await _twin(client, ("twins", device), _wish(tags, desired, replace=replace), etag, replace=replace, json=json)


@at_hub
async def module_twin(
    client: HubClient,
    device: OfDevice,
    module: Module,
    *,
    tags: Tags = None,
    desired: Desired = None,
    replace: Replace = False,
    etag: Etag = None,
    json: Json = False,
) -> None:
    """`module twin`."""
    path = ("twins", device, "modules", module)
    await _twin(client, path, _wish(tags, desired, replace=replace), etag, replace=replace, json=json)


@at_hub
async def device_method(
    client: HubClient,
    device: Device,
    method: Method,
    *,
    payload: Payload = "null",
    timeout: Timeout = METHOD_RESPONSE_SECONDS,
    wait: Wait = 0,
    json: Json = False,
) -> None:
    """`device method`."""
    await _method(client, ("twins", device, "methods"), _call(method, payload, timeout, wait), json=json)


@at_hub
async def module_method(
    client: HubClient,
    device: OfDevice,
    module: Module,
    method: Method,
    *,
    payload: Payload = "null",
    timeout: Timeout = METHOD_RESPONSE_SECONDS,
    wait: Wait = 0,
    json: Json = False,
) -> None:
    """`module method`."""
    path = ("twins", device, "modules", module, "methods")
    await _method(client, path, _call(method, payload, timeout, wait), json=json)


async def _twin(
    client: HubClient, path: tuple[str, ...], wish: dict[str, Any], etag: str | None, *, replace: bool, json: bool
) -> None:
    if not wish and not replace:
        body = await client.get(*path)
    else:
        headers = {} if etag is None else {"If-Match": f'"{etag.strip(chr(34))}"'}
        body = await client.request("PUT" if replace else "PATCH", path, body=wish, headers=headers)
    if json:
        print_json(body)
    else:
        _print_twin(body)


def _wish(tags: str | None, desired: str | None, *, replace: bool) -> dict[str, Any]:
    """The body of a change, empty when nothing is to be changed. Raises UsageError."""
    wish: dict[str, Any] = {}
    if tags is not None:
        wish["tags"] = parse_json("--tags", tags)
    if desired is not None:
        wish["properties"] = {"desired": parse_json("--desired", desired)}
    if replace and len(wish) < 2:  # noqa: PLR2004 - tags and desired properties
        raise UsageError(
            "--replace empties what is not said", reason="options-belong", fix="give both --tags and --desired"
        )
    return wish


def _print_twin(body: dict[str, Any]) -> None:
    who = body["deviceId"] + (f"/{body['moduleId']}" if body.get("moduleId") else "")
    facts = [
        ("twin", who),
        ("connection", str(body.get("connectionState") or "")),
        ("status", str(body.get("status") or "")),
        ("model", str(body.get("modelId") or "")),
        ("product", str(body.get("productInfo") or "")),
        ("version", str(body.get("version") or "")),
        ("etag", str(body.get("etag") or "")),
    ]
    print_facts(facts)
    sections = body.get("properties") or {}
    print_block("\ntags " + _shown(body.get("tags") or {}))
    for name in ("desired", "reported"):
        section = dict(sections.get(name) or {})
        version = section.pop("$version", "")
        section.pop("$metadata", None)
        print_block(f"{name}, version {version} {_shown(section)}")


def _shown(value: dict[str, Any]) -> str:
    """JSON in ASCII: what devices report must not steer a terminal."""
    return jsonlib.dumps(value, indent=2)


def _call(method: str, payload: str, timeout: int, wait: int) -> dict[str, Any]:
    return {
        "methodName": method,
        "payload": parse_json("--payload", payload),
        "responseTimeoutInSeconds": timeout,
        "connectTimeoutInSeconds": wait,
    }


async def _method(client: HubClient, path: tuple[str, ...], body: dict[str, Any], *, json: bool) -> None:
    seconds = body["responseTimeoutInSeconds"] + body["connectTimeoutInSeconds"] + _SLACK_SECONDS
    answer = await client.request("POST", path, body=body, seconds=seconds)
    status = answer["status"]
    if json:
        print_json(answer)
    else:
        print_block(jsonlib.dumps(answer["payload"], indent=2))
        say(f"status {status}")
    if status not in _SUCCESSES:
        raise Error(f"the method ended with status {status}", reason="method-failed")
